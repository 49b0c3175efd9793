"""grokinterp presets."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import tyro

from grokinterp.cli.options import dashed, flat_fields, parse, say
from grokinterp.config import RunConfig


@dataclass(frozen=True)
class Presets:
    """List the presets with what they are, their source, and the time that a run takes on this machine."""

    name: tyro.conf.Positional[str | None] = None
    """preset to describe in detail, with all its settings"""


def run_presets(arguments: Sequence[str]) -> int:
    options = parse(Presets, arguments)
    if options.name is not None:
        return _describe(options.name)
    from grokinterp.training.preset_table import presets

    for line in repr(presets).splitlines():
        say(line)
    say("next: grokinterp presets NAME for details; grokinterp train RUN --preset NAME")
    return 0


def _describe(name: str) -> int:
    from grokinterp.config.presets import DESCRIPTIONS, preset
    from grokinterp.training.estimate import estimate
    from grokinterp.training.preset_table import cost_text

    config, text = preset(name), DESCRIPTIONS[name]
    cost = estimate(config, quick=True)
    time = cost_text(cost.seconds, config.training().schedule.may_stop_early, cost.scaled)
    say(f"{name}: {text.what} ({text.source})")
    say(text.details)
    step = f"{1000 * cost.seconds_per_step:.1f} ms"
    say(f"cost: {time} on this machine's CPU, for {cost.steps:,} steps of {step}, measured just now")
    say(f"{cost.parameters:,} parameters; {cost.checkpoints} checkpoints of {cost.checkpoint_bytes / 1e6:.2f} MB")
    own, rest = _settings(config)
    say("settings that differ from the defaults:")
    for line in own:
        say(f"  {line}")
    say("settings that do not:")
    for section, values in rest.items():
        say(f"  {section}: {', '.join(values)}")
    say(f"next: grokinterp train checkpoints/{name} --preset {name}")
    return 0


def _settings(config: RunConfig) -> tuple[list[str], dict[str, list[str]]]:
    """The settings, as flags where they differ from the defaults, and in words by section where they do not."""
    from grokinterp.statistics.formatting import setting

    defaults = flat_fields(RunConfig())
    for item in fields(config):
        section = getattr(config, item.name)
        if is_dataclass(section):
            defaults |= {f"{item.name}.{f.name}": f.default for f in fields(section)}
    own: list[str] = []
    rest: dict[str, list[str]] = {}
    for name, value in flat_fields(config).items():
        if name == "model.kind":
            continue
        if value == defaults[name]:
            section, _, field = name.rpartition(".")
            rest.setdefault(section or "run", []).append(f"{field} {setting(value)}")
        else:
            own.append(_flag(name, value))
    return own, rest


def _flag(name: str, value: Any) -> str:
    from grokinterp.statistics.formatting import setting

    if isinstance(value, bool):
        section, dot, field = dashed(name).rpartition(".")
        return f"--{section}{dot}{'' if value else 'no-'}{field}"
    return f"--{dashed(name)} {' '.join(map(str, value)) if isinstance(value, tuple) else setting(value)}"
