"""Figures of scalar quantities over training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
import pandas as pd
from plotly.graph_objects import Figure

from grokinterp.analysis.result import Analysis
from grokinterp.figures.canvas import Canvas
from grokinterp.figures.inputs import Analyses, as_list
from grokinterp.figures.style import (
    DASHES,
    QUANTITY_COLORS,
    QUANTITY_SYMBOLS,
    part_styles,
    run_colors,
    run_symbols,
)
from grokinterp.statistics.formatting import number


@dataclass(frozen=True)
class Quantity:
    """A column to draw.

    Attributes:
        column: name of the column in the timeline or the metrics.
        label: name in the legend.
        color: color of the line in a figure of one run.
        dash: dash style of the line in a figure of one run.
        symbol: marker of the line in a figure of one run.
        hidden: True to draw it only after a click on its legend entry.
        overlay: False to omit it from figures of several runs.
    """

    column: str
    label: str
    color: str
    dash: str = "solid"
    symbol: str = "circle"
    hidden: bool = False
    overlay: bool = True


def _quantity(column: str, label: str, style: str, dash: str = "solid", *, extra: bool = False) -> Quantity:
    """Return a Quantity in the style of `style`; an extra one is hidden at first and only drawn for a single run."""
    symbol = QUANTITY_SYMBOLS.get(style, "circle")
    return Quantity(column, label, QUANTITY_COLORS[style], dash, symbol, hidden=extra, overlay=not extra)


def values(analysis: Analysis, column: str, *, fine: bool = False) -> pd.Series:
    """Return the finite values of a column by step; with `fine`, on the grid of the metrics if they have the column."""
    series = analysis.curves(column) if fine else pd.Series(analysis.timeline.get(column, []), dtype=float)
    return pd.Series(series[np.isfinite(series.to_numpy(dtype=float))], dtype=float)


def _by_keys(analysis: Analysis, q: Quantity) -> list[Quantity]:
    """Return the variants of a quantity: with all keys since T_grok, and with those of the reference step.

    A quantity that does not depend on keys, or whose run lost no keys, has only one variant.
    """
    union = f"{q.column}_union"
    if not analysis.reference.lost or union not in analysis.timeline:
        return [q]
    reference = f"{q.label}, keys of step {number(analysis.reference.frequencies.step)}"
    dash = {"solid": "dot", "longdash": "longdashdot"}.get(q.dash, "dashdot")
    return [
        replace(q, column=union, label=f"{q.label}, all keys since T<sub>grok</sub>"),
        replace(q, label=reference, dash=dash),
    ]


def draw(
    canvas: Canvas,
    quantities: Sequence[Quantity],
    *,
    fallback: Sequence[Quantity] = (),
    fine: bool = False,
    row: int = 1,
) -> None:
    """Draw quantities over training.

    For a single run each quantity has its color; for several runs each run has a color and each quantity a dash style.
    A run without any of the quantities shows those of `fallback`.
    """
    if canvas.single:
        analysis = canvas.analyses[0]
        for _, q in _drawable(canvas, analysis, quantities, fallback, fine, row):
            canvas.line(
                values(analysis, q.column, fine=fine),
                q.label,
                color=q.color,
                dash=q.dash,
                symbol=q.symbol,
                row=row,
                visible="legendonly" if q.hidden else True,
                showlegend=True,
            )
        return
    overlaid = [q for q in quantities if q.overlay]
    dashes = {q.label: dash for q, dash in zip([*overlaid, *fallback], DASHES * 2, strict=False)}
    labels: list[str] = []
    colors, symbols = run_colors(len(canvas.analyses)), run_symbols(len(canvas.analyses))
    for analysis, name, color, symbol in zip(canvas.analyses, canvas.names, colors, symbols, strict=True):
        for label, q in _drawable(canvas, analysis, overlaid, fallback, fine, row):
            labels += [label] if label not in labels else []
            canvas.line(
                values(analysis, q.column, fine=fine),
                name,
                hover=f"{name}</b><br>{q.label}<b>",
                color=color,
                dash=dashes[label],
                symbol=symbol,
                row=row,
                legendgroup=name,
                showlegend=False,
            )
    if row == 1:
        canvas.runs(colors, symbols)
    for label in labels if len(labels) > 1 else []:
        canvas.key(label, dash=dashes[label], row=row)


def _drawable(
    canvas: Canvas,
    analysis: Analysis,
    quantities: Sequence[Quantity],
    fallback: Sequence[Quantity],
    fine: bool,
    row: int,
) -> list[tuple[str, Quantity]]:
    """Return the quantities to draw for a run, each with the label it has without regard to keys."""
    pairs = []
    for q in quantities:
        variants = _by_keys(analysis, q)
        if values(analysis, variants[0].column, fine=fine).empty:
            if not q.hidden:
                canvas.lacks(q.label, analysis, variants[0].column, row)
            continue
        pairs += [(q.label, variant) for variant in (variants if canvas.single else variants[:1])]
        if len(variants) > 1:
            whose = "" if canvas.single else f" of {canvas.name_of(analysis)}"
            lost = ", ".join(map(str, analysis.reference.lost))
            drawn = "" if canvas.single else "; its curves use all keys since T<sub>grok</sub>"
            canvas.note(f"key frequencies{whose} that died after T<sub>grok</sub>: {lost}{drawn}")
    return pairs or [(q.label, q) for q in fallback if not values(analysis, q.column, fine=fine).empty]


def chance(canvas: Canvas, row: int = 1) -> None:
    """Draw the cross entropy of a uniform guess, one line per number of classes."""
    for c in sorted({analysis.run.classification.n_classes for analysis in canvas.analyses}):
        canvas.level(math.log(c), f"uniform guess, ln {c}", row)


_ALL_LOSS = _quantity("loss", "loss, all inputs", "all")
_ALL_ACCURACY = _quantity("accuracy", "all inputs", "all")
_ACCURACIES = (_quantity("test_accuracy", "test", "test"), _quantity("train_accuracy", "train", "train"))
_PROGRESS = (
    _quantity("restricted_loss", "restricted", "restricted"),
    _quantity("excluded_loss", "excluded (train)", "excluded", "dash"),
)
_GINI = (
    _quantity("gini_embedding", "embedding", "embed"),
    _quantity("gini_neuron_logit", "neuron-logit map", "unembed", "dash"),
)


def accuracy_curves(analysis: Analyses) -> Figure:
    """Accuracy on training and test inputs over training, the curves that define grokking.

    Mirrored test pairs, whose mirror (b, a) is a training pair, are drawn apart from novel ones, whose mirror is not: a
    network that is symmetric in its inputs gets mirrored pairs right without generalizing.

    Source: Power et al. 2022, Figure 1.
    """
    canvas = Canvas("Accuracy", as_list(analysis), y_titles=["accuracy"])
    draw(canvas, _on_pairs(canvas, "accuracy"), fallback=[_ALL_ACCURACY], fine=True)
    canvas.figure.update_yaxes(range=[-0.03, 1.03])
    return canvas.finish(log_step=True)


def _on_pairs(canvas: Canvas, measure: str) -> list[Quantity]:
    """Return a measure on test and training pairs and, if a run has mirrored pairs, on novel and mirrored ones."""
    quantities = [_quantity(f"test_{measure}", "test", "test"), _quantity(f"train_{measure}", "train", "train")]
    if any(analysis.run.classification.mirror_mask is not None for analysis in canvas.analyses):
        novel = replace(_quantity(f"novel_{measure}", "test, novel pairs", "novel", "dash"), overlay=False)
        mirrored = _quantity(f"mirror_{measure}", "test, mirrored pairs", "mirror", "dashdot", extra=True)
        quantities += [novel, mirrored]
    return quantities


def loss_curves(analysis: Analyses) -> Figure:
    """Training and test loss as logged during training, on a logarithmic scale.

    The dotted horizontal line is the loss of a uniform guess over the classes.
    """
    analyses = as_list(analysis)
    squared = [a.run.config.loss == "mse" for a in analyses]
    unit = "squared error" if all(squared) else "nats, or squared error" if any(squared) else "nats"
    canvas = Canvas("Loss", analyses, y_titles=[f"loss ({unit})"], log_y=[True])
    quantities = [_quantity("test_loss", "test", "test"), _quantity("train_loss", "train", "train")]
    draw(canvas, quantities, fallback=[_ALL_LOSS], fine=True)
    if any(squared) and not all(squared):
        names = [name for name, is_squared in zip(canvas.names, squared, strict=True) if is_squared]
        canvas.note(f"trained with squared error, which is drawn here: {', '.join(names)}")
    stablemax = [name for name, a in zip(canvas.names, analyses, strict=True) if a.run.config.loss == "stablemax"]
    if stablemax:
        canvas.note(f"trained with StableMax cross entropy, which is drawn here: {', '.join(stablemax)}")
    if not any(squared):
        chance(canvas)
    return canvas.finish(log_step=True)


def progress_measures(analysis: Analyses) -> Figure:
    """Restricted and excluded loss at each checkpoint, beside train and test loss.

    Restricted loss keeps only the key frequencies of the logits. It falls as the generalizing circuit forms, before
    test loss does. Excluded loss, on training pairs, removes the key frequencies. It rises as the network comes to rely
    on them. If some keys died after T_grok, each loss has two curves: one with all keys since T_grok, and one with the
    keys of the reference step (the columns `restricted_loss` and `excluded_loss`). The legend also offers cross-fit
    losses, whose projection is estimated on pairs outside the training set.

    Source: Nanda et al. 2023, Figure 7.
    """
    canvas = Canvas("Progress measures", as_list(analysis), y_titles=["cross entropy (nats)"], log_y=[True])
    quantities = [
        *_PROGRESS,
        _quantity("test_loss", "test", "test"),
        _quantity("train_loss", "train", "train"),
        _quantity("restricted_loss_novel", "restricted, cross-fit", "restricted", "longdash", extra=True),
        _quantity("excluded_loss_novel", "excluded, cross-fit", "excluded", "longdash", extra=True),
    ]
    draw(canvas, quantities, fallback=[_ALL_LOSS])
    chance(canvas)
    return canvas.finish()


def weight_norms(analysis: Analyses) -> Figure:
    """L2 norm of the trained parameters and, for a single run, of each part of the model.

    Weight decay reduces the norm as the circuit forms and most of all during cleanup. Frozen parameters do not count.

    Source: Nanda et al. 2023, Figure 7; Liu et al. 2022 (Omnigrok).
    """
    canvas = Canvas("Weight norms", as_list(analysis), y_titles=["L2 norm"])
    draw(canvas, [_quantity("weight_norm", "all parameters", "total")], fine=True)
    if canvas.single:
        table = canvas.analyses[0].timeline
        parts = [str(column).split(".", 1)[1] for column in table if str(column).startswith("group_norm.")]
        draw(canvas, [Quantity(f"group_norm.{p}", escape(p), *style) for p, style in part_styles(parts).items()])
    canvas.figure.update_yaxes(rangemode="tozero")
    return canvas.finish()


def circuit_efficiency(analysis: Analyses) -> Figure:
    """Margin ratio of the generalizing to the memorizing circuit, and the generalized share of the margin.

    The margin ratio is o_gen / o_mem: the margin on held-out pairs over the extra margin that only training pairs have.
    At 1 (share 1/2) the generalizing circuit takes over. Varma et al. 2023 call the logit that a circuit gives per
    parameter norm its circuit efficiency, and explain grokking by the higher efficiency of the generalizing circuit.
    Inside one network both circuits share one norm, so the ratio is a ratio of margins at the common norm.
    """
    panels = ["margin ratio", "share of margin"]
    canvas = Canvas("Margin ratio", as_list(analysis), y_titles=panels, log_y=[True, False])
    keys = _quantity("ratio_from_keys", "margin ratio, from keys", "restricted", "dash", extra=True)
    draw(canvas, [_quantity("circuit_efficiency_ratio", "margin ratio", "total"), keys])
    draw(canvas, [_quantity("generalized_margin_share", "generalized share", "test")], row=2)
    canvas.level(1.0, "equal margins")
    canvas.level(0.5, row=2)
    for run_analysis in canvas.analyses:
        for column, label in (("circuit_efficiency_ratio", "margin ratio"), ("generalized_margin_share", "share")):
            _note_gaps(canvas, run_analysis, column, label)
    return canvas.finish()


def _note_gaps(canvas: Canvas, analysis: Analysis, column: str, label: str) -> None:
    """Note the checkpoints at which a column with values elsewhere is undefined, and the reason."""
    if values(analysis, column).empty:
        return
    whose = "" if canvas.single else f" of {canvas.name_of(analysis)}"
    for reason, steps in analysis.reasons.get(column, {}).items():
        place = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} steps from {min(steps):,} to {max(steps):,}"
        canvas.note(f"{label}{whose} undefined at {place}: {escape(reason)}")


def idealized_accuracy(analysis: Analyses) -> Figure:
    """Accuracy on novel pairs of the network, and of one rebuilt from each neuron's frequency and phases alone.

    The rebuilt network often answers long before the network itself does. With output phases permuted over neurons, it
    answers at the level of chance. Aligned phases alone do not show that a circuit has been learned: random neurons
    with a readout that memorizes sums have them too. Read `mean_ipr` beside it: 1 if each neuron uses a single
    frequency.

    Source: Swaroop 2026.
    """
    canvas = Canvas("Idealized accuracy", as_list(analysis), y_titles=["accuracy"])
    quantities = [
        _quantity("idealized_accuracy_novel", "rebuilt from phases, novel pairs", "restricted"),
        _quantity("novel_accuracy", "network, novel pairs", "novel", "dash"),
        _quantity("idealized_accuracy_null", "rebuilt with permuted phases", "total", "dot"),
        _quantity("idealized_accuracy_all", "rebuilt from phases, all pairs", "all", "longdash", extra=True),
        _quantity("mean_ipr", "mean inverse participation ratio", "mlp", "dashdot", extra=True),
    ]
    draw(canvas, quantities)
    canvas.figure.update_yaxes(range=[-0.03, 1.03])
    return canvas.finish()


def logit_margins(analysis: Analyses) -> Figure:
    """Mean margin on training and test pairs: the correct logit minus the mean of the other logits.

    A network that memorizes has a margin on training pairs only. The two curves meet as the generalizing circuit takes
    over. Novel pairs are test pairs whose mirror is not a training pair either.

    Source: Varma et al. 2023.
    """
    canvas = Canvas("Logit margins", as_list(analysis), y_titles=["margin (logits)"])
    draw(canvas, _on_pairs(canvas, "margin"), fallback=[_quantity("margin", "all inputs", "all")])
    return canvas.finish()


def nanda_figure_7(analysis: Analyses) -> Figure:
    """Figure 7 of Nanda et al. 2023: excluded loss, restricted loss, Gini coefficients, and sum of squared weights.

    Excluded loss rises while the circuit forms, when train and test loss hardly change. Restricted loss falls before
    test loss does. In the paper, the Gini coefficients of the Fourier spectra of the embedding (W_E) and of the
    neuron-logit map (W_L) rise sharply during cleanup, when the sum of the squared weights falls most. Bands show the
    phases, with ends located by rule, instead of the paper's vertical lines.

    Source: Nanda et al. 2023, Figure 7.
    """
    panels = ["excluded loss (nats)", "restricted loss (nats)", "Gini coefficient", "sum of squared weights"]
    title = "Progress measures (Nanda et al. 2023, Figure 7)"
    canvas = Canvas(title, as_list(analysis), y_titles=panels, log_y=[True, True, False, False], columns=2)
    both = [_quantity("test_loss", "test", "test"), _quantity("train_loss", "train", "train")]
    restricted, excluded = _PROGRESS
    draw(canvas, [excluded, *both], fallback=[_ALL_LOSS])
    draw(canvas, [restricted, *both], fallback=[_ALL_LOSS], row=2)
    draw(canvas, _GINI, row=3)
    draw(canvas, [_quantity("sum_of_squares", "sum of squares", "total")], row=4)
    canvas.figure.update_yaxes(rangemode="tozero", row=2, col=2)
    canvas.merge_legend()
    return canvas.finish()


def gini(analysis: Analyses) -> Figure:
    """Gini coefficient of the Fourier spectra of the embedding and of the neuron-logit map.

    It is 0 for a flat spectrum and 1 for a single component, and rises as the circuit forms.

    Source: Nanda et al. 2023, Figure 7; Hurley and Rickard 2009.
    """
    canvas = Canvas("Sparsity of the Fourier spectra", as_list(analysis), y_titles=["Gini coefficient"])
    draw(canvas, _GINI)
    canvas.figure.update_yaxes(range=[0, 1])
    return canvas.finish()


def overview(analysis: Analyses) -> Figure:
    """A run at a glance: accuracy, restricted and excluded loss, and weight norm, with the phases.

    Restricted loss falls as the generalizing circuit forms, and excluded loss rises as the network comes to rely on it;
    see `progress_measures`.
    """
    panels = ["accuracy", "loss (nats)", "L2 norm"]
    canvas = Canvas("Overview", as_list(analysis), y_titles=panels, log_y=[False, True, False])
    if canvas.single:
        canvas.title = f"{canvas.names[0]}: {escape(canvas.analyses[0].run.classification.config.title)}"
    accuracies = [replace(q, label=f"{q.label} accuracy") for q in _ACCURACIES]
    losses = [replace(_PROGRESS[0], label="restricted loss"), replace(_PROGRESS[1], label="excluded loss (train)")]
    draw(canvas, accuracies, fallback=[_ALL_ACCURACY], fine=True)
    draw(canvas, losses, fallback=[_ALL_LOSS], row=2)
    draw(canvas, [_quantity("weight_norm", "weight norm", "total")], fine=True, row=3)
    canvas.figure.update_yaxes(range=[-0.03, 1.03], row=1, col=1)
    canvas.figure.update_yaxes(rangemode="tozero", row=3, col=1)
    return canvas.finish()
