"""The short help of `grokinterp train`: the options that people use, with the defaults of the chosen configuration."""

import textwrap
from collections.abc import Sequence

from grokinterp.cli.options import dashed, flat_fields
from grokinterp.config import RunConfig

_WIDTH, _INDENT = 80, 33

_USAGE = """usage: grokinterp train RUN [--preset NAME | --config FILE] [OPTION VALUE ...]

Train a model in a new run folder, or resume the run in it.

  grokinterp train checkpoints/first --preset demo
  grokinterp train checkpoints/mine --task.p 59 --optimizer.weight-decay 0.5
  grokinterp train checkpoints/mine --resume
"""

_START = {
    "--preset NAME": "a preset's settings (see `grokinterp presets`)",
    "--config FILE": "the settings in a config.json",
}
# Of these, a configuration has the fields of its kind of task and model.
_FIELDS = {
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
_REST = {
    "--resume": "continue an interrupted run",
    "--device NAME": "auto, cpu, cuda or mps (default: auto)",
    "--dry-run": "print the configuration and its cost",
    "-h, --help": "show these options",
    "--help-all": "show all options, in groups",
}
_FORMS: dict[type, str] = {int: " INT", float: " FLOAT", str: " NAME", bool: ""}


def short_help(config: RunConfig) -> str:
    """The help text, with the defaults of a configuration."""
    options, values = dict(_START), flat_fields(config)
    for name, text in _FIELDS.items():
        value = values.get(name)
        if value is not None:
            default = (
                "" if isinstance(value, bool) else f" (default: {f'{value:g}' if isinstance(value, float) else value})"
            )
            options[f"--{dashed(name)}{_FORMS[type(value)]}"] = text + default
    lines = [line for flag, text in (options | _REST).items() for line in _entry(flag, text)]
    return "\n".join([_USAGE, *lines])


def _entry(flag: str, text: str) -> Sequence[str]:
    first, *others = textwrap.wrap(text, _WIDTH - _INDENT)
    return [f"  {flag:{_INDENT - 2}}{first}", *(" " * _INDENT + line for line in others)]
