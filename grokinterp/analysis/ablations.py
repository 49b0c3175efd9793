"""What a network depends on: its loss and accuracy after a part of it has been removed or simplified.

Frequencies are removed from the embedding, from the neurons, or from the logits; heads, attention, MLP, and clusters of
neurons are set to zero or to their mean over inputs. Neurons and weights are changed on the fast forward pass,
attention through the hooks of the module.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.config import MLPConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.measures import Snapshot, key_frequencies, neuron_frequencies
from grokinterp.measures.base import as_frequencies
from grokinterp.measures.fourier import fourier_basis, frequency_parts
from grokinterp.models.modules import Transformer
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.run import Run
from grokinterp.tasks import Task

Weights = Mapping[str, Tensor]
_SUBSETS = ("train", "mirror", "novel")
_CLUSTERED = 0.85  # share of a neuron's variance at its frequency


@dataclass(frozen=True)
class Ablation:
    """A changed network.

    Attributes:
        part: what was changed.
        change: how.
        logits: `[n, c]`, of all inputs.
    """

    part: str
    change: str
    logits: Float[Tensor, "n c"]


def ablation_table(
    run: Run | str | Path, step: int | str = "last", frequencies: Sequence[int] | None = None
) -> pd.DataFrame:
    """Loss and accuracy of one checkpoint after each ablation.

    >>> table = ablation_table("checkpoints/run42")
    >>> loss = table["novel_loss"]
    >>> bool(loss["embedding", "without 14"] > 100 * loss["network", "as it is"])
    True

    Frequencies are removed from the embedding (over the numbers), from the neurons (the products of 1, cos w_k and
    sin w_k of a and of b, except the constant), and from the logits (cos and sin w_k(a+b)). Where frequencies are kept,
    so is the constant. `degree-2 fit` keeps of each neuron only its own frequency and the constant. Means are over all
    inputs, at each position.

    Args:
        run: the run, or its folder.
        step: the step of the checkpoint, or `last`.
        frequencies: the key frequencies (default: those of this checkpoint by the rule cube_cosine).

    Returns:
        A row for each ablation, indexed by part and change, with loss (in nats) and accuracy on training pairs, on
        mirrored pairs and on novel pairs; on all pairs if the split is unknown.

    Raises:
        ConfigError: the model is one of your own, the task has no cyclic group, or a frequency is out of range.
        RunError: there is no checkpoint at this step.

    Source:
        Nanda et al. 2023, section 4.4 and appendix C.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    task = run.classification
    if run.own_model is not None or not isinstance(run.config.model, TransformerConfig | MLPConfig):
        raise ConfigError(f"{run.path}: ablations need a model of known architecture")
    if task.group is None:
        raise ConfigError(f"{run.path}: ablations remove frequencies, but {task.why_no_group}")
    snapshot = run.snapshot(run.steps[-1] if step == "last" else step, neurons=True)  # pyright: ignore[reportArgumentType]
    keys = key_frequencies(snapshot).values if frequencies is None else as_frequencies(frequencies, task.group.order)
    rows = {(found.part, found.change): _scores(task, found.logits) for found in ablations(run, snapshot, keys)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=["part", "change"])


def _scores(task: Task, logits: Tensor) -> dict[str, float]:
    snapshot = Snapshot.from_logits(task, logits)
    known = task.train_mask is not None
    scores: dict[str, float] = {}
    for subset in _SUBSETS if known else ("all",):
        mask = torch.ones(len(logits), dtype=torch.bool) if subset == "all" else getattr(task, f"{subset}_mask")
        if mask is not None and mask.any():
            scores[f"{subset}_loss"] = snapshot.losses[mask].mean().item()
            scores[f"{subset}_accuracy"] = snapshot.hits[mask].mean().item()
    return scores


def ablations(run: Run, snapshot: Snapshot, keys: Sequence[int]) -> Iterator[Ablation]:
    """Every ablation of a checkpoint, the unchanged network first.

    Args:
        run: gives the architecture.
        snapshot: the checkpoint, with weights.
        keys: the key frequencies.
    """
    yield Ablation("network", "as it is", snapshot.logits)
    yield from _of_embedding(run, snapshot, keys)
    yield from _of_neurons(run, snapshot, keys)
    yield from _of_logits(snapshot, keys)
    if isinstance(run.config.model, TransformerConfig):
        yield from _of_attention(run, snapshot)


