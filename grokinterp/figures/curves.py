"""Figures of numbers over training: one value a step and quantity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from plotly.graph_objects import Figure

from grokinterp.analysis.result import Analysis
from grokinterp.figures.canvas import Canvas, as_list
from grokinterp.figures.style import DASHES, QUANTITY_COLOURS, part_colour, run_colours


@dataclass(frozen=True)
class Quantity:
    """A column to draw: what to call it, how, and whether it is drawn at first and with several runs."""

    column: str
    label: str
    colour: str
    dash: str = "solid"
    hidden: bool = False
    overlay: bool = True


def _quantity(column: str, label: str, colour: str, dash: str = "solid", *, extra: bool = False) -> Quantity:
    """With `extra`, one that the legend offers in a figure of one run, and that figures of several leave out."""
    return Quantity(column, label, QUANTITY_COLOURS[colour], dash, extra, not extra)


def values(analysis: Analysis, column: str, *, fine: bool = False) -> pd.Series:
    """The finite values of a column by step; with `fine`, where training logged it, on training's own grid."""
    if fine:
        series = analysis.curves(column)
    elif column in analysis.timeline:
        series = pd.Series(analysis.timeline[column], dtype=float)
    else:
        series = pd.Series(dtype=float)
    return pd.Series(series[np.isfinite(series.to_numpy(dtype=float))], dtype=float)


def with_union(analysis: Analysis, column: str) -> str:
    """The column that counts keys which died after grokking too, where a run has such keys."""
    union = f"{column}_union"
    return union if analysis.reference.lost and union in analysis.timeline else column


def draw(
    canvas: Canvas,
    quantities: Sequence[Quantity],
    *,
    fallback: Sequence[Quantity] = (),
    fine: bool = False,
    row: int = 1,
) -> None:
    """Draws quantities: of one run each in its own colour, of several each run in its own and each quantity dashed.

    `fallback` is drawn for a run of which nothing else can be.
    """
    if canvas.single:
        analysis = canvas.analyses[0]
        for q in _drawable(canvas, analysis, quantities, fallback, fine, row):
            canvas.line(
                values(analysis, with_union(analysis, q.column), fine=fine),
                q.label,
                colour=q.colour,
                dash=q.dash,
                row=row,
                visible="legendonly" if q.hidden else True,
                showlegend=True,
            )
        return
    overlaid = [q for q in quantities if q.overlay]
    dashes = {q.label: dash for q, dash in zip([*overlaid, *fallback], DASHES * 2, strict=False)}
    used: list[str] = []
    colours = run_colours(len(canvas.analyses))
    for analysis, name, colour in zip(canvas.analyses, canvas.names, colours, strict=True):
        for q in _drawable(canvas, analysis, overlaid, fallback, fine, row):
            used += [q.label] if q.label not in used else []
            canvas.line(
                values(analysis, with_union(analysis, q.column), fine=fine),
                name,
                hover=f"{name}</b><br>{q.label}<b>",
                colour=colour,
                dash=dashes[q.label],
                row=row,
                legendgroup=name,
                showlegend=False,
            )
    if row == 1:
        canvas.runs(colours)
    for label in used if len(used) > 1 else []:
        canvas.key(label, dash=dashes[label], row=row)


def _drawable(
    canvas: Canvas,
    analysis: Analysis,
    quantities: Sequence[Quantity],
    fallback: Sequence[Quantity],
    fine: bool,
    row: int,
) -> list[Quantity]:
    found = []
    for q in quantities:
        column = with_union(analysis, q.column)
        if values(analysis, column, fine=fine).empty:
            if not q.hidden:
                canvas.lacks(q.label, analysis, column, row)
            continue
        found.append(q)
        if column != q.column:
            canvas.note(f"every key since T_grok is counted, those that died since too: {_list(analysis)}")
    return found or [q for q in fallback if not values(analysis, q.column, fine=fine).empty]


def _list(analysis: Analysis) -> str:
    return ", ".join(str(k) for k in analysis.reference.lost)


