"""The short help of `train` and `sweep`: the options that people use, with the defaults of the chosen configuration."""

import textwrap
from collections.abc import Sequence
from typing import Literal

from grokinterp.cli.options import asks_for, dashed, flat_fields
from grokinterp.config import RunConfig

_WIDTH, _INDENT = 80, 33

_TRAIN = """usage: grokinterp train RUN [--preset NAME | --config FILE] [OPTION VALUE ...]

Train a model in a new run folder, or resume the run in it.

  grokinterp train checkpoints/first --preset demo
  grokinterp train checkpoints/mine --task.p 59 --optimizer.weight-decay 0.5
  grokinterp train checkpoints/mine --resume
"""
_SWEEP = """usage: grokinterp sweep DIR --grid FIELD=VALUES ... [OPTION VALUE ...]

Train many runs that differ in some options, and tabulate their outcomes. The
same command, or `grokinterp sweep DIR` alone, continues an interrupted sweep.

  grokinterp sweep checkpoints/seeds --preset demo --grid model_seed=0:3
  grokinterp sweep checkpoints/lr --grid optimizer.lr=1e-3,3e-3 model_seed=0:5
"""

_RUNS = {
    "--grid FIELD=VALUES ...": "one run for each combination of values",
    "--zip FIELD=VALUES ...": "one run for each position in the lists",
    "--points FILE": "a JSON list of runs, as objects",
}
_START = {
    "--preset NAME": "a preset's settings (see `grokinterp presets`)",
    "--config FILE": "the settings in a config.json",
}
# Of these, a configuration has the fields of its kind of task and model.
_SETTINGS = {
    "task.operation": "add, divide, parity, ...",
    "task.p": "modulus",
    "task.train_fraction": "fraction trained on",
    "task.data_seed": "seed of the split",
    "task.n_train": "number of training inputs",
    "model.n_layers": "transformer blocks",
    "model.d_model": "width of the residual stream",
    "model.depth": "number of hidden layers",
    "model.width": "neurons per hidden layer",
    "optimizer.lr": "learning rate",
    "optimizer.weight_decay": "weight decay coefficient",
    "schedule.steps": "number of updates",
    "schedule.stop_when_grokked": "end at 1.5 x the step of 99 % test accuracy",
    "model_seed": "seed of the initial weights",
}
_OF_TRAIN = {
    "--resume": "continue an interrupted run",
    "--device NAME": "auto, cpu, cuda or mps (default: auto)",
    "--threads INT": "number of CPU threads (default: by the size of the model)",
    "--dry-run": "print the configuration and its cost",
}
_OF_SWEEP = {
    "--workers INT": "runs trained at the same time (default: one per core)",
    "--executor NAME": "local or ray (default: local)",
    "--device NAME": "auto, cpu or cuda (default: auto)",
    "--print-commands": "print one command per run, for a job array",
    "--dry-run": "print the runs and their cost",
}
_HELP = {
    "-h, --help": "show these options",
    "--help-all": "show all options, in groups",
}
_FORMS: dict[type, str] = {int: " INT", float: " FLOAT", str: " NAME", bool: ""}


def wants_help(arguments: Sequence[str]) -> Literal["short", "full", ""]:
    """Which help the arguments of `train` or `sweep` ask for."""
    if asks_for(arguments, "--help-all"):
        return "full"
    return "short" if asks_for(arguments, "-h", "--help") else ""


def train_help(config: RunConfig) -> str:
    """The short help of `train`, with the defaults of a configuration."""
    return _help(_TRAIN, _START | _settings(config) | _OF_TRAIN)


def sweep_help(config: RunConfig) -> str:
    """The short help of `sweep`, with the defaults of a configuration."""
    return _help(_SWEEP, _RUNS | _START | _settings(config) | _OF_SWEEP)


def _settings(config: RunConfig) -> dict[str, str]:
    """Flags of the fields that people set, and what they mean."""
    options, values = {}, flat_fields(config)
    for name, text in _SETTINGS.items():
        value = values.get(name)
        if value is not None:
            default = (
                "" if isinstance(value, bool) else f" (default: {f'{value:g}' if isinstance(value, float) else value})"
            )
            options[f"--{dashed(name)}{_FORMS[type(value)]}"] = text + default
    return options


def _help(usage: str, options: dict[str, str]) -> str:
    lines = [line for flag, text in (options | _HELP).items() for line in _entry(flag, text)]
    return "\n".join([usage, *lines])


def _entry(flag: str, text: str) -> Sequence[str]:
    first, *others = textwrap.wrap(text, _WIDTH - _INDENT)
    return [f"  {flag:{_INDENT - 2}}{first}", *(" " * _INDENT + line for line in others)]
