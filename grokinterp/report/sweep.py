"""write_sweep_report: a report on a whole sweep, made from its table, as one HTML file."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from grokinterp.errors import ConfigError
from grokinterp.figures import delay_against, learning_curves, norm_at_grok, outcome_counts, phase_diagram
from grokinterp.figures.style import OUTCOME_LABELS
from grokinterp.figures.sweeps import counts_text, quantity_name, value_label
from grokinterp.report.page import page, write_output
from grokinterp.report.plots import block, caption_of
from grokinterp.report.sections import capital, table
from grokinterp.statistics import SEEDS, observe, settings, summarize, values_of
from grokinterp.statistics.formatting import MISSING, number
from grokinterp.statistics.outcomes import Outcome

_TIMES = ("T_grok_0.95", "T_grok_0.99", "delay_0.95_0.99")
_OTHER_OUTCOMES = [o for o in Outcome if o not in (Outcome.GROKKED, Outcome.DNF_TEST, Outcome.DNF_TRAIN)]
MAX_CURVES = 24  # runs whose learning curves are drawn
_OPEN_ROWS = 40  # a longer table is collapsed
_MAX_ROWS = 300  # a longer table is cut; the sweep's own table has all rows

_HOW_TO_READ = """<p class="caption">T_train(θ) and T_grok(θ) are the first evaluated steps with train and test accuracy
of at least θ. A run is DNF train if train accuracy did not reach 0.99 within its budget, and DNF test if it did, but
test accuracy did not reach 0.95; the two are counted apart. n is the number of runs with an outcome, k
the number of runs that reached the event. Medians are Kaplan-Meier medians: runs that had not reached the event by
their last step count as right-censored, and there is no median if fewer than half reached it. Mean, std (ddof 1), min
and max are over the k runs only.</p>"""


def write_sweep_report(
    sweep: pd.DataFrame,
    axes: Sequence[str],
    title: str,
    output: str | Path,
    notes: Sequence[str] = (),
    metrics: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> Path:
    """Write a report on a sweep as one HTML file, which includes plotly.js and makes no network requests.

    >>> sweep = grokinterp.Sweep.open("checkpoints/decay")  # doctest: +SKIP
    >>> write_sweep_report(sweep.table, sweep.axes, sweep.name, "report.html")  # doctest: +SKIP

    Args:
        sweep: the sweep's table, one row per run.
        axes: the swept fields of the configuration, as dotted names, including seeds.
        title: the page's heading.
        output: the file to write.
        notes: remarks to show at the top, one sentence each.
        metrics: the metrics of runs by name, as `Run.metrics`; of at most 24 runs, the learning curves are drawn.

    Returns:
        The path of the file.

    Raises:
        ConfigError: the table lacks an axis or another column of a sweep's table.
        RunError: the file cannot be written, or `output` names a folder, a symlink, or a device.
    """
    for axis in axes:
        values_of(sweep, axis)
    swept = [axis for axis in axes if axis not in SEEDS]
    outcomes = observe(sweep, "T_grok_0.95").outcomes
    sections = {
        **_curves(sweep, metrics),
        "Axes": _axes(sweep, axes) + _counts(sweep, outcomes) + _constant(sweep, axes),
        "Failures": _failures(sweep),
        "Settings": _settings(sweep, axes),
        **(_by_axis(sweep, swept) if swept else {}),
        "Final measures": _finals(sweep),
        "Runs": _runs(sweep, outcomes),
    }
    target = Path(output)
    heading = escape(title)
    lead = f'<p class="lead">{len(sweep):,} runs: {counts_text(Counter(outcomes)) or "none"}.</p>'
    write_output(target, page(heading, lead, [escape(note) for note in notes], sections))
    return target


def _curves(sweep: pd.DataFrame, metrics: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Return the section of learning curves; none for many runs, whose curves would hide each other."""
    rows = pd.DataFrame(sweep[sweep["run"].isin(list(metrics))])
    if not 0 < len(rows) <= MAX_CURVES:
        return {}
    figure = learning_curves(rows, [metrics[str(name)] for name in rows["run"]])
    return {"Learning curves": block(figure, "learning_curves", caption_of(learning_curves))}


def _by_axis(sweep: pd.DataFrame, swept: Sequence[str]) -> dict[str, str]:
    """Return the sections that compare settings; seeds alone give nothing to compare."""
    return {
        "Outcomes": _outcomes(sweep, swept),
        "Delay and T_grok": _times(sweep, swept),
        "Weight norm at T_grok": _norms(sweep, swept),
    }


def _nothing(reason: str) -> str:
    return f"<p>{capital(reason)}.</p>"


