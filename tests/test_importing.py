"""Importing files of others: what is found, what is refused, and that nothing in them runs or is half imported."""

import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import grokinterp as gi
from grokinterp.config import MLPConfig, TaskConfig, TransformerConfig
from grokinterp.formats.splits import choose_split
from grokinterp.formats.state_dicts import checkpoint_files
from grokinterp.models import forward_for, initial_parameters
from grokinterp.models.version_4 import to_version_4
from grokinterp.tasks import Task

P = 7
MODEL = TransformerConfig(n_heads=2, d_model=8, d_mlp=12)
LENS_CONFIG = {
    **{"n_layers": 1, "d_model": 8, "n_ctx": 3, "d_head": 4, "n_heads": 2, "d_mlp": 12, "act_fn": "relu"},
    **{"normalization_type": None, "attention_dir": "causal", "d_vocab": P + 1, "d_vocab_out": P},
}
PAIRS = list(range(0, P * P, 2))


def weights_of(model=MODEL, seed=0):
    parameters = initial_parameters(model, Task.modular_addition(P), seed)
    return {name: weight.detach().clone() for name, weight in parameters.items()}


def transposed(weights):
    """In the layout of Nanda et al."""
    found = {}
    for name, weight in weights.items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("W_Q", "W_K", "W_V"):
            found[name] = weight.mT.contiguous()
        elif kind == "W_O":
            found[name] = weight.flatten(0, 1).T.contiguous()
        elif kind in ("W_E", "W_in", "W_out"):
            found[name] = weight.T.contiguous()
        elif kind in ("W_pos", "W_U", "b_in", "b_out"):
            found[name] = weight
    return found


@pytest.fixture
def folder(tmp_path):
    """State dicts of two steps, with their configuration."""
    place = tmp_path / "states"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({**LENS_CONFIG, "train_indices": PAIRS}))
    for step in (0, 100):
        torch.save(weights_of(seed=step), place / f"ep{step}.pth")
    return place


