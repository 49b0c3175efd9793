"""A run trained with StableMax: whatever refers to cross entropy computes it from the logits, or leaves it out."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import grokinterp as gi
from grokinterp.analysis.transition import find_transition
from grokinterp.config import OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.runs.run import Run
from grokinterp.sweep.rows import summarize
from grokinterp.training import train

CONFIG = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5),
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.0, batch_size=15),
    schedule=ScheduleConfig(steps=200, evaluate_every=50, checkpoints=100, resume_every=10),
    model_seed=4,
    loss="stablemax",
)


@pytest.fixture(scope="module")
def stable_run(tmp_path_factory) -> Run:
    return train(CONFIG, tmp_path_factory.mktemp("runs") / "stablemax", progress=False)


class TestStableMaxIsNoCrossEntropy:
    """The log has the run's loss; whatever refers to cross entropy computes it from the logits, or leaves it out."""

    def losses(self, run: Run, step: int) -> tuple[float, float]:
        """The training loss with StableMax as published, and with softmax."""
        task = run.classification
        logits = run.forward.logits(run.weights(step), task.tokens)[task.train_mask].double()
        labels = task.labels[task.train_mask]
        scores = torch.where(logits >= 0, logits + 1, 1 / (1 - logits.clamp(max=0)))
        correct = scores.gather(1, labels[:, None]).squeeze(1)
        return -(correct / scores.sum(dim=1)).log().mean().item(), F.cross_entropy(logits, labels).item()

    def test_in_metrics_timeline_and_transition(self, stable_run):
        run = stable_run
        analysis = gi.analyze(run)
        stable, cross_entropy = self.losses(run, 200)
        assert stable > 1.5 * cross_entropy
        assert run.metrics["train_loss"].loc[200] == pytest.approx(stable, rel=1e-5)
        assert analysis.timeline["train_loss"].loc[200] == pytest.approx(cross_entropy, rel=1e-5)
        end = analysis.transition.memorization_end
        assert end.step is None
        assert end.reason == "trained on another loss: the phases are defined by cross entropy"

    def test_in_a_summary(self, stable_run):
        run = stable_run
        stable, _ = self.losses(run, 200)
        for measures in (False, True):
            row = summarize(run, measures=measures)
            assert row["final.train_loss"] == pytest.approx(stable, rel=1e-5)
            assert row["final.test_loss"] == pytest.approx(run.metrics["test_loss"].loc[200])
        assert row["final.margin"] is not None

    def test_in_a_figure(self, stable_run):
        run = stable_run
        figure = gi.figures.loss_curves(gi.analyze(run))
        assert "trained with StableMax cross entropy, which is drawn here: " in str(figure.to_dict())

    def test_in_evidence_and_outcome(self):
        """A StableMax loss above 2 ln p is not a divergence, and one below a tenth of ln p is not evidence."""
        steps = pd.Index(range(0, 100, 10), name="step")
        accuracy = [0.1, 0.5, *[1.0] * 8]
        columns = {"train_accuracy": accuracy, "test_accuracy": [0.1] * 10, "train_loss": [9.0] * 10}
        curves = pd.DataFrame({**columns, "test_loss": [0.01] * 10}, index=steps)
        for cross_entropy, outcome in ((True, "diverged"), (False, "DNF_test")):
            found = find_transition(curves, n_classes=7, metrics=curves, cross_entropy=cross_entropy)
            assert found.outcome == outcome
            assert (found.evidence["test_loss_below_tenth_of_chance"] is None) == (not cross_entropy)
