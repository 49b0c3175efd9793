"""The metrics of an evaluated step: a model scored on every input."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from grokinterp.measures.norms import parameter_group
from grokinterp.measures.scores import cross_entropy_by_input
from grokinterp.tasks import AnyTask, RegressionTask
from grokinterp.training.losses import stablemax_and_gradient


@torch.no_grad()
def evaluate(
    task: AnyTask, logits: Float[Tensor, "n c"], weights: Mapping[str, Tensor], loss: str = "cross_entropy"
) -> dict[str, float]:
    """Computes losses, accuracies and weight norms in float64, in forms that stay exact for tiny losses.

    Args:
        task: the task; if its split is unknown, there is a single `loss` and a single `accuracy`.
        logits: `[n, c]`, of every input. The loss counts all classes, including `=` if the model has it; the accuracy
            does not count `=`. For a regression, the outputs; its accuracy is the share of examples whose squared
            error, averaged over the outputs, is below the task's threshold (as in the code of Liu et al. 2022).
        weights: the trained parameters, without frozen ones.
        loss: `cross_entropy`, `mse` or `stablemax`; ignored for a regression, which always has `mse`.

    Returns:
        `train_loss`, `test_loss`, `train_accuracy`, `test_accuracy`, `weight_norm` (L2) and `weight_rms`; if the
        operation commutes and there are such pairs, also `mirror_accuracy` and `novel_accuracy`.
    """
    if logits.device.type == "mps":  # mps has no float64
        logits = logits.cpu()
    logits, labels = logits.double(), task.labels.to(logits.device)
    masks = {"train": task.train_mask, "test": task.test_mask}
    if isinstance(task, RegressionTask):
        losses = (logits - labels.double()).square().mean(dim=1)
        hits = (losses < task.config.threshold).double()
    else:
        if loss == "cross_entropy":
            # An infinite correct logit gives NaN, so that the example does not count as solved.
            losses = cross_entropy_by_input(logits, labels) + 0.0 * logits.gather(1, labels[:, None]).squeeze(1)
        elif loss == "stablemax":
            losses, _ = stablemax_and_gradient(logits, labels, 1)
        else:
            losses = (logits - F.one_hot(labels, logits.shape[1])).square().mean(dim=1)
        hits = (logits[:, : task.n_classes].argmax(dim=1) == labels).double()
        masks |= {"mirror": task.mirror_mask, "novel": task.novel_mask if task.commutes else None}
    row: dict[str, float] = {}
    if task.train_mask is None:
        row |= {"loss": losses.mean().item(), "accuracy": hits.mean().item()}
    for name, mask in masks.items():
        if mask is not None and mask.any():
            mask = mask.to(logits.device)
            if name in ("train", "test"):
                row[f"{name}_loss"] = losses[mask].mean().item()
            row[f"{name}_accuracy"] = hits[mask].mean().item()
    total = sum((w.cpu().double().square().sum().item() for w in weights.values()), 0.0)
    count = sum(w.numel() for w in weights.values())
    if count:
        row |= {"weight_norm": total**0.5, "weight_rms": (total / count) ** 0.5}
    return row


def hidden_rms(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Root mean square of the parameters of each hidden layer, as `group_rms.NAME`, the column of the measure.

    >>> weights = {"embed.W_E": torch.ones(2, 2), "layers.0.W": torch.tensor([3.0]), "layers.0.b": torch.tensor([1.0])}
    >>> hidden_rms(weights)
    {'group_rms.layers.0': 2.23606797749979}

    Args:
        weights: the trained parameters, without frozen ones. Hidden layers are all except embeddings and unembedding.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, weight in weights.items():
        if name.startswith(("layers.", "blocks.")):
            groups.setdefault(parameter_group(name), []).append(weight.detach().cpu().double())
    return {
        f"group_rms.{group}": (
            sum(tensor.square().sum().item() for tensor in tensors) / sum(tensor.numel() for tensor in tensors)
        )
        ** 0.5
        for group, tensors in groups.items()
    }
