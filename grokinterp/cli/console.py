"""Terminal output: an analysis, the runs in a folder, a sweep, a reproduction."""

import inspect
import math
import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape as without_markup
from rich.padding import Padding
from rich.table import Table

from grokinterp.errors import one_line
from grokinterp.statistics import SEEDS, Outcome, summarize
from grokinterp.statistics.formatting import MISSING, duration, number

if TYPE_CHECKING:
    from grokinterp.analysis.result import Analysis
    from grokinterp.experiments import Recipe, Reproduction
    from grokinterp.measures.base import Measure
    from grokinterp.sweep import Progress, Sweep

_LIVE_ROWS = 20  # of a sweep's live table
_SWEEP_ROWS = 60  # of its final table
_LOG_INTERVAL = 30.0  # seconds between two lines of its log
_NAMED_RUNS = 4  # a line names the runs in training if there are at most so many


def escape(text: str) -> str:
    """Text on one line, printed literally: neither rich markup nor control characters in it take effect."""
    return without_markup(one_line(text))


class PipeConsole(Console):
    """A console that raises when the reader of its output has closed the pipe."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


def show_analysis(analysis: "Analysis", *, every_measure: bool = False) -> None:
    """Prints an analysis: outcome, milestones, key frequencies, phases and warnings.

    Args:
        analysis: the analysis.
        every_measure: also print every event, and every measure at the last analyzed step.
    """
    from grokinterp.analysis.overview import headline

    console = PipeConsole(highlight=False)
    name, outcome = escape(str(analysis.run.path)), analysis.transition.outcome
    console.print(f"[bold]{name}: {outcome}[/]: {escape(headline(analysis))}\n")
    _print_milestones(console, analysis)
    _print_key_frequencies(console, analysis)
    for line in _phase_lines(analysis):
        console.print(escape(line))
    if every_measure:
        console.print(_events_table(analysis), _final_table(analysis))
    for warning in analysis.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def show_analyses(analyses: "Sequence[Analysis]") -> None:
    """Prints one table with a row for each of several runs, and their warnings."""
    console = PipeConsole(highlight=False)
    headings = ["T_train(0.99)", "T_grok(0.95)", "T_grok(0.99)", "delay(0.99)", "test accuracy"]
    if console.width < 100:
        headings = [heading.replace("(", "\n(") for heading in headings]
    table = make_table("run", "outcome", *headings, "key frequencies", text=("run", "outcome", "key frequencies"))
    for analysis in analyses:
        transition = analysis.transition
        steps = [transition.T_train[0.99].step, transition.T_grok[0.95].step, transition.T_grok[0.99].step]
        values = [*steps, transition.delay[0.99], transition.evidence.get("final_test_accuracy")]
        keys = ", ".join(map(str, analysis.reference.frequencies.values)) or MISSING
        outcome = transition.outcome.replace("_", " ")
        table.add_row(escape(str(analysis.run.path)), outcome, *map(number, values), keys)
    console.print(table)
    for analysis in analyses:
        for warning in analysis.warnings:
            console.print(f"[yellow]warning:[/] {escape(analysis.name)}: {escape(warning)}")


def _rows(analysis: "Analysis") -> dict[str, str]:
    """The label and the column of each row of the table of milestones."""
    rows = {"test accuracy": "test_accuracy", "novel accuracy": "novel_accuracy"}
    if analysis.curves("test_accuracy").empty:
        rows = {"accuracy": "accuracy"}
    if analysis.reference.lost:
        step = number(analysis.reference.frequencies.step)
        for loss in ("restricted loss", "excluded loss"):
            column = loss.replace(" ", "_")
            rows |= {f"{loss}, keys at {step}": column, f"{loss}, union of keys": f"{column}_union"}
    else:
        rows |= {"restricted loss": "restricted_loss", "excluded loss": "excluded_loss"}
    return rows | {"margin ratio": "circuit_efficiency_ratio", "weight norm": "weight_norm"}


def _print_milestones(console: Console, analysis: "Analysis") -> None:
    from grokinterp.analysis.overview import PRECISION, milestones, value_at

    columns = milestones(analysis)
    headings = [column.name for column in columns]
    if analysis.reference.lost and console.width < 100:  # the labels of the rows are long
        headings = [heading.replace(" (", "\n(").replace(" =", "\n=") for heading in headings]
    table = make_table("", *headings)
    table.add_row("step", *(number(column.step) for column in columns))
    moved = any(column.checkpoint != column.step for column in columns)
    if moved:
        table.add_row("checkpoint", *(number(column.checkpoint) for column in columns))
    table.add_section()
    gaps: dict[str, list[str]] = {}
    for column in columns:
        if column.step is None:
            gaps.setdefault(column.reason, []).append(column.name)
    for label, name in _rows(analysis).items():
        values = [value_at(analysis, name, column) for column in columns]
        if not all(map(math.isnan, values)):
            table.add_row(label, *map(number, values))
            for column, value in zip(columns, values, strict=True):
                reason = analysis.why_missing(name, column.checkpoint)
                if math.isnan(value) and column.checkpoint is not None and reason:
                    gaps.setdefault(reason, []).append(f"{label} at {column.name}")
        elif reason := analysis.why_missing(name, columns[-1].checkpoint):
            gaps.setdefault(reason, []).append(label)
    console.print(table)
    if moved:
        console.print("Accuracies and weight norm are read at the step, the other measures at the nearest checkpoint.")
    console.print(
        "Margin ratio: margin on held-out pairs / extra margin of training pairs over held-out pairs, that is, of the "
        'generalizing / the memorizing circuit at the same weight norm ("circuit efficiency").'
    )
    console.print(f"{PRECISION}.")
    for reason, labels in gaps.items():
        console.print(f"{MISSING} {escape(', '.join(labels))}: {escape(reason)}")
    console.print()


def _print_key_frequencies(console: Console, analysis: "Analysis") -> None:
    from grokinterp.analysis.overview import key_doubles, key_shares

    reference = analysis.reference
    keys, shares = reference.frequencies, key_shares(analysis)
    text = ", ".join(map(str, keys.values)) or "none"
    origin = "given" if keys.rule == "given" else f"rule {keys.rule}, step {number(keys.step)}"
    reason = f": {keys.reason}" if keys.reason else ""
    console.print(f"key frequencies: [bold]{text}[/] ({origin}){escape(reason)}")
    if reference.lost:
        lost, union = (", ".join(map(str, values)) for values in (reference.lost, reference.union))
        console.print(f"lost since T_grok(0.95): {lost}; union of keys: {union}")
    for (twice, k), rules in key_doubles(analysis).items():
        console.print(
            f"also reported by {' and '.join(rules)}: {twice}, the double of {k}; doubles of key frequencies often "
            "show in the embedding."
        )
    if keys.values and len(shares.columns):
        table = make_table("k", *shares.columns)
        for k, row in shares.iterrows():
            table.add_row(str(k), *map(_percent, row))
        if len(shares) > 1:
            table.add_row("all", *map(_percent, shares.sum()))
        console.print(table)
        meanings = {
            "embedding": "of the embedding's variance over tokens",
            "logits": "of the logits' variance over classes, explained by cos w_k(a+b-c)",
        }
        meaning = "; ".join(meanings[str(column)] for column in shares)
        console.print(f"Shares at step {number(shares.attrs['step'])}: {meaning}.")
    console.print()


def _phase_lines(analysis: "Analysis") -> list[str]:
    """When each phase ends, or why it does not."""
    transition = analysis.transition
    phases = {
        "memorization phase": transition.memorization_end,
        "circuit formation phase": transition.circuit_formation_end,
        "cleanup phase": transition.cleanup_end,
    }
    if len({phase.reason for phase in phases.values()} - {""}) == 1 and all(p.step is None for p in phases.values()):
        return [f"no phases: {transition.memorization_end.reason}"]
    lines = []
    for name, phase in phases.items():
        low, high = number(phase.low), number(phase.high)
        interval = "" if phase.low is None and phase.high is None else f" ({low} to {high})"
        end = f"{name}: {phase.reason}" if phase.step is None else f"{name} ends at {number(phase.step)}{interval}"
        lines.append("; ".join([end, *phase.flags]))
    return lines


def _events_table(analysis: "Analysis") -> Table:
    transition = analysis.transition
    table = make_table("event", "95 %", "99 %")
    for label, events in (
        ("T_train: first step with that train accuracy", transition.T_train),
        ("T_grok: first step with that test accuracy", transition.T_grok),
        ("T_grok on novel pairs", transition.T_grok_novel),
    ):
        table.add_row(label, *(number(events[theta].step) for theta in (0.95, 0.99)))
    table.add_row("delay: T_grok - T_train", *(number(transition.delay[theta]) for theta in (0.95, 0.99)))
    return table


def _final_table(analysis: "Analysis") -> Table:
    step = int(analysis.timeline.index[-1])
    table = make_table("measure", f"at step {step:,}", "meaning", text=("measure", "meaning"))
    for column, value in analysis.timeline.iloc[-1].items():
        name = str(column)
        meaning = analysis.definitions.get(name) or analysis.definitions.get(name.split(".")[0], "")
        reason = analysis.why_missing(name, step)
        table.add_row(escape(name), number(value), escape(f"{meaning} (undefined: {reason})" if reason else meaning))
    return table


def _percent(share: float) -> str:
    return MISSING if math.isnan(share) else f"{100 * share:.1f} %"


def make_table(*headings: str, text: Collection[str] | None = None, **options: Any) -> Table:
    """A table whose columns `text` (default: the first) are text and whose other columns are numbers."""
    table = Table(**{"box": SIMPLE, "pad_edge": False, "collapse_padding": True, **options})
    for heading in headings:
        is_text = heading in (headings[:1] if text is None else text)
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    return table


class SweepDisplay:
    """Shows the progress of a sweep: a live table in a terminal, otherwise a line at every change and every 30 s.

    Attributes:
        interrupted: whether the sweep was interrupted.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.interrupted = False
        self._console = PipeConsole(highlight=False, stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        self._printed: tuple[int, int, int] | None = None
        self._printed_at, self._most_running = 0.0, 0

    def __enter__(self) -> "SweepDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: "Progress") -> None:
        """Callback for the progress of `train_sweep`."""
        self.interrupted = progress.interrupted
        running, failed = len(progress.running), len(progress.failed)
        done, waiting = f"{progress.done} of {progress.total} done", f"{progress.waiting} waiting"
        line = f"{done}, {running} running, {waiting}, {failed} failed"
        if progress.seconds_left is not None and progress.seconds_left > 0:
            line += f"; about {duration(progress.seconds_left)} left"
        if self._console.is_terminal:
            self._live.update(self._table(progress, line))
            return
        self._most_running = max(self._most_running, running)
        counts, now = (progress.done, failed, running), time.monotonic()
        # A worker that is free starts the next run at once: the moment between is no change.
        settled = (running == self._most_running > 0) or not progress.waiting
        if (settled and counts != self._printed) or (self._printed and now - self._printed_at > _LOG_INTERVAL):
            self._printed, self._printed_at = counts, now
            steps = ", ".join(f"{name} at {step:,} of {total:,}" for name, (step, total) in progress.running.items())
            self._console.print(escape(f"{line}: {steps}" if 0 < running <= _NAMED_RUNS else line), soft_wrap=True)

    def _table(self, progress: "Progress", line: str) -> Table:
        table = Table(box=SIMPLE, pad_edge=False, title=f"{escape(str(self.folder))}: {line}", title_justify="left")
        for heading in ("run", "step", "of"):
            table.add_column(heading, justify="left" if heading == "run" else "right")
        for name, (step, steps) in list(progress.running.items())[:_LIVE_ROWS]:
            table.add_row(escape(name), number(step), number(steps))
        for name, failure in list(progress.failed.items())[:_LIVE_ROWS]:
            table.add_row(f"[red]{escape(name)}[/]", escape(str(failure)), "")
        return table


def show_sweep(sweep: "Sweep", runs: pd.DataFrame) -> None:
    """Prints outcomes and times for each setting of a sweep, and every failed run.

    Args:
        sweep: the sweep.
        runs: its table, one row per run.
    """
    console = PipeConsole(highlight=False)
    axes = [axis for axis in sweep.axes if axis not in SEEDS]
    times = ("T_train_0.99", "T_grok_0.95", "T_grok_0.99")
    headings = (*(axis.rsplit(".", 1)[-1] for axis in axes), "runs", *times)
    title = f"{escape(sweep.name)}: {len(sweep.points)} runs"
    table = make_table(*headings, text=headings, collapse_padding=False, title=title)
    by_time = [summarize(runs, sweep.axes, time).to_dict("records") for time in times]
    for rows in list(zip(*by_time, strict=True))[:_SWEEP_ROWS]:
        counts = ", ".join(f"{rows[0][fate]} {fate}" for fate in Outcome if rows[0][fate])
        table.add_row(*(escape(_cell(rows[0][axis])) for axis in axes), escape(counts), *map(_reached, rows))
    console.print(table)
    if len(by_time[0]) > _SWEEP_ROWS:
        console.print(f"(the first {_SWEEP_ROWS} settings; the report and sweep.parquet have all)")
    console.print("times: median in steps (k/n runs reached the threshold; the others count as right-censored)")
    for name, failure in runs.loc[runs["failure"].notna(), ["run", "failure"]].itertuples(index=False):
        console.print(f"[red]failed[/] {escape(name)}: {escape(failure)}", soft_wrap=True)


def _reached(row: dict[Hashable, Any]) -> str:
    share = f" ({row['k']}/{row['n']})" if row["n"] > 1 else ""
    return f"{row['median']:,.0f}{share}" if math.isfinite(row["median"]) else f"-{share}"


def show_ablations(analysis: "Analysis", ablations: pd.DataFrame) -> None:
    """Prints loss and accuracy after each ablation."""
    table = Table(title=f"{analysis.run.path}: ablations at the reference step", title_justify="left", box=SIMPLE)
    for heading in ("part", "change"):
        table.add_column(heading, overflow="fold")
    for column in ablations.columns:
        table.add_column(column.replace("_", " "), justify="right")
    for (part, change), row in ablations.iterrows():  # pyright: ignore[reportGeneralTypeIssues]
        table.add_row(escape(part), escape(change), *(f"{value:.4g}" for value in row))
    PipeConsole(highlight=False).print(table)


def show_measures(measures: "Sequence[Measure]", costs: Mapping[str, Any]) -> None:
    """Prints one line for each measure: its name, its cost, and its definition, cut to the width of a terminal.

    Args:
        measures: the measures.
        costs: by the key `milliseconds`, the cost of one checkpoint by the name of the measure.
    """
    console = PipeConsole(highlight=False)
    width = max(len(entry.name) for entry in measures) + 2
    for entry in measures:
        text = (inspect.getdoc(entry.function) or entry.columns[0].definition).split("\n\n")[0].replace("\n", " ")
        cost = costs["milliseconds"].get(entry.name)
        text = f"{'' if cost is None else f'{cost:.1f} ms':>7}{' --circuit' if entry.costly else ''}  {text}"
        space = max(console.width - width, 20) if console.is_terminal else len(text)
        line = text if len(text) <= space else f"{text[: space - 3]}..."
        console.print(f"[bold]{escape(entry.name)}[/]{' ' * (width - len(entry.name))}{escape(line)}", soft_wrap=True)


def show_recipes(recipes: "Sequence[Recipe]") -> None:
    """Prints the experiments that can be reproduced."""
    console = PipeConsole(highlight=False)
    for recipe in recipes:
        cost = f"{recipe.full.cost} (GPU)" if recipe.full.gpu else recipe.full.cost
        console.print(f"[bold]{escape(recipe.name)}[/]: {escape(cost)}; quick form: {escape(recipe.quick.cost)}")
        console.print(Padding(f"{escape(recipe.title)}\n{escape(recipe.source)}", (0, 0, 0, 4)))


def show_reproduction(reproduction: "Reproduction") -> None:
    """Prints the published and the measured result of each claim."""
    console = PipeConsole(highlight=False)
    table = Table(
        title=f"{reproduction.recipe.title} ({reproduction.recipe.source})", title_justify="left", show_lines=True
    )
    for heading in ("claim", "published", "measured", "n", "verdict"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "n" else "left")
    for claim in reproduction.claims:
        expected = not claim.should_hold and claim.verdict == "not supported"
        verdict = f"{claim.verdict} (as expected at this scale)" if expected else claim.verdict
        table.add_row(*map(escape, (claim.name, claim.published, claim.measured, str(claim.n), verdict)))
    console.print(table)
    if reproduction.outcome.comparisons:
        console.print(_comparisons(reproduction))
    if reproduction.contradictions:
        topics = "; ".join(contradiction.topic for contradiction in reproduction.contradictions)
        console.print(f"[bold]sources disagree[/] (details and our reading are in the report) on: {escape(topics)}")
    for warning in reproduction.outcome.warnings:
        console.print(f"[yellow]warning[/]: {escape(warning)}")
    for claim in reproduction.failed:
        console.print(f"[red]does not hold[/]: {escape(claim.statement)} (criterion: {escape(claim.threshold)})")


def _comparisons(reproduction: "Reproduction") -> Table:
    smaller = " (smaller than the published runs)" if reproduction.quick else ""
    headings, title = ("", "published", "measured: median (range)"), f"published and measured{smaller}"
    table = make_table(*headings, "n", text=headings, collapse_padding=False, title=title, title_justify="left")
    for comparison in reproduction.outcome.comparisons:
        table.add_row(*map(escape, (comparison.quantity, comparison.printed, comparison.measured)), str(comparison.n))
    return table


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
