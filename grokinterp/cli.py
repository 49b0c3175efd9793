"""The command line: thin, and quick to answer, because each command imports what it needs when it runs.

Exit codes: 0 done, 1 a check said no or a training diverged, 2 bad input, 130 interrupted.
"""

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from grokinterp.config import RunConfig, TaskConfig
from grokinterp.errors import ConfigError, GrokinterpError, RunError, nearest

if TYPE_CHECKING:
    from grokinterp.analysis import Analysis
    from grokinterp.run import Run

USAGE = """usage: grokinterp COMMAND ...

Train networks on modular arithmetic, keep every checkpoint, and measure how they grok.

  demo                 train a small transformer until it groks, analyze it, and write its report
  train RUN            train a model into a new run folder, or resume one
  analyze RUN          compute every measure at every checkpoint; print the result and write the report
  report RUN [RUN ...] write the HTML report of one run, or of several side by side
  list [DIR]           the runs in a folder (default: checkpoints)

`grokinterp COMMAND --help` shows a command's options."""


@dataclass(frozen=True)
class Train:
    """Train a model into a new run folder, or resume one.

    The defaults shown are those of --preset NAME (demo, nanda, transformer-lens, psi, manir, s5, parity,
    teacher-student) or of --config FILE (a config.json). These are read first, supply all defaults, and fix the kind of
    model and whether the task is a regression.
    """

    run: tyro.conf.Positional[Path]
    """the run folder"""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    preset: str | None = None
    """named configuration that supplies the defaults"""
    config_file: Annotated[str | None, tyro.conf.arg(name="config")] = None
    """config.json that supplies the defaults"""
    resume: bool = False
    """continue the run in that folder; only schedule.steps may change, and grow"""
    start_from: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """RUN@STEP, another run's checkpoint to start from"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    compile: bool = False
    """compile the update with torch.compile; docs/performance.md says where it pays"""
    dry_run: bool = False
    """print the resolved configuration and an estimate of time and disk; write nothing"""
    track: str | None = None
    """send metrics to wandb or trackio"""


@dataclass(frozen=True)
class Analyze:
    """Compute every measure at every checkpoint of a run, print what was found, and write the report."""

    run: tyro.conf.Positional[Path]
    """the run folder"""
    measures: str | None = None
    """names or package.module:function, separated by commas; by default all"""
    steps: str | None = None
    """A:B:C, the steps from A to B (included) in strides of C"""
    rule: str = "cube_cosine"
    """how key frequencies are found: cube_cosine, neuron_clusters, embedding_norm or unembedding_power"""
    frequencies: str | None = None
    """key frequencies to use instead, separated by commas"""
    reference_step: int | None = None
    """checkpoint whose key frequencies are used; by default the last"""
    workers: int | None = None
    """processes that evaluate checkpoints, 0 for this one alone; by default one a core where it pays"""
    json: bool = False
    """print one JSON object instead of the table"""
    csv: bool = False
    """write the tables as timeline.csv and frequencies.csv too"""
    report: bool = True
    """write no report.html"""


@dataclass(frozen=True)
class Report:
    """Write the HTML report of a run, or of several runs side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """the run folders"""
    output: Path | None = None
    """file to write; by default analysis/report.html in the run, or comparison.html in the first of several"""


@dataclass(frozen=True)
class List:
    """Show the runs in a folder."""

    folder: tyro.conf.Positional[Path] = Path("checkpoints")
    """the folder that holds the runs"""
    json: bool = False
    """print a JSON array instead of the table"""


