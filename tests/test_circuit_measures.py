"""Formula, guarantee, spectra, symmetry and sparsity: a circuit written down by hand, and published networks."""

import math
import random
from functools import cache

import pytest
import torch
from hand_built import (
    KEYS,
    PER_KEY,
    P,
    clock_weights,
    memorizer_weights,
    random_weights,
    shuffled,
    snapshot_of,
    split_task,
)

import grokinterp as gi
from grokinterp.errors import MissingNeedError
from grokinterp.measures import (
    Snapshot,
    circuit_verdict,
    circularity,
    distance_irrelevance,
    formula_fit,
    gini,
    gini_unembedding,
    gradient_symmetricity,
    guaranteed_share,
    inverse_participation_ratios,
    key_frequencies,
    logit_spectra,
    mean_ipr,
    neuron_spectra,
    spectrum_shares,
)
from grokinterp.measures.formula import _formula_table, guaranteed_pairs
from grokinterp.tasks import Task

HE = "he/p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"
SOURCES = {
    "pizza A": "pizza/model_p99zdpze5l.pt",
    "clock B": "pizza/model_l8k1hzciux.pt",
    "linear B": "pizza/model_p71frej8t7.pt",
    "C113_T_seed1": "chughtai/C113_T_seed1",
    "C113_T_seed2": "chughtai/C113_T_seed2",
    "C118_T_seed1": "chughtai/C118_T_seed1",
    "C113_MLP_seed1": "chughtai/C113_MLP_seed1",
    "nanda": "nanda/low_precision_mod_addition.pth",
    "he": HE,
}


