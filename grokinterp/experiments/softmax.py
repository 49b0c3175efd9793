"""Softmax collapse: what plain float32 makes of the logits of a run (Prieto et al. 2025, arXiv:2501.04697)."""

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
    """What float32 loses of the cross entropy of some examples.

    Attributes:
        absorbed: share of examples in which the sum over all classes of exp z is, in float32, exp z of the correct one:
            softmax collapse.
        zero_loss: share of examples whose plain float32 cross entropy is exactly 0.
        lost_gradient: ‖g - g32‖ / ‖g‖, of the gradient with respect to all logits, in float64 and in plain float32.
    """

    absorbed: float
    zero_loss: float
    lost_gradient: float


def absorption(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Absorption:
    """Compares plain float32 softmax and cross entropy with float64 (Prieto et al. 2025, section 3).

    The training losses of this package are computed in another form, which keeps small losses; they do not collapse.

    Args:
        logits: of the training examples; rounded to float32.
        labels: the correct classes.
    """
    narrow = logits.float()
    correct = labels[:, None]
    terms = (narrow - narrow.amax(dim=1, keepdim=True)).exp()
    absorbed = terms.sum(dim=1) == terms.gather(1, correct).squeeze(1)
    zero = F.cross_entropy(narrow, labels, reduction="none") == 0
    wanted = F.one_hot(labels, logits.shape[1])
    # In float64 too a share near 1 is rounded: the correct class's gradient is minus the sum of the others'.
    exact = narrow.double().softmax(dim=1).scatter(1, correct, 0.0)
    exact = exact.scatter(1, correct, -exact.sum(dim=1, keepdim=True))
    plain = narrow.softmax(dim=1) - wanted
    size = exact.norm().item()
    lost = (plain.double() - exact).norm().item() / size if size else math.nan
    return Absorption(absorbed.double().mean().item(), zero.double().mean().item(), lost)


def absorption_of_run(run: Run) -> pd.DataFrame:
    """`absorption` on the training examples at every checkpoint, indexed by step, over all classes of the loss.

    Raises:
        ConfigError: the run is of a regression, or was recorded, so that its forward pass is not known.
        RunError: the run has no known split.
    """
    task, rows = run.classification, {}
    if task.train_mask is None:
        raise RunError(f"{run.path} has no known split: there are no training examples to look at")
    for step in run.steps:
        logits = run.forward.logits_by_rows(run.weights(step), task.tokens[task.train_mask])
        rows[step] = asdict(absorption(logits, task.labels[task.train_mask]))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")