def _choices(keys: Sequence[int], order: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Which frequencies to remove, or (True) to keep, with the name of the change."""
    for k in keys:
        yield f"without {k}", (k,), False
    if keys:
        others = torch.tensor([k for k in range(1, order // 2 + 1) if k not in keys])
        drawn = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))][: len(keys)]
        yield f"without {_listed(keys)}", tuple(keys), False
        yield f"without others ({_listed(sorted(drawn.tolist()))})", tuple(drawn.tolist()), False
        yield f"only {_listed(keys)}", tuple(keys), True


def _listed(keys: Sequence[int]) -> str:
    return ", ".join(map(str, keys))


def _basis(order: int, frequencies: Sequence[int], constant: bool) -> Float[Tensor, "x g"]:
    """The rows of the Fourier basis at some frequencies, with or without the constant."""
    rows = [0] if constant else []
    rows += [row for k in frequencies for row in (2 * k - 1, 2 * k) if row < order]
    return fourier_basis(order)[rows]


def _of_embedding(run: Run, snapshot: Snapshot, keys: Sequence[int]) -> Iterator[Ablation]:
    order, left, right = snapshot.pair_grid.order, snapshot.pair_grid.group.left, snapshot.pair_grid.group.right
    for change, frequencies, keep in _choices(keys, order):
        basis = _basis(order, frequencies, constant=keep)

        def filtered(table: Tensor, numbers: Int[Tensor, " g"], basis: Tensor = basis, keep: bool = keep) -> Tensor:
            rows = table[numbers].double()
            part = basis.T @ (basis @ rows)
            changed = table.clone()
            changed[numbers] = (part if keep else rows - part).to(table.dtype)
            return changed

        yield Ablation("embedding", change, _logits(run, _with_embedding(run, snapshot, filtered, left, right)))


def _with_embedding(
    run: Run, snapshot: Snapshot, change: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor
) -> dict[str, Tensor]:
    """The weights with changed tables of embeddings; of one-hot inputs, with changed rows of the first matrix."""
    weights, config = dict(snapshot.weights or {}), run.config.model
    if isinstance(config, MLPConfig) and config.input in ("one_hot", "one_hot_sum"):
        parts = weights["layers.0.W"].split(snapshot.task.p)
        orders = (left, right)[: len(parts)]
        changed = [change(part, order) for part, order in zip(parts, orders, strict=True)]
        return {**weights, "layers.0.W": torch.cat(changed)}
    for name, order in (("embed.W_E", left), ("embed_a.W_E", left), ("embed_b.W_E", right)):
        if name in weights:
            weights[name] = change(weights[name], order)
    return weights


def _logits(run: Run, weights: Weights, replace: Callable[[Tensor], Tensor] | None = None) -> Float[Tensor, "n c"]:
    """The logits, with the last layer's neurons replaced if a function of them is given."""
    task, name = run.classification, f"{run.forward.last_neurons}.hook_post"

    def hook(at: str, value: Tensor) -> Tensor:
        return replace(value) if replace is not None and at == name else value

    with torch.no_grad():
        return run.forward.logits(weights, task.tokens, hook=hook)[:, : task.n_classes].double()


def _of_neurons(run: Run, snapshot: Snapshot, keys: Sequence[int]) -> Iterator[Ablation]:
    if snapshot.neurons is None or getattr(run.config.model, "readout", "last") == "mean":
        return
    weights, order, indices = snapshot.weights or {}, snapshot.pair_grid.order, snapshot.pair_grid.indices
    neurons = snapshot.neurons
    grid = neurons[indices].double()
    mean = grid.mean(dim=(0, 1))
    found = neuron_frequencies(snapshot)

    def part(frequencies: Sequence[int], columns: Tensor | None = None) -> Tensor:
        """The terms of some frequencies, each with itself and the constant, without the constant's own."""
        table = grid - mean if columns is None else (grid - mean)[..., columns]
        total = torch.zeros_like(table)
        for k in frequencies:
            basis = _basis(order, (k,), constant=True)
            projection = basis.T @ basis
            total += torch.einsum("ia,abm,bj->ijm", projection, table, projection)
        return total

    def replaced(changed: Tensor) -> Callable[[Tensor], Tensor]:
        def replace(value: Tensor) -> Tensor:
            value = value.clone()
            value[indices.flatten()] = changed.flatten(0, 1).to(value.dtype)
            return value

        return replace

    for change, frequencies, keep in _choices(keys, order):
        terms = part(frequencies)
        yield Ablation("neurons", change, _logits(run, weights, replaced(mean + terms if keep else grid - terms)))
    fitted = mean.expand_as(grid).clone()
    for k in found.frequency.unique().tolist():
        columns = (found.frequency == k).nonzero().flatten()
        fitted[..., columns] += part((k,), columns) if k else 0.0
    yield Ablation("neurons", "degree-2 fit", _logits(run, weights, replaced(fitted)))
    for k in keys:
        cluster = (found.frequency == k) & (found.explained >= _CLUSTERED)
        if cluster.any():
            for change, value in (("zero", torch.zeros_like(mean)), ("mean", neurons.double().mean(dim=0))):
                changed = torch.where(cluster, value, grid)
                yield Ablation(
                    f"cluster {k} ({int(cluster.sum())} neurons)", change, _logits(run, weights, replaced(changed))
                )
    for change, value in (("zero", torch.zeros_like(mean)), ("mean", neurons.double().mean(dim=0))):
        yield Ablation("all neurons", change, _logits(run, weights, replaced(value.expand_as(grid))))


def _of_logits(snapshot: Snapshot, keys: Sequence[int]) -> Iterator[Ablation]:
    grid, averages = snapshot.pair_grid, snapshot.logit_averages
    inside = grid.sums >= 0
    for change, frequencies, keep in _choices(keys, grid.order):
        part = frequency_parts(averages, frequencies).sum(dim=0)
        logits = snapshot.logits.clone()
        of_pairs = part[grid.sums[inside]]
        logits[inside] = of_pairs + averages.mean(dim=0) if keep else logits[inside] - of_pairs
        yield Ablation("logits", change, logits)


def _of_attention(run: Run, snapshot: Snapshot) -> Iterator[Ablation]:
    """Heads, attention and MLP of each layer, through the module's hooks."""
    config: Any = run.config.model
    task = run.classification
    module: Any = Transformer(config, parameter_shapes(config, task.config))
    module.load_state_dict(dict(snapshot.weights or {}))
    for layer in range(config.n_layers):
        block, layer_name = f"blocks.{layer}.", f" of layer {layer}" if config.n_layers > 1 else ""
        parts = [(f"head {h}{layer_name}", f"{block}attn.hook_z", h) for h in range(config.n_heads)]
        parts += [(f"attention{layer_name}", f"{block}hook_attn_out", None)]
        parts += [(f"MLP{layer_name}", f"{block}hook_mlp_out", None)] if layer < config.n_layers - 1 else []
        for part, name, head in parts:
            for change in ("zero", "mean"):
                logits = with_hook(module, task.tokens, name, _ablated(change, head))
                yield Ablation(part, change, logits[:, -1, : task.n_classes].double())


def _ablated(change: str, head: int | None) -> Callable[[Tensor], Tensor]:
    def replace(value: Tensor) -> Tensor:
        value = value.clone()
        place = (slice(None), slice(None), *(() if head is None else (head,)))
        value[place] = 0.0 if change == "zero" else value[place].mean(dim=0, keepdim=True)
        return value

    return replace


def with_hook(module: Any, tokens: Tensor, name: str, replace: Callable[[Tensor], Tensor]) -> Tensor:
    """The module's output with one activation replaced; its hooks are afterwards as before, even after an error."""
    with torch.no_grad(), module.hooks(fwd_hooks=[(name, lambda value, hook: replace(value))]):
        return module(tokens)
