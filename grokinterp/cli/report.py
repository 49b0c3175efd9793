"""grokinterp report."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from grokinterp.cli.options import default, parse, progress_bar, say
from grokinterp.errors import ConfigError, GrokinterpError

if TYPE_CHECKING:
    from pandas import DataFrame

    from grokinterp.analysis.result import Analysis
    from grokinterp.sweep import Sweep


_OUTPUT = "analysis/report.html in the run, comparison.html in the first of several runs, or report.html in the sweep"


@dataclass(frozen=True)
class Report:
    """Write an HTML report for one run, several runs side by side, or a sweep."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(required)")]
    """the run folders, or the folder of one sweep"""
    output: Annotated[Path | None, default(_OUTPUT)] = None
    """path of the report"""


def run_report(arguments: Sequence[str]) -> int:
    options = parse(Report, arguments)
    if not options.runs:
        raise ConfigError("report: give at least one run folder, or the folder of a sweep")
    if options.output is not None:  # before the analysis, which may take long
        from grokinterp.report.page import require_output

        require_output(options.output)
    if any((folder / "sweep.json").is_file() for folder in options.runs):
        if len(options.runs) > 1:
            raise ConfigError("report: a sweep has its own report; give only its folder")
        from grokinterp.sweep import Sweep

        sweep = Sweep.open(options.runs[0])
        output = options.output or sweep.path / "report.html"
        table = sweep.collect() if options.output is None else sweep.table  # the sweep may be read-only
        say(write_report_of_sweep(sweep, table, output))
        return 0
    from grokinterp.analysis.timeline import analyze

    say(write_reports([analyze(run, progress=progress_bar()) for run in options.runs], options.output))
    return 0


def write_report_of_sweep(sweep: "Sweep", table: "DataFrame", output: Path) -> Path:
    """Writes the report of a sweep with the learning curves of its runs, if they are few, and returns its path."""
    from grokinterp.report import write_sweep_report
    from grokinterp.report.sweep import MAX_CURVES
    from grokinterp.runs.run import Run

    metrics: dict[str, DataFrame] = {}
    for point in sweep.points if len(sweep.points) <= MAX_CURVES else ():
        with contextlib.suppress(GrokinterpError):  # a run that has not started, or is damaged
            metrics[point.name] = Run.open(sweep.path / point.name).metrics
    return write_sweep_report(table, sweep.axes, sweep.name, output, metrics=metrics)


def write_reports(analyses: "Sequence[Analysis]", output: Path | None) -> Path:
    """Writes the report of one run, or of several side by side, and returns its path."""
    from grokinterp.report import write_report

    return write_report(analyses[0] if len(analyses) == 1 else analyses, output)
