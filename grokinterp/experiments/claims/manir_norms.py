"""Claims of Manir and Rupa 2026 about the weights: their norm at T_grok, and their Fourier spectrum.

T_grok is T_grok(0.99) as published. Miniatures use T_grok(0.95), because their test set is small.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.general import DECAY
from grokinterp.experiments.claims.manir import scale_prefix
from grokinterp.experiments.claims.numbers import column, finite, rows_with, verdict
from grokinterp.experiments.outcome import Claim
from grokinterp.measures import Snapshot
from grokinterp.measures.fourier import component_frequencies, component_norms
from grokinterp.measures.spectrum import embedding_table
from grokinterp.statistics.formatting import span

_NETWORKS = 3  # of width 512 in Table 7
RMS, L2 = "weight_rms_at_T_grok", "weight_norm_at_T_grok"


def rms_at_grok(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Assertion 4: decide whether MLPs of width 512 grok at the published root mean square of their weights.

    Args:
        table: rows of MLPs of depth 4 and width 512, with `weight_rms_at_T_grok_*`, `model.activation` and
            `optimizer.weight_decay`; the published ones have three settings of these.
        published_size: False for a miniature, which cannot decide the claim.
    """
    rms = finite(column(table, _at(RMS, published_size)))
    settings = [len(runs) for _, runs in table.groupby(["model.activation", DECAY], dropna=False)]
    decided = published_size and len(rms) == len(table) and len(settings) >= _NETWORKS
    return Claim(
        "RMS at T_grok",
        "MLPs of width 512 grok when the root mean square of all weights has fallen to 0.022.",
        "0.0236 and 0.0225 (GELU, 5e-4 and 1e-3), 0.0219 (ReLU, 5e-4)",
        _format_norms(rms, published_size),
        len(rms),
        "0.022 ± 0.003 at T_grok(0.99) in every run, and every run grokked",
        verdict(bool((np.abs(rms - 0.022) <= 0.003).all()), len(rms) if decided else 0),
        number=4,
        fewest=min(settings, default=0),
    )


