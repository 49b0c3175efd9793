"""How concentrated a network is: inverse participation ratios and silent neurons."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.measures.base import Column, measure, require_snapshot
from grokinterp.measures.phases import neuron_inputs
from grokinterp.measures.snapshot import Snapshot, Undefined
from grokinterp.measures.spectrum import neuron_logit_table


def inverse_participation_ratios(snapshot: Snapshot, *, r: int = 2) -> Float[Tensor, " m"]:
    """How few frequencies each neuron of the last layer reads and writes: 1 for a single one.

    IPR_r(x) = sum over k of (|x_k| / |x|)^(2r) for the DFT of x at k = 1, 2, ...; of a neuron, the mean of those of its
    input over a, its input over b (see `neuron_phases`) and its output over classes.

    >>> import grokinterp as gi
    >>> inverse_participation_ratios(gi.load("checkpoints/run42").snapshot("last")).shape
    torch.Size([256])

    Args:
        snapshot: a checkpoint of a model of known architecture, of a task with a cyclic group.
        r: the exponent.

    Returns:
        `[m]`, from 1 / floor(g/2) to 1 (for r = 2); 0 for a part that is constant.

    Raises:
        MissingNeedError: the model is one of your own, or the path from its neurons to the logits is not linear; or the
            task has no cyclic group.

    Source:
        Gromov 2023 (arXiv:2301.02679); Doshi et al. 2024 (arXiv:2310.13061), without the constant term.
    """
    require_snapshot(snapshot, "inverse_participation_ratios")
    of_a, of_b = neuron_inputs(snapshot)
    return torch.stack([_ipr(table, r) for table in (of_a, of_b, neuron_logit_table(snapshot))]).mean(dim=0)


def _ipr(table: Float[Tensor, "g m"], r: int) -> Float[Tensor, " m"]:
    power = torch.fft.rfft(table.double(), dim=0)[1:].abs().square()
    total = power.sum(dim=0)
    varies = total > 1e-24 * max(total.max().item(), 1e-300)
    return torch.where(varies, (power / total.clamp_min(1e-300)).pow(r).sum(dim=0), 0.0)


@measure(
    "mean_ipr",
    needs=("grid", "pre_activations", "neurons"),
    columns=Column("mean_ipr", "mean inverse participation ratio of the neurons: 1 if each uses a single frequency"),
)
def mean_ipr(snapshot: Snapshot) -> float:
    """Mean inverse participation ratio of the last layer's neurons: 1 if each reads and writes a single frequency.

    >>> import grokinterp as gi
    >>> mean_ipr(gi.load("checkpoints/run42").snapshot("last")) > 0.5
    True

    Args:
        snapshot: a checkpoint of a model of known architecture, of a task with a cyclic group.

    Returns:
        The mean of `inverse_participation_ratios`.

    Raises:
        MissingNeedError: see `inverse_participation_ratios`.
    """
    return inverse_participation_ratios(snapshot).mean().item()


@measure(
    "activation_sparsity",
    needs=("neurons",),
    columns=Column("activation_sparsity", "share of the last layer's activations, over all inputs, below 1e-6"),
)
def activation_sparsity(snapshot: Snapshot, *, threshold: float = 1e-6) -> float:
    """Share of the last layer's activations, over all inputs, that lie below a threshold.

    >>> import grokinterp as gi
    >>> 0 < activation_sparsity(gi.load("checkpoints/run42").snapshot("last")) < 1
    True

    Args:
        snapshot: a checkpoint with neurons.
        threshold: the level; activations of GELU and tanh may be negative.

    Returns:
        From 0 to 1.

    Raises:
        MissingNeedError: the snapshot has no neurons.
        ConfigError: the threshold is not a number.

    Source:
        Golechha 2024 (arXiv:2405.12755).
    """
    if math.isnan(threshold):
        raise ConfigError("threshold must be a number")
    neurons = snapshot.activations.neurons
    return (neurons < threshold).double().mean().item() if neurons.numel() else Undefined("no neurons")
