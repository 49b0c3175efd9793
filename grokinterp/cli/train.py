"""grokinterp train and grokinterp demo."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from grokinterp.cli.options import base_config, parse, progress_bar, say, shell_path, take
from grokinterp.cli.report import write_reports
from grokinterp.cli.short_help import train_help, wants_help
from grokinterp.config import RunConfig, TaskConfig
from grokinterp.errors import RunError
from grokinterp.runs.files import file_state
from grokinterp.runs.status import RunStatus

if TYPE_CHECKING:
    from grokinterp.runs.run import Run
    from grokinterp.training import Callback


@dataclass(frozen=True)
class Train:
    """Train a model in a new run folder or resume a run.

    --preset NAME (see `grokinterp presets`) or --config FILE (a config.json) supplies the defaults shown below and
    determines the kind of model and whether the task is a regression.
    """

    run: tyro.conf.Positional[Path]
    """the run folder"""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    preset: str | None = None
    """name of the configuration that supplies the defaults"""
    config_file: Annotated[str | None, tyro.conf.arg(name="config")] = None
    """config.json that supplies the defaults"""
    resume: bool = False
    """resume the run in the folder; only schedule.steps can be changed, and only to a larger value; with --preset or
    --config, a run that does not exist yet is started"""
    restart: bool = False
    """train the run in the folder again from step 0; the present folder is kept as RUN.replaced"""
    start_from: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """RUN@STEP, a checkpoint of another run from which to start; None: new initial weights"""
    device: str = "auto"
    """auto, cpu, cuda, or mps"""
    compile: bool = False
    """compile the update with torch.compile; docs/performance.md explains when this helps; repeat it to resume a
    compiled run bit for bit"""
    threads: int | None = None
    """number of CPU threads; None: that of the run to resume, 1 for a small model, or the number of cores"""
    products: Literal["float32", "bf16"] = "float32"
    """format in which updates multiply matrices on the CPU; bf16 is faster on processors that have it, but keeps only 8
    significant bits of each factor; repeat it to resume a run"""
    dry_run: bool = False
    """print the resolved configuration and estimates of time and disk space without writing anything"""
    track: str | None = None
    """service to which metrics are sent, wandb or trackio; None: do not send them"""


@dataclass(frozen=True)
class Demo:
    """Train a small transformer until it groks, analyze it, print the result, and write its report."""

    run: Path = Path("checkpoints/demo")
    """the run folder; an existing demo run is displayed rather than trained again"""


def run_train(arguments: Sequence[str]) -> int:
    helps = wants_help(arguments)
    base = base_config(take(arguments, "--preset"), take(arguments, "--config"), () if helps else arguments)
    if helps == "short":
        print(train_help(base))
        return 0
    arguments = ["--help"] if helps else arguments
    options = parse(Train, arguments, Train(run=tyro.MISSING, config=base))
    if options.dry_run:
        return _dry_run(options.config, options.threads, options.products)
    from grokinterp.training import Tracker, train

    before = file_state(options.run / "status.json")
    run = train(
        options.config,
        options.run,
        resume=options.resume,
        restart=options.restart,
        start_from=options.start_from,
        device=options.device,
        compile=options.compile,
        threads=options.threads,
        products=options.products,
        callbacks=[*progress_lines(), *([Tracker(options.track)] if options.track is not None else [])],
    )
    if options.resume and file_state(options.run / "status.json") == before:
        say(f"{options.run} has no more steps to make: nothing was changed")
    return _print_status(run)


def _dry_run(config: RunConfig, threads: int | None, products: Literal["float32", "bf16"]) -> int:
    from grokinterp.statistics.formatting import duration
    from grokinterp.training.estimate import estimate

    cost = estimate(config, threads=threads, products=products)
    print(config.to_json(), end="")
    print(
        f"{cost.parameters:,} parameters; {cost.checkpoints} checkpoints of {cost.checkpoint_bytes / 1e6:.2f} MB = "
        f"{cost.checkpoints * cost.checkpoint_bytes / 1e6:.0f} MB; about {duration(cost.seconds)} for {cost.steps:,} "
        f"steps on this machine's CPU with {cost.threads} thread{'s'[: cost.threads > 1]} "
        f"({1000 * cost.seconds_per_step:.1f} ms a step, measured just now)",
        file=sys.stderr,
    )
    return 0


def _print_status(run: "Run") -> int:
    status, schedule = run.status, run.config.training().schedule
    step = status["step"]
    progress = (
        f" of {schedule.steps:,}, {100 * step / schedule.steps:.0f} %" if status["status"] == RunStatus.STOPPED else ""
    )
    say(f"{run.path}: {status['status']} at step {step:,}{progress} ({status.get('reason', '')})")
    if status["status"] == RunStatus.STOPPED:
        option = " --products bf16" if run.environment.get("products") == "bf16" else ""
        say(f"continue with: grokinterp train {shell_path(run.path)} --resume{option}")
        return 130
    if status["status"] == RunStatus.DIVERGED:
        say(f"next: try a smaller --optimizer.lr (this run had {run.config.training().optimizer.lr:g})")
        return 1
    if isinstance(run.config.task, TaskConfig):
        _print_outcome(run, step)
        say(f"next: grokinterp analyze {shell_path(run.path)}")
    else:  # no analysis
        say(f"next: grokinterp list {shell_path(run.path.parent)}; its losses and accuracies are in metrics.jsonl")
    return 0


def _print_outcome(run: "Run", step: int) -> None:
    """Prints the outcome of a finished run, and whether it made many steps after it had grokked."""
    from grokinterp.sweep.rows import transition_from_metrics

    transition = transition_from_metrics(run.config, run.metrics, RunStatus.FINISHED)
    say(f"{transition.outcome}: {transition.reason}")
    grokked = transition.T_grok[0.99].step
    if grokked and step > 2 * grokked:
        say(
            f"{step - grokked:,} of {step:,} steps came after 99 % test accuracy: --schedule.stop-when-grokked ends a "
            "run at 1.5 times that step"
        )


def progress_lines() -> "list[Callback]":
    """The callback that prints progress where there is no terminal for a bar: in a log of nohup, Slurm, and so on."""
    from grokinterp.training.callbacks import ProgressLines

    return [] if sys.stderr.isatty() else [ProgressLines(say)]


def run_demo(arguments: Sequence[str]) -> int:
    options = parse(Demo, arguments)
    from grokinterp.analysis.timeline import analyze
    from grokinterp.cli.console import show_analysis
    from grokinterp.config.presets import preset
    from grokinterp.runs.run import Run
    from grokinterp.training import train

    exists = (options.run / "config.json").is_file()
    config = Run.open(options.run).config if exists else preset("demo")
    if exists and config != preset("demo"):
        raise RunError(f"{options.run} contains a run other than the demo: choose another folder with --run")
    if exists and Run.open(options.run).status.get("status") == RunStatus.FINISHED:
        run = Run.open(options.run)
    else:
        say(f"training a 1-layer transformer on {config.task.title} into {options.run} ...")
        # More than one thread would gain little, and lose much where the cores are shared.
        run = train(config, options.run, resume=exists, callbacks=progress_lines(), threads=1)
        if run.status["status"] != RunStatus.FINISHED:
            return _print_status(run)
    analysis = analyze(run, progress=progress_bar())
    show_analysis(analysis)
    say(f"report: {write_reports([analysis], None)}")
    say("next: open the report in a browser, or train another network:")
    say("  grokinterp train checkpoints/mine --preset demo --task.p 59")
    return 0
