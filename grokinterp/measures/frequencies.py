"""Key frequencies: the frequencies that carry the generalizing circuit, selected by one of four rules."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from grokinterp.errors import ConfigError, nearest
from grokinterp.measures.base import KeyFrequencies, Rule, require_snapshot
from grokinterp.measures.circuit import centered_norm, cosine_fit
from grokinterp.measures.fourier import component_frequencies, component_norms, frequency_power
from grokinterp.measures.neurons import neuron_frequencies
from grokinterp.measures.snapshot import Snapshot
from grokinterp.measures.spectrum import embedding_table, neuron_logit_table

RULES: tuple[str, ...] = tuple(rule for rule in get_args(Rule) if rule != "given")
"""The rules by which `key_frequencies` can select frequencies."""

_Selection = tuple[dict[int, float], float, str]  # strength of each key frequency, threshold, reason if there are none


def evaluation_pairs(snapshot: Snapshot) -> Bool[Tensor, " n"]:
    """The pairs that tell whether a model generalizes: the held-out pairs if there are at least 2p, else all pairs.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> int(evaluation_pairs(snapshot).sum()) == int(snapshot.task.novel_mask.sum())
    True

    For a commutative operation the held-out pairs are the novel ones, because a nearly symmetric model answers the
    mirror of a training pair from memory.

    Args:
        snapshot: the checkpoint.

    Returns:
        `[n]`, True for the evaluation pairs, all of which lie in the grid of the task's group. For a task without a
        group, True for every input.
    """
    require_snapshot(snapshot, "evaluation_pairs")
    if snapshot.task.group is None:
        return torch.ones(len(snapshot.logits), dtype=torch.bool)
    return snapshot.grid_mask(_evaluation_set(snapshot))


def _evaluation_set(snapshot: Snapshot) -> Literal["all", "held_out"]:
    if snapshot.task.held_out_mask is None:
        return "all"
    return "held_out" if int(snapshot.grid_mask("held_out").sum()) >= 2 * snapshot.task.p else "all"


def require_rule(rule: str) -> None:
    """Checks that a rule for key frequencies exists.

    Raises:
        ConfigError: it does not; the message suggests the nearest name.
    """
    if rule not in RULES:
        raise ConfigError(f"rule {rule!r} is not known: {nearest(rule, RULES)}")


def key_frequencies(snapshot: Snapshot, rule: Rule = "cube_cosine", threshold: float | None = None) -> KeyFrequencies:
    """Selects the key frequencies of one checkpoint: those that carry the generalizing circuit.

    >>> from grokinterp.tasks import Task
    >>> a, b, c = torch.meshgrid(*[torch.arange(31)] * 3, indexing="ij")
    >>> waves = torch.stack([torch.cos(2 * torch.pi * k * (a + b - c) / 31) for k in (3, 12)])
    >>> key_frequencies(Snapshot.from_logits(Task.modular_addition(p=31), 20 * waves.sum(dim=0))).values
    (3, 12)

    The rules:

    - `cube_cosine` (default): the cosine similarity of the class-centered logits with cos w_k(a+b-c) over the
      evaluation pairs exceeds 0.05 and five times the root mean square of the similarities with sin w_k(a+b-c). If the
      evaluation pairs include, or may include, training pairs and accuracy on held-out pairs (all pairs if the split is
      unknown) is below 0.9, the median similarity over k is subtracted first, provided there are at least 8
      frequencies: memorized pairs raise all frequencies alike.
    - `neuron_clusters`: at least two neurons have 85 % of their variance on k. It can miss a key frequency.
    - `embedding_norm`: a Fourier component of the embedding has more than a quarter of the largest norm. It
      over-reports, because doubles 2k of a key frequency show in the embedding.
    - `unembedding_power`: k has at least 5 % of the power of the neuron-logit map.

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        rule: name of the rule.
        threshold: another level for the rule than the one above: the similarity (`cube_cosine`), the share of a
            neuron's variance (`neuron_clusters`), the share of the largest norm (`embedding_norm`) or the share of the
            power (`unembedding_power`).

    Returns:
        The key frequencies with rule, threshold and step; if there are none, with the reason.

    Raises:
        ConfigError: no such rule, or the threshold does not lie between 0 and 1.
        MissingNeedError: the task has no cyclic group, or the snapshot lacks the weights or neurons of the rule.
    """
    require_rule(rule)
    require_snapshot(snapshot, "key_frequencies")
    select, default, needs = _BY_RULE[rule]
    level = default if threshold is None else threshold
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ConfigError(f"threshold must be a number between 0 and 1, but is {threshold!r}")
    snapshot.require("key_frequencies", "grid")
    snapshot.require(f"the rule {rule} for key frequencies", *needs)
    strengths, reached, reason = select(snapshot, float(level))
    order = snapshot.pair_grid.order
    doubles = {k: min(2 * k % order, -2 * k % order) for k in strengths}
    harmonics = sorted((d, k) for k, d in doubles.items() if d != k and strengths.get(d, math.inf) < strengths[k])
    values = tuple(sorted(strengths))
    reason = "" if values else reason or "no frequency stands out"
    return KeyFrequencies(values, rule, reached, snapshot.step, tuple(harmonics), reason)


def _cube_cosine(snapshot: Snapshot, level: float) -> _Selection:
    task = snapshot.task
    kind = _evaluation_set(snapshot)
    pairs = snapshot.grid_mask(kind)
    if not snapshot.finite:
        return {}, level, "the logits are not finite"
    if centered_norm(snapshot, kind) <= 1e-12 * max(snapshot.logits[pairs].norm().item(), 1e-300):
        return {}, level, "constant logits"
    fit = cosine_fit(snapshot, kind)
    similarities = fit.cosine
    may_include_trained = task.train_mask is None or bool((task.train_mask & pairs).any())
    if may_include_trained and len(similarities) >= 8:
        held_out = snapshot.grid_mask("held_out")  # every pair if the split is unknown
        unseen = held_out if held_out.any() else snapshot.grid_mask("all")
        if snapshot.hits[unseen].mean() < 0.9:  # memorized pairs raise the similarity of every frequency alike
            similarities = similarities - similarities.quantile(0.5)
    noise = fit.sine[fit.has_sine].square().mean().sqrt().item() if fit.has_sine.any() else 0.0
    threshold = max(level, 5 * noise)
    return {k: s for k, s in enumerate(similarities.tolist(), start=1) if s > threshold}, threshold, ""


def _neuron_clusters(snapshot: Snapshot, level: float) -> _Selection:
    clusters = neuron_frequencies(snapshot).clusters(level)
    return {k: float(size) for k, size in clusters.items() if size >= 2}, level, ""


def _embedding_norm(snapshot: Snapshot, level: float) -> _Selection:
    norms = component_norms(embedding_table(snapshot))
    threshold = norms.max().item() * level
    strengths: dict[int, float] = {}
    for k, norm in zip(component_frequencies(len(norms)).tolist(), norms.tolist(), strict=True):
        if k > 0 and norm > threshold:
            strengths[k] = max(norm, strengths.get(k, 0.0))
    return strengths, threshold, ""


def _unembedding_power(snapshot: Snapshot, level: float) -> _Selection:
    power = frequency_power(neuron_logit_table(snapshot))
    total = power.sum().item()
    if total <= 0:
        return {}, level, "the neuron-logit map is zero"
    return {k: s / total for k, s in enumerate(power.tolist(), start=1) if s >= level * total}, level, ""


# How each rule selects, its default threshold, and what it needs from a snapshot besides the grid.
_BY_RULE: dict[str, tuple[Callable[[Snapshot, float], _Selection], float, tuple[str, ...]]] = {
    "cube_cosine": (_cube_cosine, 0.05, ()),
    "neuron_clusters": (_neuron_clusters, 0.85, ("neurons",)),
    "embedding_norm": (_embedding_norm, 0.25, ("weights",)),
    "unembedding_power": (_unembedding_power, 0.05, ("neurons",)),
}
