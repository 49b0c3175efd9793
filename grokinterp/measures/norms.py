"""Norms of the weights, in float64, over the parameters that training changes; frozen parameters do not count."""

from grokinterp.errors import MissingNeedError
from grokinterp.measures.base import Column, measure
from grokinterp.measures.snapshot import Snapshot


def squares_by_parameter(snapshot: Snapshot) -> dict[str, float]:
    """The sum of squares of each trained parameter, by name, in float64."""
    weights = snapshot.weights or {}
    names = weights if snapshot.trained is None else snapshot.trained
    return snapshot.remember("squares", lambda: {n: weights[n].double().square().sum().item() for n in names})


@measure("weight_norm", needs=("weights",), columns=Column("weight_norm", "L2 norm of all trained parameters"))
def weight_norm(snapshot: Snapshot) -> float:
    """L2 norm of all trained parameters together.

    >>> from grokinterp.tasks import Task
    >>> weights = {"embed.W_E": torch.tensor([[3.0]]), "unembed.W_U": torch.tensor([[4.0]])}
    >>> weight_norm(Snapshot.from_logits(Task.modular_addition(p=5), torch.zeros(25, 5), weights=weights))
    5.0

    Raises:
        MissingNeedError: the snapshot has no weights.
    """
    return sum_of_squares(snapshot) ** 0.5


@measure("weight_rms", needs=("weights",), columns=Column("weight_rms", "root mean square of all trained parameters"))
def weight_rms(snapshot: Snapshot) -> float:
    """Root mean square of all trained parameters.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> round(weight_rms(snapshot), 1)
    0.1

    Raises:
        MissingNeedError: the snapshot has no weights, or none of them is trained.

    Source:
        Manir and Rupa 2026, Table 7.
    """
    count = sum(_counts(snapshot).values())
    if not count:
        raise MissingNeedError("weight_rms", "weights", "no parameter of the model is trained")
    return (sum_of_squares(snapshot) / count) ** 0.5


@measure(
    "sum_of_squares",
    needs=("weights",),
    columns=Column("sum_of_squares", "sum of the squares of all trained parameters"),
)
def sum_of_squares(snapshot: Snapshot) -> float:
    """Sum of the squares of all trained parameters.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> round(sum_of_squares(snapshot) ** 0.5 / weight_norm(snapshot), 6)
    1.0

    Raises:
        MissingNeedError: the snapshot has no weights.

    Source:
        Nanda et al. 2023, Figure 7.
    """
    return sum(squares_by_parameter(snapshot).values(), 0.0)


def _counts(snapshot: Snapshot) -> dict[str, int]:
    weights = snapshot.weights or {}
    return {name: weights[name].numel() for name in squares_by_parameter(snapshot)}


def parameter_group(name: str) -> str:
    """The part of the model that a parameter belongs to.

    >>> [parameter_group(name) for name in ("embed.W_E", "blocks.0.attn.W_Q", "layers.1.ln.w")]
    ['embed', 'blocks.0.attn', 'layers.1']
    """
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[0] == "blocks" else ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


@measure(
    "group_norms",
    needs=("weights",),
    columns=Column("group_norm", "L2 norm of the trained parameters of one part of the model"),
)
def group_norms(snapshot: Snapshot) -> dict[str, float]:
    """L2 norm of the trained parameters of each part of the model (`embed`, `blocks.0.attn`, `layers.1`, ...).

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> sorted(group_norms(snapshot))
    ['blocks.0.attn', 'blocks.0.mlp', 'embed', 'pos_embed', 'unembed']

    Raises:
        MissingNeedError: the snapshot has no weights.
    """
    groups: dict[str, list[float]] = {}
    for name, squares in squares_by_parameter(snapshot).items():
        groups.setdefault(parameter_group(name), []).append(squares)
    return {group: sum(squares, 0.0) ** 0.5 for group, squares in groups.items()}


@measure(
    "group_rms",
    needs=("weights",),
    columns=Column("group_rms", "root mean square of the trained parameters of one part of the model"),
)
def group_rms(snapshot: Snapshot) -> dict[str, float]:
    """Root mean square of the trained parameters of each part of the model (`embed`, `blocks.0.attn`, ...).

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> len(group_rms(snapshot))
    5

    Raises:
        MissingNeedError: the snapshot has no weights.
    """
    norms = group_norms(snapshot)
    counts = dict.fromkeys(norms, 0)
    for name, count in _counts(snapshot).items():
        counts[parameter_group(name)] += count
    return {group: norms[group] / counts[group] ** 0.5 for group in norms if counts[group]}
