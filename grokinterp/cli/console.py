"""Tables for a terminal: one analysis, the runs in a folder, a sweep."""

import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape as without_markup
from rich.table import Table

from grokinterp.errors import one_line
from grokinterp.statistics import FATES, SEEDS, summarize
from grokinterp.training.estimate import duration

if TYPE_CHECKING:
    from grokinterp.analysis.result import Analysis
    from grokinterp.experiments import Recipe, Reproduction
    from grokinterp.sweep import Progress, Sweep

_FINAL = (
    "train_loss",
    "test_loss",
    "train_accuracy",
    "test_accuracy",
    "novel_accuracy",
    "restricted_loss",
    "restricted_loss_novel",
    "excluded_loss",
    "excluded_loss_novel",
    "logit_variance_explained",
    "gini_embedding",
    "gini_neuron_logit",
    "generalized_margin_share",
    "circuit_efficiency_ratio",
    "weight_norm",
    "weight_rms",
)


_ROWS = 20  # of the live table
_SETTINGS = 60


def escape(text: str) -> str:
    """Text as it stands, on one line, whoever wrote it."""
    return without_markup(one_line(text))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


def show_analysis(analysis: "Analysis") -> None:
    """Prints outcome, events, phases, key frequencies, final numbers and warnings."""
    console = _Console(highlight=False)
    said = analysis.summary()
    transition, reference = said["transition"], said["reference"]
    console.print(f"[bold]{escape(said['run'])}[/]: [bold]{transition['outcome']}[/] ({escape(transition['reason'])})")

    events = Table(title="transition, in steps", title_justify="left")
    for heading in ("", "at 0.95", "at 0.99"):
        events.add_column(heading, justify="left" if not heading else "right")
    for name, label in (("T_train", "T_train"), ("T_grok", "T_grok"), ("T_grok_novel", "T_grok, novel pairs only")):
        events.add_row(label, *(_number(transition[name][theta]) for theta in ("0.95", "0.99")))
    events.add_row("delay", *(_number(transition["delay"][theta]) for theta in ("0.95", "0.99")))
    console.print(events)

    phases = Table(title="phases", title_justify="left")
    for heading in ("end of", "step", "interval", "remark"):
        phases.add_column(heading, justify="right" if heading == "step" else "left")
    for name, phase in transition["phases"].items():
        interval = f"{_number(phase['low'])} to {_number(phase['high'])}" if phase["step"] is not None else ""
        remark = "; ".join([*([phase["reason"]] if phase["reason"] else []), *phase["flags"]])
        phases.add_row(name.removesuffix("_end").replace("_", " "), _number(phase["step"]), interval, escape(remark))
    console.print(phases)

    keys = ", ".join(map(str, reference["key_frequencies"])) or f"none ({reference['reason']})"
    console.print(f"key frequencies: [bold]{escape(keys)}[/] (rule {reference['rule']}, step {reference['step']})")

    final = Table(title=f"at step {said['steps']['last']}", title_justify="left")
    for heading in ("measure", "value", "meaning"):
        final.add_column(heading, justify="right" if heading == "value" else "left")
    for name in _FINAL:
        if name in said["final"]:
            value = said["final"][name]
            meaning = analysis.definitions.get(name, "")
            missing = f"not defined here: {said['missing'].get(name, '')}"
            final.add_row(name, _number(value), escape(meaning if value is not None else missing))
    console.print(final)
    for warning in said["warnings"]:
        console.print(f"[yellow]note:[/] {escape(warning)}")


