"""What does not fit into memory is refused before it is allocated, with one line that says how much it takes."""

import resource
import sys
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import torch

from grokinterp.cli import main
from grokinterp.config import MLPConfig, OptimizerConfig, RegressionConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.models import build_model, parameter_count, task_of
from grokinterp.models.memory import available_memory, require_memory
from grokinterp.runs.run import Run
from grokinterp.training import train
from grokinterp.training.estimate import estimate

ROOT = Path(__file__).parent.parent


@pytest.fixture
def one_gigabyte(monkeypatch):
    monkeypatch.setattr("grokinterp.models.memory.available_memory", lambda: 10**9)


def test_available_memory_is_at_most_the_memory_of_the_machine():
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < available_memory() <= 1024 * int(total.split()[1])


def test_a_limit_on_the_address_space_counts():
    script = (
        "import resource\nfrom grokinterp.models.memory import available_memory\n"
        "before = available_memory()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))\n"
        "print(before, available_memory())"
    )
    outcome = processes.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, outcome.stdout.split())
    assert after < 1 << 30
    assert after < before
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_the_message_says_how_much_is_needed_and_how_much_is_available(one_gigabyte):
    require_memory(10**9, "it")
    with pytest.raises(
        ConfigError, match=r"^a model takes at least 2\.5 GB of memory, but only 1\.0 GB are available: choose"
    ):
        require_memory(2_500_000_000, "a model")


@pytest.mark.parametrize(
    "model",
    [
        TransformerConfig(d_model=16, n_heads=2, d_mlp=32, n_layers=2),
        MLPConfig(width=12, depth=3, input="concat", d_embed=5),
    ],
)
def test_parameters_are_counted_without_allocating_them(model):
    config = RunConfig(task=TaskConfig(p=7), model=model)
    built = build_model(config, task_of(config))
    assert parameter_count(model, config.task) == sum(w.numel() for w in built.parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"model": TransformerConfig(d_model=2**14, n_heads=1, d_mlp=2**14)},
        {"model": TransformerConfig(n_layers=1000, d_model=512)},
        {"model": MLPConfig(width=2**15)},
        {"model": MLPConfig(width=2**24, depth=1000)},
        {"model": MLPConfig(width=2**12), "optimizer": OptimizerConfig(grokfast="ma", grokfast_window=1000)},
        {"task": TaskConfig(p=1000)},
        {
            "task": RegressionConfig(n_train=2**24, teacher_width=2**20),
            "model": MLPConfig(input="vector"),
            "loss": "mse",
        },
        {"task": RegressionConfig(teacher_width=2**20), "model": MLPConfig(input="vector"), "loss": "mse"},
    ],
    ids=["wide", "deep", "wide MLP", "absurd", "window", "p", "inputs", "teacher"],
)
def test_trainings_that_do_not_fit_are_refused_at_once(change, one_gigabyte, tmp_path):
    config = replace(RunConfig(), **change)
    for attempt in (lambda: train(config, tmp_path / "run", progress=False), lambda: estimate(config)):
        with pytest.raises(ConfigError, match=r"takes at least [0-9,]+\.\d GB of memory"):
            attempt()
    assert not (tmp_path / "run").exists()


def test_what_fits_is_not_refused(one_gigabyte, tmp_path):
    """Training the default, 25,000 steps of p = 113, takes some 250 MB."""
    assert estimate(RunConfig(), tries=1).checkpoints == 251


def test_a_snapshot_that_does_not_fit_is_refused(monkeypatch, tmp_path):
    run = Run.open(ROOT / "tests" / "data" / "trainer" / "transformer")
    monkeypatch.setattr("grokinterp.models.memory.available_memory", lambda: 16 * 25 * 5 - 1)
    monkeypatch.setattr("grokinterp.models.building.require_memory", lambda need, what: None)
    with pytest.raises(ConfigError, match="the logits of 25 inputs and 5 classes takes"):
        run.snapshot(30)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), "alloc"])
def test_the_command_line_reports_exhausted_memory_in_one_line(error, monkeypatch, capsys, tmp_path):
    def fail(*arguments):
        if isinstance(error, str):
            torch.empty(1 << 60, dtype=torch.uint8)  # the error that PyTorch raises on the CPU
        raise error

    monkeypatch.setattr("grokinterp.cli.list.run_list", fail)
    assert main(["list", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "grokinterp: list ran out of memory: choose smaller sizes, or fewer at a time\n"


def test_other_errors_of_pytorch_are_not_reported_as_exhausted_memory(monkeypatch, tmp_path):
    def fail(*arguments):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("grokinterp.cli.list.run_list", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        main(["list", str(tmp_path)])
