"""export_run: a run in the forms that others read, each of which `import_run` reads back."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from grokinterp.config import TransformerConfig
from grokinterp.errors import ConfigError, RunError, nearest, shorten
from grokinterp.formats.hub import write_card
from grokinterp.formats.state_dicts import CONFIG, REVISIONS, SPLIT, WEIGHTS, revision
from grokinterp.models.version_4 import to_version_4
from grokinterp.runs.files import accessing, exists, make_folder
from grokinterp.runs.folders import as_path
from grokinterp.runs.run import Run
from grokinterp.tasks import Task

MOST_REVISIONS = 154  # as many as Pythia has
_MOST_EPOCHS = 10_000_000

Step = int | str


def export_run(
    run: Run | str | Path,
    target: str | Path,
    format: str,
    *,
    step: Step | None = None,
    all_checkpoints: bool = False,
    license: str = "unknown",
) -> Path:
    """Writes a run in a form that others read.

    >>> export_run("checkpoints/run42", "exported/run42", "hub")  # doctest: +SKIP

    Args:
        run: the run, or its folder.
        target: the file (`demo`) or folder to write, which must not exist or be empty.
        format: `transformer_lens_3` or `transformer_lens_4` (a folder of state dicts), `demo` (one file as the grokking
            demo of TransformerLens writes it), or `hub` (a folder for the Hugging Face Hub).
        step: the only checkpoint to write, or `last`; by default, `hub` writes the last one, the others write all.
        all_checkpoints: with `hub`, also write a folder for each of up to 154 checkpoints, or for all if `step` is
            `all`.
        license: with `hub`, the license in the model card.

    Returns:
        The target.

    Raises:
        ConfigError: there is no such format, or it cannot express the architecture.
        RunError: the run is damaged, or the target is not empty or not writable.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    path = as_path(target)
    if format not in _FORMATS:
        raise ConfigError(f"no format {format!r}: {nearest(format, _FORMATS)}")
    if path.is_symlink() or (exists(path) and (format == "demo" or not path.is_dir() or any(path.iterdir()))):
        raise RunError(f"{path} exists already: choose another name")
    if format != "hub" and (all_checkpoints or license != "unknown"):
        raise ConfigError(f"format {format} has neither a license nor revisions: they belong to format hub")
    if format == "hub" and step == "all" and not all_checkpoints:
        raise ConfigError("step all needs all_checkpoints (--all-checkpoints)")
    if all_checkpoints and step not in (None, "all"):
        raise ConfigError("all_checkpoints and a single step exclude each other: give one")
    if not run.steps:
        raise RunError(f"{run.path} has no checkpoints")
    steps = _steps(run, format, step, all_checkpoints)
    make_folder(path.parent)
    with accessing("write", path), TemporaryDirectory(dir=path.parent, prefix=".exporting-") as temporary:
        written = Path(temporary) / "target"
        try:
            _FORMATS[format](run, written, steps, license)
        except (RuntimeError, SafetensorError) as error:  # what torch and safetensors raise on a full disk
            raise RunError(f"cannot write {path}: {shorten(str(error))}") from None
        os.replace(written, path)
    return path


def _steps(run: Run, format: str, step: Step | None, all_checkpoints: bool) -> list[int]:
    if step is not None and step != "all":
        last = run.steps[-1] if step == "last" else step
        if last not in run.steps:
            raise RunError(f"{run.path} has no checkpoint of step {step}")
        return [int(last)]
    if format != "hub":
        return run.steps
    if not all_checkpoints:
        return run.steps[-1:]
    return run.steps if step == "all" else log_spaced(run.steps, MOST_REVISIONS)


