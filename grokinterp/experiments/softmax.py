"""Softmax collapse: effects of plain float32 on the logits of a run (Prieto et al. 2025, arXiv:2501.04697)."""

import math
from dataclasses import asdict, dataclass

import pandas as pd
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.errors import RunError
from grokinterp.runs.run import Run


@dataclass(frozen=True)
class Absorption:
    """Loss of precision in the float32 cross entropy of some examples.

    Attributes:
        absorbed: share of examples for which the float32 sum of exp z over all classes equals exp z of the correct
            class: softmax collapse.
        zero_loss: share of examples whose plain float32 cross entropy is exactly 0.
        lost_gradient: ‖g - g32‖ / ‖g‖, where g and g32 are the gradients with respect to all logits in float64 and in
            plain float32.
    """

    absorbed: float
    zero_loss: float
    lost_gradient: float


def absorption(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Absorption:
    """Compares plain float32 softmax and cross entropy with float64 (Prieto et al. 2025, section 3).

    This package trains with a form of the loss that preserves small values and does not collapse.

    Args:
        logits: logits of the training examples; rounded to float32.
        labels: correct classes.
    """
    narrow = logits.float()
    correct = labels[:, None]
    terms = (narrow - narrow.amax(dim=1, keepdim=True)).exp()
    absorbed = terms.sum(dim=1) == terms.gather(1, correct).squeeze(1)
    zero = F.cross_entropy(narrow, labels, reduction="none") == 0
    targets = F.one_hot(labels, logits.shape[1])
    # Float64 rounds a probability near 1, too, so the gradient of the correct class is minus the sum of the others.
    exact = narrow.double().softmax(dim=1).scatter(1, correct, 0.0)
    exact = exact.scatter(1, correct, -exact.sum(dim=1, keepdim=True))
    plain = narrow.softmax(dim=1) - targets
    size = exact.norm().item()
    lost = (plain.double() - exact).norm().item() / size if size else math.nan
    return Absorption(absorbed.double().mean().item(), zero.double().mean().item(), lost)


def absorption_of_run(run: Run) -> pd.DataFrame:
    """Computes `absorption` on the training examples at every checkpoint, by step, over all classes of the loss.

    Raises:
        ConfigError: the run is a regression, or was recorded, so its forward pass is unknown.
        RunError: the train split of the run is unknown.
    """
    task, rows = run.classification, {}
    if task.train_mask is None:
        raise RunError(f"the train split of {run.path} is unknown, so its training examples cannot be evaluated")
    for step in run.steps:
        logits = run.forward.logits_by_rows(run.weights(step), task.tokens[task.train_mask])
        rows[step] = asdict(absorption(logits, task.labels[task.train_mask]))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")