class TestStateDicts:
    @pytest.mark.parametrize("names", ["version 3", "version 4", "Nanda et al.", "with buffers"])
    def test_names_and_layouts(self, folder, tmp_path, names):
        for step in (0, 100):
            weights = weights_of(seed=step)
            if names == "version 4":
                weights = to_version_4(weights)
            elif names == "Nanda et al.":
                weights = {"model": transposed(weights), "epoch": step}
            elif names == "with buffers":
                weights |= {"blocks.0.attn.mask": torch.ones(3, 3).bool(), "blocks.0.attn.IGNORE": torch.tensor(-1e5)}
            torch.save(weights, folder / f"ep{step}.pth")
        run = gi.import_run(folder, tmp_path / "run")
        assert run.steps == [0, 100]
        assert run.task.train_mask.nonzero().flatten().tolist() == PAIRS
        for step in run.steps:
            for name, weight in weights_of(seed=step).items():
                assert torch.equal(run.weights(step)[name], weight), name
        assert run.config.model == MODEL
        assert run.config.optimizer is None

    def test_safetensors_with_our_configuration(self, tmp_path):
        model = MLPConfig(width=9, depth=1, input="one_hot_sum")
        config = gi.RunConfig(task=TaskConfig("subtract", P, 0.5), model=model)
        (tmp_path / "config.json").write_text(config.to_json())
        save_file(weights_of(model), tmp_path / "step_5.safetensors")
        run = gi.import_run(tmp_path / "step_5.safetensors", tmp_path / "run")
        assert (run.steps, run.config.task, run.config.model) == ([5], config.task, model)

    def test_trained_biases_are_noticed(self, folder, tmp_path):
        for step in (0, 100):
            weights = weights_of(seed=step)
            weights["blocks.0.mlp.b_in"] += step
            torch.save(weights, folder / f"ep{step}.pth")
        assert gi.import_run(folder, tmp_path / "run").config.model.biases == "mlp"

    def test_two_files_for_one_step(self, folder, tmp_path):
        torch.save(weights_of(), folder / "epoch_0100.pth")
        with pytest.raises(gi.RunError, match=r"has two files for step 100: ep100.pth and epoch_0100.pth"):
            gi.import_run(folder, tmp_path / "run")

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"n_heads": None}, "'n_heads' must be an integer, but is None"),
            ({"n_heads": -1}, "'n_heads' must be an integer from 1 to"),
            ({"use_attn_scale": False}, "models with use_attn_scale = False are not read"),
            ({"attn_scale": 1.0}, "models with attn_scale = 1 are not read"),
            ({"eps": 0.5}, "models with eps = 0.5 are not read"),
            ({"attn_only": [[[[[[[[1]]]]]]]]}, "models with attn_only = "),
            ({"act_fn": "silu"}, "the activation function 'silu' is not read"),
            ({"normalization_type": "LNPre"}, "the normalization 'LNPre' is not read"),
            ({"attn_only": True}, "models with attn_only = True are not read"),
            ({"n_ctx": 5}, "inputs of 5 tokens are not pairs"),
            ({"d_vocab_out": 3}, "3 classes do not fit 8 tokens"),
            ({"d_mlp": 13}, r"'blocks.0.mlp.W_in' has shape \[8, 12\], but \[8, 13\] is expected"),
            ({"operation": "power"}, "the operation 'power' is none of add, subtract, "),
            ({"operation": "divide", "d_vocab": 9, "d_vocab_out": 8}, "division mod 8 is not defined"),
            ({"train_indices": [0, 900]}, "train_indices must be distinct positions among the 49 inputs"),
        ],
    )
    def test_a_configuration_that_does_not_fit(self, folder, tmp_path, changes, match):
        content = {**LENS_CONFIG, "train_indices": PAIRS, **changes}
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(gi.GrokinterpError, match=match):
            gi.import_run(folder, tmp_path / "run")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["states"]

    def test_a_later_checkpoint_that_is_damaged_leaves_nothing(self, folder, tmp_path):
        weights = weights_of()
        del weights["unembed.W_U"]
        torch.save(weights, folder / "ep50.pth")
        with pytest.raises(gi.RunError, match=r"lacks the tensor 'unembed\.W_U'"):
            gi.import_run(folder, tmp_path / "run")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["states"]

    def test_a_tensor_that_the_architecture_lacks(self, folder, tmp_path):
        torch.save({**weights_of(), "blocks.1.mlp.W_in": torch.zeros(8, 12)}, folder / "ep100.pth")
        with pytest.raises(gi.RunError, match=r"has a tensor 'blocks\.1\.mlp\.W_in', which this architecture lacks"):
            gi.import_run(folder, tmp_path / "run")

    @pytest.mark.parametrize("kind", ["a view that repeats numbers", "sparse", "integers"])
    def test_a_tensor_that_is_not_plain(self, folder, tmp_path, kind):
        weight = torch.zeros(8, 12)
        if kind == "sparse":
            weight = weight.to_sparse()
        elif kind == "integers":
            weight = weight.long()
        else:
            weight = torch.zeros(1).expand(8, 12)
        torch.save({**weights_of(), "blocks.0.mlp.W_in": weight}, folder / "ep100.pth")
        with pytest.raises(gi.RunError, match=r"'blocks\.0\.mlp\.W_in' (is no plain tensor|holds torch\.int64)"):
            gi.import_run(folder, tmp_path / "run")

    @pytest.mark.parametrize(
        ("name", "step"), [("lr0.001.pth", None), ("model_20240101120000.pth", None), ("a-7.pt", 7)]
    )
    def test_what_counts_as_a_step(self, tmp_path, name, step):
        (tmp_path / name).touch()
        assert list(checkpoint_files(tmp_path)) == ([] if step is None else [step])

    def test_a_pipe_is_refused(self, folder, tmp_path):
        (folder / "ep100.pth").unlink()
        os.mkfifo(folder / "ep100.pth")
        with pytest.raises(gi.RunError, match=r"ep100\.pth is no regular file"):
            gi.import_run(folder, tmp_path / "run")

    def test_a_truncated_file(self, folder, tmp_path):
        file = folder / "ep100.pth"
        file.write_bytes(file.read_bytes()[:-2000])
        with pytest.raises(gi.RunError, match=r"ep100\.pth is damaged"):
            gi.import_run(folder, tmp_path / "run")

    def test_an_occupied_run_folder_stays_as_it_is(self, folder, tmp_path):
        gi.import_run(folder, tmp_path / "run")
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        with pytest.raises(gi.RunError, match="already holds a run"):
            gi.import_run(folder, tmp_path / "run")
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before

    def test_a_sequence_of_steps_can_be_analyzed_and_verified(self, folder, tmp_path):
        run = gi.import_run(folder, tmp_path / "run")
        assert not gi.verify(run.path).problems
        assert gi.analyze(run, workers=0).timeline.index.tolist() == [0, 100]


