"""Shared by all tests: shape checks on the package, the public data, no network."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("grokinterp", "typecheck.check")

# One thread: the models are tiny, and bits depend on how sums are split among threads.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of published models and curves; the test is skipped, visibly, where there is none."""
    folder = os.environ.get("GROKINTERP_PUBLIC_DATA")
    if not folder:
        pytest.skip("GROKINTERP_PUBLIC_DATA is not set: published models and curves are not there to test against")
    path = Path(folder)
    assert path.is_dir(), f"GROKINTERP_PUBLIC_DATA={folder} is not a folder"
    return path