@pytest.fixture(scope="module")
def published(public_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")

    @cache
    def last(name):
        return gi.import_run(public_data / SOURCES[name], folder / name.replace(" ", "_")).snapshot("last")

    return last


@pytest.fixture(params=["as written", "shuffled"])
def clock(request) -> Snapshot:
    weights = clock_weights(amplitude=1.5)
    return snapshot_of(shuffled(weights) if request.param == "shuffled" else weights)


class TestFormula:
    def test_the_circuit_written_by_hand(self, clock):
        fit = formula_fit(clock, KEYS)
        expected = 1.5**2 * PER_KEY / 2
        torch.testing.assert_close(fit.amplitude, torch.full((3,), expected).double(), rtol=1e-6, atol=0)
        assert fit.phase.abs().max() < 1e-6
        assert (fit.accuracy, round(fit.explained, 6)) == (1.0, 1.0)
        curve = [sum(expected * math.cos(2 * math.pi * k * d / P) for k in KEYS) for d in range(P)]
        assert fit.margin == pytest.approx(curve[0] - max(curve[1:]), rel=1e-6)
        assert guaranteed_share(clock, KEYS) == guaranteed_share(clock, KEYS, by_norm=True) == 1.0

    def test_least_squares_by_a_library(self):
        """On random logits, with a sine for each cosine."""
        generator = torch.Generator().manual_seed(0)
        p, keys = 7, (1, 3)
        logits = torch.randn(p, p, p, generator=generator, dtype=torch.float64)
        a, b, c = torch.meshgrid(*[torch.arange(p)] * 3, indexing="ij")
        angle = [2 * math.pi * k * (a + b - c).double() / p for k in keys]
        columns = torch.stack([wave(x).flatten() for x in angle for wave in (torch.cos, torch.sin)], dim=1)
        centered = (logits - logits.mean(dim=2, keepdim=True)).flatten()
        solution = torch.linalg.lstsq(columns, centered[:, None]).solution[:, 0]
        fit = formula_fit(Snapshot.from_logits(Task.modular_addition(p), logits), keys)
        torch.testing.assert_close(fit.amplitude, torch.hypot(solution[0::2], solution[1::2]))
        torch.testing.assert_close(fit.phase, torch.atan2(solution[1::2], solution[0::2]))
        assert fit.explained == pytest.approx(
            1 - ((centered - columns @ solution) ** 2).sum() / centered.square().sum()
        )

    def test_without_keys(self):
        snapshot = snapshot_of(clock_weights())
        assert "no key frequencies" in repr(formula_fit(snapshot, ()).explained)
        assert "no key frequencies" in repr(guaranteed_share(snapshot, ()))

    def test_only_a_small_rest_is_guaranteed(self):
        task = split_task()
        noise = torch.randn(P * P, P, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        logits = snapshot_of(clock_weights()).logits
        shares = [
            guaranteed_share(Snapshot.from_logits(task, logits + size * noise), KEYS) for size in (0.1, 3.0, 30.0)
        ]
        bounds = [
            guaranteed_share(Snapshot.from_logits(task, logits + size * noise), KEYS, by_norm=True)
            for size in (0.1, 3.0, 30.0)
        ]
        assert shares[0] == 1.0 > shares[1] > shares[2] == 0.0
        assert all(bound <= share for bound, share in zip(bounds, shares, strict=True))
        assert bounds[0] > 0.9


def guaranteed_wrong(snapshot, keys, formula) -> int:
    """How many guaranteed pairs the network answers wrong."""
    guaranteed = guaranteed_pairs(snapshot, _formula_table(snapshot, keys, formula))
    rows = snapshot.pair_grid.indices.flatten()
    assert guaranteed.double().mean().item() == guaranteed_share(snapshot, keys, formula=formula)
    return int((snapshot.logits[rows].argmax(dim=1) != snapshot.task.labels[rows])[guaranteed].sum())


@pytest.mark.parametrize("formula", ["cosines", "projection"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_guaranteed_pair_is_answered_right(published, name, formula):
    snapshot = published(name)
    keys = key_frequencies(snapshot).values
    assert guaranteed_wrong(snapshot, keys, formula) == 0
    share = guaranteed_share(snapshot, keys, formula=formula)
    assert guaranteed_share(snapshot, keys, formula=formula, by_norm=True) <= share


@pytest.mark.parametrize("formula", ["cosines", "projection"])
def test_every_guaranteed_pair_of_run42_is_answered_right(formula):
    run = gi.load("checkpoints/run42")
    found = [guaranteed_wrong(run.snapshot(step), (8, 14, 21), formula) for step in run.steps[:: len(run.steps) // 12]]
    assert found == [0] * len(found)


class TestSpectra:
    def test_the_circuit_written_by_hand(self, clock):
        logits, neurons = logit_spectra(clock), neuron_spectra(clock)
        for share in (logits.diagonal, logits.sum_class, logits.symmetric):
            torch.testing.assert_close(share, torch.ones(P).double(), rtol=1e-6, atol=0)
        # (cos x + cos y)^2 = 1 + cos 2x / 2 + cos 2y / 2 + cos(x + y) + cos(x - y): 1/8 + 1/8 + 1/2 + 1/2 of variance
        torch.testing.assert_close(neurons.diagonal, torch.full_like(neurons.diagonal, 0.8), rtol=1e-6, atol=0)
        torch.testing.assert_close(neurons.axes, torch.full_like(neurons.axes, 0.2), rtol=1e-6, atol=0)
        torch.testing.assert_close(neurons.sum_class, torch.full_like(neurons.axes, 0.4), rtol=1e-6, atol=0)
        assert neurons.off.abs().max() < 1e-6
        on = {(k, k) for k in KEYS}
        assert {tuple(place) for place in (logits.power > 1e-6 * logits.power.max()).nonzero().tolist()} == on

    def test_against_a_library(self):
        """Power by frequency from the complex transform, for neurons of random weights and an even modulus."""
        p = 6
        task = Task.modular_addition(p, 0.5, equals_token=False)
        values = torch.randn(p * p, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        activity = gi.measures.Activity(values)
        spectra = neuron_spectra(Snapshot(task, torch.zeros(p * p, p).double(), activity=lambda: activity))
        power = torch.fft.fft2(values.view(p, p, 3), dim=(0, 1)).abs().square() / p**2
        power[0, 0] = 0
        folded = torch.zeros(p // 2 + 1, p // 2 + 1, 3, dtype=torch.float64)
        for i in range(p):
            for j in range(p):
                folded[min(i, p - i), min(j, p - j)] += power[i, j]
        torch.testing.assert_close(spectra.power, folded.sum(dim=2))
        total = folded.sum(dim=(0, 1))
        torch.testing.assert_close(spectra.total, total)
        torch.testing.assert_close(spectra.diagonal, sum(folded[k, k] for k in (1, 2, 3)) / total)
        torch.testing.assert_close(spectra.axes, (folded[0].sum(dim=0) + folded[:, 0].sum(dim=0)) / total)
        table = values.view(p, p, 3)
        table = table - table.mean(dim=(0, 1))
        symmetric = ((table + table.transpose(0, 1)) / 2).square().sum(dim=(0, 1)) / total
        torch.testing.assert_close(spectra.symmetric, symmetric)

    def test_a_memorizer_depends_on_more_than_the_sum(self):
        task = split_task()
        memorizer = snapshot_of(memorizer_weights(task), task, activation="relu")
        assert spectrum_shares(memorizer, part="sum_class") < 0.5
        assert spectrum_shares(snapshot_of(random_weights(), task, activation="relu"), part="sum_class") < 0.2


# gradient symmetricity, distance irrelevance, circularity, verdict
ZHONG = {
    "pizza A": (0.9937, 0.1717, 0.9978, "pizza"),
    "clock B": (0.3336, 0.8483, 0.9989, "clock"),
    "linear B": (1.0, 0.2302, 0.9950, "pizza"),
}


class TestSymmetry:
    @pytest.mark.parametrize("name", ZHONG)
    def test_published_values(self, published, name):
        snapshot, (symmetricity, irrelevance, circular, verdict) = published(name), ZHONG[name]
        assert gradient_symmetricity(snapshot) == pytest.approx(symmetricity, abs=0.005)
        assert distance_irrelevance(snapshot) == pytest.approx(irrelevance, abs=0.005)
        assert circularity(snapshot) == pytest.approx(circular, abs=0.001)
        found = circuit_verdict(snapshot)
        assert found.circuit == verdict
        assert ("gradient symmetricity cannot tell" in found.reason) == (name == "linear B")

    def test_a_slow_reference_for_gradients(self, published):
        """One triple at a time, through the module and its hooks."""
        snapshot = published("clock B")
        p = snapshot.task.p
        triples = [(a, b, c) for a in range(p) for b in range(p) for c in range(p)]
        random.Random(42).shuffle(triples)
        weights = {name: weight.double() for name, weight in snapshot.weights.items()}
        W_E, W_pos = weights["embed.W_E"], weights["pos_embed.W_pos"]
        cosines = []
        for a, b, c in triples[:100]:
            rows = torch.stack([W_E[a], W_E[b]]).requires_grad_()
            x = rows + W_pos
            part = {name.removeprefix("blocks.0."): w for name, w in weights.items() if name.startswith("blocks.0.")}
            q, k, v = (
                torch.einsum("td,hde->the", x, part[f"attn.W_{kind}"]) + part[f"attn.b_{kind}"] for kind in "QKV"
            )
            shares = (torch.einsum("he,the->ht", q[-1], k) / math.sqrt(q.shape[-1])).softmax(dim=1)
            z = torch.einsum("ht,the->he", shares, v)
            mid = x[-1] + torch.einsum("he,hed->d", z, part["attn.W_O"]) + part["attn.b_O"]
            hidden = (mid @ part["mlp.W_in"] + part["mlp.b_in"]).relu()
            out = mid + hidden @ part["mlp.W_out"] + part["mlp.b_out"]
            logit = (out @ weights["unembed.W_U"] + weights["unembed.b_U"])[c]
            gradient = torch.autograd.grad(logit, rows)[0]
            cosines.append(torch.cosine_similarity(gradient[0], gradient[1], dim=0))
        assert gradient_symmetricity(snapshot) == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-9)

    def test_the_circuit_written_by_hand(self, clock):
        """Its correct logits are all the same; each operand enters the neurons with its own phase."""
        assert "all correct logits are equal" in repr(distance_irrelevance(clock))
        assert abs(gradient_symmetricity(clock)) < 0.6

    def test_no_circuit_without_generalization(self):
        task = split_task()
        for weights in (memorizer_weights(task), random_weights()):
            found = circuit_verdict(snapshot_of(weights, task, activation="relu"))
            assert found.circuit == "neither"
            assert "of the pairs that it was not trained on" in found.reason

    def test_an_even_modulus_has_no_distance_irrelevance(self, published):
        assert "even" in repr(distance_irrelevance(published("C118_T_seed1")))
        assert circuit_verdict(published("C118_T_seed1")).circuit == "neither"

    def test_a_model_of_ones_own(self):
        snapshot = Snapshot.from_logits(split_task(), torch.zeros(P * P, P))
        with pytest.raises(MissingNeedError, match="only models of a known architecture have"):
            circuit_verdict(snapshot)


class TestSparsity:
    def test_the_circuit_written_by_hand(self, clock):
        torch.testing.assert_close(inverse_participation_ratios(clock), torch.ones(27).double(), rtol=1e-6, atol=0)
        assert mean_ipr(clock) == pytest.approx(1.0)
        # three frequencies of two components each have all the norm, equally
        assert gini_unembedding(clock) == pytest.approx(1 - 6 / P, abs=1e-6)
        assert gini(torch.tensor([1.0] * 6 + [0.0] * (P - 6))) == pytest.approx(1 - 6 / P)

    def test_random_weights(self):
        assert mean_ipr(snapshot_of(random_weights(), activation="relu")) < 0.35