def l2_at_grok(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Assertion 4: decide whether MLPs of two widths grok at the same L2 norm.

    Args:
        table: rows of the MLPs, of both widths, with `weight_norm_at_T_grok_*` and `model.width`.
        published_size: False for a miniature, which cannot decide the claim.
    """
    runs = rows_with(table, _at(L2, published_size))
    l2 = column(runs, _at(L2, published_size))
    decided = published_size and len(set(runs["model.width"])) > 1
    holds = decided and abs(float(l2.mean()) - 25.6) <= 2.7 and bool(l2.max() / l2.min() <= 1.32)
    return Claim(
        "L2 at T_grok",
        "MLPs of widths 256 and 512 grok at the same L2 norm.",
        "published as RMS; multiplied by the square root of the number of weights: 29.6 (width 256), 25.3, 24.1, "
        "23.5 (width 512)",
        _format_norms(l2, published_size),
        len(l2),
        "at T_grok(0.99), across both widths: mean 25.6 ± 2.7, largest / smallest ≤ 1.32 (published: 1.26)",
        verdict(holds, len(l2) if decided else 0),
        number=4,
    )


def universal_rms(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Decide whether networks of any size and kind grok at the same root mean square of their weights.

    Args:
        table: rows of networks of different sizes, with `weight_rms_at_T_grok_*` and `model.width` or `model.d_model`.
        published_size: False for a miniature, which still decides the claim.
    """
    runs = rows_with(table, _at(RMS, published_size))
    rms = column(runs, _at(RMS, published_size))
    sizes = {tuple(row) for row in runs[[n for n in ("model.width", "model.d_model") if n in runs]].to_numpy()}
    n = len(rms) if len(sizes) > 1 else 0
    return Claim(
        "one RMS for all",
        "Networks of all sizes grok at the same root mean square of their weights.",
        "0.022 ± 0.003 at width 512, but 0.0695 at width 256, 0.0160 (transformer, λ = 5), and psi's 0.115 to 0.52",
        _format_norms(rms, published_size),
        n,
        "largest / smallest ≤ 0.025 / 0.019 = 1.32 over all networks",
        verdict(n > 0 and bool(rms.max() / rms.min() <= 0.025 / 0.019), n),
        should_hold=False,
    )


def l2_varies_less(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Decide whether the norm at T_grok depends less on the width in L2 than in root mean square.

    Args:
        table: rows of MLPs of two or more widths, with `weight_rms_at_T_grok_*`, `weight_norm_at_T_grok_*` and
            `model.width`.
        published_size: False for a miniature, which still decides the claim.
    """
    units = [_at(unit, published_size) for unit in (RMS, L2)]
    runs = rows_with(table, units[0])
    medians = pd.DataFrame(runs.groupby("model.width")[units].median())
    rms, l2 = (column(medians, unit) for unit in units)
    decided = len(medians) > 1
    factors = (
        f"L2 differs by a factor of {l2.max() / l2.min():.2f} and RMS by a factor of {rms.max() / rms.min():.2f}"
        if decided
        else "-"
    )
    return Claim(
        "RMS or L2",
        "Across widths, the L2 norm at T_grok varies less than the RMS, which falls as the number of weights grows.",
        "between widths 256 and 512, L2 differs by a factor of 1.2 and RMS by a factor of 3.1",
        f"{scale_prefix(published_size)}{factors} across widths {', '.join(map(str, medians.index))}",
        len(runs),
        "across widths, the median L2 norm differs by a smaller factor than the median RMS",
        verdict(decided and bool(l2.max() / l2.min() < rms.max() / rms.min()), len(runs) if decided else 0),
    )


def same_norm_across_activations(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Assertion 5: decide whether ReLU and GELU networks grok at the same norm but at different times.

    Args:
        table: rows of GELU and of ReLU networks that agree in everything else, with `model.activation`,
            `weight_rms_at_T_grok_*`, `T_grok_*` and `optimizer.weight_decay`. Medians over seeds are compared.
        published_size: False for a miniature, whose norm is still falling when it groks. It still decides the claim;
            either verdict is then acceptable.
    """
    unit, time = _at(RMS, published_size), _at("T_grok", published_size)
    arms = [table.loc[table["model.activation"] == name] for name in ("gelu", "relu")]
    rms = [finite(column(arm, unit)) for arm in arms]
    gelu, relu = (float(np.median(values)) if len(values) else np.nan for values in rms)
    times = [float(arm[time].median()) if len(arm) else np.nan for arm in arms]
    ratio, difference = times[1] / times[0], abs(relu - gelu) / np.mean([gelu, relu])
    decided = bool(np.isfinite(difference)) and (difference > 0.1 or ratio >= 3)
    decays = ", ".join(f"{decay:g}" for decay in sorted(set(column(table, DECAY))))
    return Claim(
        "norm and activation",
        "At equal weight decay, ReLU and GELU networks grok at the same norm, although their times differ threefold.",
        "RMS 0.0219 (ReLU), 0.0236 (GELU) at 5e-4, 7.5 % apart; T_grok differs by a factor of 3.3 (the paper's 6.9 "
        "compares 5e-4 with 1e-3)",
        f"{scale_prefix(published_size)}λ = {decays}: RMS {relu:.4f} (ReLU), {gelu:.4f} (GELU), "
        f"{100 * difference:.1f} % apart; T_grok differs by a factor of {ratio:.2g}",
        len(table),
        "RMS at T_grok differs by at most 10 % of the mean, and T_grok by a factor of at least 3; inconclusive if "
        "only the factor is smaller",
        verdict(bool(difference <= 0.1), int(decided)),
        should_hold=published_size,
        number=5,
        fewest=min(map(len, rms)),
    )


def top_energy(snapshot: Snapshot, n: int = 5) -> tuple[float, tuple[int, ...]]:
    """The share of the embedding's energy in its n largest frequencies, and these frequencies in ascending order.

    The frequencies are 0 .. floor(p/2), including the constant (0); their energies sum to the embedding's (Parseval).
    """
    table = embedding_table(snapshot)
    squares, frequencies = component_norms(table).square(), component_frequencies(len(table))
    energy = squares.new_zeros(int(frequencies.max()) + 1).index_add(0, frequencies, squares)
    largest = energy.topk(n).indices
    return float(energy[largest].sum() / energy.sum()), tuple(sorted(largest.tolist()))


def embedding_concentration(
    mlp: Sequence[float], transformer: Sequence[float], *, published_size: bool = True
) -> Claim:
    """Assertion 21: decide whether transformer embeddings have more of their energy in five frequencies than MLPs'.

    Args:
        mlp: energy share of each MLP, from `top_energy`.
        transformer: energy share of each transformer.
        published_size: False for a miniature, which has fewer frequencies. It still decides the claim; either verdict
            is then acceptable.
    """
    n = min(len(mlp), len(transformer))
    shares = f"MLPs {_percent(mlp)}, transformers {_percent(transformer)}" if n else ""
    return Claim(
        "Fourier concentration",
        "The transformer's embedding is more concentrated on a few frequencies than the MLP's.",
        "share of the energy in the top five frequencies, including the constant: 74.7 % (GELU), 75.6 % (ReLU), "
        "98.5 % (transformer); one seed, step not stated",
        scale_prefix(published_size) + shares if n else "-",
        len(mlp) + len(transformer),
        "the lowest share of any transformer is above the highest of any MLP",
        verdict(n > 0 and min(transformer) > max(mlp), n),
        should_hold=published_size,
        number=21,
    )


def _percent(shares: Sequence[float]) -> str:
    return f"{span([100 * share for share in shares], '.1f')} %"


def _at(name: str, published_size: bool) -> str:
    """The column of a quantity at T_grok(0.99), or at T_grok(0.95) for a miniature."""
    return f"{name}_{0.99 if published_size else 0.95}"


def _format_norms(norms: np.ndarray, published_size: bool) -> str:
    return scale_prefix(published_size) + (span(norms, ".3g") if len(norms) else "no run grokked")
