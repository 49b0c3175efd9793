"""Monitors a training for numerical problems: non-finite values, underflow, collapse, zero gradients, instability.

The monitor uses the logits and metrics of an evaluation, and computes more only if the margins are so large that
rounding can matter. It warns once per run of each kind of problem, with the step, and stores the warning in
status.json; docs/numerics.md says what to do about each kind.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.config import PLAIN, RunConfig
from grokinterp.errors import logger
from grokinterp.runs.findings import Finding, StabilityMonitor
from grokinterp.tasks import AnyTask
from grokinterp.training.losses import LOSSES_AND_GRADIENTS, loss_function

log = logger(__name__)

# Half of the examples can only have collapsed if half of the margins are above these: in float32, adding up to e^-16.6
# to 1 changes nothing; the exact form drops terms of the loss below e^-55.
_MIN_MARGIN = {PLAIN: 15.0}
_MIN_MARGIN_EXACT_FORM = 40.0
# Other losses above this cannot be rounded to 0: the squares of float32 end at 1e-45.
_MAX_VANISHING_LOSS = 1e-20
_NAMES_SHOWN = 3  # in a message


@dataclass(frozen=True)
class Rounded:
    """The effect of rounding on a training loss.

    Attributes:
        loss: the loss as the training computes it.
        exact: the loss of the same logits in float64, in the form without cancellation.
        collapsed: share of the examples whose gradient with respect to the correct logit is exactly 0.
    """

    loss: float
    exact: float
    collapsed: float


def rounded(
    config: RunConfig, logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"] | Float[Tensor, "n c"]
) -> Rounded:
    """Computes loss and gradient as a run's updates do, and compares them with float64.

    What rounding loses depends on `loss_dtype`. With `float32_plain`, an example whose sum over the classes of
    exp(z - z_max) is exactly 1 in float32 has loss 0, and its correct class gets no gradient (softmax collapse, Prieto
    et al. 2025, arXiv:2501.04697, section 3); this happens from margins of about 16.6. `float32` and `float64` compute
    softplus(logsumexp of the wrong classes - correct logit), which adds nothing to 1: both lose nothing until the
    contribution of an example to the mean loss is below 1e-24, where its gradient is set to 0 on purpose. The loss
    itself is exactly 0 from margins of about 100 (float32) or 740 (float64). `mse` and `stablemax` do not collapse.

    Args:
        config: of the run.
        logits: `[n, c]`, of the training examples, in float32; or the outputs of a regression.
        labels: the correct classes, or the targets of a regression.
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
    """Median over the examples of the margin: the correct logit minus the largest wrong logit."""
    column = labels[:, None]
    runner_up = logits.scatter(1, column, -math.inf).amax(dim=1)
    return (logits.gather(1, column).squeeze(1) - runner_up).median().item()


def any_nonzero(gradients: Iterable[Tensor | None]) -> Bool[Tensor, ""]:
    """Whether any entry of some gradients is nonzero, as a tensor, so that the host need not wait for the device."""
    largest = torch._foreach_norm([g for g in gradients if g is not None], math.inf)
    return torch.stack(largest).ne(0.0).any()


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that contain NaN or infinities."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


