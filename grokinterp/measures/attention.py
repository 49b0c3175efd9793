"""Attention from the position of the answer, as a function of the two numbers, and the frequency of each head."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.errors import MissingNeedError
from grokinterp.measures.base import require_snapshot
from grokinterp.measures.fourier import component_frequencies, n_frequencies, real_dft
from grokinterp.measures.snapshot import Snapshot


@dataclass(frozen=True)
class AttentionByToken:
    """Attention of the last layer's heads from the position of the answer.

    >>> import grokinterp as gi
    >>> found = attention_by_token(gi.load("checkpoints/run42").snapshot("last"))
    >>> found.pattern.shape, found.frequency.shape
    (torch.Size([4, 3, 67, 67]), torch.Size([4]))

    Attributes:
        pattern: `[h, t, g, g]`, the attention of each head to each position, for the pair (left[i], right[j]) of the
            task's group.
        score: `[h, g]`, the logarithm of the attention to a relative to the last position, by a: its mean over b minus
            its mean over all pairs. Where the last position reads `=` in a single layer without LayerNorm, it depends
            on a alone.
        one_token: `[h]`, the share of the variance of that logarithm over pairs that depends on a alone; 1 there.
        frequency: `[h]`, the frequency k of each head: the one whose waves of a and of b fit the attention to a best;
            0 for constant attention.
        explained: `[h]`, the share of the variance over pairs of the attention to a that 1, cos w_k a, sin w_k a,
            cos w_k b and sin w_k b explain.
    """

    pattern: Float[Tensor, "h t g g"]
    score: Float[Tensor, "h g"]
    one_token: Float[Tensor, " h"]
    frequency: Int[Tensor, " h"]
    explained: Float[Tensor, " h"]


def attention_by_token(snapshot: Snapshot) -> AttentionByToken:
    """The attention of each head as a function of a and b, and its fit by waves of one frequency.

    >>> import grokinterp as gi
    >>> found = attention_by_token(gi.load("checkpoints/run42").snapshot("last"))
    >>> bool(found.one_token.min() > 0.999)
    True

    Args:
        snapshot: a checkpoint of a transformer, of a task with a cyclic group.

    Raises:
        MissingNeedError: the model has no attention, or the task has no cyclic group.

    Source:
        Nanda et al. 2023, section 4.3 and appendix C: heads fitted by degree-1 waves of one frequency each.
    """
    require_snapshot(snapshot, "attention_by_token")
    snapshot.require("attention_by_token", "grid", "attention")
    attention = snapshot.attention
    if attention is None:
        raise MissingNeedError("attention_by_token", "attention", snapshot.lacks("attention") or "")
    grid = attention[snapshot.pair_grid.indices].double()  # [g, g, h, t]
    relative = grid[..., 0].clamp_min(1e-300).log() - grid[..., -1].clamp_min(1e-300).log()
    relative = relative - relative.mean(dim=(0, 1))
    score = relative.mean(dim=1)
    one_token = _share(score.square().sum(dim=0) * len(grid), relative.square().sum(dim=(0, 1)))
    to_a = grid[..., 0] - grid[..., 0].mean(dim=(0, 1))
    g = len(grid)
    power = torch.zeros(n_frequencies(g) + 1, to_a.shape[2], dtype=torch.float64)
    for axis in (0, 1):  # the waves of a, and those of b
        squares = real_dft(to_a.mean(dim=1 - axis)).square() * g
        power.index_add_(0, component_frequencies(g), squares)
    best, frequency = power[1:].max(dim=0)
    total = to_a.square().sum(dim=(0, 1))
    explained = _share(best, total)
    frequency = torch.where(total > 1e-24, frequency + 1, 0)
    return AttentionByToken(grid.permute(2, 3, 0, 1), score.T, one_token, frequency, explained)


def _share(part: Tensor, total: Tensor) -> Tensor:
    """`part / total`; 0 where nothing varies."""
    return torch.where(total > 1e-24, part / total.clamp_min(1e-300), 0.0)
