"""Terminal output: the runs and sweeps in a folder."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from grokinterp.cli.console import PipeConsole, escape, make_table
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.formatting import BLOCKS, MISSING, age, number
from grokinterp.statistics.outcomes import Outcome


def show_runs(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows of `grokinterp.sweep.listing.describe_runs`."""
    console = PipeConsole(highlight=False)
    if not rows:
        console.print(f"no runs in {escape(str(folder))}: `grokinterp demo` creates one")
    runs, sweeps = ([row for row in rows if kind in row] for kind in ("run", "sweep"))
    if runs:
        console.print(_runs_table(console, runs))
    if sweeps:
        title = {"title": "sweeps (list one by its folder)", "title_justify": "left"}
        table = make_table("sweep", "runs", "finished", collapse_padding=False, **title)
        for row in sweeps:
            counts = [row["problem"]] if "problem" in row else [f"{row['runs']:,}", f"{row['finished']:,}"]
            table.add_row(*map(escape, (row["sweep"], *counts)))
        console.print(table)


def _runs_table(console: Console, rows: Sequence[dict[str, Any]]) -> Table:
    sparks = _can_print(console, BLOCKS)
    wide = ("fraction", "model", "kept") if console.width >= 120 else ()
    headings = ("run", "task", *wide, "outcome", "step", "T_train", "T_grok", "test", "age", *["novel"] * sparks)
    title = "T_train, T_grok: first evaluated steps with 99 % train, test accuracy; test: last test accuracy"
    title += "; novel: accuracy on novel pairs over training" * sparks
    table = make_table(*headings, text=("run", "task", "model", "outcome"), title=title, title_justify="left")
    for row in rows:
        if "problem" in row:
            table.add_row(escape(row["run"]), escape(row["problem"]))
            continue
        extra = [row["train_fraction"], row["model"], row["checkpoints"]] if wide else []
        cells = [row["run"], row["task"], *extra, _outcome_cell(row), row["step"]]
        accuracy = row["test_accuracy"]
        cells += [row["T_train_0.99"], row["T_grok_0.99"], MISSING if accuracy is None else f"{accuracy:.3f}"]
        cells += [_age(row["modified"])]
        cells += [row["sparkline"]] * sparks
        table.add_row(*(escape(cell) if isinstance(cell, str) else number(cell) for cell in cells))
    return table


def _can_print(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True


def _outcome_cell(row: dict[str, Any]) -> str:
    """The outcome of a run and, if it is unfinished, how far it is."""
    outcome, status = str(row["outcome"]).replace("_", " "), row["status"]
    if status in (RunStatus.FINISHED, RunStatus.DIVERGED):
        return outcome
    share = f" at {100 * row['step'] / row['steps']:.0f} %" if row["step"] is not None and row["steps"] else ""
    progress = f"{status}{share}"
    return progress if outcome == Outcome.UNDETERMINED else f"{outcome}, {progress}"


def _age(modified: str) -> str:
    return age((datetime.now(UTC) - datetime.fromisoformat(modified)).total_seconds())