class TestFinding:
    def test_a_configuration_given_apart(self, folder, tmp_path, shell):
        """As a file or an object, in the command also as options; it takes precedence over the one in the folder."""
        given = tmp_path / "given.json"
        (folder / "config.json").rename(given)
        run = gi.import_run(folder, tmp_path / "lens", config=given)
        assert run.task.train_mask.nonzero().flatten().tolist() == PAIRS
        config = gi.RunConfig(gi.TaskConfig("add", P, 0.4, "torch", 5), MODEL, None, None)
        run = gi.import_run(folder / "ep100.pth", tmp_path / "object", config=config)
        assert (run.steps, run.config.task) == ([100], config.task)
        assert torch.equal(run.task.train_mask, Task.from_config(config.task).train_mask)
        (folder / "config.json").write_text(config.to_json())
        sizes = "--model.n-heads 2 --model.d-model 8 --model.d-mlp 12"
        for options, operation, fraction in [
            (f"--task.p {P} {sizes}", "add", None),
            (f"--config {folder / 'config.json'} --task.operation subtract", "subtract", 0.4),
        ]:
            name = tmp_path / operation
            assert shell("import", str(folder), str(name), *options.split()).code == 0
            task = gi.load(name).config.task
            assert (task.operation, task.p, task.train_fraction) == (operation, P, fraction)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("--config {given} --task.p 5", "is not a config.json of grokinterp: --task.p cannot change it"),
            ("--config {given} --format he", "format he has its own configuration"),
            ("--config {folder}/none.json", "none.json is missing"),
            ("--task.p 5", "is expected"),
            ("--model.kind mlp", "lacks the tensor"),
            ("", "state dicts need a config.json beside them, or config (--config)"),
        ],
    )
    def test_configurations_that_are_wrong(self, folder, tmp_path, shell, options, message):
        given = tmp_path / "given.json"
        (folder / "config.json").rename(given)
        result = shell(
            "import", str(folder), str(tmp_path / "run"), *options.format(folder=folder, given=given).split()
        )
        assert result.code == 2
        assert message in result.err
        assert not (tmp_path / "run").exists()

    def test_what_is_no_model(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no model")
        for source, match in [
            ("missing", "missing does not exist"),
            (
                "notes.txt",
                r"is not a model of a known format \(formats: he, chughtai, pizza, demo, nanda, state_dicts\)",
            ),
            (".", "is not a model of a known format"),
        ]:
            with pytest.raises(gi.RunError, match=match):
                gi.import_run(tmp_path / source, tmp_path / "run")
        with pytest.raises(gi.ConfigError, match="no format 'zhong'"):
            gi.import_run(tmp_path, tmp_path / "run", format="zhong")
        with pytest.raises(gi.RunError, match="is not a model of the format demo"):
            gi.import_run(tmp_path, tmp_path / "run", format="demo")

    def test_a_configuration_without_its_model(self, tmp_path):
        (tmp_path / "cfg.json").write_text("{}")
        with pytest.raises(gi.RunError, match="is not a model of a known format"):
            gi.import_run(tmp_path, tmp_path / "run")

    def test_the_command(self, folder, tmp_path, shell):
        found = shell("import", str(folder), str(tmp_path / "run"))
        assert found.code == 0
        assert "add mod 7, transformer, 2 checkpoints (format state_dicts)\nsplit: stored in the files\n" in found.out
        again = shell("import", str(folder), str(tmp_path / "run"))
        assert (again.code, again.err.count("\n")) == (2, 1)
        assert "already holds a run" in again.err


# --- pickles that would execute code ---------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class SetsState:
    def __setstate__(self, state):
        Path(state["file"]).touch()

    def __getstate__(self):
        return {"file": "executed"}


def hostile(name):
    if name == "os.system":
        return Calls(os.system, "touch executed")
    if name == "getattr":
        return Calls(getattr, "text", "upper")
    if name == "nested":
        return Calls(eval, "open('executed', 'w')")
    return SetsState()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["os.system", "getattr", "nested", "setstate"])
