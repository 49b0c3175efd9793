"""Norms of the weights, in float64: of trained parameters only, since a frozen one has no part in the dynamics."""

from collections.abc import Mapping

from torch import Tensor

from grokinterp.measures.base import Column, Snapshot, measure


def trained_weights(snapshot: Snapshot) -> dict[str, Tensor]:
    """The parameters that were trained."""
    weights = snapshot.weights or {}
    names = weights if snapshot.trained is None else snapshot.trained
    return {name: weights[name] for name in names}


def sum_of_squares_of(weights: Mapping[str, Tensor]) -> float:
    """Sum of the squares of all entries, in float64."""
    return sum((w.double().square().sum().item() for w in weights.values()), 0.0)


@measure(
    "weight_norm",
    needs=("weights",),
    columns=(Column("weight_norm", "L2 norm of all trained parameters"),),
)
def weight_norm(snapshot: Snapshot) -> float:
    """L2 norm of all trained parameters together."""
    return sum_of_squares_of(trained_weights(snapshot)) ** 0.5


@measure("weight_rms", needs=("weights",))
def weight_rms(snapshot: Snapshot) -> float:
    """Root mean square of all trained parameters (Manir and Rupa 2026, Table 7)."""
    weights = trained_weights(snapshot)
    return (sum_of_squares_of(weights) / sum(w.numel() for w in weights.values())) ** 0.5


@measure("sum_of_squares", needs=("weights",))
def sum_of_squares(snapshot: Snapshot) -> float:
    """Sum of the squares of all trained parameters (Nanda et al. 2023, Figure 7)."""
    return sum_of_squares_of(trained_weights(snapshot))


def parameter_group(name: str) -> str:
    """The group a parameter is counted in: `embed`, `pos_embed`, `blocks.0.attn`, `layers.1`, `unembed`, ..."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[0] == "blocks" else ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


@measure(
    "group_norms",
    needs=("weights",),
    columns=(Column("group_norm", "L2 norm of the trained parameters of one part of the model"),),
)
def group_norms(snapshot: Snapshot) -> dict[str, float]:
    """L2 norm of the trained parameters of each part of the model, by the part's name."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, weight in trained_weights(snapshot).items():
        groups.setdefault(parameter_group(name), {})[name] = weight
    return {group: sum_of_squares_of(weights) ** 0.5 for group, weights in groups.items()}


@measure(
    "group_rms",
    needs=("weights",),
    columns=(Column("group_rms", "root mean square of the trained parameters of one part of the model"),),
)
def group_rms(snapshot: Snapshot) -> dict[str, float]:
    """Root mean square of the trained parameters of each part of the model, by the part's name."""
    norms = group_norms(snapshot)
    counts = dict.fromkeys(norms, 0)
    for name, weight in trained_weights(snapshot).items():
        counts[parameter_group(name)] += weight.numel()
    return {group: norms[group] / counts[group] ** 0.5 for group in norms}
