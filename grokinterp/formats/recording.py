"""record_checkpoints: state dicts of a model class of one's own become a recorded run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from grokinterp.errors import ConfigError, RunError, shorten
from grokinterp.formats.state_dicts import checkpoint_files, load_state_dict
from grokinterp.runs.run import Run
from grokinterp.tasks import Task
from grokinterp.training.recorder import Recorder


def record_checkpoints(
    task: Task, folder: str | Path, build_model: Callable[[], nn.Module], run: str | Path, **options: Any
) -> Run:
    """Records saved state dicts of a model of your own as a run, which analyze, report and figures can read.

    >>> record_checkpoints(task, "saved", lambda: MyModel(), "checkpoints/mine", embedding="embed")  # doctest: +SKIP

    Args:
        task: the task, with the split used for training; see `Task.of` for one given by `train_indices`.
        folder: files whose names end in the step, such as `ep100.pth` or `step_200.safetensors`.
        build_model: returns the module that the state dicts belong to; called once.
        run: the run folder to write.
        **options: of `Recorder`, such as the names of the embedding, the neurons, and the unembedding.

    Raises:
        ConfigError: `build_model` returns no module, or an option makes no sense.
        RunError: the folder has no such files, one of them is damaged, would execute code, or does not fit the module.
    """
    files = checkpoint_files(Path(folder))
    if not files:
        raise RunError(f"{folder} has no state dicts: the names of .pth, .pt and .safetensors files must end in a step")
    model = build_model()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"build_model must return a torch.nn.Module, but returned {type(model).__name__}")
    for file in files.values():  # before anything is written
        _load(model, file)
    with Recorder(run, task, **options) as recorder:
        for step, file in sorted(files.items()):
            _load(model, file)
            recorder.record(step, model)
    return recorder.run


def _load(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(load_state_dict(file))
    except RuntimeError as error:
        raise RunError(f"{file} does not fit the model: {shorten(str(error))}") from None
