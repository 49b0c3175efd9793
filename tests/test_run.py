"""Run: reading a run folder, loading its weights into a plain HookedTransformer, and handling damage."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hooked import HookedTransformer, HookedTransformerConfig, needs_hooked_transformer
from safetensors import safe_open

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import Forward
from grokinterp.runs.checkpoints import parse_step
from grokinterp.runs.files import make_folder, write_atomically
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import Task
from grokinterp.training import train

P = 7
BASE = RunConfig(
    task=TaskConfig(p=P, train_fraction=0.5),
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=10, evaluate_every=5, checkpoints=5, resume_every=5),
)
MODELS = {
    "frozen biases": TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    "no =": TransformerConfig(d_model=16, n_heads=4, d_head=3, d_mlp=32, equals_token=False, biases="trained"),
    "class of =": TransformerConfig(d_model=16, n_heads=2, d_mlp=32, equals_logit=True, biases="mlp"),
    "two layers, layernorm": TransformerConfig(
        d_model=16, n_heads=2, d_mlp=32, n_layers=2, normalization="layernorm", activation="gelu"
    ),
    "one-hot mlp": MLPConfig(width=16),
    "residual mlp": MLPConfig(width=16, input="sum", architecture="residual", activation="gelu"),
}
TRANSFORMERS = [name for name, model in MODELS.items() if isinstance(model, TransformerConfig)]


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(replace(BASE, model=model), folder / str(i)) for i, (name, model) in enumerate(MODELS.items())}


@pytest.fixture
def copy(runs, tmp_path) -> Path:
    """A copy of a run that the test may damage."""
    return Path(shutil.copytree(runs["one-hot mlp"].path, tmp_path / "run"))


def stranger(config: TransformerConfig) -> Any:
    """The model that a user of TransformerLens builds from config.json, without this package."""
    settings = HookedTransformerConfig(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        d_model=config.d_model,
        d_head=config.d_head or config.d_model // config.n_heads,
        d_mlp=config.d_mlp,
        act_fn=config.activation,
        normalization_type={"none": None, "layernorm": "LN"}[config.normalization],
        d_vocab=P + config.equals_token,
        d_vocab_out=P + config.equals_logit,
        n_ctx=2 + config.equals_token,
        device="cpu",
    )
    with pytest.warns(DeprecationWarning, match="HookedTransformer"):
        return HookedTransformer(settings)


def all_pairs(equals: bool) -> torch.Tensor:
    return torch.tensor([[a, b, P][: 2 + equals] for a in range(P) for b in range(P)])


class TestReading:
    @needs_hooked_transformer
    @pytest.mark.parametrize("name", TRANSFORMERS)
    def test_a_checkpoint_loads_into_a_plain_hooked_transformer(self, name, runs):
        run, config = runs[name], MODELS[name]
        model = stranger(config)
        outcome = model.load_state_dict(run.weights(10), strict=False)
        assert outcome.unexpected_keys == []
        assert not set(outcome.missing_keys) & {parameter for parameter, _ in model.named_parameters()}
        with torch.no_grad():
            logits = model(all_pairs(config.equals_token))[:, -1, :P]
        torch.testing.assert_close(run.snapshot(10).logits, logits.double(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", MODELS)
    def test_a_snapshot_has_the_logits_of_the_module(self, name, runs):
        run = runs[name]
        for step in run.steps:
            snapshot, model = run.snapshot(step), run.model(step)
            with torch.no_grad():
                logits = model(run.task.tokens)
            logits = logits[:, -1] if logits.ndim == 3 else logits
            assert snapshot.step == step
            assert snapshot.logits.dtype == torch.float64
            torch.testing.assert_close(snapshot.logits, logits[:, :P].double(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", TRANSFORMERS)
    def test_run_with_cache_of_a_transformer(self, name, runs):
        run = runs[name]
        last = MODELS[name].n_layers - 1
        with torch.no_grad():
            _, cache = run.model(10).run_with_cache(run.task.tokens)
        snapshot = run.snapshot(10)
        neurons = cache[f"blocks.{last}.mlp.hook_post"][:, -1]
        attention = cache[f"blocks.{last}.attn.hook_pattern"][:, :, -1]
        torch.testing.assert_close(snapshot.neurons, neurons, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(snapshot.attention, attention, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", ["one-hot mlp", "residual mlp"])
    def test_run_with_cache_of_an_mlp(self, name, runs):
        run = runs[name]
        with torch.no_grad():
            logits, cache = run.model(10).run_with_cache(run.task.tokens)
        torch.testing.assert_close(run.snapshot(10).neurons, cache["layers.1.hook_post"])
        torch.testing.assert_close(run.snapshot(10).logits.float(), logits)  # up to float32 rounding: oneDNN or MKL
        assert cache["layers.0.hook_pre"].shape == (P * P, 16)
        assert ("hook_embed" in cache) == (name == "residual mlp")

    @pytest.mark.parametrize("name", MODELS)
    def test_neurons_kept_from_the_forward_pass_are_those_of_a_second_one(self, name, runs, monkeypatch):
        later, kept = runs[name].snapshot(10), runs[name].snapshot(10, neurons=True)
        expected = later.activations
        monkeypatch.setattr(Forward, "activity", None)  # no second pass
        assert kept.logits.dtype == torch.float64
        torch.testing.assert_close(kept.logits, later.logits, rtol=1e-6, atol=1e-6)
        for part in ("neurons", "neuron_logit_map", "attention"):
            torch.testing.assert_close(getattr(kept.activations, part), getattr(expected, part), rtol=0, atol=0)

    def test_frozen_biases_do_not_count_as_trained(self, runs):
        trained = runs["frozen biases"].snapshot(10).trained
        assert trained is not None
        assert not any(name.rsplit(".", 1)[1].startswith("b_") for name in trained)
        assert set(runs["no ="].snapshot(10).trained) == set(runs["no ="].weights(10))
        biases = [name for name in runs["class of ="].snapshot(10).trained if ".b_" in name]
        assert biases == ["blocks.0.mlp.b_in", "blocks.0.mlp.b_out"]

    @needs_hooked_transformer
    def test_step_0_is_the_initialization(self, runs):
        from grokinterp.models import build_model

        for run in runs.values():
            fresh = dict(build_model(run.config, run.task).named_parameters())
            for name, weight in run.weights(0).items():
                torch.testing.assert_close(weight, fresh[name].detach(), rtol=0, atol=0)

    @pytest.mark.parametrize("split", ["torch", "python", "numpy"])
    def test_the_task_has_the_split_that_was_trained_on(self, split, tmp_path):
        task = replace(BASE.task, split=split, data_seed=5)
        config = replace(BASE, task=task, model=MODELS["one-hot mlp"], schedule=replace(BASE.schedule, steps=1))
        run = train(config, tmp_path / "run")
        again = Run.open(tmp_path / "run").task
        assert torch.equal(again.train_mask, Task.from_config(task).train_mask)
        accuracy = (run.snapshot(1).logits.argmax(1) == again.labels)[again.train_mask].double().mean()
        assert run.metrics["train_accuracy"][1] == pytest.approx(accuracy.item())

    def test_metrics_are_indexed_by_step(self, runs):
        metrics = runs["one-hot mlp"].metrics
        assert metrics.index.name == "step"
        assert list(metrics.index) == [0, 5, 10]
        assert metrics.index.dtype == int
        assert set(map(str, metrics.dtypes)) == {"float64"}

    def test_repr_shows_status_and_number_of_checkpoints(self, runs):
        shown = repr(runs["one-hot mlp"])
        assert re.search("status +finished at step 10", shown)
        assert re.search("checkpoints +3, steps 0 to 10", shown)


class TestFiles:
    @needs_hooked_transformer
    def test_a_weights_file_contains_only_parameters(self, runs):
        run = runs["frozen biases"]
        parameters = dict(run.model(10).named_parameters())
        with safe_open(run.path / "weights" / "step_000010.safetensors", framework="pt") as file:
            assert file.metadata().keys() == {"step", "checksum"}
            assert file.metadata()["step"] == "10"
            assert set(file.keys()) == set(parameters)
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118

    def test_a_run_has_no_pickles_and_no_temporary_files(self, runs):
        for run in runs.values():
            names = {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file()}
            weights = {f"weights/step_{step:06d}.safetensors" for step in (0, 5, 10)}
            assert names == weights | {
                "config.json",
                "environment.json",
                "metrics.jsonl",
                "resume.safetensors",
                "status.json",
            }

    def test_checksums_in_the_status_are_those_of_the_files(self, runs):
        for run in runs.values():
            checksums = run.status["checksums"]
            weights = {f"weights/step_{step:06d}.safetensors" for step in (0, 5, 10)}
            assert set(checksums) == {*weights, "config.json", "metrics.jsonl"}
            for name, checksum in checksums.items():
                assert hashlib.sha256((run.path / name).read_bytes()).hexdigest() == checksum

    def test_the_checksum_of_a_step_is_that_of_the_current_file(self, copy):
        run = Run.open(copy)
        before = {step: run.checksum(step) for step in run.steps}
        assert len(set(before.values())) == 3
        shutil.copy(copy / "weights" / "step_000005.safetensors", copy / "weights" / "step_000010.safetensors")
        assert run.checksum(10) == before[5]
        assert run.checksum(0) == before[0]

    def test_steps_are_sorted_as_numbers(self, copy):
        writer = RunWriter(copy, Run.open(copy).config)
        for step in (1_000_000, 999_999, 20_000_000, 7):
            writer.save_checkpoint(step, Run.open(copy).weights(5))
        assert Run.open(copy).steps == [0, 5, 7, 10, 999_999, 1_000_000, 20_000_000]
        assert set(Run.open(copy).weights(20_000_000)) == set(Run.open(copy).weights(5))

    def test_files_with_other_names_are_not_checkpoints(self, copy):
        for name in ("step_11.safetensors", ".step_000012.safetensors.99.tmp", "step_000013.safetensors.bak", "notes"):
            (copy / "weights" / name).write_bytes(b"")
        assert Run.open(copy).steps == [0, 5, 10]

    def test_weights_are_stored_as_float32(self, copy):
        writer, weights = RunWriter(copy, Run.open(copy).config), Run.open(copy).weights(10)
        given = torch.arange(16 * P, dtype=torch.float64).view(P, 16).T  # not contiguous
        writer.save_checkpoint(20, weights | {"unembed.W_U": given})
        kept = Run.open(copy).weights(20)["unembed.W_U"]
        assert kept.dtype == torch.float32
        assert torch.equal(kept, given.float())


class TestOpening:
    def test_a_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(RunError, match=r"none does not exist: `grokinterp list` shows the existing runs"):
            Run.open(tmp_path / "none")

    def test_a_folder_that_is_not_a_run(self, tmp_path):
        with pytest.raises(RunError, match=r"is not a run: it has no config.json"):
            Run.open(tmp_path)

    def test_a_file(self, copy):
        with pytest.raises(RunError, match="is not a run"):
            Run.open(copy / "config.json")

    @pytest.mark.parametrize("version", [0, 2, "1.0", None])
    def test_another_format_version(self, version, copy):
        raw = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(raw | {"format_version": version, "new_key": 1}))
        message = (
            rf"config.json has format version {version!r}, but this grokinterp reads version 1: install the release"
        )
        with pytest.raises(ConfigError, match=message):
            Run.open(copy)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is not JSON"),
            ('{"task": {', "is not JSON"),
            ("[]", "config.json: "),
            ('{"taks": {}}', "config.json: taks is not a key"),
            ('{"task": {"p": "many"}}', "config.json: task.p: "),
            ('{"task": {"p": 2}}', "p must be at least 3"),
            ('{"model": {"width": 3}}', "model.kind is missing"),
        ],
    )
    def test_a_damaged_configuration(self, text, message, copy):
        (copy / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            Run.open(copy)

    def test_a_configuration_that_is_not_utf8(self, copy):
        (copy / "config.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(RunError, match=r"config.json is damaged: it is not UTF-8"):
            Run.open(copy)


class TestDamage:
    def test_a_truncated_last_line_of_metrics_is_ignored(self, copy):
        metrics = copy / "metrics.jsonl"
        whole = metrics.read_text()
        for torn in ('{"step": 15', '{"step": 15, "train_loss": 0.5}', "\x00\x00"):
            metrics.write_text(whole + torn)
            assert list(Run.open(copy).metrics.index) == [0, 5, 10]

    @pytest.mark.parametrize("line", ["rubbish", "[1]", '{"train_loss": 1.0}', '{"step": "five"}', ""])
    def test_a_damaged_line_of_metrics_is_named(self, line, copy):
        lines = (copy / "metrics.jsonl").read_text().splitlines()
        lines[1] = line
        (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        with pytest.raises(RunError, match=r"metrics.jsonl, line 2 is damaged"):
            _ = Run.open(copy).metrics

    def test_null_is_nan(self, copy):
        with (copy / "metrics.jsonl").open("a") as file:
            file.write('{"step": 15, "train_loss": null, "test_loss": 0.5}\n')
        row = Run.open(copy).metrics.loc[15]
        assert row["test_loss"] == 0.5
        assert row["train_loss"] != row["train_loss"]

    def test_the_later_of_two_lines_for_a_step_counts(self, copy):
        with (copy / "metrics.jsonl").open("a") as file:
            file.write('{"step": 5, "train_loss": 99.0}\n')
        metrics = Run.open(copy).metrics
        assert list(metrics.index) == [0, 5, 10]
        assert metrics["train_loss"][5] == 99.0

    @pytest.mark.parametrize("content", [None, ""])
    def test_no_metrics_yet(self, content, copy):
        (copy / "metrics.jsonl").unlink()
        if content is not None:
            (copy / "metrics.jsonl").write_text(content)
        metrics = Run.open(copy).metrics
        assert len(metrics) == 0
        assert metrics.index.name == "step"

    def test_a_damaged_status_is_named(self, copy):
        (copy / "status.json").write_text('{"status": "fini')
        with pytest.raises(RunError, match=r"status.json is damaged .*: restore the original file, or .*--repair"):
            _ = Run.open(copy).status

    def test_a_status_larger_than_its_checkpoints_need_is_not_parsed(self, copy):
        (copy / "status.json").write_text(f"[{'[],' * 4_000_000}[]]")
        with pytest.raises(RunError, match=r"status.json is damaged: it has 12,000,004 bytes"):
            _ = Run.open(copy).status

    def test_metrics_larger_than_the_evaluations_make_them_are_not_parsed(self, copy):
        lines = (copy / "metrics.jsonl").read_bytes()
        (copy / "metrics.jsonl").write_bytes(lines * (5_000_000 // len(lines)))
        with pytest.raises(RunError, match=r"metrics.jsonl is damaged: it has 4,99\d,\d+ bytes"):
            _ = Run.open(copy).metrics

    def test_a_missing_status_is_empty(self, copy):
        (copy / "status.json").unlink()
        assert Run.open(copy).status == {}
        assert "unknown" in repr(Run.open(copy))

    @pytest.mark.parametrize("keep", [0, 4, 100, -10])
    def test_a_truncated_weights_file_is_named(self, keep, copy):
        file = copy / "weights" / "step_000005.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(RunError, match=r"step_000005.safetensors is damaged"):
            Run.open(copy).weights(5)

    def test_a_step_without_a_checkpoint(self, copy):
        with pytest.raises(RunError, match="has no weights of step 6: the nearest checkpoint is at step 5"):
            Run.open(copy).weights(6)
        shutil.rmtree(copy / "weights")
        with pytest.raises(RunError, match="has no weights of step 0: it has no checkpoints"):
            Run.open(copy).weights(0)
        assert Run.open(copy).steps == []

    @pytest.mark.parametrize(
        "weights",
        [{"unembed.W_U": torch.zeros(16, P)}, None, {"stray": torch.zeros(1)}],
        ids=["missing", "another shape", "unexpected"],
    )
    def test_weights_that_do_not_fit_the_configuration(self, weights, copy):
        run = Run.open(copy)
        own = run.weights(5)
        if weights is None:
            weights = own | {"layers.0.W": torch.zeros(3, 3)}
        elif "stray" in weights:
            weights = own | weights
        RunWriter(copy, run.config).save_checkpoint(5, weights)
        with pytest.raises(RunError, match="do not fit"):
            run.model(5)

    def test_a_damaged_split_is_named(self, tmp_path):
        task = Task.modular_addition(P, train_indices=range(20))
        RunWriter.create(tmp_path / "run", replace(BASE, task=task.config), {}, task)
        (tmp_path / "run" / "split.safetensors").write_bytes(b"half of it")
        with pytest.raises(RunError, match=r"split.safetensors is damaged"):
            _ = Run.open(tmp_path / "run").task

    def test_a_lost_split_is_named(self, tmp_path):
        task = Task.modular_addition(P, train_indices=range(20))
        RunWriter.create(tmp_path / "run", replace(BASE, task=task.config), {}, task)
        (tmp_path / "run" / "split.safetensors").unlink()
        with pytest.raises(RunError, match=r"split\.safetensors is missing"):
            _ = Run.open(tmp_path / "run").task


class TestGivenSplit:
    @pytest.mark.parametrize("equals_token", [True, False])
    def test_a_given_split_is_restored(self, equals_token, tmp_path):
        chosen = [48, 3, 17, 0, 29]
        task = Task.modular_addition(P, train_indices=chosen, equals_token=equals_token)
        model = replace(MODELS["frozen biases"], equals_token=equals_token)
        RunWriter.create(tmp_path / "run", replace(BASE, task=task.config, model=model), {}, task)
        again = Run.open(tmp_path / "run").task
        assert again.train_mask.nonzero().flatten().tolist() == sorted(chosen)
        assert torch.equal(again.tokens, task.tokens)
        assert again.config.split == "given"
        assert again.config.train_fraction == pytest.approx(5 / 49)

    def test_label_noise_is_restored_with_a_given_split(self, tmp_path):
        noisy = TaskConfig(p=P, train_fraction=0.5, split="given", label_noise=0.5, data_seed=3)
        task = Task.from_config(noisy, train_indices=range(0, 40, 2))
        RunWriter.create(tmp_path / "run", replace(BASE, task=task.config), {}, task)
        again = Run.open(tmp_path / "run").task
        assert torch.equal(again.labels, task.labels)
        assert not torch.equal(again.labels, again.inputs.sum(1) % P)


class TestAtomicWrites:
    def test_content_is_replaced(self, tmp_path):
        for content in ("first", b"second"):
            write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == b"second"
        assert [file.name for file in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize("old", ["old content", None])
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_failure_leaves_the_old_file_and_nothing_else(self, call, old, tmp_path, monkeypatch):
        if old is not None:
            (tmp_path / "file").write_text(old)

        def fail(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
        message = r"cannot write .*file: No space left on device; check permissions and free disk space"
        with pytest.raises(RunError, match=message):
            write_atomically(tmp_path / "file", "new content")
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == ({"file": old} if old else {})

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(RunError, match="No such file or directory"):
            write_atomically(tmp_path / "none" / "file", "content")

    def test_a_folder_in_the_place_of_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot create the folder"):
            make_folder(tmp_path / "file")

    def test_a_checkpoint_that_could_not_be_written_leaves_no_file(self, copy, monkeypatch):
        def fail(*args):
            raise OSError(28, "No space left on device")

        writer = RunWriter(copy, Run.open(copy).config)
        before = sorted(copy.rglob("*"))
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", fail)
            with pytest.raises(RunError, match="No space left on device"):
                writer.save_checkpoint(20, {"w": torch.zeros(1)})
        assert sorted(copy.rglob("*")) == before
        assert Run.open(copy).steps == [0, 5, 10]

    def test_metrics_that_cannot_be_written(self, tmp_path):
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl: Is a directory"):
            RunWriter(tmp_path, BASE).append_metrics({"step": 0})


def test_metrics_are_read_again_only_when_they_have_changed(copy, monkeypatch):
    import grokinterp.runs.run

    reads, read = [], grokinterp.runs.run.read_metrics
    monkeypatch.setattr(grokinterp.runs.run, "read_metrics", lambda file: reads.append(file) or read(file))
    run = Run.open(copy)
    first = run.metrics
    first["train_loss"] = 0.0  # the user's own copy
    assert (run.metrics["train_loss"] > 0).all()
    assert len(reads) == 1
    RunWriter(copy, run.config).append_metrics({"step": 99, "train_loss": 1.0})
    assert run.metrics.index[-1] == 99
    write_atomically(copy / "metrics.jsonl", "")
    assert len(run.metrics) == 0
    assert len(reads) == 3


class TestForgetting:
    def test_later_steps_are_dropped(self, copy):
        RunWriter(copy, Run.open(copy).config).save_checkpoint(7, {"logits": torch.zeros(1)}, folder="logits")
        before = Run.open(copy).status["checksums"]
        writer = RunWriter(copy, Run.open(copy).config)
        writer.prepare_resume(5)
        writer.discard_after(5)
        run = Run.open(copy)
        assert run.steps == [0, 5]
        assert list(run.metrics.index) == [0, 5]
        writer.write_status(RunStatus.RUNNING, 5)
        kept = ("weights/step_000000.safetensors", "weights/step_000005.safetensors")
        assert run.status["checksums"] == {name: before[name] for name in (*kept, "config.json")}

    def test_a_file_that_changed_keeps_the_checksum_of_what_was_written(self, copy):
        name = "weights/step_000005.safetensors"
        before = Run.open(copy).status["checksums"][name]
        shutil.copy(copy / "weights" / "step_000000.safetensors", copy / name)
        RunWriter(copy, Run.open(copy).config).prepare_resume(5)
        assert Run.open(copy).status["checksums"][name] == before

    def test_a_truncated_line_is_dropped_too(self, copy):
        with (copy / "metrics.jsonl").open("a") as file:
            file.write('{"step": 15, "train_')
        RunWriter(copy, Run.open(copy).config).discard_after(10)
        assert (copy / "metrics.jsonl").read_text().endswith("}\n")
        assert list(Run.open(copy).metrics.index) == [0, 5, 10]


@pytest.mark.parametrize(
    ("text", "parts"), [("run@5", ("run", 5)), ("a/b@c@000100", ("a/b@c", 100)), ("C:\\runs\\x@0", ("C:\\runs\\x", 0))]
)
def test_a_reference_to_a_step(text, parts):
    assert parse_step(text) == parts


@pytest.mark.parametrize("text", ["run", "run@", "@5", "run@-5", "run@5.0", "run@last", ""])
def test_malformed_references_to_a_step(text):
    with pytest.raises(ConfigError, match=r"does not have the form RUN@STEP, for instance checkpoints/run42@1000"):
        parse_step(text)
