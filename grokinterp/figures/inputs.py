"""What figures can be given: analyses, runs, paths of runs, sweeps, and lists of them."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from grokinterp.analysis.result import Analysis
from grokinterp.errors import ConfigError
from grokinterp.runs.run import Run
from grokinterp.sweep.folder import Sweep
from grokinterp.sweep.rows import config_columns

OneRun = Analysis | Run | str | Path
Analyses = OneRun | Sequence[OneRun]  # what figures of runs draw
Table = pd.DataFrame | Sweep | str | Path  # what figures of sweeps draw


def as_list(analysis: Analyses) -> list[Analysis]:
    """Return one or several analyses as a list. Runs, and folders of runs, are analyzed with the default options.

    Raises:
        ConfigError: the list is empty, or contains something else, such as a sweep.
        RunError: a path is not the folder of a run.
    """
    items = _listed(analysis)
    if not items:
        raise ConfigError("no analysis to draw: pass an Analysis, a Run, or the path of a run, or a list of them")
    return [_analysis(item) for item in items]


def _listed(given: Any) -> list[Any]:
    return [*given] if isinstance(given, Iterable) and not isinstance(given, str | pd.DataFrame) else [given]


def _analysis(item: Any) -> Analysis:
    if isinstance(item, Analysis):
        return item
    if is_sweep(item):
        raise ConfigError(
            "this figure draws single runs, but was given a sweep: pass some of its runs (Sweep.runs), or draw the "
            "sweep with learning_curves, outcome_counts, phase_diagram, delay_against, or norm_at_grok"
        )
    if isinstance(item, Run | str | Path):
        from grokinterp.analysis.timeline import analyze  # figures of an Analysis do without it

        return analyze(item)
    raise ConfigError(
        "a figure takes an Analysis, a Run, or the path of a run, or a list of them, but was given "
        f"{type(item).__name__}"
    )


def is_sweep(given: Any) -> bool:
    """Return True for a Sweep and for the path of one."""
    return isinstance(given, Sweep) or (isinstance(given, str | Path) and (Path(given) / "sweep.json").is_file())


def as_table(given: Table) -> pd.DataFrame:
    """Return the table of a sweep, which is given as a table, a Sweep, or the path of a sweep.

    Raises:
        RunError: a path is not the folder of a sweep.
    """
    if isinstance(given, str | Path):
        given = Sweep.open(given)
    return given.table if isinstance(given, Sweep) else given


def as_metrics(given: Any) -> list[pd.DataFrame]:
    """Return the metrics of one run or several, each given as a table, an Analysis, a Run, or the path of a run.

    Raises:
        ConfigError: something else is passed.
        RunError: a path is not the folder of a run.
    """
    return [item if isinstance(item, pd.DataFrame) else _run(item).metrics for item in _listed(given)]


def table_and_metrics(given: Any) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Return a row of configuration and the metrics of each run of a sweep that has started, or of each given run.

    Raises:
        ConfigError: something else is passed.
        RunError: a path is not the folder of a run or a sweep.
    """
    if is_sweep(given):
        runs = (given if isinstance(given, Sweep) else Sweep.open(given)).runs
    else:
        runs = [_run(item) for item in _listed(given)]
    table = pd.DataFrame([{"run": run.path.name, **config_columns(run.config)} for run in runs])
    return table, [run.metrics for run in runs]


def _run(item: Any) -> Run:
    if isinstance(item, Analysis):
        return item.run
    if isinstance(item, str | Path):
        return Run.open(item)
    if not isinstance(item, Run):
        raise ConfigError(f"expected a Run, an Analysis, or the path of a run, but was given {type(item).__name__}")
    return item


def labels(analyses: Sequence[Analysis]) -> list[str]:
    """Return a legend name for each run: its folder's name, made unique, with p if the runs differ in p."""
    names = [analysis.name for analysis in analyses]
    if len(set(names)) < len(names):
        names = [f"{analysis.run.path.parent.name}/{analysis.name}" for analysis in analyses]
    if len(set(names)) < len(names):
        names = [f"{name} [{i}]" for i, name in enumerate(names, start=1)]
    moduli = [analysis.run.classification.p for analysis in analyses]
    if len(set(moduli)) > 1:
        names = [f"{name} (p = {p})" for name, p in zip(names, moduli, strict=True)]
    return [escape(name) for name in names]
