"""Flipped bits in the files of runs and of a sweep are found, or change nothing that is shown."""

import random

import pytest

from tests.faults.flips import JOURNAL, flip_everything, make_folders

pytestmark = pytest.mark.slow


def test_no_flip_is_missed(tmp_path):
    draw = random.Random(7)
    for title, (folder, check) in make_folders(tmp_path).items():
        for kind, counts in flip_everything(folder, check, 5, draw).items():
            assert counts["missed"] == 0, (title, kind)
            assert counts["found"] > 0 or kind == f"analysis/{JOURNAL}", (title, kind)
