"""grokinterp analyze."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from grokinterp.cli.options import default, parse, progress_bar, say
from grokinterp.cli.report import write_reports
from grokinterp.config.checks import is_natural_number
from grokinterp.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from grokinterp.analysis.result import Analysis


@dataclass(frozen=True)
class Analyze:
    """Compute every measure at every checkpoint of a run, print the result, and write the report.

    For several runs, print one table with a row for each, and write a report that shows them side by side.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(required)")]
    """the run folders"""
    measures: Annotated[str | None, default("all but costly ones")] = None
    """measure names or package.module:function references, separated by commas"""
    circuit: bool = False
    """also compute the costly measures, which take the circuit apart; `grokinterp measures` marks them"""
    ablations: bool = False
    """also print what the reference checkpoint loses when a part of the network is removed"""
    steps: Annotated[str | None, default("every checkpoint")] = None
    """A:B:C, which selects the steps from A to B (inclusive) with stride C"""
    rule: str = "cube_cosine"
    """rule for key frequencies: cube_cosine, neuron_clusters, embedding_norm, or unembedding_power"""
    frequencies: str | None = None
    """key frequencies to use instead of a rule, separated by commas"""
    reference_step: Annotated[int | None, default("the last")] = None
    """checkpoint whose key frequencies are used"""
    workers: Annotated[int | None, default("one per core if there is enough work")] = None
    """number of worker processes; 0 evaluates in this process"""
    all: bool = False
    """print, for each run, also every event and, with its definition, every measure at the last step"""
    json: bool = False
    """print one JSON object instead of the tables, or a list of them for several runs"""
    csv: bool = False
    """also write the tables as timeline.csv and frequencies.csv"""
    report: bool = True
    """write report.html"""


def run_analyze(arguments: Sequence[str]) -> int:
    options = parse(Analyze, arguments)
    if options.frequencies is not None and options.rule != "cube_cosine":
        raise ConfigError("--rule and --frequencies exclude each other: give one")
    from grokinterp.analysis.timeline import analyze
    from grokinterp.measures.base import MEASURE_FOLDERS
    from grokinterp.runs.run import Run

    MEASURE_FOLDERS.append(str(Path.cwd()))
    if not options.runs:
        raise ConfigError("analyze: give at least one run folder")
    runs = [Run.open(path) for path in options.runs]  # a mistyped name is reported before the analyses, which take long
    analyses = [
        analyze(
            run,
            measures=None if options.measures is None else [name for name in options.measures.split(",") if name],
            circuit=options.circuit,
            steps=options.steps,
            rule=options.rule,
            frequencies=_numbers(options.frequencies),
            reference_step=options.reference_step,
            workers=options.workers,
            progress=progress_bar(),
        )
        for run in runs
    ]
    single = len(analyses) == 1
    tables = [_ablations(analysis) for analysis in analyses] if options.ablations else []
    if options.json:
        summaries = [analysis.summary() for analysis in analyses]
        for summary, table in zip(summaries, tables, strict=False):
            summary["ablations"] = table.reset_index().to_dict("records")
        print(json.dumps(summaries[0] if single else summaries, indent=2))
    else:
        from grokinterp.cli.console import show_ablations, show_analyses, show_analysis

        if not single:
            show_analyses(analyses)
        for analysis in analyses if single or options.all else ():
            show_analysis(analysis, every_measure=options.all)
        for analysis, table in zip(analyses, tables, strict=False):
            show_ablations(analysis, table)
    # Written last: if the run is read-only, the result has been printed.
    files = [("report", write_reports(analyses, None))] if options.report else []
    files += [("table", file) for analysis in analyses for file in _write_tables(analysis)] if options.csv else []
    for kind, file in files if not options.json else []:
        say(f"{kind}: {file}")
    return 0


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(is_natural_number(part.strip()) for part in parts):
        raise ConfigError(f"--frequencies {text!r}: give integers separated by commas, for instance 14,35,41")
    return [int(part) for part in parts]


def _ablations(analysis: "Analysis") -> "pd.DataFrame":
    from grokinterp.analysis.ablations import ablation_table

    keys = analysis.key_frequencies
    return ablation_table(analysis.run, "last" if keys.step is None else keys.step, keys.values)


def _write_tables(analysis: "Analysis") -> list[Path]:
    from grokinterp.runs.files import make_subfolder, write_atomically

    folder = make_subfolder(analysis.run.path, "analysis")
    tables = {folder / "timeline.csv": analysis.timeline, folder / "frequencies.csv": analysis.frequencies}
    for file, table in tables.items():
        write_atomically(file, table.to_csv())
    return list(tables)
