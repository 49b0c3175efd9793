"""train: the same bits however often it dies, what a run holds, when it ends, and what it refuses."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformer_lens import HookedTransformer, HookedTransformerConfig

from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RecordedConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import task_of
from grokinterp.models.products import library
from grokinterp.runs.run import Run
from grokinterp.training import Callback, Tracker, train, trainer
from grokinterp.training.callbacks import StopWhenGrokked
from grokinterp.training.gradients import gradients_function

P = 7
SCHEDULE = ScheduleConfig(steps=200, evaluate_every=20, checkpoints=50, resume_every=60)
TRANSFORMER = RunConfig(
    task=TaskConfig(p=P, train_fraction=0.5),
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.5),
    schedule=SCHEDULE,
    model_seed=3,
)
MINIBATCH_MLP = RunConfig(
    task=TaskConfig(p=P, train_fraction=0.5),
    model=MLPConfig(width=16, depth=2),
    optimizer=OptimizerConfig(name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-3, batch_size=7),
    schedule=SCHEDULE,
    model_seed=3,
)
# The other forms of forward pass and gradients, shorter: they are killed in the same code, but not everywhere.
SHORTER = ScheduleConfig(steps=40, evaluate_every=10, checkpoints=10, resume_every=20)
TWO_LAYERS = replace(
    TRANSFORMER,
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32, n_layers=2, normalization="layernorm"),
    schedule=SHORTER,
)
NO_EQUALS = replace(
    TRANSFORMER,
    schedule=SHORTER,
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32, equals_token=False, activation="gelu", biases="trained"),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.5, batch_size=7, warmup_steps=30, clip=1.0),
    loss_dtype="float32",
)
CONFIGS = {"transformer": TRANSFORMER, "minibatch_mlp": MINIBATCH_MLP}
MORE_CONFIGS = {"two_layers": TWO_LAYERS, "minibatch_no_equals": NO_EQUALS}
PATHS = {
    "transformer": "last_position",
    "minibatch_mlp": "mlp",
    "two_layers": "prefix",
    "minibatch_no_equals": "last_position",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bits are the same for the same number of threads; the children have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shortened(config: RunConfig, **schedule) -> RunConfig:
    assert config.schedule is not None
    return replace(config, schedule=replace(config.schedule, **schedule))


def briefly(config: RunConfig = MINIBATCH_MLP, steps: int = 10) -> RunConfig:
    return shortened(config, steps=steps, evaluate_every=5, checkpoints=5, resume_every=5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def result(path: Path) -> dict[str, bytes]:
    """What must be the same to the bit: metrics, kept weights, and the state that a longer run would start from."""
    files = [path / "metrics.jsonl", path / "resume.safetensors", *(path / "weights").glob("step_*.safetensors")]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


CHILDREN = """
import json, os, random, signal, sys
from pathlib import Path

import numpy
import torch
import transformer_lens

from grokinterp.config import RunConfig
from grokinterp.training import Callback, train

torch.set_num_threads(1)


class Death(Callback):
    def __init__(self, where, step, number, times):
        self.where, self.step, self.number, self.times = where, step, number, times

    def on_start(self, config, step, last_step):
        self.strike("start", None)

    def on_step(self, step):
        self.strike("update", step)

    def on_evaluation(self, metrics):
        self.strike("evaluation", metrics["step"])
        return False

    def strike(self, where, step):
        if where == self.where and step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def die_instead_of_renaming(name):
    rename = Path.replace

    def replace(self, target):
        if Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = replace


def live(job):
    if job["where"] == "rename":
        die_instead_of_renaming(job["step"])
    death = Death(job["where"], job["step"], job["signal"], job["times"])
    config = RunConfig.from_json(job["config"])
    before = random_states()
    train(config, job["path"], resume=job["resume"], start_from=job["start_from"], callbacks=[death])
    return 0 if random_states() == before else 3


def random_states():
    return random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist()


for job in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = live(job)
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Where a child dies: SCHEDULE makes resume points at 0, 60, 120, 180 and evaluates each 20 steps.
DEATHS = {
    "before anything was computed": ("start", None),
    "before the first resume point": ("evaluation", 0),
    "right after the first resume point": ("update", 1),
    "between two resume points": ("update", 100),
    "with metrics ahead of the resume point": ("evaluation", 120),
    "right after a resume point": ("update", 121),
    "while a checkpoint is written": ("rename", "step_000150.safetensors"),
    "while a resume point is written": ("rename", "resume.safetensors"),
    "before the last step is evaluated": ("update", 200),
}
# Where one of SHORTER dies, which has them at 0, 20 and 40.
FEWER_DEATHS = {
    "right after the first resume point": ("update", 1),
    "between two resume points": ("update", 33),
    "while a resume point is written": ("rename", "resume.safetensors"),
}
KILLED = {(kind, death): where for kind in CONFIGS for death, where in DEATHS.items()}
KILLED |= {(kind, death): where for kind in MORE_CONFIGS for death, where in FEWER_DEATHS.items()}


def job(config: RunConfig, path: Path, where: str, step, number: int = signal.SIGKILL, **more) -> dict:
    options = {"config": config.to_json(), "path": str(path), "where": where, "step": step, "signal": int(number)}
    return options | {"times": 1, "resume": False, "start_from": None} | more


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_thread) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {kind: train(config, folder / kind) for kind, config in (CONFIGS | MORE_CONFIGS).items()}