def _folded(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "dense") -> str:
    """Return a table, collapsed if it is long and cut if it is very long."""
    content = table(head, rows[:_MAX_ROWS], kind)
    if len(rows) > _MAX_ROWS:
        content += f'<p class="note">The first {_MAX_ROWS} of {len(rows):,} rows; the sweep&#39;s table has all.</p>'
    if len(rows) <= _OPEN_ROWS:
        return content
    return f"<details><summary>{title}, {len(rows):,} rows</summary>{content}</details>"


def _axes(sweep: pd.DataFrame, axes: Sequence[str]) -> str:
    if not axes:
        return _nothing("no axis was swept: all runs have the same setting")
    rows = []
    for axis in axes:
        values = values_of(sweep, axis)
        text = ", ".join(map(value_label, values[:30])) + (f", … {value_label(values[-1])}" if len(values) > 30 else "")
        rows.append([f"<code>{escape(axis)}</code>", str(len(values)), text])
    return table(["axis", "number of values", "values"], rows)


def _counts(sweep: pd.DataFrame, outcomes: Sequence[str]) -> str:
    by_status, by_outcome = Counter(map(str, sweep["status"].tolist())), Counter(outcomes)
    counts = {label: by_outcome[outcome] for outcome, label in OUTCOME_LABELS.items() if by_outcome[outcome]}
    return (
        table(["status", *map(escape, by_status)], [["runs", *(f"{count:,}" for count in by_status.values())]])
        + table(["outcome", *counts], [["runs", *(f"{count:,}" for count in counts.values())]])
        + _HOW_TO_READ
    )


def _constant(sweep: pd.DataFrame, axes: Sequence[str]) -> str:
    """Return a table of the configuration that all runs share."""
    dotted = [str(c) for c in sweep if "." in str(c) and str(c).split(".")[0].isidentifier()]
    fields = [c for c in dotted if c.split(".")[0] in ("task", "model", "optimizer", "schedule")]
    fields += [c for c in ("model_seed", "loss", "loss_dtype") if c in sweep]
    shared = [(c, values_of(sweep, c)) for c in fields if c not in axes]
    rows = [[f"<code>{escape(c)}</code>", value_label(values[0])] for c, values in shared if len(values) == 1]
    if not rows:
        return ""
    return f"<details><summary>Shared by all runs</summary>{table(['field', 'value'], rows)}</details>"


def _failures(sweep: pd.DataFrame) -> str:
    columns = zip(sweep["run"].tolist(), sweep["status"].tolist(), sweep["failure"].tolist(), strict=True)
    rows = [
        [escape(str(run)), escape(str(reason)) if isinstance(reason, str) else "no reason recorded"]
        for run, status, reason in columns
        if status == "failed"
    ]
    return _folded("Failed runs", ["run", "reason"], rows, "") if rows else _nothing("no run failed")


def _settings(sweep: pd.DataFrame, axes: Sequence[str]) -> str:
    if not len(sweep):
        return _nothing("the table has no runs")
    parts, swept = [], [axis for axis in axes if axis not in SEEDS]
    for quantity in _TIMES:
        head = [escape(axis).replace(".", ".<wbr>") for axis in swept]
        head += ["k/n", "DNF test", "DNF train", "median", "95 % interval of the median"]
        head += ["mean of k", "std of k (ddof 1)", "min to max", "other outcomes"]
        rows = [
            [
                *(value_label(row[axis]) for axis in swept),
                f"{row['k']}/{row['n']}",
                str(row["DNF_test"]),
                str(row["DNF_train"]),
                "not reached" if row["n"] and math.isnan(row["median"]) else _steps(row["median"]),
                _interval(row["median_low"], row["median_high"]),
                _steps(row["mean_of_k"]),
                _steps(row["std_of_k"]),
                _interval(row["min_of_k"], row["max_of_k"]),
                counts_text(Counter({outcome: row[outcome] for outcome in _OTHER_OUTCOMES})),
            ]
            for row in summarize(sweep, axes, quantity).to_dict("records")
        ]
        content = _folded(quantity_name(quantity), head, rows)
        parts.append(f"<h3>{quantity_name(quantity)}</h3>{content}")
    return "".join(parts)


def _steps(x: float) -> str:
    return MISSING if math.isnan(x) else "∞" if math.isinf(x) else f"{x:,.0f}"


def _interval(low: float, high: float, form: Callable[[float], str] = _steps) -> str:
    if math.isinf(high) and math.isfinite(low):
        return f"{form(low)} or more"
    return MISSING if math.isnan(low) else f"{form(low)} to {form(high)}"