class Monitor:
    """Monitors the numbers of a run, and warns once of each kind of problem.

    Attributes:
        findings: the warnings so far, in order.
        finite_at: the last evaluated step with only finite numbers; None if there is none.
    """

    def __init__(self, config: RunConfig, task: AnyTask, path: Path, findings: list[Finding]):
        """Prepares the monitor.

        Args:
            config: of the run.
            task: of the run.
            path: the run folder, which log messages name.
            findings: earlier warnings; the monitor appends to this list.
        """
        self.config, self.path = config, path
        self.rows = task.require_split()
        self.labels = task.labels[self.rows]
        self.findings = findings
        self.finite_at: int | None = None
        self.stability = StabilityMonitor()

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Restores the state of the monitor from the rows of metrics.jsonl up to the step at which a run resumes."""
        for row in rows:
            if _all_finite(row):
                self.finite_at = int(row["step"])
            self.stability.add(int(row["step"]), row)

    def warn(self, step: int, kind: str, message: str) -> None:
        """Warns of a problem unless there is a warning of the same kind already."""
        if not self.has_warned(kind):
            self.findings.append(Finding(step, kind, message))
            log.warning("%s: %s", self.path, message)

    def has_warned(self, kind: str) -> bool:
        return any(finding.kind == kind for finding in self.findings)

    def report_divergence(self, step: int, cause: str = "") -> None:
        """Warns of a non-finite training loss, at an evaluation of this step or in the update that follows it."""
        if not cause and self.finite_at is not None:
            cause = f"weights and losses were finite at step {self.finite_at}, the last evaluated step"
        message = f"the training loss was not finite at step {step}"
        self.warn(step, "diverged", f"{message}: {cause}" if cause else message)

    def check(
        self,
        step: int,
        logits: Float[Tensor, "n c"],
        weights: Mapping[str, Tensor],
        row: Mapping[str, float],
        zero_gradients: bool,
    ) -> None:
        """Checks an evaluated step.

        Args:
            step: number of updates made.
            logits: of every input.
            weights: all parameters.
            row: the metrics of the step.
            zero_gradients: whether every gradient of the last update was exactly 0.
        """
        if not math.isfinite(row["train_loss"]):
            self.report_divergence(step, _locate_non_finite(logits, weights))
            return
        self.stability.add(step, row)
        for finding in self.stability.findings:
            self.warn(finding.step, finding.kind, finding.message)
        if _all_finite(row):
            self.finite_at = step
        else:
            place = _locate_non_finite(logits, weights)
            self.warn(step, "non_finite", f"at step {step} {place}, although the training loss is finite")
        if zero_gradients:
            self.warn(
                step,
                "zero_gradients",
                f"zero gradients at step {step}: in the previous update, the gradient of the loss was exactly 0 in "
                "every trained parameter. Only weight decay, momentum or an intervention still moves the weights.",
            )
        self._check_rounding(step, logits, row["train_loss"])

    def _check_rounding(self, step: int, logits: Tensor, train_loss: float) -> None:
        config = self.config
        is_cross_entropy = config.loss == "cross_entropy"
        if self.has_warned("loss_underflow") and (self.has_warned("softmax_collapse") or not is_cross_entropy):
            return
        if not is_cross_entropy and train_loss >= _MAX_VANISHING_LOSS:
            return
        if logits.device.type == "mps":  # mps has no float64
            logits = logits.cpu()
        trained, labels = logits[self.rows.to(logits.device)], self.labels.to(logits.device)
        min_margin = _MIN_MARGIN.get(config.loss_dtype, _MIN_MARGIN_EXACT_FORM)
        if is_cross_entropy and median_margin(trained, labels) <= min_margin:
            return
        rounding = rounded(config, trained, labels)
        if rounding.collapsed > 0.5:
            self.warn(step, "softmax_collapse", _describe_collapse(config, step, rounding))
        if rounding.loss == 0 and (is_cross_entropy or rounding.exact > 0):
            self.warn(step, "loss_underflow", _describe_underflow(config, step, rounding))


_ADVICE = "; loss_dtype float32 or float64 avoids this rounding"


def _describe_collapse(config: RunConfig, step: int, rounding: Rounded) -> str:
    share = f"softmax collapse at step {step}: {rounding.collapsed:.0%} of the training examples"
    if config.loss_dtype == PLAIN:
        return (
            f"{share} have a sum over the classes of exp(z - z_max) of exactly 1 in float32, so that their loss is 0 "
            f"and their correct class gets no gradient{_ADVICE}"
        )
    return (
        f"{share} contribute less than 1e-24 each to the mean loss, which is {_format_loss(rounding.exact)}, and no "
        "longer get a gradient"
    )


def _describe_underflow(config: RunConfig, step: int, rounding: Rounded) -> str:
    plain = config.loss_dtype == PLAIN
    return (
        f"loss underflow at step {step}: the updates compute a training loss of exactly 0 in "
        f"{'float32' if plain else config.loss_dtype}, but its exact value is {_format_loss(rounding.exact)}"
        f"{_ADVICE if plain else ''}"
    )


def _format_loss(loss: float) -> str:
    return f"{loss:.2g}" if loss else "below 1e-300"


def _all_finite(row: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in row.values())


def _locate_non_finite(logits: Tensor, weights: Mapping[str, Tensor]) -> str:
    """Names the first of weights, logits and loss that is not finite; each is computed from the one before."""
    names = not_finite(weights)
    if names:
        more = ", ..." if len(names) > _NAMES_SHOWN else ""
        return f"weights are not finite ({', '.join(names[:_NAMES_SHOWN])}{more})"
    if not torch.isfinite(logits).all():
        return "the weights are finite, but the logits are not"
    return "weights and logits are finite, but the loss is not"
