"""Claims of Manir and Rupa 2026 about what is seen in the weights: their norm at T_grok, and their Fourier spectrum."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.general import DECAY
from grokinterp.experiments.claims.manir import SCALED_DOWN
from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim
from grokinterp.measures import Snapshot
from grokinterp.measures.fourier import component_frequencies, component_norms
from grokinterp.measures.spectrum import embedding_table

RMS, L2 = "weight_rms_at_T_grok", "weight_norm_at_T_grok"


def rms_at_grok(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether MLPs of width 512 grok at the printed root mean square.

    Args:
        table: rows of MLPs of depth 4 and width 512.
        published_size: False where the runs are a miniature, which cannot decide it.
    """
    rms = _known(table, _at(RMS, published_size))
    whole = published_size and len(rms) == len(table)
    return Claim(
        "RMS at T_grok",
        "MLPs of width 512 grok when the root mean square of all weights has come down to 0.022.",
        "0.0236 and 0.0225 (GELU, 5e-4 and 1e-3), 0.0219 (ReLU, 5e-4)",
        _said(rms, published_size),
        len(rms),
        "0.022 ± 0.003 at T_grok(0.99) in every run, all of which grokked",
        verdict(bool((np.abs(rms - 0.022) <= 0.003).all()), len(rms) if whole else 0),
        number=4,
    )