def _outcomes(sweep: pd.DataFrame, swept: Sequence[str]) -> str:
    pairs = list(combinations([axis for axis in swept if len(values_of(sweep, axis)) > 1], 2))
    parts = []
    for i, (x, y) in enumerate(pairs):
        for value in ("outcome", "T_grok_0.95"):
            caption = "" if i or value != "outcome" else caption_of(phase_diagram)
            parts.append(block(phase_diagram(sweep, x, y, value), f"phase_diagram_{i}_{value[0]}", caption))
    if not pairs:
        parts.append(_nothing("no phase diagram: it needs two axes other than seeds with at least two values each"))
    if not pairs or len(settings(sweep, swept)) < len(sweep):  # otherwise the phase diagrams show every run
        parts.append(block(outcome_counts(sweep, swept), "outcome_counts", caption_of(outcome_counts)))
    return "".join(parts)


def _times(sweep: pd.DataFrame, swept: Sequence[str]) -> str:
    numeric = [axis for axis in swept if _is_numeric(sweep, axis)]
    if not numeric:
        return _nothing("no numeric axis was swept with at least two values, so there are no figures of times")
    parts, rows = [], []
    for i, axis in enumerate(numeric):
        for quantity in _TIMES:
            figure = delay_against(sweep, axis, quantity)
            meta: dict[str, Any] = figure.layout.meta  # pyright: ignore[reportAttributeAccessIssue]
            caption = "" if parts else caption_of(delay_against)
            parts.append(block(figure, f"{quantity.replace('.', '_')}_{i}", caption))
            rows += [_fit_row(axis, quantity, fit) for fit in meta["fits"]]
    head = ["quantity", "axis", "group", "exponent", "95 % interval", "runs", "censored", "spread of ln", "method"]
    fits = _folded("Power laws", head, rows) if rows else _nothing("no power law was fitted; the figures say why")
    return f"<h3>Power laws</h3>{fits}" + "".join(parts)


def _is_numeric(sweep: pd.DataFrame, axis: str) -> bool:
    values = values_of(sweep, axis)
    return len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _fit_row(axis: str, quantity: str, fit: dict[str, Any]) -> list[str]:
    return [
        quantity_name(quantity),
        f"<code>{escape(axis)}</code>",
        fit["group"] or "all runs",
        f"{fit['exponent']:.3f}",
        _interval(fit["low"], fit["high"], lambda x: f"{x:.3f}"),
        str(fit["n"]),
        str(fit["n_censored"]),
        number(fit["spread"]),
        escape(fit["method"]),
    ]


def _norms(sweep: pd.DataFrame, swept: Sequence[str]) -> str:
    axes = [axis for axis in swept if len(values_of(sweep, axis)) > 1]
    missing = [c for c in ("weight_norm_at_T_grok_0.95", "weight_rms_at_T_grok_0.95") if c not in sweep]
    if missing:
        return _nothing(f"the table has no {' nor '.join(missing)}")
    if not observe(sweep, "weight_norm_at_T_grok_0.95").reached.any():
        return _nothing("no run grokked, or none recorded its norm")
    if not axes:
        return _nothing("no axis other than seeds was swept with at least two values")
    return "".join(
        block(norm_at_grok(sweep, axis), f"norm_at_grok_{i}", "" if i else caption_of(norm_at_grok))
        for i, axis in enumerate(axes)
    )


def _finals(sweep: pd.DataFrame) -> str:
    columns = [str(column) for column in sweep if str(column).startswith("final.")]
    rows = []
    for column in columns:
        try:
            values = pd.Series(observe(sweep, column).values).dropna()
        except ConfigError:  # a column of text has no median
            continue
        if len(values):
            numbers = [number(float(x)) for x in (values.median(), values.min(), values.max())]
            rows.append([f"<code>{escape(column.removeprefix('final.'))}</code>", f"{len(values):,}", *numbers])
    if not rows:
        return _nothing("no run has measures at its last checkpoint")
    heading = "<p>At the last checkpoint of each run with an outcome other than diverged or DNF train.</p>"
    content = table(["measure", "runs", "median", "min", "max"], rows)
    return f"<details><summary>{len(rows)} measures</summary>{heading}{content}</details>"


def _runs(sweep: pd.DataFrame, outcomes: Sequence[str]) -> str:
    columns = ["T_train_0.99", "T_grok_0.95", "T_grok_0.99", "delay_0.95_0.99"]
    rows = [
        [escape(str(run["run"])), escape(str(run["status"])), OUTCOME_LABELS[outcome], _steps(float(run["step"] or 0)),
         *(_steps(float(run[c])) for c in columns)]
        for outcome, run in zip(outcomes, sweep.head(_MAX_ROWS + 1).to_dict("records"), strict=False)
    ]  # fmt: skip
    if not rows:
        return _nothing("the table has no runs")
    rows += [[]] * (len(sweep) - len(rows))
    return _folded("All runs", ["run", "status", "outcome", "last step", *map(quantity_name, columns)], rows)
