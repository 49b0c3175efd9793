"""Linear probes: whether a + b can be read off from activations by one matrix, on pairs that the matrix never saw."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures.base import require_snapshot
from grokinterp.measures.fourier import angles, n_frequencies
from grokinterp.measures.snapshot import Snapshot

Point = Literal["pre_activations", "neurons"]


@dataclass(frozen=True)
class LinearProbe:
    """What a linear probe reads on held-out pairs.

    >>> LinearProbe(0.99, 0.01, torch.tensor([0.9]), torch.tensor([0.0])).accuracy
    0.99

    Attributes:
        accuracy: the share of held-out pairs whose class the probe names.
        control: the same for a probe trained on shuffled labels: the level of chance.
        explained: `[k]`, R^2 of cos w_k(a+b) and sin w_k(a+b) together, on held-out pairs, for k = 1, 2, ...; below 0
            if the mean is a better guess.
        explained_control: `[k]`, the same for a probe trained on shuffled pairs.
    """

    accuracy: float
    control: float
    explained: Float[Tensor, " k"]
    explained_control: Float[Tensor, " k"]


def linear_probe(
    snapshot: Snapshot, at: Point | Float[Tensor, "n d"] = "neurons", *, penalty: float = 1e-3
) -> LinearProbe:
    """Trains a linear probe for a + b on the training pairs by ridge regression, and tests it on held-out pairs.

    Activations are centered; the penalty is relative to their mean variance. Classes are one-hot, and the largest
    output counts. In the control, the training pairs' targets are shuffled.

    >>> import grokinterp as gi
    >>> probe = linear_probe(gi.load("checkpoints/run42").snapshot("last"))
    >>> probe.accuracy > 0.5, probe.control < 0.1
    (True, True)

    Args:
        snapshot: a checkpoint with a known split, of a task with a cyclic group.
        at: `neurons` or `pre_activations` of the last layer, or activations of your own, a row for each input, such as
            a hook gives them.
        penalty: weight of the squared norm of the probe.

    Raises:
        MissingNeedError: the split is unknown, the task has no cyclic group, or the snapshot lacks these activations.
        ConfigError: the activations have another shape, or the penalty is not positive.

    Source:
        Alain and Bengio 2016 (arXiv:1610.01644); the control is that of Hewitt and Liang 2019 (arXiv:1909.03368).
    """
    require_snapshot(snapshot, "linear_probe")
    snapshot.require("linear_probe", "grid", "split")
    if not penalty > 0:
        raise ConfigError(f"penalty must be positive, but is {penalty}")
    features = _features(snapshot, at).double()
    if features.ndim != 2 or len(features) != len(snapshot.logits):
        raise ConfigError(f"activations must have shape [{len(snapshot.logits)}, d], but have {list(features.shape)}")
    train, test = snapshot.grid_mask("train"), snapshot.grid_mask("held_out")
    if not test.any():
        raise MissingNeedError("linear_probe", "split", "no pair is held out")
    sums, g = snapshot.pair_grid.sums, snapshot.pair_grid.order
    waves = angles(g, range(1, n_frequencies(g) + 1))[:, sums.clamp_min(0)]
    targets = torch.cat(
        [torch.nn.functional.one_hot(sums.clamp_min(0), g).double(), waves.cos().T, waves.sin().T], dim=1
    )
    shuffled = torch.randperm(int(train.sum()), generator=torch.Generator().manual_seed(0))
    found = []
    for order in (torch.arange(len(shuffled)), shuffled):
        read = _ridge(features[train], targets[train][order], features[test], penalty)
        accuracy = (read[:, :g].argmax(dim=1) == sums[test]).double().mean().item()
        found.append((accuracy, _explained(read[:, g:], targets[test][:, g:])))
    return LinearProbe(found[0][0], found[1][0], found[0][1], found[1][1])


def _features(snapshot: Snapshot, at: Point | Tensor) -> Tensor:
    if isinstance(at, Tensor):
        return at
    if at not in ("pre_activations", "neurons"):
        raise ConfigError(f"at must be neurons, pre_activations, or a tensor, but is {at!r}")
    snapshot.require("linear_probe", at)
    before = snapshot.pre_activations
    return snapshot.activations.neurons if at == "neurons" or before is None else before.values


def _ridge(
    train: Float[Tensor, "m d"], targets: Float[Tensor, "m x"], test: Float[Tensor, "n d"], penalty: float
) -> Float[Tensor, "n x"]:
    """The predictions for the rows of `test`."""
    center, offset = train.mean(dim=0), targets.mean(dim=0)
    x = train - center
    gram = x.T @ x
    level = penalty * gram.diagonal().mean().clamp_min(1e-300)
    matrix = torch.linalg.solve(gram + level * torch.eye(len(gram), dtype=gram.dtype), x.T @ (targets - offset))
    return (test - center) @ matrix + offset


def _explained(read: Float[Tensor, "n x"], true: Float[Tensor, "n x"]) -> Float[Tensor, " k"]:
    """R^2 of each frequency: cosines are the first half of the columns, sines the second."""
    left = (read - true).square().sum(dim=0)
    total = (true - true.mean(dim=0)).square().sum(dim=0)
    return 1 - left.view(2, -1).sum(dim=0) / total.view(2, -1).sum(dim=0).clamp_min(1e-300)
