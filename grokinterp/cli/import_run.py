"""grokinterp import."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from grokinterp.cli.options import base_config, default, parse, say, shell_path, take
from grokinterp.config import MLPConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.runs.files import MAX_CONFIG_BYTES, read_text


@dataclass(frozen=True)
class Import:
    """Import a model that was trained elsewhere, or a run with its checkpoints, as a run folder.

    Nothing in the files is executed. Losses, accuracies and norms are computed anew from the weights.

    State dicts without a config.json need --config, or task and model options; --model.kind chooses between
    transformers and MLPs.
    """

    source: tyro.conf.Positional[Path]
    """file or folder to import"""
    run: tyro.conf.Positional[Path]
    """run folder to write"""
    format: Annotated[str | None, default("found by looking")] = None
    """he, chughtai, pizza, demo, nanda or state_dicts; see docs/howto/import.md"""
    config: Annotated[Path | None, default("config.json beside the weights")] = None
    """task and architecture of state dicts: a config.json of grokinterp, which task and model options change, or of
    TransformerLens"""
    task: TaskConfig = field(default_factory=lambda: TaskConfig(train_fraction=None, split="unknown"))
    model: TransformerConfig | MLPConfig = field(default_factory=TransformerConfig)


def run_import(arguments: Sequence[str]) -> int:
    options, config = _options(arguments)
    from grokinterp.formats.importing import import_run

    run = import_run(options.source, options.run, format=options.format, config=config)
    imported = run.environment["imported"]
    steps = f"{len(run.steps):,} checkpoints" if len(run.steps) > 1 else f"one checkpoint, step {run.steps[0]:,}"
    say(f"{options.run}: {run.config.task.title}, {run.config.model.kind}, {steps} (format {imported['format']})")
    say(f"split: {imported['split']['reason']}")
    for note in imported["notes"]:
        say(f"note: {note}")
    say(f"next: grokinterp analyze {shell_path(options.run)}")
    return 0


def _options(arguments: Sequence[str]) -> tuple[Import, RunConfig | Path | None]:
    """The options, and the configuration that they give."""
    changes = [argument.partition("=")[0] for argument in arguments if argument.startswith(("--task.", "--model."))]
    file = take(arguments, "--config")
    base, loss = Import(tyro.MISSING, tyro.MISSING), RunConfig().loss
    if take(arguments, "--model.kind") == "mlp":
        base = replace(base, model=MLPConfig())
    if file is not None and _is_own(Path(file)):
        config = base_config(None, file, ())
        if not isinstance(config.task, TaskConfig) or not isinstance(config.model, TransformerConfig | MLPConfig):
            raise ConfigError(f"--config {file}: neither regressions nor recorded models can be imported")
        base, loss = replace(base, task=config.task, model=config.model), config.loss
    elif file is not None and changes:
        raise ConfigError(f"--config {file} is not a config.json of grokinterp: {changes[0]} cannot change it")
    options = parse(Import, arguments, base)
    if file is None and not changes:
        return options, None
    if file is not None and not changes:
        return options, Path(file)
    return options, RunConfig(options.task, options.model, None, None, loss=loss)


def _is_own(file: Path) -> bool:
    """Whether a file is a configuration of grokinterp; one of TransformerLens has no `model`."""
    try:
        content = json.loads(read_text(file, limit=MAX_CONFIG_BYTES))
    except ValueError:
        return False
    return isinstance(content, dict) and "model" in content