def l2_at_grok(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether the MLPs grok at one L2 norm, which their two widths share.

    Args:
        table: rows of the MLPs, of both widths.
        published_size: False where the runs are a miniature, which cannot decide it.
    """
    l2 = _known(table, _at(L2, published_size))
    there = table.loc[np.isfinite(column(table, _at(L2, published_size)))]
    decided = published_size and len(set(there["model.width"])) > 1
    holds = decided and abs(float(l2.mean()) - 25.6) <= 2.7 and bool(l2.max() / l2.min() <= 1.32)
    return Claim(
        "L2 at T_grok",
        "In L2 the MLPs of both widths grok at one norm.",
        "printed as RMS; times the root of the number of weights: 29.6 (width 256), 25.3, 24.1, 23.5 (width 512)",
        _said(l2, published_size),
        len(l2),
        "at T_grok(0.99): mean 25.6 ± 2.7, largest / smallest ≤ 1.32 (published: 1.26), over both widths",
        verdict(holds, len(l2) if decided else 0),
        number=4,
    )


def universal_rms(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether there is one root mean square at which networks grok, whatever their size and kind.

    Args:
        table: rows of networks of different sizes.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    rms = _known(table, _at(RMS, published_size))
    there = table.loc[np.isfinite(column(table, _at(RMS, published_size)))]
    kinds = {tuple(row) for row in there[[n for n in ("model.width", "model.d_model") if n in there]].to_numpy()}
    n = len(rms) if len(kinds) > 1 else 0
    return Claim(
        "one RMS for all",
        "Networks grok at one root mean square of their weights, whatever their size.",
        "0.022 ± 0.003 at width 512; but 0.0695 at width 256, 0.0160 (transformer, λ = 5), and psi's 0.115 to 0.52",
        _said(rms, published_size),
        n,
        "largest / smallest ≤ 0.025 / 0.019 = 1.32 over all networks",
        verdict(n > 0 and bool(rms.max() / rms.min() <= 0.025 / 0.019), n),
        should_hold=False,
    )


def l2_varies_less(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Which of the two units of the norm at T_grok depends less on the width.

    Args:
        table: rows of MLPs of two or more widths.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    units = [_at(unit, published_size) for unit in (RMS, L2)]
    known = table.loc[np.isfinite(column(table, units[0]))]
    middle = known.groupby("model.width")[units].median()
    rms, l2 = (column(middle, unit) for unit in units)
    decided = len(middle) > 1
    factors = f"by a factor of {l2.max() / l2.min():.2f} in L2, {rms.max() / rms.min():.2f} in RMS" if decided else "-"
    return Claim(
        "RMS or L2",
        "Between widths the norm at T_grok differs less in L2 than in RMS, which falls with the number of weights.",
        "widths 256 and 512: by a factor of 1.2 in L2, 3.1 in RMS",
        f"{'' if published_size else SCALED_DOWN}{factors}, over widths {', '.join(map(str, middle.index))}",
        len(known),
        "the factor between the medians of the widths is smaller in L2",
        verdict(decided and bool(l2.max() / l2.min() < rms.max() / rms.min()), len(known) if decided else 0),
    )


def same_norm_across_activations(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether ReLU and GELU networks grok at the same norm though not at the same time.

    Args:
        table: rows of GELU and of ReLU networks, equal in everything else; medians over seeds are compared.
        published_size: False where the runs are a miniature, whose norm still falls when it groks; the claim is
            decided all the same, and may go either way.
    """
    unit, time = _at(RMS, published_size), _at("T_grok", published_size)
    rows = {name: table.loc[table["model.activation"] == name] for name in ("gelu", "relu")}
    norms = [float(np.median(_known(part, unit))) if len(_known(part, unit)) else np.nan for part in rows.values()]
    times = [float(part[time].median()) if len(part) else np.nan for part in rows.values()]
    ratio, difference = times[1] / times[0], abs(norms[1] - norms[0]) / np.mean(norms)
    decided = bool(np.isfinite(difference)) and (difference > 0.1 or ratio >= 3)
    decays = ", ".join(f"{decay:g}" for decay in sorted(set(column(table, DECAY))))
    return Claim(
        "norm and activation",
        "At equal weight decay, ReLU and GELU networks grok at the same norm, though at times that differ threefold.",
        "0.0219 and 0.0236 at 5e-4 (7.5 %), T_grok 3.3 times apart; the 6.9 of the paper compares 5e-4 with 1e-3",
        f"{'' if published_size else SCALED_DOWN}λ = {decays}: RMS {norms[1]:.4f} (ReLU), {norms[0]:.4f} (GELU), "
        f"{100 * difference:.1f} % apart; T_grok {ratio:.2g} times apart",
        len(table),
        "RMS at T_grok within 10 % of the mean where T_grok differs by a factor of 3; else inconclusive",
        verdict(bool(difference <= 0.1), int(decided)),
        should_hold=published_size,
        number=5 if published_size else None,
    )


def top_energy(snapshot: Snapshot, n: int = 5) -> tuple[float, tuple[int, ...]]:
    """The share of the embedding's energy in its n largest frequencies, and these frequencies in order.

    Frequencies are 0 .. floor(p/2), the constant among them, and their energies add up to the embedding's (Parseval).
    """
    table = embedding_table(snapshot)
    squares, of = component_norms(table).square(), component_frequencies(len(table))
    energy = squares.new_zeros(int(of.max()) + 1).index_add(0, of, squares)
    largest = energy.topk(n).indices
    return float(energy[largest].sum() / energy.sum()), tuple(sorted(largest.tolist()))


def embedding_concentration(
    mlp: Sequence[float], transformer: Sequence[float], *, published_size: bool = True
) -> Claim:
    """Whether the transformer's embedding has more of its energy in five frequencies than the MLPs'.

    Args:
        mlp: the share of each MLP, as `top_energy` gives it.
        transformer: the same of each transformer.
        published_size: False where the runs are a miniature, with fewer frequencies; the claim is decided all the
            same, and may go either way.
    """
    n = min(len(mlp), len(transformer))
    return Claim(
        "Fourier concentration",
        "The transformer's embedding is more concentrated on a few frequencies than the MLP's.",
        "energy in the top five, the constant included: 74.7 % (GELU), 75.6 % (ReLU), 98.5 % (transformer); one seed, "
        "the step not said",
        f"{'' if published_size else SCALED_DOWN}MLPs {span(list(mlp), '.1%')}, transformers "
        f"{span(list(transformer), '.1%')}"
        if n
        else "-",
        len(mlp) + len(transformer),
        "the lowest of the transformers above the highest of the MLPs",
        verdict(n > 0 and min(transformer) > max(mlp), n),
        should_hold=published_size,
        number=21 if published_size else None,
    )


def _at(name: str, published_size: bool) -> str:
    """A column of T_grok(0.99), as published; of a miniature, whose test set is small, of T_grok(0.95)."""
    return f"{name}_{0.99 if published_size else 0.95}"


def _known(table: pd.DataFrame, name: str) -> np.ndarray:
    values = column(table, name)
    return values[np.isfinite(values)]


def _said(values: np.ndarray, published_size: bool) -> str:
    found = span(values, ".3g") if len(values) else "no run grokked"
    return ("" if published_size else SCALED_DOWN) + found
