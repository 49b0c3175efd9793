"""Options: parses a command's arguments into a dataclass, and finds the defaults of a configuration."""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import tyro

from grokinterp.config import MLPConfig, RunConfig, TransformerConfig
from grokinterp.errors import ConfigError, RunError, printable, similar_fields
from grokinterp.runs.files import MAX_CONFIG_BYTES, exists, read_text


def default(description: str) -> Any:
    """Describes the default of an option whose value None means something, for `Annotated` and `--help`."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {description})")


def parse(kind: Any, arguments: Sequence[str], default: Any = None) -> Any:
    """Parses arguments into a dataclass of options.

    Raises:
        ConfigError: tyro's error message, in one line.
    """
    command = kind.__name__.removesuffix("Options").lower()
    error_text = io.StringIO()
    try:
        with contextlib.redirect_stderr(error_text):
            return tyro.cli(
                kind,
                prog=f"grokinterp {command}",
                args=list(arguments),
                config=(tyro.conf.AvoidSubcommands,),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as end:
        if not end.code:
            raise  # --help
    text = re.sub("-{10,}", "─", error_text.getvalue())  # rules in an encoding without boxes
    lines = [line.strip(" │╭╮╰╯") for line in text.splitlines()][1:]
    sections = [" ".join(part.split()) for part in "\n".join(lines).split("\n─")]  # a box with rules between sections
    message = sections[0].strip("─ ").replace("Error parsing config.", "") or "bad options"
    similar = [part.split("Perhaps you meant:")[1].split()[0].rstrip(",") for part in sections if "Perhaps you" in part]
    hint = f": did you mean {similar[0]}?" if similar else ""
    if missing := re.match(r"Missing from .*?: \S+ (.*?) \(required\)", message):
        message = f"{missing[1]} is missing"
    unknown, config = re.match(r"Unrecognized options: .*?--([^\s,=]+)", message), getattr(default, "config", None)
    if unknown is not None:
        message = f"there is no option --{unknown[1]}"
        hint = (_hint(unknown[1], config) if isinstance(config, RunConfig) else "") or hint
    raise ConfigError(f"{command}: {message}{hint} ({_help_command(command)} shows the options)")


def _help_command(command: str) -> str:
    return f"grokinterp {command} --help{'-all' if command in ('train', 'sweep') else ''}"


def _hint(word: str, config: RunConfig) -> str:
    """The end of a message about an unknown option that may mean a field of the configuration; else empty."""
    names = flat_fields(config)
    field = dashed(word.rpartition(".")[2])
    for other in {TransformerConfig, MLPConfig} - {type(config.model)}:
        if field in {dashed(f.name) for f in fields(other)} - {dashed(name.rpartition(".")[2]) for name in names}:
            return f": --model.{field} applies only to model.kind {other.kind}, which --preset or --config selects"
    similar = similar_fields(word, [name for name in names if name != "model.kind"])
    return f": did you mean {' or '.join(f'--{dashed(name)}' for name in similar)}?" if similar else ""


def flat_fields(config: RunConfig) -> dict[str, Any]:
    """The values of a configuration by dotted name."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        inner = {f"{item.name}.{f.name}": getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else {}
        flat |= inner or {item.name: value}
    return flat


def dashed(name: str) -> str:
    """A field of the configuration as tyro writes it in a flag."""
    return name.replace("_", "-")


def asks_for(arguments: Sequence[str], *flags: str) -> bool:
    """Whether one of some flags is among the arguments; what follows `--` is no flag."""
    return not set(flags).isdisjoint(arguments[: [*arguments, "--"].index("--")])


def say(text: object) -> None:
    """Prints a line, which may contain names that others chose: control characters are escaped."""
    print(printable(str(text)), flush=True)


def take(arguments: Sequence[str], flag: str) -> str | None:
    """The value of one flag, read before the full parse because it determines how the rest is parsed."""
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def base_config(preset_name: str | None, config_file: str | None, arguments: Sequence[str]) -> RunConfig:
    """The configuration that supplies the defaults: a preset, a file, or that of the run to resume."""
    if preset_name is not None and config_file is not None:
        raise ConfigError("--preset and --config exclude each other: give one")
    if preset_name is not None:
        from grokinterp.config.presets import preset

        return preset(preset_name)
    if config_file is not None:
        try:
            if not exists(Path(config_file)):
                raise ConfigError(f"--config {config_file}: no such file")
            text = read_text(Path(config_file), limit=MAX_CONFIG_BYTES)
        except RunError as error:
            raise ConfigError(f"--config: {error}") from None
        return RunConfig.from_json(text, config_file)
    if asks_for(arguments, "--resume", "--restart"):
        from grokinterp.runs.run import Run

        end = [*arguments, "--"].index("--")  # what follows is no option, even if it starts with a hyphen
        names = [argument for argument in arguments[:end] if not argument.startswith("-")] + [*arguments[end + 1 :]]
        folder = next((name for name in names if (Path(name) / "config.json").is_file()), None)
        if folder is None:
            raise RunError(f"nothing to resume or restart in {names[0] if names else 'no folder'}: it contains no run")
        return Run.open(folder).config
    return RunConfig()


def shell_path(path: Path) -> str:
    """A path as part of a command for the shell: quoted if necessary, and distinct from an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def progress_bar(unit: str = "checkpoint") -> Callable[[int, int], None]:
    """A progress bar on stderr, shown only in a terminal: a function of the number done and the total."""
    from tqdm import tqdm

    bar = tqdm(unit=unit, disable=not sys.stderr.isatty(), leave=False)

    def show(done: int, total: int) -> None:
        bar.total, bar.n = total, done
        bar.refresh()
        if done == total:
            bar.close()

    return show