@dataclass(frozen=True)
class Demo:
    """Train a small transformer until it groks, analyze it, print what was found, and write its report."""

    run: Path = Path("checkpoints/demo")
    """the run folder; a demo run that is there already is shown, not trained again"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if given[0] in ("--version", "-V"):
        from grokinterp import __version__

        print(f"grokinterp {__version__}")
        return 0
    command, rest = given[0], given[1:]
    try:
        if command not in _COMMANDS:
            raise ConfigError(f"no command {command!r}: {nearest(command, _COMMANDS)}")
        code = _COMMANDS[command](rest)
        sys.stdout.flush()
        return code
    except GrokinterpError as error:
        print(f"grokinterp: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parse(kind: Any, arguments: Sequence[str], default: Any = None) -> Any:
    """Options as a dataclass.

    Raises:
        ConfigError: what tyro would say in a box, in one line.
    """
    command = kind.__name__.lower()
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=f"grokinterp {command}",
                args=list(arguments),
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as end:
        if not end.code:
            raise  # --help
    lines = [line.strip(" │╭╮╰╯") for line in complaint.getvalue().splitlines()][1:]
    sections = [" ".join(part.split()) for part in "\n".join(lines).split("\n─")]  # a box, ruled between its parts
    about = sections[0].strip("─ ").replace("Error parsing config.", "") or "bad options"
    hint = next((part.split("Perhaps you meant:")[1].split()[0] for part in sections if "Perhaps you" in part), "")
    hint = f"; did you mean {hint}?" if hint else ""
    raise ConfigError(f"{command}: {about}{hint} (grokinterp {command} --help shows the options)")


def _take(arguments: Sequence[str], flag: str) -> str | None:
    """The value of one flag, ahead of the full parse: for flags that decide how the rest is read."""
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def _train(arguments: Sequence[str]) -> int:
    base = _base_config(_take(arguments, "--preset"), _take(arguments, "--config"), arguments)
    options = _parse(Train, arguments, Train(run=tyro.MISSING, config=base))
    if options.dry_run:
        return _dry_run(options.config)
    from grokinterp.training import Tracker, train

    run = train(
        options.config,
        options.run,
        resume=options.resume,
        start_from=options.start_from,
        device=options.device,
        compile=options.compile,
        callbacks=[Tracker(options.track)] if options.track is not None else [],
    )
    return _say_how_it_ended(run)


def _base_config(preset_name: str | None, config_file: str | None, arguments: Sequence[str]) -> RunConfig:
    """What supplies the defaults: a preset, a file, or the run to resume."""
    if preset_name is not None and config_file is not None:
        raise ConfigError("--preset and --config exclude each other: give one")
    if preset_name is not None:
        from grokinterp.presets import preset

        return preset(preset_name)
    if config_file is not None:
        file = Path(config_file)
        if not file.is_file():
            raise ConfigError(f"--config {config_file}: no such file")
        return RunConfig.from_json(file.read_text(encoding="utf-8", errors="replace"), config_file)
    if "--resume" in arguments:
        from grokinterp.run import Run

        names = [argument for argument in arguments if not argument.startswith("-")]
        folder = next((name for name in names if (Path(name) / "config.json").is_file()), None)
        if folder is None:
            raise RunError(f"nothing to resume in {names[0] if names else 'no folder'}: it holds no run")
        return Run.open(folder).config
    return RunConfig()


def _dry_run(config: RunConfig) -> int:
    from grokinterp.training.estimate import estimate

    cost = estimate(config)
    print(config.to_json(), end="")
    print(
        f"{cost.parameters:,} parameters; {cost.checkpoints} checkpoints of {cost.checkpoint_bytes / 1e6:.2f} MB = "
        f"{cost.checkpoints * cost.checkpoint_bytes / 1e6:.0f} MB; about {_duration(cost.seconds)} for {cost.steps:,} "
        f"steps on this machine's CPU ({1000 * cost.seconds_per_step:.1f} ms a step, measured just now)",
        file=sys.stderr,
    )
    return 0


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _say_how_it_ended(run: "Run") -> int:
    status = run.status
    print(f"{run.path}: {status['status']} at step {status['step']} ({status.get('reason', '')})")
    if status["status"] == "stopped":
        print(f"continue with: grokinterp train {run.path} --resume")
        return 130
    if status["status"] == "finished" and isinstance(run.config.task, TaskConfig):  # a regression is not analyzed
        print(f"next: grokinterp analyze {run.path}")
    return 1 if status["status"] == "diverged" else 0


def _analyze(arguments: Sequence[str]) -> int:
    options = _parse(Analyze, arguments)
    if options.frequencies is not None and options.rule != "cube_cosine":
        raise ConfigError("--rule and --frequencies exclude each other: give one")
    from grokinterp.timeline import analyze

    sys.path.insert(0, str(Path.cwd()))  # for --measures of a module that lies here
    analysis = analyze(
        options.run,
        measures=None if options.measures is None else [name for name in options.measures.split(",") if name],
        steps=options.steps,
        rule=options.rule,
        frequencies=_numbers(options.frequencies),
        reference_step=options.reference_step,
        workers=options.workers,
        progress=_bar(),
    )
    if options.json:
        print(json.dumps(analysis.summary(), indent=2))
    else:
        from grokinterp.console import show_analysis

        show_analysis(analysis)
    # Last: where a run cannot be written to, what was found has been said.
    written = [_write_report([analysis], None)] if options.report else []
    written += _write_tables(analysis) if options.csv else []
    for file in written if not options.json else []:
        print(f"written: {file}")
    return 0


def _bar() -> Callable[[int, int], None]:
    """Checkpoints done and to do, where somebody can see it."""
    from tqdm import tqdm

    bar = tqdm(unit="checkpoint", disable=not sys.stderr.isatty(), leave=False)

    def show(done: int, total: int) -> None:
        bar.total, bar.n = total, done
        bar.refresh()
        if done == total:
            bar.close()

    return show


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"--frequencies {text!r}: give whole numbers separated by commas, for instance 14,35,41")
    return [int(part) for part in parts]


def _write_report(analyses: "Sequence[Analysis]", output: Path | None) -> Path:
    from grokinterp.report import write_report

    return write_report(analyses[0] if len(analyses) == 1 else analyses, output)


def _write_tables(analysis: "Analysis") -> list[Path]:
    from grokinterp.files import write_atomically

    folder = analysis.run.path / "analysis"
    tables = {folder / "timeline.csv": analysis.timeline, folder / "frequencies.csv": analysis.frequencies}
    for file, table in tables.items():
        write_atomically(file, table.to_csv())
    return list(tables)


def _report(arguments: Sequence[str]) -> int:
    options = _parse(Report, arguments)
    if not options.runs:
        raise ConfigError("report: give at least one run folder")
    from grokinterp.timeline import analyze

    print(_write_report([analyze(run, progress=_bar()) for run in options.runs], options.output))
    return 0


def _list(arguments: Sequence[str]) -> int:
    options = _parse(List, arguments)
    from grokinterp.console import describe_runs, show_runs

    rows = describe_runs(options.folder)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show_runs(options.folder, rows)
    return 0


def _demo(arguments: Sequence[str]) -> int:
    options = _parse(Demo, arguments)
    import torch

    from grokinterp.console import show_analysis
    from grokinterp.presets import preset
    from grokinterp.run import Run
    from grokinterp.timeline import analyze
    from grokinterp.training import train

    torch.set_num_threads(1)  # so small a model gains nothing from more, and loses much where cores are shared
    there = (options.run / "config.json").is_file()
    config = Run.open(options.run).config if there else preset("demo")
    if there and config != preset("demo"):
        raise RunError(f"{options.run} holds another run than the demo: choose another folder with --run")
    if there and Run.open(options.run).status.get("status") == "finished":
        run = Run.open(options.run)
    else:
        print(f"training a 1-layer transformer on {config.task.title} into {options.run} ...", flush=True)
        run = train(config, options.run, resume=there)
        if run.status["status"] != "finished":
            return _say_how_it_ended(run)
    analysis = analyze(run, progress=_bar())
    show_analysis(analysis)
    print(f"report: {_write_report([analysis], None)}")
    return 0


_COMMANDS = {"demo": _demo, "train": _train, "analyze": _analyze, "report": _report, "list": _list}


if __name__ == "__main__":
    sys.exit(main())