def test_pickles_that_would_execute_code_are_refused_by_name(folder, tmp_path, monkeypatch, name, legacy):
    monkeypatch.chdir(tmp_path)
    content = {**weights_of(), "hostile": hostile(name)}
    torch.save(content, folder / "ep100.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(gi.RunError) as error:
        gi.import_run(folder, tmp_path / "run")
    wanted = {"os.system": ("posix.system", "nt.system"), "getattr": ("getattr",), "nested": ("eval",)}
    message = str(error.value)
    assert "ep100.pth" in message
    assert legacy or any(f"{wanted_name}" in message for wanted_name in wanted.get(name, ("SetsState",)))
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "run").exists()


def test_a_plain_pickle_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "ep100.pth").write_bytes(pickle.dumps(hostile("os.system")))
    with pytest.raises(gi.RunError, match=r"ep100\.pth"):
        gi.import_run(folder, tmp_path / "run")
    assert not (tmp_path / "executed").exists()


def test_an_archive_that_grows_is_refused(folder, tmp_path):
    source = folder / "ep100.pth"
    with zipfile.ZipFile(source) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data if len(data) < 100 else bytes(50_000_000))
    with pytest.raises(gi.RunError, match="is a compressed archive, which torch"):
        gi.import_run(folder, tmp_path / "run")


# --- splits that have to be guessed ----------------------------------------------------------------------------------


class TestSplits:
    """The losses are those of a network that has memorized the training set of the third candidate."""

    candidates = tuple(TaskConfig("add", P, 0.5, "torch", seed) for seed in range(4))
    losses = torch.where(Task.from_config(candidates[2]).train_mask, 0.001, 5.0).double()

    def recorded(self, config, factor=1.0):
        mask = Task.from_config(config).train_mask
        return self.losses[mask].mean().item() * factor, self.losses[~mask].mean().item()

    def test_the_split_with_the_recorded_losses_is_accepted(self):
        found = choose_split(self.losses, self.recorded(self.candidates[2], 1 + 1e-6), self.candidates)
        assert found.config == self.candidates[2]
        assert found.deviation == pytest.approx(1e-6, rel=0.01)

    def test_none_is_accepted_if_another_comes_near(self):
        """With losses that hardly differ between training and test inputs."""
        losses = 1 + 0.01 * self.losses
        recorded = losses.mean().item(), losses.mean().item()
        found = choose_split(losses, recorded, self.candidates)
        assert found.config is None
        assert found.reason == "several splits give nearly the recorded losses"

    def test_losses_may_be_one_update_older(self):
        found = choose_split(self.losses, self.recorded(self.candidates[2], 1.06), self.candidates)
        assert found.config == self.candidates[2]
        assert choose_split(self.losses, self.recorded(self.candidates[2], 1.2), self.candidates).config is None

    def test_none_is_accepted_if_all_are_far(self):
        found = choose_split(self.losses, (9.0, 9.0), self.candidates)
        assert found.config is None
        assert "no split that the authors' code draws" in found.reason
        assert choose_split(self.losses, (float("nan"), 1.0), self.candidates).config is None

    def test_without_losses_only_a_single_candidate_is_taken(self):
        assert choose_split(self.losses, None, self.candidates).config is None
        assert choose_split(self.losses, None, self.candidates[:1]).config == self.candidates[0]
        assert choose_split(self.losses, None, ()).config is None


