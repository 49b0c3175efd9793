"""Importing published models: the losses and key frequencies that their authors, or independent checks, found."""

import pytest
import torch
from public_models import chughtai, nanda_low_precision, pizza

import grokinterp as gi
from grokinterp.analysis.timeline import analyze
from grokinterp.measures import key_frequencies

HE = "he/p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"


@pytest.fixture
def imported(public_data, tmp_path):
    return lambda source, **options: gi.import_run(public_data / source, tmp_path / "run", **options)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("C113_T_seed1", [16, 30, 56]),
        ("C113_T_seed2", [43, 49, 52, 53]),
        ("C118_T_seed1", [10, 16, 19, 37, 59]),
        ("C113_MLP_seed1", None),
    ],
)
def test_chughtai(imported, public_data, name, keys):
    run = imported(f"chughtai/{name}")
    recorded = chughtai(public_data, name).recorded
    (row,) = run.metrics.to_dict(orient="records")
    for loss in ("train_loss", "test_loss"):
        assert row[loss] == pytest.approx(recorded[loss], rel=1e-4)
        assert row[f"recorded_{loss}"] == recorded[loss]
    assert run.config.task.split == "torch"
    assert run.environment["imported"]["format"] == "chughtai"
    assert run.environment["imported"]["split"]["deviation"] < 1e-6
    snapshot = run.snapshot("last")
    expected = chughtai(public_data, name).snapshot
    torch.testing.assert_close(snapshot.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert list(key_frequencies(snapshot).values) == (keys or list(key_frequencies(expected).values))


def test_nanda(imported, public_data):
    """The split is Python's with seed 1; the recorded losses are of another step, and up to 6 % off."""
    run = imported("nanda/low_precision_mod_addition.pth")
    assert (run.config.task.split, run.config.task.data_seed, run.config.task.train_fraction) == ("python", 1, 0.3)
    (row,) = run.metrics.to_dict(orient="records")
    recorded = nanda_low_precision(public_data).recorded
    assert row["recorded_train_loss"] == recorded["train_losses"][-1]
    assert row["train_loss"] == pytest.approx(recorded["train_losses"][-1], rel=0.07)
    assert row["test_loss"] == pytest.approx(recorded["test_losses"][-1], rel=0.07)
    expected = key_frequencies(nanda_low_precision(public_data).snapshot).values
    assert list(key_frequencies(run.snapshot("last")).values) == list(expected)


@pytest.mark.parametrize("name", ["p99zdpze5l", "l8k1hzciux", "p71frej8t7"])
def test_pizza(imported, public_data, name):
    """Read with other attention than it was trained with, a model is still right, but its loss is not."""
    run = imported(f"pizza/model_{name}.pt")
    expected = pizza(public_data, name).snapshot
    torch.testing.assert_close(run.snapshot("last").logits, expected.logits, rtol=1e-4, atol=1e-4)
    (row,) = run.metrics.to_dict(orient="records")
    assert row["loss"] == pytest.approx(expected.losses.mean().item(), rel=1e-4)
    assert row["loss"] < 1e-6
    analysis = analyze(run)
    assert analysis.transition.outcome == "undetermined"
    assert analysis.why_missing("train_loss") == "the train/test split is unknown"


def test_several_models_are_named(imported):
    with pytest.raises(gi.RunError, match=r"holds 3 models \(model_l8k1hzciux.pt, model_p71frej8t7.pt, "):
        imported("pizza")
    with pytest.raises(gi.RunError, match=r"holds 4 models \(C113_MLP_seed1, "):
        imported("chughtai")


@pytest.mark.parametrize("source", [HE, "he"])
def test_he(imported, public_data, source):
    """Of its 250 checkpoints, 54 are here: T_grok(0.95), at 10,400 in all of them, lies between 10,000 and 11,000."""
    run = imported(source)
    assert len(run.steps) == 56
    assert run.config.task.split == "given"
    for step in (0, 200, 10_000, 49_800):
        recorded = torch.load(public_data / HE / f"{step}.pth", weights_only=True)
        row = run.metrics.loc[step]
        assert row["recorded_test_loss"] == recorded["test_loss"]
        assert row["test_loss"] == pytest.approx(recorded["test_loss"], rel=0.06)
        assert row["weight_norm"] == pytest.approx(recorded["param_norm"], rel=0.03)
    analysis = analyze(run)
    transition = analysis.transition
    assert (transition.T_grok[0.95].previous, transition.T_grok[0.95].step) == (10_000, 11_000)
    assert transition.T_grok[0.99].step is None
    assert list(analysis.key_frequencies.values) == list(range(1, 12))


def test_hooks_work_where_transformer_lens_has_no_such_model(imported, public_data):
    run = imported("pizza/model_p99zdpze5l.pt")
    model = run.model("last")
    with torch.no_grad():
        logits, cache = model.run_with_cache(run.task.tokens)
    torch.testing.assert_close(logits[:, -1].double(), run.snapshot("last").logits, rtol=1e-4, atol=1e-4)
    assert bool((cache["pattern", 0] == 1).all())  # attention is constant