def chance(canvas: Canvas, row: int = 1) -> None:
    """The cross entropy of a uniform guess; it differs between runs whose numbers of classes differ."""
    for c in sorted({analysis.run.classification.n_classes for analysis in canvas.analyses}):
        canvas.level(math.log(c), f"uniform guess, ln {c}", row)


_ALL_LOSS = _quantity("loss", "loss, all inputs", "all")
_ALL_ACCURACY = _quantity("accuracy", "all inputs", "all")


def accuracy_curves(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Accuracy on training and test inputs over training: grokking as Power et al. 2022 (Figure 1) showed it.

    Test pairs whose mirror (b, a) was trained on and novel ones, of which neither was, are drawn apart: a network
    that is symmetric in its inputs answers mirrored pairs without having generalized.
    """
    canvas = Canvas("Accuracy", as_list(analysis), y_titles=["accuracy"])
    quantities = [
        _quantity("test_accuracy", "test", "test"),
        _quantity("train_accuracy", "train", "train"),
        Quantity("novel_accuracy", "test, novel pairs", QUANTITY_COLOURS["novel"], "dash", False, False),
        _quantity("mirror_accuracy", "test, mirrored pairs", "mirror", "dash", extra=True),
    ]
    commute = [q for q in quantities if q.overlay or _commutes(canvas.analyses)]
    draw(canvas, commute, fallback=[_ALL_ACCURACY], fine=True)
    canvas.figure.update_yaxes(range=[-0.03, 1.03])
    return canvas.finish(log_step=True)


def _commutes(analyses: Sequence[Analysis]) -> bool:
    return any(analysis.run.classification.mirror_mask is not None for analysis in analyses)


def loss_curves(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Loss on training and test inputs, as it was logged while training, on a logarithmic scale.

    The dotted line is the loss of a uniform guess over the classes, ln p.
    """
    analyses = as_list(analysis)
    squared = [a.run.config.loss == "mse" for a in analyses]
    unit = "squared error" if all(squared) else "nats, or squared error" if any(squared) else "nats"
    canvas = Canvas("Loss", analyses, y_titles=[f"loss ({unit})"], log_y=[True])
    quantities = [_quantity("test_loss", "test", "test"), _quantity("train_loss", "train", "train")]
    draw(canvas, quantities, fallback=[_ALL_LOSS], fine=True)
    if any(squared) and not all(squared):
        trained = [name for name, is_squared in zip(canvas.names, squared, strict=True) if is_squared]
        canvas.note(f"trained on the squared error, and drawn in it: {', '.join(trained)}")
    stable = [name for name, a in zip(canvas.names, analyses, strict=True) if a.run.config.loss == "stablemax"]
    if stable:
        canvas.note(f"cross entropy with StableMax for softmax, as trained on: {', '.join(stable)}")
    if not any(squared):
        chance(canvas)
    return canvas.finish(log_step=True)


def progress_measures(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Restricted and excluded loss beside train and test loss (Nanda et al. 2023, Figure 7), in nats, at checkpoints.

    Restricted loss keeps only the key frequencies and falls as the generalizing circuit forms, before test loss does;
    excluded loss (on training pairs) leaves them out and rises as the network comes to rely on them. The legend
    offers the cross-fitted forms, whose projection comes from pairs that were not trained on.
    """
    canvas = Canvas("Progress measures", as_list(analysis), y_titles=["cross entropy (nats)"], log_y=[True])
    quantities = [
        _quantity("restricted_loss", "restricted", "restricted"),
        _quantity("excluded_loss", "excluded (train)", "excluded"),
        _quantity("test_loss", "test", "test"),
        _quantity("train_loss", "train", "train"),
        _quantity("restricted_loss_novel", "restricted, cross-fit", "restricted", "dash", extra=True),
        _quantity("excluded_loss_novel", "excluded, cross-fit", "excluded", "dash", extra=True),
    ]
    draw(canvas, quantities, fallback=[_ALL_LOSS])
    chance(canvas)
    return canvas.finish()


def weight_norms(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """L2 norm of the trained parameters, of one run also of each part of the model.

    Weight decay makes the norm fall while the circuit forms and most of all in cleanup (Nanda et al. 2023, Figure 7;
    Liu et al. 2022, Omnigrok). Frozen parameters are left out.
    """
    canvas = Canvas("Weight norms", as_list(analysis), y_titles=["L2 norm"])
    draw(canvas, [_quantity("weight_norm", "all parameters", "total")], fine=True)
    if canvas.single:
        table = canvas.analyses[0].timeline
        parts = [str(column) for column in table if str(column).startswith("group_norm.")]
        draw(
            canvas,
            [
                Quantity(column, escape(part), part_colour(part, i))
                for i, column in enumerate(parts)
                for part in [column.removeprefix("group_norm.")]
            ],
        )
    canvas.figure.update_yaxes(rangemode="tozero")
    return canvas.finish()


def circuit_efficiency(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Ratio of the generalizing to the memorizing circuit's efficiency, and the generalized share of the margin.

    Varma et al. 2023 call the logit a circuit gives per parameter norm its efficiency, and explain grokking by the
    generalizing circuit's being the more efficient. Inside one network both share one norm, so their ratio is one of
    margins: what a training pair's margin would be had it never been seen, over the rest. At 1 (share 1/2) the
    generalizing circuit takes over.
    """
    canvas = Canvas(
        "Circuit efficiency",
        as_list(analysis),
        y_titles=["efficiency ratio", "share of margin"],
        log_y=[True, False],
    )
    keys = _quantity("ratio_from_keys", "ratio, from keys", "restricted", "dash", extra=True)
    draw(canvas, [_quantity("circuit_efficiency_ratio", "efficiency ratio", "total"), keys])
    draw(canvas, [_quantity("generalized_margin_share", "generalized share", "test")], row=2)
    canvas.level(1.0, "equal circuits")
    canvas.level(0.5, row=2)
    for one in canvas.analyses:
        for column, label in (("circuit_efficiency_ratio", "ratio"), ("generalized_margin_share", "share")):
            _note_gaps(canvas, one, column, label)
    return canvas.finish()


def _note_gaps(canvas: Canvas, analysis: Analysis, column: str, label: str) -> None:
    """Says at which checkpoints a column that is otherwise known has no value, and why."""
    if values(analysis, column).empty:
        return
    whose = "" if canvas.single else f" of {canvas.name_of(analysis)}"
    for reason, steps in analysis.reasons.get(column, {}).items():
        where = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} steps from {min(steps):,} to {max(steps):,}"
        canvas.note(f"{label}{whose} undefined at {where}: {escape(reason)}")


def logit_margins(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Mean margin, the correct logit minus the mean of the others, on training and test pairs.

    A memorizing network has a margin on training pairs alone; the two curves meet as the generalizing circuit takes
    over (Varma et al. 2023). Novel pairs are those of which the mirror was not trained on either.
    """
    canvas = Canvas("Logit margins", as_list(analysis), y_titles=["margin (logits)"])
    quantities = [
        _quantity("test_margin", "test", "test"),
        _quantity("train_margin", "train", "train"),
        Quantity("novel_margin", "test, novel pairs", QUANTITY_COLOURS["novel"], "dash", False, False),
        _quantity("mirror_margin", "test, mirrored pairs", "mirror", "dash", extra=True),
    ]
    commute = [q for q in quantities if q.overlay or _commutes(canvas.analyses)]
    draw(canvas, commute, fallback=[_quantity("margin", "all inputs", "all")])
    return canvas.finish()


def gini(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Gini coefficient of the Fourier spectra of the embedding and of the neuron-logit map.

    0 is a flat spectrum, 1 one single component; it rises while the circuit forms (Nanda et al. 2023, Figure 7;
    Hurley and Rickard 2009).
    """
    canvas = Canvas("Sparsity of the Fourier spectra", as_list(analysis), y_titles=["Gini coefficient"])
    quantities = [
        _quantity("gini_embedding", "embedding", "embed"),
        _quantity("gini_neuron_logit", "neuron-logit map", "unembed"),
    ]
    draw(canvas, quantities)
    canvas.figure.update_yaxes(range=[0, 1])
    return canvas.finish()