def test_a_network_trained_on_all_pairs_has_no_test_set(tmp_path):
    model = MLPConfig(width=9, depth=1, input="one_hot_sum", biases=False)
    config = gi.RunConfig(task=TaskConfig("add", P, 1.0, "all"), model=model)
    (tmp_path / "config.json").write_text(config.to_json())
    save_file(weights_of(model), tmp_path / "step_5.safetensors")
    run = gi.import_run(tmp_path / "step_5.safetensors", tmp_path / "run")
    assert {"loss", "accuracy"} <= set(run.metrics)
    assert run.environment["imported"]["split"]["reason"] == "every input was trained on, so there is no test set"
    analysis = gi.analyze(run, workers=0)
    assert analysis.why_missing("train_loss") == "every input was trained on, so there is no test set"
    with pytest.raises(gi.ConfigError, match="every input was trained on, so there is no test set"):
        run.task.require_split()


# --- models of one's own ---------------------------------------------------------------------------------------------


def own_model():
    return nn.Sequential(nn.Embedding(P, 4), nn.Flatten(), nn.Linear(8, P))


class TestRecordCheckpoints:
    task = Task.modular_addition(P, 0.5, equals_token=False)

    def test_each_file_is_a_step(self, tmp_path):
        models = {step: own_model() for step in (0, 20, 100)}
        (tmp_path / "saved").mkdir()
        for step, model in models.items():
            torch.save(model.state_dict(), tmp_path / "saved" / f"ep{step}.pth")
        names = {"embedding": "0", "unembedding": "2"}
        run = gi.record_checkpoints(self.task, tmp_path / "saved", own_model, tmp_path / "run", **names)
        assert run.steps == [0, 20, 100]
        for step, model in models.items():
            with torch.no_grad():
                torch.testing.assert_close(run.snapshot(step).logits, model(self.task.tokens).double())

    def test_files_that_do_not_fit_leave_no_run(self, tmp_path):
        (tmp_path / "saved").mkdir()
        with pytest.raises(gi.RunError, match="has no state dicts"):
            gi.record_checkpoints(self.task, tmp_path / "saved", own_model, tmp_path / "run")
        torch.save(own_model().state_dict(), tmp_path / "saved" / "ep0.pth")
        torch.save({"other": torch.zeros(3)}, tmp_path / "saved" / "ep1.pth")
        with pytest.raises(gi.RunError, match=r"ep1\.pth does not fit the model"):
            gi.record_checkpoints(self.task, tmp_path / "saved", own_model, tmp_path / "run")
        with pytest.raises(gi.ConfigError, match=r"build_model must return a torch\.nn\.Module, but returned int"):
            gi.record_checkpoints(self.task, tmp_path / "saved", lambda: 3, tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestSnapshot:
    def test_weights_in_one_call(self):
        task = Task.modular_addition(P, 0.5)
        taken = gi.snapshot(task, MODEL, weights_of(), step=3)
        logits = forward_for(MODEL, task).logits(weights_of(), task.tokens)
        torch.testing.assert_close(taken.logits, logits.double(), rtol=1e-4, atol=1e-5)
        assert taken.step == 3
        assert taken.neurons.shape == (P * P, 12)
        assert "unembed.b_U" not in taken.trained

    def test_weights_of_another_architecture(self):
        task, weights = Task.modular_addition(P), weights_of()
        with pytest.raises(gi.ConfigError, match=r"blocks.0.mlp.W_in has shape \[8, 12\], but shape \[8, 13\]"):
            gi.snapshot(task, replace(MODEL, d_mlp=13), weights)
        del weights["unembed.W_U"]
        with pytest.raises(gi.ConfigError, match=r"unembed.W_U has none, but shape \[8, 7\]"):
            gi.snapshot(task, MODEL, weights)
