"""Checking a record by training its first steps again."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from trainings import TINY

from grokinterp.errors import ConfigError
from grokinterp.experiments.records import checking
from grokinterp.experiments.records.checking import Check, check
from grokinterp.experiments.records.folder import Records
from grokinterp.experiments.records.recording import record_run
from grokinterp.training import train


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    run = train(TINY, tmp_path_factory.mktemp("runs") / "run", threads=1, progress=False)
    return record_run(run, "memo-parity", "tiny")


@pytest.mark.parametrize(("steps", "last"), [(None, 60), (35, 30), (60, 60)])
def test_the_same_training_is_equal_bit_for_bit(record, tmp_path, steps, last):
    found = check(record, tmp_path / "again", steps, progress=False)
    assert (found.last, found.equal_until, found.parts_at) == (last, last, None)
    assert found.passed
    assert str(found) == f"equal, bit for bit, at every evaluation up to step {last}"


def test_it_says_where_the_metrics_part(record, tmp_path):
    """Another first learning rate would part at once; here one digest from step 30 on is of another run."""
    digests = {step: digest if step < 30 else "000000" for step, digest in record.digests.items()}
    found = check(replace(record, digests=digests), tmp_path / "again", progress=False)
    assert (found.equal_until, found.parts_at) == (20, 30)
    assert not found.passed  # the machine is the same
    assert str(found).startswith("equal, bit for bit, up to step 20; the metrics part by step 30. Up to step ")


def test_another_training_is_found_out(record, tmp_path):
    config = record.config.replace({"optimizer.lr": 0.02})
    found = check(replace(record, config=config), tmp_path / "again", progress=False)
    assert (found.equal_until, found.parts_at) == (0, 10)
    assert not found.within_bounds


def test_on_another_machine_bounds_decide(record, tmp_path):
    other = replace(record, environment={**record.environment, "processor": "Abacus"})
    digests = dict.fromkeys(record.digests, "000000")
    found = check(replace(other, digests=digests), tmp_path / "again", progress=False)
    assert found.parts_at == 0
    assert found.equal_until is None
    assert any(difference.startswith("processor: Abacus -> ") for difference in found.differences)
    assert found.passed
    assert found.loss <= 1e-4  # rounded to five digits
    assert not Check(60, 0, 10, ("threads: 1 -> 2",), 0.002, 0.0, 60).passed
    assert not Check(60, 0, 10, ("threads: 1 -> 2",), 0.0, 0.02, 60).passed
    assert Check(60, 0, 10, ("threads: 1 -> 2",), 0.001, 0.01, 60).passed


def test_bounds_apply_until_the_train_loss_has_fallen_by_a_tenth():
    """Later, differences in rounding have grown too large."""
    recorded = pd.DataFrame({"train_loss": [4.0, 3.9, 3.6, 1.0], "train_accuracy": [0.0, 0.1, 0.2, 1.0]}, range(4))
    found = recorded.assign(train_loss=[4.0, 3.9, 3.5964, 2.0], train_accuracy=[0.0, 0.1, 0.205, 0.5])
    assert checking._deviations(recorded, found, [0, 1, 2, 3]) == pytest.approx((0.001, 0.005, 2))
    assert checking._deviations(recorded, found, [0, 1])[2] == 1
    assert checking._deviations(recorded.loc[[0, 3]], found, [0, 3]) == pytest.approx((1.0, 0.5, 3))


def test_what_cannot_be_checked_is_refused(record, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no evaluation in the first 9 steps: give --steps 10 or more"):
        check(record, tmp_path / "again", 9)
    gpu = replace(record, environment={**record.environment, "device": "NVIDIA H200"})
    with pytest.raises(ConfigError, match="trained on NVIDIA H200: only runs of a CPU"):
        check(gpu, tmp_path / "again")
    monkeypatch.setattr(checking, "check_products", _refuse)
    with pytest.raises(ConfigError, match="no bf16"):
        check(record, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def _refuse(products, device):
    raise ConfigError("no bf16 products")


def test_the_command(record, tmp_path, shell):
    file = Records(tmp_path / "records").add(record)
    found = shell("reproduce", "memo-parity", "--check", str(file), "--steps", "20")
    assert found.code == 0
    assert "memo-parity/tiny: equal, bit for bit, at every evaluation up to step 20" in found.out
    found = shell("reproduce", "ridge", "--check", str(file))
    assert (found.code, "is a record of memo-parity, not of ridge" in found.err) == (2, True)
    content = json.loads(file.read_text())
    content["step"] = 61
    file.write_text(json.dumps(content))
    found = shell("reproduce", "memo-parity", "--check", str(file))
    assert found.code == 2
    assert f"{file} is damaged (its checksum does not match its content)" in found.err
    for wrong in (["--check", str(file)], ["memo-parity", "--steps", "5"], ["--list", "--hours", "1"]):
        assert shell("reproduce", *wrong).code == 2
