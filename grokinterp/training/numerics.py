"""What rounding does to a training: numbers that are not finite, losses that vanish, gradients that are exactly 0.

An evaluation's logits and numbers are looked at, and no more is computed unless the margins say that it can matter.
Each kind is warned of once a run, with its step, and kept in status.json; docs/numerics.md says what to do about each.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.config import PLAIN, RunConfig
from grokinterp.runs.findings import Finding
from grokinterp.tasks import AnyTask
from grokinterp.training.losses import LOSSES_AND_GRADIENTS, loss_function

log = logging.getLogger(__name__)

# Half of the examples can only have collapsed where half of the margins are above this: in float32 a sum that starts
# at 1 absorbs e^-16.6 at most; the exact form leaves out shares of the loss below e^-55.
_LEAST_MARGIN = {PLAIN: 15.0}
_LEAST_MARGIN_OF_EXACT = 40.0
# Nor can another loss be rounded to 0 above this: the squares of float32 end at 1e-45.
_LARGEST_LOSS = 1e-20


@dataclass(frozen=True)
class Rounded:
    """What the arithmetic of a training makes of its loss.

    Attributes:
        loss: as the training computes it.
        exact: the same loss of the same logits in float64, in the form that does not cancel.
        collapsed: share of the examples whose gradient with respect to the correct logit is exactly 0.
    """

    loss: float
    exact: float
    collapsed: float


def rounded(
    config: RunConfig, logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"] | Float[Tensor, "n c"]
) -> Rounded:
    """Computes loss and gradient as a run's updates do, and compares them with float64.

    What is lost depends on `loss_dtype`. `float32_plain`: an example whose sum over the classes of exp(z - z_max) is
    exactly 1 in float32 has loss 0 and gives its correct class no gradient (softmax collapse, Prieto et al. 2025,
    arXiv:2501.04697, section 3), from margins of about 16.6 on. `float32` and `float64` compute softplus(logsumexp of
    the wrong classes - correct logit), in which no 1 absorbs anything: both lose nothing until an example's part in the
    mean loss is below 1e-24, where its gradient is set to 0 on purpose. The loss itself is exactly 0 from margins of
    about 100 (float32) or 740 (float64) on. With `mse` and `stablemax` nothing collapses.

    Args:
        config: of the run.
        logits: of the training examples, in float32; or the outputs of a regression.
        labels: the correct classes, or the outputs that are wanted.
    """
    leaf = logits.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = loss_function(config)(leaf, labels)
        (gradient,) = torch.autograd.grad(loss, leaf)
    parts, _ = LOSSES_AND_GRADIENTS[config.loss](leaf.detach().double(), labels, len(labels))
    collapsed = 0.0
    if config.loss == "cross_entropy":
        collapsed = (gradient.gather(1, labels[:, None]) == 0).double().mean().item()
    return Rounded(loss.item(), parts.sum().item(), collapsed)


def median_margin(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    """The correct logit minus the largest other one, of the example in the middle."""
    column = labels[:, None]
    others = logits.scatter(1, column, -math.inf).amax(dim=1)
    return (logits.gather(1, column).squeeze(1) - others).median().item()


def any_nonzero(gradients: Iterable[Tensor | None]) -> Bool[Tensor, ""]:
    """Whether anything in some gradients is not exactly 0; the device decides, and the host reads nothing."""
    largest = torch._foreach_norm([g for g in gradients if g is not None], math.inf)
    return torch.stack(largest).ne(0.0).any()


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinities."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


class Watch:
    """Looks at the numbers of one run; every kind of finding is warned of once.

    Attributes:
        findings: so far, in the order in which they were found.
    """

    def __init__(self, config: RunConfig, task: AnyTask, path: Path, findings: list[Finding]):
        """Args: path: the run folder, which the log names; findings: those that are known, and the place for more."""
        assert task.train_mask is not None
        self.config, self.path = config, path
        self.rows, self.labels = task.train_mask, task.labels[task.train_mask]
        self.findings = findings
        self.looked_at: int | None = None  # the last step at which all was finite

    def go_back(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Remembers what was looked at before: the rows of metrics.jsonl up to the step that a run resumes from."""
        self.looked_at = max((int(row["step"]) for row in rows if _all_finite(row)), default=None)

    def note(self, step: int, kind: str, message: str) -> None:
        """Warns of something, unless something of its kind is known."""
        if not self.knows(kind):
            self.findings.append(Finding(step, kind, message))
            log.warning("%s: %s", self.path, message)

    def knows(self, kind: str) -> bool:
        return any(finding.kind == kind for finding in self.findings)

    def diverged(self, step: int, cause: str = "") -> None:
        """Notes a training loss that was not finite, found in an evaluation of that step or in an update after it."""
        if not cause and self.looked_at is not None:
            cause = f"step {self.looked_at}, the last that was evaluated, had finite weights and losses"
        self.note(step, "diverged", f"the training loss was not finite at step {step}" + f": {cause}" * bool(cause))

    def look(
        self,
        step: int,
        logits: Float[Tensor, "n c"],
        weights: Mapping[str, Tensor],
        row: Mapping[str, float],
        still: bool,
    ) -> None:
        """Looks at an evaluated step.

        Args:
            step: number of updates made.
            logits: of every input.
            weights: all parameters.
            row: what the evaluation gave.
            still: whether every gradient of the last update was exactly 0.
        """
        if not math.isfinite(row["train_loss"]):
            self.diverged(step, _what_is_not_finite(logits, weights))
            return
        if not _all_finite(row):
            self.note(
                step,
                "non_finite",
                f"at step {step} {_what_is_not_finite(logits, weights)}, though the training loss is finite",
            )
        else:
            self.looked_at = step
        if still:
            self.note(
                step,
                "zero_gradients",
                f"zero gradients at step {step}: in the update before it the loss had a gradient of exactly 0 in every "
                "trained parameter, so that it teaches nothing; what still moves the weights is weight decay, momentum "
                "or an intervention",
            )
        self._look_at_the_loss(step, logits, row["train_loss"])

    def _look_at_the_loss(self, step: int, logits: Tensor, train_loss: float) -> None:
        config = self.config
        crosses = config.loss == "cross_entropy"
        if self.knows("loss_underflow") and (self.knows("softmax_collapse") or not crosses):
            return
        if not crosses and train_loss >= _LARGEST_LOSS:
            return
        if logits.device.type == "mps":  # which has no float64
            logits = logits.cpu()
        trained, labels = logits[self.rows.to(logits.device)], self.labels.to(logits.device)
        if crosses and median_margin(trained, labels) <= _LEAST_MARGIN.get(config.loss_dtype, _LEAST_MARGIN_OF_EXACT):
            return
        found = rounded(config, trained, labels)
        if found.collapsed > 0.5:
            self.note(step, "softmax_collapse", _collapse(config, step, found))
        if found.loss == 0 and (crosses or found.exact > 0):
            arithmetic = "float32" if config.loss_dtype == PLAIN else config.loss_dtype
            self.note(
                step,
                "loss_underflow",
                f"loss underflow at step {step}: in {arithmetic}, as updates compute it, the training loss is exactly "
                f"0, where the exact one is {_small(found.exact)}" + _ADVICE * (config.loss_dtype == PLAIN),
            )


_ADVICE = "; loss_dtype float32 and float64 keep what is rounded away here"


def _collapse(config: RunConfig, step: int, found: Rounded) -> str:
    if config.loss_dtype == PLAIN:
        return (
            f"softmax collapse at step {step}: of {found.collapsed:.0%} of the training examples the sum over the "
            "classes of exp(z - z_max) is exactly 1 in float32, so that their loss is 0 and their correct class gets "
            f"no gradient{_ADVICE}"
        )
    return (
        f"softmax collapse at step {step}: {found.collapsed:.0%} of the training examples add less than 1e-24 each to "
        f"the mean loss, which is {_small(found.exact)}, and get no gradient any more"
    )


def _small(loss: float) -> str:
    return f"{loss:.2g}" if loss else "below 1e-300"


def _all_finite(row: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in row.values())


def _what_is_not_finite(logits: Tensor, weights: Mapping[str, Tensor]) -> str:
    """What was not finite first: weights make logits, and these the loss."""
    names = not_finite(weights)
    if names:
        return f"weights are not finite ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
    if not torch.isfinite(logits).all():
        return "the weights are finite, and the logits are not"
    return "weights and logits are finite, and the loss is not"
