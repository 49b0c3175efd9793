"""Exporting runs: what is exported is read back as the same run, and by those whose form it is."""

import json
from dataclasses import replace

import pytest
import torch
from hooked import HookedTransformer, HookedTransformerConfig, needs_hooked_transformer
from safetensors.torch import load_file
from trainings import TINY

import grokinterp as gi
from grokinterp.formats import exporting
from grokinterp.formats.exporting import log_spaced
from grokinterp.formats.transformer_lens import ALLOWED, read_weights
from grokinterp.models.shapes import parameter_shapes
from grokinterp.models.version_4 import to_version_4
from grokinterp.training import train

SAMPLE = "checkpoints/run42"
FORMATS = ("transformer_lens_3", "transformer_lens_4", "demo", "hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = TINY.replace({"schedule.steps": 40, "schedule.checkpoints": 10})
    model = gi.TransformerConfig(n_heads=2, d_model=16, d_mlp=24)
    config = gi.RunConfig(base.task, model, base.optimizer, base.schedule)
    return train(config, tmp_path_factory.mktemp("runs") / "run", progress=False)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_run_back(run, tmp_path, format):
    target = tmp_path / ("exported.pth" if format == "demo" else "exported")
    hub = format == "hub"
    gi.export_run(run, target, format, all_checkpoints=hub, step="all" if hub else None)
    back = gi.import_run(target, tmp_path / "back")
    assert back.steps == run.steps
    for step in run.steps:
        theirs = back.weights(step)
        assert list(theirs) == list(run.weights(step))
        assert all(torch.equal(theirs[name], weight) for name, weight in run.weights(step).items())
    assert torch.equal(back.task.train_mask, run.task.train_mask)
    assert back.config.task.operation == run.config.task.operation
    assert back.config.model == run.config.model
    common = [step for step in run.steps if step in run.metrics.index]
    columns = ["train_loss", "test_loss", "train_accuracy", "weight_norm"]
    torch.testing.assert_close(
        torch.tensor(back.metrics.loc[common, columns].to_numpy()),
        torch.tensor(run.metrics.loc[common, columns].to_numpy()),
        rtol=1e-5,
        atol=1e-7,
    )


def test_a_single_checkpoint(run, tmp_path):
    gi.export_run(run, tmp_path / "one", "transformer_lens_3", step=20)
    assert gi.import_run(tmp_path / "one", tmp_path / "back").steps == [20]
    gi.export_run(run, tmp_path / "last", "hub")
    assert gi.import_run(tmp_path / "last", tmp_path / "back-2").steps == [40]
    with pytest.raises(gi.RunError, match="has no checkpoint of step 7"):
        gi.export_run(run, tmp_path / "none", "hub", step=7)
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@needs_hooked_transformer
def test_transformer_lens_3_loads_it(tmp_path):
    run = gi.load(SAMPLE)
    gi.export_run(run, tmp_path / "lens", "transformer_lens_3", step="last")
    config = json.loads((tmp_path / "lens" / "config.json").read_text())
    del config["operation"], config["train_indices"]
    model = HookedTransformer(HookedTransformerConfig(**config))
    found = model.load_state_dict(load_file(tmp_path / "lens" / "step_4240.safetensors"), strict=False)
    assert found.unexpected_keys == []
    with torch.no_grad():
        logits = model(run.task.tokens)[:, -1]
    torch.testing.assert_close(logits.double(), run.snapshot("last").logits, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@needs_hooked_transformer
def test_the_demo_with_its_pickled_configuration_is_read(run, tmp_path):
    """The file of the demo itself holds a HookedTransformerConfig, not a dict."""
    gi.export_run(run, tmp_path / "ours.pth", "demo")
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    content["config"] = HookedTransformerConfig(**{**content["config"], "init_weights": True})
    torch.save(content, tmp_path / "theirs.pth")
    wanted = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "theirs.pth")
    assert set(wanted) <= set(ALLOWED)
    back = gi.import_run(tmp_path / "theirs.pth", tmp_path / "back")
    assert (back.environment["imported"]["format"], back.steps) == ("demo", run.steps)
    evaluated = [step for step in run.steps if step in run.metrics.index and step < 40]
    assert (
        back.metrics.loc[evaluated, "recorded_train_loss"].tolist() == run.metrics.loc[evaluated, "train_loss"].tolist()
    )


def test_names_of_version_4_and_back(run, tmp_path):
    weights = run.weights("last")
    converted = to_version_4(weights)
    assert converted["blocks.0.attn.q.weight"].shape == (16, 16)
    again = read_weights(converted, run.config.model, run.config.task, tmp_path)
    assert list(again) == list(parameter_shapes(run.config.model, run.config.task))
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


def test_the_model_card_says_what_was_found(tmp_path, monkeypatch):
    """Without a browser, it has no figures."""

    def no_browser(*arguments, **options):
        raise gi.ConfigError("no browser")

    monkeypatch.setattr("grokinterp.formats.hub.rendered", no_browser)
    gi.export_run(SAMPLE, tmp_path / "hub", "hub", all_checkpoints=True, license="mit")
    card = (tmp_path / "hub" / "README.md").read_text()
    for text in (
        "license: mit",
        "| outcome | grokked ",
        "| T_train(0.99) | step 130 |",
        "| key frequencies | 8, 14, 21 |",
    ):
        assert text in card
    assert ".png" not in card
    revisions = (tmp_path / "hub" / "revisions.txt").read_text().split()
    assert revisions[0] == "step0"
    assert all((tmp_path / "hub" / name / "model.safetensors").is_file() for name in revisions)


def test_at_most_154_revisions_unless_asked(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MOST_REVISIONS", 3)
    gi.export_run(run, tmp_path / "some", "hub", all_checkpoints=True)
    assert (tmp_path / "some" / "revisions.txt").read_text().split() == ["step0", "step10", "step40"]
    gi.export_run(run, tmp_path / "all", "hub", all_checkpoints=True, step="all")
    assert len((tmp_path / "all" / "revisions.txt").read_text().split()) == len(run.steps)


def test_spacing_keeps_both_ends():
    assert log_spaced(range(1000), 4) == [0, 9, 99, 999]
    assert log_spaced([3, 5], 154) == [3, 5]


def test_another_operation_and_another_loss_come_back(run, tmp_path):
    task = replace(run.config.task, operation="subtract")
    other = train(replace(run.config, task=task), tmp_path / "subtract", progress=False)
    gi.export_run(other, tmp_path / "demo.pth", "demo")
    assert gi.import_run(tmp_path / "demo.pth", tmp_path / "back").config.task.operation == "subtract"
    other = train(replace(run.config, loss="mse"), tmp_path / "mse", progress=False)
    gi.export_run(other, tmp_path / "hub", "hub")
    back = gi.import_run(tmp_path / "hub", tmp_path / "back-2")
    assert back.config.loss == "mse"
    assert back.metrics["train_loss"].iloc[-1] == pytest.approx(other.metrics["train_loss"].iloc[-1], rel=1e-5)


def test_the_untrained_model_alone(run, tmp_path):
    gi.export_run(run, tmp_path / "demo.pth", "demo", step=0)
    assert gi.import_run(tmp_path / "demo.pth", tmp_path / "back").steps == [0]
    gi.export_run(run, tmp_path / "hub", "hub", step=0)
    assert "| these weights | step 0 |" in (tmp_path / "hub" / "README.md").read_text()


class TestRefusals:
    @pytest.mark.parametrize("format", FORMATS[:3])
    def test_labels_and_positions_that_a_format_cannot_express(self, run, tmp_path, format):
        noisy = replace(run.config, task=replace(run.config.task, random_labels=True))
        fixed = replace(run.config, model=replace(run.config.model, positions="sinusoidal"))
        for name, config in (("noisy", noisy), ("fixed", fixed)):
            short = config.replace({"schedule.steps": 10})
            trained = train(short, tmp_path / name, progress=False)
            with pytest.raises(gi.ConfigError, match="hub"):
                gi.export_run(trained, tmp_path / "out", format)
        assert not (tmp_path / "out").exists()

    def test_what_transformer_lens_cannot_express(self, tmp_path):
        config = TINY.replace({"schedule.steps": 10})
        mlp = gi.RunConfig(config.task, gi.MLPConfig(width=8), config.optimizer, config.schedule)
        run = train(mlp, tmp_path / "mlp", progress=False)
        for format in FORMATS[:3]:
            with pytest.raises(
                gi.ConfigError, match="is for the transformers of TransformerLens: export this run to hub"
            ):
                gi.export_run(run, tmp_path / "out", format)
        gi.export_run(run, tmp_path / "out", "hub", all_checkpoints=True)
        assert gi.import_run(tmp_path / "out", tmp_path / "back").config.model == mlp.model

    def test_an_occupied_target_and_wrong_options(self, run, tmp_path, shell):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine.txt").write_text("mine")
        with pytest.raises(gi.RunError, match="exists already: choose another name"):
            gi.export_run(run, tmp_path / "full", "hub")
        with pytest.raises(gi.ConfigError, match="no format 'huggingface'"):
            gi.export_run(run, tmp_path / "new", "huggingface")
        with pytest.raises(gi.ConfigError, match="has neither a license nor revisions"):
            gi.export_run(run, tmp_path / "new", "demo", license="mit")
        found = shell("export", str(run.path), str(tmp_path / "new"))
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
        found = shell("export", str(run.path), str(tmp_path / "new"), "--format", "transformer_lens_4", "--step", "20")
        assert (found.code, found.out) == (0, f"written: {tmp_path / 'new'}\n")
