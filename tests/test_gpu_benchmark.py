"""The benchmark for a machine with a GPU, in miniature on the CPU: it has one chance there, so no part may stop it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

gpu = pytest.importorskip("benchmarks.gpu", reason="the benchmarks are only in the repository")


def test_every_part_has_rows(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--pretend", "--output", str(tmp_path)]
    process = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True, timeout=400)
    assert process.returncode == 0, process.stdout + process.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    names = " ".join(row["name"] for row in rows)
    for part in ("device", "error of the gradients", "one run, TF32", "4 runs at once", "manir transformer, one run"):
        assert part in names
    errors = [row["value"] for row in rows if "error of the" in row["name"]]
    assert len(errors) == 4 * len(gpu.NETWORKS)
    assert max(errors) < 1e-5
    assert all(row["value"] > 0 for row in rows if "steps/s" in row["unit"])
    assert (tmp_path / "gpu.md").read_text().count("\n") == len(rows) + 2


def test_a_part_that_fails_is_reported_and_the_others_run(tmp_path, capsys):
    rows = gpu.run_parts({"no such part": 60, "machine": 60}, tmp_path, True, 120)
    assert rows[0]["name"] == "no such part"
    assert rows[0]["failed"].startswith("exit status 1: KeyError")
    assert [row["name"] for row in rows[1:]] == ["device", "torch", "CUDA"]
    assert json.loads((tmp_path / "gpu.json").read_text()) == rows
    assert "| no such part | failed: exit status 1" in capsys.readouterr().out


def test_a_part_that_takes_too_long_is_stopped(tmp_path):
    (row,) = gpu.run_part("machine", True, 0.01)
    assert row == {"name": "machine", "failed": "took longer than 0 s"}


def test_parts_for_which_no_time_is_left_are_named(tmp_path):
    assert gpu.run_parts({"machine": 60}, tmp_path, True, 0.5) == [{"name": "machine", "failed": "no time was left"}]


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path):
    (row,) = gpu.run_part("machine", False, 60)
    assert row["failed"] == "exit status 1: this machine has no CUDA device: use --pretend"


def test_wheels_are_extracted_if_they_fit_and_are_lacking(tmp_path):
    wheels, folder = tmp_path / "wheels", tmp_path / "packages"
    wheels.mkdir()
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tags = {"lacking_a": "py3-none-any", "lacking_b": f"{here}-{here}-linux", "other": "cp39-cp39-linux", "torch": here}
    for name, tag in tags.items():
        with zipfile.ZipFile(wheels / f"{name}-1.0-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "")
    gpu.extract_wheels(wheels, folder)
    assert {Path(path).stem for path in folder.iterdir()} == {"lacking_a", "lacking_b"}
