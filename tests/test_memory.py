"""What does not fit into memory is refused before it is allocated, with one line that says how much it takes."""

import resource
import sys
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import torch

from grokinterp.analysis.timeline import analyze
from grokinterp.cli import main
from grokinterp.config import MLPConfig, OptimizerConfig, RegressionConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError
from grokinterp.models import build_model, parameter_count, task_of
from grokinterp.models.container import memory_left
from grokinterp.models.memory import analysis_memory, available_memory, require_memory, training_memory
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
        ConfigError, match=r"^a model takes about 2\.5 GB of memory, but only 1\.0 GB are available: choose"
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
        with pytest.raises(ConfigError, match=r"takes about [0-9,]+\.\d GB of memory"):
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


def sized(p: int, **changes) -> RunConfig:
    return RunConfig(task=TaskConfig(p=p, train_fraction=0.3), **changes)


LAYERS = TransformerConfig(n_layers=2)
WIDE = MLPConfig(width=512)
RESIDUAL = MLPConfig(width=512, depth=3, architecture="residual", input="sum")
ENCODER = replace(preset("manir-transformer"), task=replace(preset("manir-transformer").task, p=150))


@pytest.mark.parametrize(
    ("config", "training", "analysis"),
    [
        (sized(113), 58, 79),
        (sized(200), 166, 362),
        (sized(300), 475, 1136),
        (sized(113, model=LAYERS), 178, 322),
        (sized(200, model=LAYERS), 480, 850),
        (sized(300, model=LAYERS), 1151, None),
        (sized(200, model=LAYERS, optimizer=OptimizerConfig(batch_size=512)), 207, None),
        (sized(113, model=WIDE), 101, 234),
        (sized(200, model=WIDE), 292, 539),
        (sized(300, model=WIDE), 553, None),
        (sized(200, model=replace(WIDE, depth=3)), 376, 547),
        (sized(150, model=RESIDUAL), 375, 522),
        (sized(200, model=WIDE, loss_dtype="float32"), 348, None),
        (sized(200, model=WIDE, loss="mse"), 479, None),
        (sized(200, loss="stablemax"), 568, None),
        (ENCODER, 620, 1195),
    ],
)
def test_estimates_are_from_the_measured_peak_to_twice_as_much(config, training, analysis):
    """In MB; the peaks of two updates with evaluations, and of an analysis of one checkpoint."""
    assert training <= training_memory(config) / 1e6 <= 2 * training
    assert analysis is None or analysis <= analysis_memory(config) / 1e6 <= 2 * analysis


@pytest.mark.parametrize("version", [1, 2])
def test_a_training_that_does_not_fit_into_the_container_is_refused_before_it_writes(version, monkeypatch, tmp_path):
    folder, names = {
        1: (tmp_path / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        2: (tmp_path, ("memory.max", "memory.current", "inactive_file")),
    }[version]
    folder.mkdir(exist_ok=True)
    (folder / names[0]).write_text("1500000000\n")
    (folder / names[1]).write_text("500000000\n")
    (folder / "memory.stat").write_text(f"{names[2]} 100000000\n")
    monkeypatch.setattr("grokinterp.models.memory.memory_left", lambda cgroup: memory_left(tmp_path))
    with pytest.raises(ConfigError, match=r"takes about 2\.\d GB of memory, but only 1\.1 GB are available: choose"):
        train(sized(500), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_analysis_that_does_not_fit_is_refused_before_it_writes(run, monkeypatch):
    monkeypatch.setattr("grokinterp.models.memory.available_memory", lambda: analysis_memory(run.config) - 1)
    with pytest.raises(ConfigError, match=r"^analyzing add mod \d+ with this model takes about 0\.\d GB of memory"):
        analyze(run)
    assert not (run.path / "analysis").exists()
