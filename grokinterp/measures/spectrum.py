"""Fourier spectra of the weights (embedding over tokens, neuron-logit map over classes) and their Gini coefficients."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures.base import Column, measure
from grokinterp.measures.fourier import component_norms, frequency_power
from grokinterp.measures.snapshot import Snapshot, Undefined


def embedding_table(snapshot: Snapshot) -> Float[Tensor, "g d"]:
    """The embedding of each operand value, in the order of the task's group.

    It is read from `snapshot.embedding`, or else from the first p rows of `embed.W_E` (leaving out the `=` token), from
    `embed_a.W_E` and `embed_b.W_E`, or, for one-hot inputs, from `layers.0.W` or its two halves. The embeddings of two
    operands stand side by side.

    Returns:
        `[g, d]`, or `[g, 2d]` for two tables, in float64.

    Raises:
        MissingNeedError: the weights include none of these parameters, or in another shape, or the task has no cyclic
            group.
    """
    group = snapshot.pair_grid.group
    tables = [table.double() for table in snapshot.embedding or _standard_tables(snapshot)]
    if len(tables) == 1:
        return tables[0][group.left]
    return torch.cat([tables[0][group.left], tables[1][group.right]], dim=1)


def _standard_tables(snapshot: Snapshot) -> Sequence[Tensor]:
    """The embedding under its TransformerLens name: one table, or one for each operand."""
    weights, p = snapshot.weights or {}, snapshot.task.p
    for name in ("embed.W_E", "embed_a.W_E", "embed_b.W_E"):
        if name in weights and (weights[name].ndim != 2 or len(weights[name]) < p):
            shape = list(weights[name].shape)
            reason = f"{name} must have shape [at least {p}, d], one row per number, but has shape {shape}"
            raise MissingNeedError("the embedding spectrum", "weights", reason)
    if "embed.W_E" in weights:
        return (weights["embed.W_E"],)
    if "embed_a.W_E" in weights and "embed_b.W_E" in weights:
        return weights["embed_a.W_E"], weights["embed_b.W_E"]
    if "layers.0.W" in weights and len(weights["layers.0.W"]) in (p, 2 * p):
        return weights["layers.0.W"].split(p)
    raise MissingNeedError(
        "the embedding spectrum",
        "weights",
        "no parameter named embed.W_E, embed_a.W_E and embed_b.W_E, or layers.0.W with p or 2p rows; "
        "Snapshot.from_model and Recorder take its name as embedding=",
    )


def neuron_logit_table(snapshot: Snapshot) -> Float[Tensor, "g m"]:
    """How much one unit of each of the last layer's neurons adds to each class (W_out W_U, or W_U for an MLP).

    Returns:
        `[g, m]`, classes in the order of the task's group, in float64.

    Raises:
        MissingNeedError: the snapshot has no neurons, the path from them to the logits is not linear (LayerNorm), or
            the task has no cyclic group.
    """
    readout = snapshot.neuron_logit_map
    if readout is None:
        raise MissingNeedError("the neuron-logit spectrum", "neurons", snapshot.why_no_map)
    return readout.double().T[snapshot.pair_grid.classes]


@measure(
    "embedding_power",
    needs=("weights", "grid"),
    columns=Column(
        "embedding_power", "squared norm of the Fourier components of the embedding at frequency k", per_frequency=True
    ),
)
def embedding_power(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Power of the embedding at each frequency, from the DFT over tokens.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> (1 + embedding_power(snapshot).topk(4).indices).sort().values.tolist()  # 28 is the double of 14
    [8, 14, 21, 28]

    Args:
        snapshot: a checkpoint with weights, of a task with a cyclic group.

    Returns:
        `[k]`, squared norms (cosine plus sine) for k = 1 .. floor(g/2).

    Raises:
        MissingNeedError: the snapshot has no weights or no embedding, or the task has no cyclic group.
    """
    return frequency_power(embedding_table(snapshot))


