"""Fourier spectra of weights: of the embedding over tokens, of the neuron-logit map over classes; and their Gini."""

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import MissingNeedError
from grokinterp.measures.base import NO_READOUT, Column, measure
from grokinterp.measures.fourier import component_norms, frequency_power
from grokinterp.measures.snapshot import Snapshot, Undefined
from grokinterp.tasks import CyclicGroup


def _group(snapshot: Snapshot) -> CyclicGroup:
    group = snapshot.task.group
    assert group is not None  # every caller declares the need `grid`
    return group


def embedding_table(snapshot: Snapshot) -> Float[Tensor, "g d"]:
    """The embedding of each operand value, in the order of the task's group; two tables stand side by side.

    Read from `embed.W_E` (its first p rows: `=` is no operand), from `embed_a.W_E` and `embed_b.W_E`, or, for one-hot
    inputs, from the two halves of `layers.0.W`, which are their embeddings.

    Raises:
        MissingNeedError: the weights have none of these.
    """
    weights, p, group = snapshot.weights or {}, snapshot.task.p, _group(snapshot)
    if "embed.W_E" in weights:
        return weights["embed.W_E"][:p].double()[group.left]
    if "embed_a.W_E" in weights and "embed_b.W_E" in weights:
        tables = weights["embed_a.W_E"], weights["embed_b.W_E"]
    elif "layers.0.W" in weights and len(weights["layers.0.W"]) == 2 * p:
        tables = weights["layers.0.W"].split(p)
    else:
        raise MissingNeedError("the embedding spectrum", "weights", "no parameter named embed.W_E or the like")
    return torch.cat([tables[0].double()[group.left], tables[1].double()[group.right]], dim=1)


def neuron_logit_table(snapshot: Snapshot) -> Float[Tensor, "g m"]:
    """What each of the last layer's neurons adds to each class (W_out W_U, or W_U), classes in the group's order.

    Raises:
        MissingNeedError: the weights have no such matrices, or LayerNorm stands between them.
    """
    group = _group(snapshot)
    readout = snapshot.neuron_logit_map
    if readout is None:
        reason = snapshot.lacks("neurons") or NO_READOUT
        raise MissingNeedError("the neuron-logit spectrum", "neurons", reason)
    return readout.double().T[group.classes[: group.order]]


@measure(
    "embedding_power",
    needs=("weights", "grid"),
    columns=(
        Column(
            "embedding_power", "squared norm of the embedding's Fourier components of frequency k", per_frequency=True
        ),
    ),
)
def embedding_power(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Power of the embedding at each frequency k = 1 .. floor(g/2), the DFT being taken over tokens."""
    return frequency_power(embedding_table(snapshot))


@measure(
    "neuron_logit_power",
    needs=("neurons", "grid"),
    columns=(
        Column(
            "neuron_logit_power", "squared norm of the neuron-logit map's components of frequency k", per_frequency=True
        ),
    ),
)
def neuron_logit_power(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Power of the neuron-logit map W_L at each frequency, the DFT being taken over classes."""
    return frequency_power(neuron_logit_table(snapshot))


def gini(x: Float[Tensor, " n"]) -> float:
    """Gini coefficient of non-negative numbers: 0 where all are equal, near 1 where one holds everything.

    G = sum_i (2i - n - 1) x_(i) / (n sum x), x ascending, i from 1 (Hurley and Rickard 2009).

    >>> gini(torch.tensor([1.0, 1.0, 1.0])), gini(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    (0.0, 0.75)
    """
    ordered = x.double().sort().values
    n = len(ordered)
    total = ordered.sum()
    if total <= 0:
        return Undefined("all components are zero")
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    return ((2 * ranks - n - 1) @ ordered / (n * total)).item()


def _gini_of_components(table: Float[Tensor, "g d"], power: bool) -> float:
    norms = component_norms(table)
    return gini(norms.square() if power else norms)


@measure(
    "gini_embedding",
    needs=("weights", "grid"),
    columns=(Column("gini_embedding", "Gini coefficient of the norms of the embedding's p Fourier components"),),
)
def gini_embedding(snapshot: Snapshot, *, power: bool = False) -> float:
    """Gini coefficient of the norms of all Fourier components of the embedding, the constant included.

    Args:
        snapshot: the checkpoint.
        power: take squared norms instead.
    """
    return _gini_of_components(embedding_table(snapshot), power)


@measure(
    "gini_neuron_logit",
    needs=("neurons", "grid"),
    columns=(
        Column("gini_neuron_logit", "Gini coefficient of the norms of the neuron-logit map's Fourier components"),
    ),
)
def gini_neuron_logit(snapshot: Snapshot, *, power: bool = False) -> float:
    """Gini coefficient of the norms of all Fourier components of the neuron-logit map W_L, the constant included.

    Args:
        snapshot: the checkpoint.
        power: take squared norms instead.
    """
    return _gini_of_components(neuron_logit_table(snapshot), power)