@pytest.fixture(scope="module")
def dead(tmp_path_factory, undisturbed) -> dict[tuple[str, str], tuple[Path, int]]:
    """Runs of processes that were killed, interrupted or left alone: folder and exit code, by model and death.

    A process that ends by itself exits with 3 if a global random state is not what it was.
    """
    folder = tmp_path_factory.mktemp("dead")
    jobs = {}
    for n, ((kind, name), (where, step)) in enumerate(KILLED.items()):
        jobs[kind, name] = job((CONFIGS | MORE_CONFIGS)[kind], folder / f"{kind}{n}", where, step)
    for kind, config in CONFIGS.items():
        jobs[kind, "none"] = job(briefly(config), folder / f"{kind}_alive", "never", None)
        jobs[kind, "Ctrl-C"] = job(config, folder / f"{kind}_int", "update", 107, signal.SIGINT)
        jobs[kind, "SIGTERM"] = job(config, folder / f"{kind}_term", "update", 60, signal.SIGTERM)
    twice = folder / "twice"
    jobs["transformer", "first of two"] = job(TRANSFORMER, twice, "update", 70)
    jobs["transformer", "killed twice"] = job(TRANSFORMER, twice, "update", 130, resume=True)
    impatient = folder / "impatient"
    jobs["transformer", "Ctrl-C twice"] = job(TRANSFORMER, impatient, "update", 107, signal.SIGINT, times=2)
    source = f"{undisturbed['transformer'].path}@150"
    jobs["transformer", "started from another"] = job(TRANSFORMER, folder / "from", "start", None, start_from=source)
    script = subprocess.run(
        [sys.executable, "-c", CHILDREN],
        input=json.dumps(list(jobs.values())),
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert script.returncode == 0, script.stderr
    codes = [int(line) for line in script.stdout.split()]
    return {key: (Path(each["path"]), code) for (key, each), code in zip(jobs.items(), codes, strict=True)}


class TestDyingAndResuming:
    @pytest.mark.parametrize(("kind", "death"), KILLED)
    def test_a_killed_run_resumes_to_the_same_bits(self, kind, death, dead, undisturbed):
        path, code = dead[kind, death]
        config = (CONFIGS | MORE_CONFIGS)[kind]
        assert code == -signal.SIGKILL
        halfway = Run.open(path)
        assert halfway.config == config
        assert halfway.environment["forward_path"] == PATHS[kind]
        assert halfway.status.get("status", "running") == "running"
        assert halfway.metrics.index.is_monotonic_increasing
        for step in halfway.steps:
            halfway.weights(step)
        resumed = train(config, path, resume=True)
        assert result(path) == result(undisturbed[kind].path)
        assert resumed.status["status"] == "finished"
        assert resumed.status["step"] == config.schedule.steps
        assert resumed.status["checksums"] == undisturbed[kind].status["checksums"]

    def test_a_run_killed_twice_resumes_to_the_same_bits(self, dead, undisturbed):
        path, code = dead["transformer", "killed twice"]
        assert code == -signal.SIGKILL
        train(TRANSFORMER, path, resume=True)
        assert result(path) == result(undisturbed["transformer"].path)

    @pytest.mark.parametrize(("death", "step"), [("Ctrl-C", 107), ("SIGTERM", 60)])
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_an_interrupted_run_is_stopped_and_resumes_to_the_same_bits(self, kind, death, step, dead, undisturbed):
        path, code = dead[kind, death]
        assert code == 0
        status = Run.open(path).status
        assert (status["status"], status["step"], status["reason"]) == ("stopped", step, "interrupted")
        assert train(CONFIGS[kind], path, resume=True).status["status"] == "finished"
        assert result(path) == result(undisturbed[kind].path)

    def test_a_second_interrupt_does_not_wait(self, dead, undisturbed):
        path, code = dead["transformer", "Ctrl-C twice"]
        assert code == 130
        assert Run.open(path).status["status"] == "stopped"
        train(TRANSFORMER, path, resume=True)
        assert result(path) == result(undisturbed["transformer"].path)

    def test_a_run_started_from_another_resumes_from_there(self, dead, undisturbed):
        path, code = dead["transformer", "started from another"]
        assert code == -signal.SIGKILL
        resumed = train(TRANSFORMER, path, resume=True)
        expected = undisturbed["transformer"].weights(150)
        for name, weight in resumed.weights(0).items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)

    def test_a_full_disk_stops_the_run_and_it_resumes_to_the_same_bits(self, tmp_path, monkeypatch, undisturbed):
        rename = Path.replace

        def full(self, target):
            if Path(target).name == "step_000100.safetensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        with monkeypatch.context() as disk:
            disk.setattr(Path, "replace", full)
            with pytest.raises(RunError, match=r"cannot write .*step_000100.safetensors: No space left on device"):
                train(TRANSFORMER, tmp_path / "run")
        status = Run.open(tmp_path / "run").status
        assert status["status"] == "stopped"
        assert "No space left on device" in status["reason"]
        train(TRANSFORMER, tmp_path / "run", resume=True)
        assert result(tmp_path / "run") == result(undisturbed["transformer"].path)

    def test_resuming_a_finished_run_changes_nothing(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = result(run.path)
        again = train(MINIBATCH_MLP, run.path, resume=True)
        assert again.status["status"] == "finished"
        assert again.status["step"] == 200
        assert result(run.path) == before

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_more_steps_may_be_given_and_are_recorded(self, kind, tmp_path, undisturbed):
        train(shortened(CONFIGS[kind], steps=100), tmp_path / "run")
        longer = train(CONFIGS[kind], tmp_path / "run", resume=True)
        assert longer.config == CONFIGS[kind]
        assert result(tmp_path / "run") == result(undisturbed[kind].path)

    def test_losing_the_resume_point_means_starting_again(self, tmp_path, undisturbed):
        train(shortened(TRANSFORMER, steps=100), tmp_path / "run")
        (tmp_path / "run" / "resume.safetensors").unlink()
        train(TRANSFORMER, tmp_path / "run", resume=True)
        assert result(tmp_path / "run") == result(undisturbed["transformer"].path)

    def test_a_damaged_resume_point_is_named_with_what_to_do(self, tmp_path):
        train(briefly(), tmp_path / "run")
        (tmp_path / "run" / "resume.safetensors").write_bytes(b"half of it")
        with pytest.raises(RunError, match=r"resume.safetensors is damaged .*: delete it"):
            train(briefly(steps=20), tmp_path / "run", resume=True)


OTHER = {
    "learning rate": replace(MINIBATCH_MLP, optimizer=replace(MINIBATCH_MLP.optimizer, lr=0.1)),
    "modulus": replace(MINIBATCH_MLP, task=TaskConfig(p=11, train_fraction=0.5)),
    "split": replace(MINIBATCH_MLP, task=replace(MINIBATCH_MLP.task, data_seed=1)),
    "model": TRANSFORMER,
    "model seed": replace(MINIBATCH_MLP, model_seed=4),
    "loss": replace(MINIBATCH_MLP, loss="mse"),
    "evaluated steps": shortened(MINIBATCH_MLP, evaluate_every=10),
    "resume points": shortened(MINIBATCH_MLP, resume_every=10),
    "steps and learning rate": shortened(
        replace(MINIBATCH_MLP, optimizer=replace(MINIBATCH_MLP.optimizer, lr=0.1)), steps=400
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("config", OTHER.values(), ids=OTHER)
    def test_resuming_with_another_configuration(self, config, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(ConfigError, match=r"only schedule.steps may change when resuming"):
            train(config, run.path, resume=True)
        assert contents(run.path) == before

    def test_resuming_with_fewer_steps(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(ConfigError, match=r"200 steps, more than the 150 given: schedule.steps may only grow"):
            train(shortened(MINIBATCH_MLP, steps=150), run.path, resume=True)
        assert contents(run.path) == before

    def test_resuming_nothing(self, tmp_path):
        with pytest.raises(RunError, match="does not exist"):
            train(MINIBATCH_MLP, tmp_path / "nothing", resume=True)
        assert not (tmp_path / "nothing").exists()

    def test_resuming_from_another_runs_weights(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(ConfigError, match=r"start_from|--from"):
            train(MINIBATCH_MLP, run.path, resume=True, start_from=f"{run.path}@50")
        assert contents(run.path) == before

    def test_overwriting_a_run(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(RunError, match=r"already holds a run: resume it .*, or choose another folder"):
            train(MINIBATCH_MLP, run.path)
        assert contents(run.path) == before

    def test_overwriting_a_folder_that_holds_anything(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("chapter 1")
        with pytest.raises(RunError, match="is not an empty folder: choose another"):
            train(MINIBATCH_MLP, tmp_path)
        assert contents(tmp_path) == {"thesis.tex": b"chapter 1"}

    def test_overwriting_a_file(self, tmp_path):
        (tmp_path / "run").write_text("a file")
        with pytest.raises(RunError, match="choose another"):
            train(MINIBATCH_MLP, tmp_path / "run")
        assert (tmp_path / "run").read_text() == "a file"

    def test_a_folder_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("a file")
        with pytest.raises(RunError, match="cannot create the folder"):
            train(MINIBATCH_MLP, tmp_path / "file" / "run")

    def test_an_empty_folder_is_fine(self, tmp_path):
        assert train(briefly(), tmp_path).status["status"] == "finished"

    @pytest.mark.parametrize(
        "config",
        [
            replace(MINIBATCH_MLP, optimizer=None),
            replace(MINIBATCH_MLP, schedule=None),
            replace(MINIBATCH_MLP, model=RecordedConfig()),
            replace(MINIBATCH_MLP, task=TaskConfig(p=P, train_fraction=None, split="unknown")),
            replace(MINIBATCH_MLP, task=TaskConfig(p=P, train_fraction=0.5, split="given")),
            replace(MINIBATCH_MLP, task=TaskConfig(p=P, train_fraction=0.01)),
        ],
        ids=[
            "no optimizer",
            "no schedule",
            "recorded model",
            "unknown split",
            "split without indices",
            "nothing to train",
        ],
    )
    def test_a_configuration_that_describes_no_training(self, config, tmp_path):
        with pytest.raises(ConfigError):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("resume", [False, True])
    def test_matrix_products_by_a_library_that_is_not_known(self, resume, tmp_path, monkeypatch):
        if resume:
            train(briefly(TRANSFORMER), tmp_path / "run")
        before = contents(tmp_path)
        library.cache_clear()
        monkeypatch.setenv("GROKINTERP_PRODUCTS", "blas")
        with pytest.raises(ConfigError, match=r"^GROKINTERP_PRODUCTS='blas' names no library: onednn or torch$"):
            train(briefly(TRANSFORMER, steps=20), tmp_path / "run", resume=resume)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        ("device", "message"),
        [
            ("cuda", "this machine has no device .*: use --device cpu"),
            ("cuda:1", "this machine has no device .*: use --device cpu"),
            ("mps", "this machine has no device .*: use --device cpu"),
            ("tpu", "unknown device .tpu.: use auto, cpu, cuda or mps"),
        ],
    )
    def test_a_device_that_is_not_there(self, device, message, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ConfigError, match=message):
            train(MINIBATCH_MLP, tmp_path / "run", device=device)
        assert not (tmp_path / "run").exists()


class TestStartFrom:
    def test_the_first_checkpoint_is_the_other_runs(self, tmp_path, undisturbed):
        source = undisturbed["minibatch_mlp"]
        run = train(replace(briefly(), model_seed=99), tmp_path / "run", start_from=f"{source.path}@150")
        expected = source.weights(150)
        assert run.weights(0).keys() == expected.keys()
        for name, weight in run.weights(0).items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
        assert run.environment["start_from"] == f"{source.path}@150"

    @pytest.mark.parametrize(
        ("reference", "kind", "message"),
        [
            ("{path}@151", RunError, "has no weights of step 151: the nearest checkpoint is at step 150"),
            ("{path}", ConfigError, "does not have the form RUN@STEP"),
            ("{path}@last", ConfigError, "does not have the form RUN@STEP"),
            ("{path}_none@0", RunError, "does not exist"),
        ],
    )
    def test_a_reference_to_nothing(self, reference, kind, message, tmp_path, undisturbed):
        reference = reference.format(path=undisturbed["minibatch_mlp"].path)
        with pytest.raises(kind, match=message):
            train(briefly(), tmp_path / "run", start_from=reference)
        assert not (tmp_path / "run").exists()

    def test_weights_of_another_shape(self, tmp_path, undisturbed):
        wider = replace(briefly(), model=MLPConfig(width=24, depth=2))
        with pytest.raises(RunError, match="do not fit this model"):
            train(wider, tmp_path / "run", start_from=f"{undisturbed['minibatch_mlp'].path}@50")
        assert not (tmp_path / "run").exists()


def by_hand(run: Run, step: int) -> dict[str, float]:
    """A row of metrics.jsonl, from the kept weights alone: the module itself, in float64."""
    task, config = run.task, run.config
    model = run.model(step).double()
    with torch.no_grad():
        logits = model(task.tokens)
    logits = logits[:, -1] if logits.ndim == 3 else logits
    labels = task.labels.tolist()
    pairs = [tuple(pair) for pair in task.inputs.tolist()]
    trained = {pair for pair, is_trained in zip(pairs, task.train_mask.tolist(), strict=True) if is_trained}
    if config.loss == "mse":
        target = torch.eye(logits.shape[1], dtype=torch.float64)[task.labels]
        losses = ((logits - target) ** 2).mean(dim=1).tolist()
    else:
        losses = [(row.logsumexp(0) - row[label]).item() for row, label in zip(logits, labels, strict=True)]
    hits = [int(row[:P].argmax()) == label for row, label in zip(logits, labels, strict=True)]
    subsets = {
        "train": [pair in trained for pair in pairs],
        "test": [pair not in trained for pair in pairs],
        "mirror": [(a, b) not in trained and (b, a) in trained for a, b in pairs],
        "novel": [(a, b) not in trained and (b, a) not in trained for a, b in pairs],
    }
    row = {f"{name}_accuracy": float(np.mean(np.array(hits)[mask])) for name, mask in subsets.items()}
    row |= {f"{name}_loss": float(np.mean(np.array(losses)[subsets[name]])) for name in ("train", "test")}
    trains = getattr(config.model, "trains", lambda name: True)
    entries = torch.cat([w.flatten() for name, w in run.weights(step).items() if trains(name)]).double()
    return row | {"weight_norm": entries.norm().item(), "weight_rms": (entries**2).mean().sqrt().item()}


class TestMetrics:
    @pytest.mark.parametrize(
        "config",
        [
            briefly(TRANSFORMER),
            briefly(replace(TRANSFORMER, model=replace(TRANSFORMER.model, equals_logit=True, biases="mlp"))),
            briefly(replace(TRANSFORMER, loss="mse")),
            briefly(),
        ],
        ids=["transformer", "class of =, trained mlp biases", "mse", "mlp"],
    )
    def test_rows_hold_what_the_weights_say(self, config, tmp_path):
        run = train(config, tmp_path / "run")
        assert list(run.metrics.index) == run.steps == [0, 5, 10]
        for step, row in run.metrics.iterrows():
            expected = by_hand(run, step)
            assert set(row.index) == set(expected)
            for name, value in expected.items():
                exact = name.endswith("accuracy") or name.startswith("weight")
                assert row[name] == pytest.approx(value, rel=1e-9 if exact else 1e-5), (step, name)

    def test_lines_are_plain_json_in_order_without_a_clock(self, undisturbed):
        lines = (undisturbed["transformer"].path / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["step"] for row in rows] == list(range(0, 201, 20))
        for row in rows:
            assert not any(word in name for name in row for word in ("time", "second", "clock", "date"))

    def test_an_operation_that_does_not_commute_has_no_mirrored_pairs(self, tmp_path):
        config = replace(briefly(), task=TaskConfig(operation="subtract", p=P, train_fraction=0.5))
        columns = train(config, tmp_path / "run").metrics.columns
        assert not {"mirror_accuracy", "novel_accuracy"} & set(columns)

    @pytest.mark.parametrize("kind", PATHS)
    def test_status_and_environment_say_what_was_done(self, kind, undisturbed):
        run = undisturbed[kind]
        assert run.status["reason"] == "all steps made"
        assert run.status["timing"]["seconds"] > 0
        assert run.environment["forward_path"] == PATHS[kind]
        assert run.environment["compiled"] is False
        assert run.environment["matrix_products"] in ("onednn", "torch")
        assert run.environment["device"] == "cpu"
        assert run.environment["threads"] == 1
        assert run.environment["packages"]["torch"] == torch.__version__

    def test_the_environment_names_the_matrix_products_that_were_used(self, matrix_products, tmp_path):
        assert train(briefly(TRANSFORMER), tmp_path / "run").environment["matrix_products"] == matrix_products


class TestSchedules:
    def test_evaluations_and_checkpoints_are_independent(self, tmp_path):
        config = shortened(
            MINIBATCH_MLP, steps=100, evaluate_every="log:3+every:40", checkpoints="dense:10:14:2", resume_every=33
        )
        run = train(config, tmp_path / "run")
        assert list(run.metrics.index) == [0, 1, 10, 40, 80, 100]
        assert run.steps == [0, 10, 12, 14, 100]

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_looking_changes_nothing(self, kind, tmp_path, undisturbed):
        config = shortened(CONFIGS[kind], evaluate_every=200, checkpoints=100, resume_every=1000)
        run = train(config, tmp_path / "run")
        assert run.steps == [0, 100, 200]
        for step in run.steps:
            name = f"weights/step_{step:06d}.safetensors"
            assert (run.path / name).read_bytes() == (undisturbed[kind].path / name).read_bytes()


DIVERGING = replace(
    MINIBATCH_MLP,
    optimizer=OptimizerConfig(name="sgd", lr=1e12, weight_decay=0.0),
    schedule=ScheduleConfig(steps=60, evaluate_every=1, checkpoints=1, resume_every=10),
)


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Run:
    """A run that diverges while every step is evaluated."""
    return train(DIVERGING, tmp_path_factory.mktemp("diverged") / "run")


class TestDivergence:
    def test_the_first_step_with_a_non_finite_loss_is_named(self, watched):
        losses = watched.metrics["train_loss"]
        assert watched.status["status"] == "diverged"
        assert losses.isna().sum() == 1
        assert watched.status["reason"] == f"the training loss was not finite at step {losses.index[-1]}"
        assert losses.index[-1] < 60

    def test_the_run_opens_and_holds_finite_weights(self, watched):
        run = Run.open(watched.path)
        assert run.steps == list(range(int(run.metrics.index[-1])))
        for step in run.steps:
            assert all(torch.isfinite(weight).all() for weight in run.weights(step).values())

    def test_nan_is_null_in_the_metrics(self, watched):
        last = (watched.path / "metrics.jsonl").read_text().splitlines()[-1]
        assert "NaN" not in last
        assert "Infinity" not in last
        assert json.loads(last)["train_loss"] is None

    def test_the_same_step_is_named_when_nobody_looked_there(self, watched, tmp_path):
        run = train(shortened(DIVERGING, evaluate_every=50, checkpoints=60, resume_every=1000), tmp_path / "run")
        assert run.status["status"] == "diverged"
        assert run.status["reason"] == watched.status["reason"]
        assert list(run.metrics.index) == [0]

    def test_resuming_diverges_again(self, watched):
        before = result(watched.path)
        again = train(DIVERGING, watched.path, resume=True)
        assert again.status["status"] == "diverged"
        assert result(watched.path) == before


class TestStopWhenGrokked:
    @pytest.fixture
    def generalizes_at_60(self, monkeypatch):
        """Test accuracy is 0.98 until step 40, and 0.99 from step 60 on."""
        looked = iter(range(0, 1000, 20))

        def evaluate(task, logits, weights, loss):
            reached = next(looked) >= 60
            losses = {"train_loss": 0.1, "test_loss": 1.0, "weight_norm": 1.0, "weight_rms": 1.0}
            return losses | {"train_accuracy": 1.0, "test_accuracy": 0.99 if reached else 0.98}

        monkeypatch.setattr(trainer, "evaluate", evaluate)

    @pytest.mark.parametrize(("factor", "end"), [(1.0, 60), (1.5, 100), (2.0, 120), (3.0, 180), (4.0, 200)])
    def test_the_run_ends_at_that_multiple_of_its_grok_step(self, factor, end, generalizes_at_60, tmp_path):
        config = shortened(MINIBATCH_MLP, checkpoints=1000, stop_when_grokked=True, stop_factor=factor)
        run = train(config, tmp_path / "run")
        assert run.status["status"] == "finished"
        assert run.status["step"] == run.metrics.index[-1] == end
        assert run.steps == [0, end]
        assert run.status["reason"] == ("grokked" if end < 200 else "all steps made")

    def test_resuming_what_has_grokked_does_nothing(self, generalizes_at_60, tmp_path):
        config = shortened(MINIBATCH_MLP, stop_when_grokked=True, stop_factor=1.5)
        run = train(config, tmp_path / "run")
        before = result(run.path)
        again = train(config, tmp_path / "run", resume=True)
        assert (again.status["status"], again.status["step"]) == ("finished", 100)
        assert result(run.path) == before

    def test_a_run_is_not_stopped_unless_asked(self, generalizes_at_60, tmp_path):
        assert train(MINIBATCH_MLP, tmp_path / "run").status["step"] == 200

    def test_an_accuracy_that_falls_again_still_counts(self):
        rule = StopWhenGrokked(ScheduleConfig(stop_when_grokked=True, stop_factor=2.0))
        rows = [(0, 0.1), (10, 0.995), (15, 0.2), (19, 0.2), (20, 0.2)]
        answers = [rule.on_evaluation({"step": step, "test_accuracy": accuracy}) for step, accuracy in rows]
        assert answers == [False, False, False, False, True]


def watch_batches(monkeypatch) -> list[list[tuple[int, int]]]:
    """The pairs of each update, in order."""
    seen: list[list[tuple[int, int]]] = []

    def watched(config, forward, weights, **options):
        gradients = gradients_function(config, forward, weights, **options)

        def noted(tokens, labels):
            assert torch.equal(labels, tokens[:, :2].sum(dim=1) % P)
            seen.append([tuple(pair) for pair in tokens[:, :2].tolist()])
            return gradients(tokens, labels)

        return noted

    monkeypatch.setattr(trainer, "gradients_function", watched)
    return seen


class TestMinibatches:
    def trained_on(self, config: RunConfig) -> set[tuple[int, int]]:
        task = task_of(config)
        return {tuple(pair) for pair in task.inputs[task.train_mask].tolist()}

    def config(self, batch_size: int | None, steps: int, model_seed: int = 3, kind: str = "minibatch_mlp") -> RunConfig:
        config = CONFIGS[kind]
        assert config.optimizer is not None
        optimizer = replace(config.optimizer, batch_size=batch_size)
        return replace(briefly(config, steps), optimizer=optimizer, model_seed=model_seed)

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_each_epoch_covers_the_training_set_in_a_new_order(self, kind, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        config = self.config(8, 9, kind=kind)
        train(config, tmp_path / "run")
        assert [len(batch) for batch in seen] == [8] * 9
        epochs = [[*chain(*seen[i : i + 3])] for i in (0, 3, 6)]
        for epoch in epochs:
            assert len(epoch) == 24
            assert set(epoch) == self.trained_on(config)
        assert epochs[0] != epochs[1] != epochs[2]

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_the_short_rest_of_an_epoch_is_left_out(self, kind, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        train(self.config(7, 9, kind=kind), tmp_path / "run")
        assert [len(batch) for batch in seen] == [7] * 9
        for i in (0, 3, 6):
            assert len({*chain(*seen[i : i + 3])}) == 21

    @pytest.mark.parametrize("batch_size", [None, 24, 1000])
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_a_batch_may_be_everything(self, kind, batch_size, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        config = self.config(batch_size, 3, kind=kind)
        train(config, tmp_path / "run")
        assert len(seen) == 3
        for batch in seen:
            assert len(batch) == 24
            assert set(batch) == self.trained_on(config)

    def test_the_order_comes_from_the_models_seed(self, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        for i, seed in enumerate((3, 3, 4)):
            train(self.config(8, 6, seed), tmp_path / str(i))
        assert seen[:6] == seen[6:12]
        assert seen[:6] != seen[12:]


class TestForwardPaths:
    SMALL = TransformerConfig(d_model=16, n_heads=2, d_mlp=32)
    VARIANTS: ClassVar = {
        "frozen biases": ("last_position", SMALL, "cross_entropy"),
        "no =": ("last_position", replace(SMALL, equals_token=False, biases="trained", init="torch"), "cross_entropy"),
        "class of =": ("last_position", replace(SMALL, equals_logit=True, biases="mlp", init="nanda"), "cross_entropy"),
        "gelu": ("last_position", replace(SMALL, activation="gelu", biases="trained"), "cross_entropy"),
        "mse": ("last_position", SMALL, "mse"),
        "two layers": ("prefix", replace(SMALL, n_layers=2), "cross_entropy"),
        "layernorm, mse": ("prefix", replace(SMALL, normalization="layernorm"), "mse"),
    }

    @pytest.mark.parametrize(("path", "model", "loss"), VARIANTS.values(), ids=VARIANTS)
    def test_the_modules_own_forward_gives_the_same_losses(self, path, model, loss, tmp_path):
        config = replace(TRANSFORMER, model=model, loss=loss)
        config = shortened(config, steps=20, evaluate_every=1, checkpoints=20)
        fast = train(config, tmp_path / "fast")
        plain = train(config, tmp_path / "plain", plain_forward=True)
        assert fast.environment["forward_path"] == path
        assert plain.environment["forward_path"] == "module"
        for column in ("train_loss", "test_loss"):
            assert fast.metrics[column].to_numpy() == pytest.approx(plain.metrics[column].to_numpy(), rel=1e-5)

    def test_a_run_by_the_module_is_resumed_by_the_module(self, tmp_path):
        config = shortened(TRANSFORMER, steps=20, evaluate_every=1, checkpoints=20)
        undisturbed = train(config, tmp_path / "undisturbed", plain_forward=True)
        train(shortened(config, steps=10), tmp_path / "run", plain_forward=True)
        resumed = train(config, tmp_path / "run", resume=True)
        assert resumed.environment["forward_path"] == resumed.environment["resumed"][0]["forward_path"] == "module"
        for name, weight in resumed.weights(20).items():
            torch.testing.assert_close(weight, undisturbed.weights(20)[name], rtol=0, atol=0)

    def test_five_steps_of_a_loop_written_by_hand(self, tmp_path):
        """A plain HookedTransformer, cross entropy in float64, torch.optim.AdamW, as in TransformerLens's demo."""
        config = shortened(TRANSFORMER, steps=5, evaluate_every=1, checkpoints=1)
        run = train(config, tmp_path / "run")
        settings = HookedTransformerConfig(
            n_layers=1,
            n_heads=2,
            d_model=16,
            d_head=8,
            d_mlp=32,
            act_fn="relu",
            normalization_type=None,
            d_vocab=P + 1,
            d_vocab_out=P,
            n_ctx=3,
            device="cpu",
        )
        with pytest.warns(DeprecationWarning, match="HookedTransformer"):
            model = HookedTransformer(settings)
        model.load_state_dict(run.weights(0), strict=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.rsplit(".", 1)[1].startswith("b_"))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.5, betas=(0.9, 0.98))
        inputs = torch.tensor([[a, b, P] for a in range(P) for b in range(P)])
        labels = (inputs[:, 0] + inputs[:, 1]) % P
        chosen = torch.randperm(P * P, generator=torch.Generator().manual_seed(0))[: int(0.5 * P * P)]
        for step in range(6):
            loss = F.cross_entropy(model(inputs[chosen])[:, -1].double(), labels[chosen])
            assert run.metrics["train_loss"][step] == pytest.approx(loss.item(), rel=1e-6)
            kept = run.weights(step)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(
                    kept[name], parameter.detach(), rtol=1e-5, atol=1e-6, msg=f"{name} at {step}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


COMPILED = """
import json, sys
from dataclasses import replace

import torch

from grokinterp.config import RunConfig
from grokinterp.training import train

torch.set_num_threads(1)
folder = sys.argv[1]
config = RunConfig.from_json(sys.stdin.read())
half = replace(config, schedule=replace(config.schedule, steps=config.schedule.steps // 2))
train(config, folder + "/plain")
train(config, folder + "/compiled", compile=True)
train(half, folder + "/resumed", compile=True)
train(config, folder + "/resumed", resume=True)
"""


@pytest.fixture(scope="module", params=PATHS)
def compiled_folder(request, tmp_path_factory) -> Path:
    """A run as it is, compiled, and compiled and resumed halfway: in a process without shape checks."""
    folder = tmp_path_factory.mktemp(request.param)
    config = (CONFIGS | MORE_CONFIGS)[request.param]
    script = subprocess.run(
        [sys.executable, "-c", COMPILED, str(folder)],
        input=shortened(config, steps=40, evaluate_every=10, checkpoints=10, resume_every=10).to_json(),
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert script.returncode == 0, script.stderr
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
class TestCompiled:
    def test_trains_to_the_same_numbers_and_says_so(self, compiled_folder):
        plain, compiled = Run.open(compiled_folder / "plain"), Run.open(compiled_folder / "compiled")
        assert (plain.environment["compiled"], compiled.environment["compiled"]) == (False, True)
        pd.testing.assert_frame_equal(compiled.metrics, plain.metrics, rtol=1e-5)
        for step in plain.steps:
            expected = plain.weights(step)
            for name, weight in compiled.weights(step).items():
                if name.endswith("b_K"):  # without effect, so without gradient: Adam follows its rounding errors
                    continue
                torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5, msg=f"{name} at {step}")

    def test_is_resumed_compiled_without_being_told(self, compiled_folder):
        compiled, resumed = Run.open(compiled_folder / "compiled"), Run.open(compiled_folder / "resumed")
        assert [again["compiled"] for again in resumed.environment["resumed"]] == [True]
        assert result(resumed.path) == result(compiled.path)


class TestNoTraces:
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_global_random_states_are_left_alone(self, kind, dead):
        path, code = dead[kind, "none"]
        assert Run.open(path).status["status"] == "finished"
        assert code == 0

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_global_random_states_have_no_influence(self, kind, tmp_path):
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            train(briefly(CONFIGS[kind]), tmp_path / str(seed))
        assert result(tmp_path / "1") == result(tmp_path / "2")

    def test_signal_handlers_are_put_back(self, tmp_path):
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        train(briefly(), tmp_path / "run")
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_training_in_another_thread(self, tmp_path):
        worker = threading.Thread(target=train, args=(briefly(), tmp_path / "run"))
        worker.start()
        worker.join(120)
        assert Run.open(tmp_path / "run").status["status"] == "finished"

    def test_nothing_is_printed_where_nobody_looks(self, tmp_path, capfd):
        train(briefly(), tmp_path / "run")
        assert capfd.readouterr() == ("", "")

    def test_a_progress_bar_on_request(self, tmp_path, capsys):
        train(briefly(), tmp_path / "run", progress=True)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "10/10" in shown.err
        assert "train loss" in shown.err
        assert "test acc" in shown.err

    def test_no_tracker_is_imported_unless_asked_for(self, tmp_path, monkeypatch):
        for service in ("wandb", "trackio"):
            monkeypatch.delitem(sys.modules, service, raising=False)
        train(briefly(TRANSFORMER), tmp_path / "run")
        assert not {"wandb", "trackio"} & set(sys.modules)


class Diary(Callback):
    """Everything a callback is told; ends the run at a step, or fails there."""

    def __init__(self, end_at: int | None = None, fail_at: int | None = None):
        self.end_at, self.fail_at = end_at, fail_at
        self.entries: list[tuple] = []

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        self.entries.append(("start", step, last_step))

    def on_step(self, step: int) -> None:
        self.entries.append(("step", step))
        if step == self.fail_at:
            raise ValueError(f"no more at {step}")

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        self.entries.append(("evaluation", int(metrics["step"])))
        return metrics["step"] == self.end_at

    def on_end(self, status: str) -> None:
        self.entries.append(("end", status))


class TestCallbacks:
    def test_they_are_told_everything_in_order(self, tmp_path):
        diary = Diary()
        train(briefly(steps=6), tmp_path / "run", callbacks=[diary])
        assert diary.entries == [
            ("start", 0, 6),
            ("evaluation", 0),
            *[("step", step) for step in (1, 2, 3, 4, 5)],
            ("evaluation", 5),
            ("step", 6),
            ("evaluation", 6),
            ("end", "finished"),
        ]

    def test_rows_are_those_of_the_metrics(self, tmp_path):
        rows = []

        class Keep(Callback):
            def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
                rows.append(dict(metrics))
                return False

        run = train(briefly(), tmp_path / "run", callbacks=[Keep()])
        pd.testing.assert_frame_equal(pd.DataFrame(rows).set_index("step"), run.metrics)

    def test_a_resumed_run_tells_what_was_before(self, tmp_path):
        train(briefly(), tmp_path / "run")
        diary = Diary()
        train(briefly(steps=12), tmp_path / "run", resume=True, callbacks=[diary])
        assert diary.entries == [
            ("start", 10, 12),
            *[("evaluation", step) for step in (0, 5, 10)],
            ("step", 11),
            ("step", 12),
            ("evaluation", 12),
            ("end", "finished"),
        ]

    def test_one_of_them_may_end_the_run(self, tmp_path):
        config = shortened(MINIBATCH_MLP, checkpoints=100)
        run = train(config, tmp_path / "run", callbacks=[Diary(), Diary(end_at=40)])
        assert (run.status["status"], run.status["step"]) == ("finished", 40)
        assert run.steps == [0, 40]

    def test_a_run_that_a_callback_ended_does_not_claim_to_have_grokked(self, tmp_path):
        run = train(briefly(), tmp_path / "run", callbacks=[Diary(end_at=5)])
        assert run.status["step"] == 5
        assert "grokked" not in run.status["reason"]

    def test_an_exception_in_one_of_them_stops_the_run_resumably(self, tmp_path, undisturbed):
        diary = Diary(fail_at=70)
        with pytest.raises(ValueError, match="no more at 70"):
            train(MINIBATCH_MLP, tmp_path / "run", callbacks=[diary])
        assert diary.entries[-1] == ("end", "stopped")
        status = Run.open(tmp_path / "run").status
        assert (status["status"], status["reason"]) == ("stopped", "ValueError: no more at 70")
        train(MINIBATCH_MLP, tmp_path / "run", resume=True)
        assert result(tmp_path / "run") == result(undisturbed["minibatch_mlp"].path)


class TestTracker:
    @pytest.fixture
    def service(self, monkeypatch):
        calls: list[tuple] = []
        module = SimpleNamespace(
            init=lambda **options: calls.append(("init", options)),
            log=lambda values, step: calls.append(("log", step, values)),
            finish=lambda: calls.append(("finish",)),
        )
        module.init = lambda **options: calls.append(("init", options)) or module
        monkeypatch.setitem(sys.modules, "trackio", module)
        return calls

    def test_rows_are_sent(self, service, tmp_path):
        train(briefly(), tmp_path / "run", callbacks=[Tracker("trackio")])
        assert [call[0] for call in service] == ["init", "log", "log", "log", "finish"]
        assert [call[1] for call in service[1:4]] == [0, 5, 10]
        assert service[0][1]["config"]["task"]["p"] == P
        assert {"train_loss", "test_accuracy"} <= set(service[1][2])

    def test_rows_sent_before_are_not_sent_again(self, service, tmp_path):
        train(briefly(), tmp_path / "run")
        train(briefly(steps=20), tmp_path / "run", resume=True, callbacks=[Tracker("trackio")])
        assert [call[1] for call in service if call[0] == "log"][-2:] == [15, 20]
        assert 0 not in [call[1] for call in service if call[0] == "log"]

    def test_one_that_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "trackio", None)
        with pytest.raises(ConfigError, match=r"tracker 'trackio' is not installed: pip install trackio"):
            Tracker("trackio")

    def test_one_that_is_not_known(self):
        with pytest.raises(ConfigError, match=r"unknown tracker 'wandbb': did you mean 'wandb'\?"):
            Tracker("wandbb")