@measure(
    "neuron_logit_power",
    needs=("neurons", "grid"),
    columns=Column(
        "neuron_logit_power",
        "squared norm of the Fourier components of the neuron-logit map at frequency k",
        per_frequency=True,
    ),
)
def neuron_logit_power(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Power of the neuron-logit map W_L at each frequency, from the DFT over classes.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> (1 + neuron_logit_power(snapshot).topk(3).indices).sort().values.tolist()
    [8, 14, 21]

    Args:
        snapshot: a checkpoint with neurons, of a task with a cyclic group.

    Returns:
        `[k]`, squared norms (cosine plus sine) for k = 1 .. floor(g/2).

    Raises:
        MissingNeedError: the snapshot has no neurons or no linear path from them to the logits, or the task has no
            cyclic group.
    """
    return frequency_power(neuron_logit_table(snapshot))


def gini(x: Float[Tensor, " n"]) -> float:
    """Gini coefficient of non-negative numbers: 0 if all are equal, 1 - 1/n if only one of them is not zero.

    >>> gini(torch.tensor([1.0, 1.0, 1.0])), gini(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    (0.0, 0.75)

    G = sum_i (2i - n - 1) x_(i) / (n sum x), with x in ascending order and i = 1 .. n.

    Args:
        x: `[n]`, non-negative.

    Returns:
        The coefficient; `Undefined` if all numbers are zero.

    Raises:
        ConfigError: `x` has another shape or a negative entry.

    Source:
        Hurley and Rickard 2009.
    """
    if not isinstance(x, Tensor) or x.ndim != 1 or bool((x < 0).any()):
        raise ConfigError("x must be a tensor of non-negative numbers, of shape [n]")
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
    columns=Column("gini_embedding", "Gini coefficient of the norms of all Fourier components of the embedding"),
)
def gini_embedding(snapshot: Snapshot, *, power: bool = False) -> float:
    """Gini coefficient of the norms of all Fourier components of the embedding, the constant included.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> round(gini_embedding(snapshot), 1)
    0.7

    It rises toward 1 as the spectrum concentrates on few frequencies.

    Args:
        snapshot: the checkpoint.
        power: use squared norms instead of norms.

    Returns:
        The coefficient (see `gini`); `Undefined` if all components are zero.

    Raises:
        MissingNeedError: the snapshot has no weights or no embedding, or the task has no cyclic group.

    Source:
        Nanda et al. 2023.
    """
    return _gini_of_components(embedding_table(snapshot), power)


@measure(
    "gini_neuron_logit",
    needs=("neurons", "grid"),
    columns=Column(
        "gini_neuron_logit", "Gini coefficient of the norms of all Fourier components of the neuron-logit map"
    ),
)
def gini_neuron_logit(snapshot: Snapshot, *, power: bool = False) -> float:
    """Gini coefficient of the norms of all Fourier components of the neuron-logit map W_L, the constant included.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> round(gini_neuron_logit(snapshot), 1)
    0.8

    It rises toward 1 as the spectrum concentrates on few frequencies.

    Args:
        snapshot: the checkpoint.
        power: use squared norms instead of norms.

    Returns:
        The coefficient (see `gini`); `Undefined` if all components are zero.

    Raises:
        MissingNeedError: the snapshot has no neurons or no linear path from them to the logits, or the task has no
            cyclic group.

    Source:
        Nanda et al. 2023.
    """
    return _gini_of_components(neuron_logit_table(snapshot), power)


@measure(
    "gini_unembedding",
    needs=("weights", "grid"),
    columns=Column("gini_unembedding", "Gini coefficient of the norms of all Fourier components of the unembedding"),
)
def gini_unembedding(snapshot: Snapshot, *, power: bool = False) -> float:
    """Gini coefficient of the norms of all Fourier components of the unembedding W_U, the constant included.

    >>> import grokinterp as gi
    >>> 0.5 < gini_unembedding(gi.load("checkpoints/run42").snapshot("last")) < 1
    True

    Args:
        snapshot: the checkpoint.
        power: use squared norms instead of norms.

    Returns:
        The coefficient (see `gini`); `Undefined` if all components are zero.

    Raises:
        MissingNeedError: the snapshot has no weights or none named `unembed.W_U`, or the task has no cyclic group.
    """
    W_U, classes = (snapshot.weights or {}).get("unembed.W_U"), snapshot.pair_grid.classes
    if W_U is None or W_U.ndim != 2 or W_U.shape[1] <= int(classes.max()):
        raise MissingNeedError("gini_unembedding", "weights", "no parameter unembed.W_U with a column for each class")
    return _gini_of_components(W_U.detach().double().T[classes], power)
