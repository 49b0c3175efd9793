"""Tables for a terminal: one analysis, or the runs in a folder."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grokinterp.errors import GrokinterpError
from grokinterp.run import Run, list_runs

if TYPE_CHECKING:
    from grokinterp.analysis import Analysis

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


def describe_runs(folder: Path) -> list[dict[str, Any]]:
    """One plain row a run in a folder; a damaged one says what is wrong with it."""
    rows = []
    for path in list_runs(folder):
        row: dict[str, Any] = {"run": path.name}
        try:
            run = Run.open(path)
            status, metrics = run.status, run.metrics
            row |= {
                "task": run.config.task.title,
                "train_fraction": run.config.task.train_fraction,
                "model": run.config.model.kind,
                "status": status.get("status", "unknown"),
                "step": status.get("step"),
                "checkpoints": len(run.steps),
                "train_accuracy": _last(metrics, "train_accuracy"),
                "test_accuracy": _last(metrics, "test_accuracy"),
            }
        except GrokinterpError as error:
            row["problem"] = str(error)
        rows.append(row)
    return rows


def show_runs(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows of `describe_runs`."""
    console = _Console(highlight=False)
    if not rows:
        console.print(f"no runs in {escape(str(folder))}: `grokinterp demo` makes one")
        return
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
    console.print(table)


def _last(metrics: Any, name: str) -> float | None:
    return float(metrics[name].iloc[-1]) if name in metrics and len(metrics) else None


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