def show_runs(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows of `describe_runs`."""
    console = _Console(highlight=False)
    if not rows:
        console.print(f"no runs in {escape(str(folder))}: `grokinterp demo` makes one")
    runs, sweeps = ([row for row in rows if kind in row] for kind in ("run", "sweep"))
    if runs:
        console.print(_runs_table(runs))
    if sweeps:
        table = Table(box=SIMPLE, pad_edge=False, title="sweeps (list one by its folder)", title_justify="left")
        for heading in ("sweep", "runs", "finished"):
            table.add_column(heading, justify="left" if heading == "sweep" else "right", overflow="fold")
        for row in sweeps:
            counts = [row["problem"]] if "problem" in row else [f"{row['runs']:,}", f"{row['finished']:,}"]
            table.add_row(*map(escape, (row["sweep"], *counts)))
        console.print(table)


def _runs_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        box=SIMPLE, pad_edge=False, collapse_padding=True, title="accuracy on train and test inputs, if known"
    )
    for heading in ("run", "task", "fraction", "model", "status", "step", "kept", "train", "test"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        if "problem" in row:
            table.add_row(escape(row["run"]), escape(row["problem"]))
            continue
        cells = [row["run"], row["task"], row["train_fraction"], row["model"], row["status"], row["step"]]
        accuracies = [row["train_accuracy"], row["test_accuracy"]]
        cells += [row["checkpoints"], *("-" if a is None else f"{a:.3f}" for a in accuracies)]
        table.add_row(*(escape(cell) if isinstance(cell, str) else _number(cell) for cell in cells))
    return table


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


class SweepDisplay:
    """A sweep's progress: a live table in a terminal, elsewhere a line whenever a run ends.

    Attributes:
        interrupted: whether somebody stopped it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.interrupted = False
        self._console = _Console(highlight=False, stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        self._said = (0, 0)

    def __enter__(self) -> "SweepDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: "Progress") -> None:
        """What `sweep` calls with its progress."""
        self.interrupted = progress.interrupted
        line = (
            f"{progress.done} of {progress.total} done, {len(progress.running)} running, {progress.waiting} waiting, "
        )
        line += f"{len(progress.failed)} failed"
        if progress.seconds_left is not None and progress.seconds_left > 0:
            line += f"; about {duration(progress.seconds_left)} left"
        if self._console.is_terminal:
            self._live.update(self._table(progress, line))
        elif self._said != (progress.done, len(progress.failed)):
            self._said = (progress.done, len(progress.failed))
            self._console.print(escape(line), soft_wrap=True)

    def _table(self, progress: "Progress", line: str) -> Table:
        table = Table(box=SIMPLE, pad_edge=False, title=f"{escape(str(self.folder))}: {line}", title_justify="left")
        for heading in ("run", "step", "of"):
            table.add_column(heading, justify="left" if heading == "run" else "right")
        for name, (step, steps) in list(progress.running.items())[:_ROWS]:
            table.add_row(escape(name), _number(step), _number(steps))
        for name, failure in list(progress.failed.items())[:_ROWS]:
            table.add_row(f"[red]{escape(name)}[/]", escape(str(failure)), "")
        return table


def show_sweep(sweep: "Sweep", found: pd.DataFrame) -> None:
    """Prints how many runs came to what and when, setting by setting, and every failure by name.

    Args:
        sweep: the sweep.
        found: its table.
    """
    console = _Console(highlight=False)
    axes = [axis for axis in sweep.axes if axis not in SEEDS]
    table = Table(box=SIMPLE, pad_edge=False, title=f"{escape(sweep.name)}: {len(sweep.points)} runs")
    times = ("T_train_0.99", "T_grok_0.95", "T_grok_0.99")
    for heading in (*(axis.rsplit(".", 1)[-1] for axis in axes), "runs", *times):
        table.add_column(heading, overflow="fold")
    by_time = [summarize(found, sweep.axes, time).to_dict("records") for time in times]
    for rows in list(zip(*by_time, strict=True))[:_SETTINGS]:
        counts = ", ".join(f"{rows[0][fate]} {fate}" for fate in FATES if rows[0][fate])
        table.add_row(*(escape(_cell(rows[0][axis])) for axis in axes), escape(counts), *map(_reached, rows))
    console.print(table)
    if len(by_time[0]) > _SETTINGS:
        console.print(f"(the first {_SETTINGS} settings; the report and sweep.parquet have all)")
    console.print("times: median in steps, k/n runs got there; the median counts those that did not")
    for name, failure in found.loc[found["failure"].notna(), ["run", "failure"]].itertuples(index=False):
        console.print(f"[red]failed[/] {escape(name)}: {escape(failure)}", soft_wrap=True)


def _reached(row: dict[Hashable, Any]) -> str:
    share = f" ({row['k']}/{row['n']})" if row["n"] > 1 else ""
    return f"{row['median']:,.0f}{share}" if math.isfinite(row["median"]) else f"-{share}"


def show_recipes(recipes: "Sequence[Recipe]") -> None:
    """Prints what can be reproduced."""
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("name", "what", "source", "takes", "quick form"):
        table.add_column(heading, overflow="fold")
    for recipe in recipes:
        full = f"{recipe.full.cost}{' (GPU)' if recipe.full.gpu else ''}"
        table.add_row(recipe.name, recipe.title, recipe.source, full, recipe.quick.cost)
    _Console(highlight=False).print(table)


def show_reproduction(done: "Reproduction") -> None:
    """Prints published beside measured, claim by claim."""
    console = _Console(highlight=False)
    table = Table(title=f"{done.recipe.title} ({done.recipe.source})", title_justify="left", show_lines=True)
    for heading in ("claim", "published", "measured", "n", "verdict"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "n" else "left")
    for claim in done.claims:
        expected = not claim.should_hold and claim.verdict == "not supported"
        verdict = f"{claim.verdict} (as expected at this scale)" if expected else claim.verdict
        shown = [claim.name, claim.published, claim.measured, str(claim.n), verdict]
        table.add_row(*map(escape, shown))
    console.print(table)
    if done.outcome.comparisons:
        console.print(_comparisons(done))
    if done.contradictions:
        topics = "; ".join(contradiction.topic for contradiction in done.contradictions)
        console.print(f"[bold]sources disagree[/] (the report says how, and what we hold) on: {escape(topics)}")
    for warning in done.outcome.warnings:
        console.print(f"[yellow]note[/]: {escape(warning)}")
    for claim in done.failed:
        console.print(f"[red]does not hold[/]: {escape(claim.statement)} (asked for: {escape(claim.threshold)})")


def _comparisons(done: "Reproduction") -> Table:
    smaller = " (smaller than the published runs)" if done.quick else ""
    table = Table(title=f"published and measured{smaller}", title_justify="left", box=SIMPLE, pad_edge=False)
    for heading in ("", "published", "measured: median (range)", "n"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "n" else "left")
    for comparison in done.outcome.comparisons:
        table.add_row(*map(escape, (comparison.quantity, comparison.printed, comparison.measured)), str(comparison.n))
    return table


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
