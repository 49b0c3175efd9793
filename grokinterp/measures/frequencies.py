"""Key frequencies: the frequencies that carry the generalizing circuit, by four rules."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError, nearest
from grokinterp.measures.base import KeyFrequencies, Rule
from grokinterp.measures.circuit import centred_norm, cosine_fit
from grokinterp.measures.fourier import component_frequencies, component_norms, frequency_power
from grokinterp.measures.neurons import neuron_frequencies
from grokinterp.measures.snapshot import Snapshot
from grokinterp.measures.spectrum import embedding_table, neuron_logit_table

RULES: tuple[str, ...] = tuple(rule for rule in get_args(Rule) if rule != "given")

_Found = tuple[dict[int, float], float, str]  # strength by frequency, threshold, reason where there are none


def evaluation_pairs(snapshot: Snapshot) -> Bool[Tensor, " n"]:
    """The pairs that say whether a model generalizes: held-out ones if there are at least 2p of them, else all.

    Held-out means novel where the operation commutes: a nearly symmetric model answers mirrored pairs by memory.
    """
    if snapshot.task.sum_class is None:
        return torch.ones(len(snapshot.logits), dtype=torch.bool)
    return snapshot.inside(_evaluation_kind(snapshot))


def _evaluation_kind(snapshot: Snapshot) -> Literal["all", "held_out"]:
    enough = 2 * snapshot.task.p
    known = snapshot.task.held_out_mask is not None
    return "held_out" if known and int(snapshot.inside("held_out").sum()) >= enough else "all"


def require_rule(rule: str) -> None:
    """Refuses a rule that does not exist, with the nearest that does."""
    if rule not in RULES:
        raise ConfigError(f"rule {rule!r} is not known: {nearest(rule, RULES)}")


def key_frequencies(snapshot: Snapshot, rule: Rule = "cube_cosine") -> KeyFrequencies:
    """The key frequencies of one checkpoint; there may be none, and then the result says why.

    Args:
        snapshot: the checkpoint, of a task with a cyclic group behind it.
        rule: `cube_cosine` (default): the class-centred logits of pairs the model has not seen resemble
            cos w_k(a+b-c), by more than 0.05 and five times their resemblance to sines (where there are too few unseen
            pairs, or it is not known which they are, all pairs are used, and as long as fewer than 90 % of what is
            held out is right the median over k is taken off, since memorized pairs raise every k alike).
            `neuron_clusters`: at least
            two neurons with 85 % of their variance on k. `embedding_norm`: a Fourier component of the embedding above
            a quarter of the largest (over-reports doubles). `unembedding_power`: at least 5 % of the neuron-logit
            map's power.

    Raises:
        ConfigError: no rule of that name.
        MissingNeedError: the rule needs a group, weights or neurons that are not there.
    """
    require_rule(rule)
    no_group = snapshot.lacks("grid")
    if no_group is not None:
        raise MissingNeedError("key_frequencies", "grid", no_group)
    found, threshold, reason = _BY_RULE[rule](snapshot)
    group = snapshot.task.group
    assert group is not None
    doubles = {k: min(2 * k % group.order, -2 * k % group.order) for k in found}
    harmonics = tuple((d, k) for k, d in doubles.items() if d in found and d != k and found[d] < found[k])
    values = tuple(sorted(found))
    if not values and not reason:
        reason = "no frequency stands out"
    return KeyFrequencies(values, rule, threshold, snapshot.step, tuple(sorted(harmonics)), reason)


def _cube_cosine(snapshot: Snapshot) -> _Found:
    task = snapshot.task
    group, sums = task.group, task.sum_class
    assert group is not None
    assert sums is not None
    kind = _evaluation_kind(snapshot)
    pairs = snapshot.inside(kind)
    if not snapshot.finite:
        return {}, 0.05, "the logits are not finite"
    if centred_norm(snapshot, kind) <= 1e-12 * max(snapshot.logits[pairs].norm().item(), 1e-300):
        return {}, 0.05, "constant logits"
    fit = cosine_fit(snapshot, kind)
    strength = fit.cosine
    trained_among = task.train_mask is None or bool((task.train_mask & pairs).any())
    if trained_among and len(strength) >= 8:
        unseen = (sums >= 0) & (torch.ones_like(pairs) if task.test_mask is None else task.test_mask)
        if snapshot.hits[unseen].mean() < 0.9:  # memorized pairs among them raise every frequency alike
            strength = strength - strength.quantile(0.5)
    noise = fit.sine[fit.has_sine].square().mean().sqrt().item() if fit.has_sine.any() else 0.0
    threshold = max(0.05, 5 * noise)
    return {k: s for k, s in enumerate(strength.tolist(), start=1) if s > threshold}, threshold, ""


def _require(snapshot: Snapshot, need: str, rule: Rule) -> None:
    reason = snapshot.lacks(need)
    if reason is not None:
        raise MissingNeedError(f"the rule {rule} for key frequencies", need, reason)


def _neuron_clusters(snapshot: Snapshot) -> _Found:
    _require(snapshot, "neurons", "neuron_clusters")
    clusters = neuron_frequencies(snapshot).clusters(0.85)
    return {k: float(size) for k, size in clusters.items() if size >= 2}, 0.85, ""


def _embedding_norm(snapshot: Snapshot) -> _Found:
    _require(snapshot, "weights", "embedding_norm")
    norms = component_norms(embedding_table(snapshot))
    threshold = norms.max().item() / 4
    found: dict[int, float] = {}
    for k, norm in zip(component_frequencies(len(norms)).tolist(), norms.tolist(), strict=True):
        if k > 0 and norm > threshold:
            found[k] = max(norm, found.get(k, 0.0))
    return found, threshold, ""


def _unembedding_power(snapshot: Snapshot) -> _Found:
    _require(snapshot, "neurons", "unembedding_power")
    power = frequency_power(neuron_logit_table(snapshot))
    total = power.sum().item()
    if total <= 0:
        return {}, 0.05, "the neuron-logit map is zero"
    return {k: s / total for k, s in enumerate(power.tolist(), start=1) if s >= 0.05 * total}, 0.05, ""


_BY_RULE: dict[str, Callable[[Snapshot], _Found]] = {
    "cube_cosine": _cube_cosine,
    "neuron_clusters": _neuron_clusters,
    "embedding_norm": _embedding_norm,
    "unembedding_power": _unembedding_power,
}