def log_spaced(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of some steps, about equally spaced on a logarithmic scale, with the first and the last.

    >>> log_spaced(range(0, 101), 5)
    [0, 2, 9, 31, 100]
    """
    if len(steps) <= count:
        return list(steps)
    values = np.log1p(np.asarray(steps, dtype=float))
    targets = np.linspace(values[0], values[-1], count)
    return sorted({int(steps[int(np.abs(values - target).argmin())]) for target in targets})


def _require_transformer(run: Run, format: str) -> TransformerConfig:
    model = run.config.model
    plain = isinstance(model, TransformerConfig) and model.normalization != "post_layernorm" and model.final_norm
    if not plain or not isinstance(model, TransformerConfig) or model.readout != "last":
        raise ConfigError(f"format {format} is for the transformers of TransformerLens: export this run to hub")
    if model.attention_rate != 1 or not model.shared_embedding or model.activation == "tanh":
        raise ConfigError(f"TransformerLens has no model like that of {run.path}: export this run to hub")
    if model.output_scale != 1 or model.positions != "learned":
        raise ConfigError("TransformerLens has neither output_scale nor fixed positions: export this run to hub")
    task = run.classification.config
    if task.operands != 2 or task.random_labels or task.label_noise or run.config.loss != "cross_entropy":
        raise ConfigError(f"format {format} has no place for the labels or the loss of {run.path}: export it to hub")
    return model


def transformer_lens_config(run: Run, model: TransformerConfig) -> dict[str, Any]:
    """The fields of a HookedTransformerConfig or TransformerBridgeConfig for a run's architecture."""
    return {
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "n_ctx": 2 + model.equals_token,
        "d_head": model.head_width,
        "n_heads": model.n_heads,
        "d_mlp": model.d_mlp,
        "act_fn": model.activation,
        "normalization_type": None if model.normalization == "none" else "LN",
        "attention_dir": model.attention,
        "d_vocab": run.classification.p + model.equals_token,
        "d_vocab_out": run.classification.p + model.equals_logit,
        "init_weights": False,
        "device": "cpu",
    }


def _split(task: Task) -> list[int] | None:
    return None if task.train_mask is None else task.train_mask.nonzero().flatten().tolist()


def _write_state_dicts(convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Callable[..., None]:
    def write(run: Run, folder: Path, steps: Sequence[int], license: str) -> None:
        model = _require_transformer(run, "transformer_lens")
        make_folder(folder)
        task = run.classification
        content = {**transformer_lens_config(run, model), "operation": task.config.operation}
        content |= {"train_indices": _split(task)} if task.train_mask is not None else {}
        _write_json(folder / CONFIG, content)
        for step in steps:
            save_file(convert(run.weights(step)), folder / f"step_{step}.safetensors", {"step": str(step)})

    return write


def _write_demo(run: Run, file: Path, steps: Sequence[int], license: str) -> None:
    """Epoch e of a checkpoint is its step - 1, so that of an untrained model is -1; unknown losses are NaN."""
    model, task, metrics = _require_transformer(run, "demo"), run.classification, run.metrics
    train = task.require_split().nonzero().flatten()
    if steps[-1] > _MOST_EPOCHS:
        raise ConfigError(f"the demo keeps a loss of every epoch, and {steps[-1]:,} are too many: export it to hub")
    losses = {}
    for name in ("train_loss", "test_loss"):
        values = [math.nan] * steps[-1]
        for at, value in zip(metrics.index.tolist(), metrics[name].tolist() if name in metrics else (), strict=False):
            if at < len(values):
                values[at] = value
        losses[f"{name}es"] = values
    torch.save(
        {
            "model": run.weights(steps[-1]),
            "config": transformer_lens_config(run, model),
            "checkpoints": [run.weights(step) for step in steps],
            "checkpoint_epochs": [step - 1 for step in steps],
            **losses,
            "train_indices": train,
            "operation": task.config.operation,
            "test_indices": (~task.require_split()).nonzero().flatten(),
        },
        file,
    )


def _write_hub(run: Run, folder: Path, steps: Sequence[int], license: str) -> None:
    make_folder(folder)
    places = {steps[-1]: [folder]}
    if len(steps) > 1:
        for step in steps:
            places.setdefault(step, []).append(folder / revision(step))
        (folder / REVISIONS).write_text("".join(f"{revision(step)}\n" for step in steps), encoding="utf-8")
    for step, targets in places.items():
        weights = {name: weight.contiguous() for name, weight in run.weights(step).items()}
        for target in targets:
            make_folder(target)
            save_file(weights, target / WEIGHTS, {"step": str(step), "format": "pt"})
            (target / CONFIG).write_text(run.config.to_json(), encoding="utf-8")
            if run.config.task.split == "given":
                indices = torch.tensor(_split(run.classification))
                save_file({"train_indices": indices}, target / SPLIT)
    write_card(run, folder, steps[-1], license, [revision(step) for step in steps] if len(steps) > 1 else [])


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


_FORMATS: dict[str, Callable[[Run, Path, Sequence[int], str], None]] = {
    "transformer_lens_3": _write_state_dicts(lambda weights: {n: w.contiguous() for n, w in weights.items()}),
    "transformer_lens_4": _write_state_dicts(to_version_4),
    "demo": _write_demo,
    "hub": _write_hub,
}
