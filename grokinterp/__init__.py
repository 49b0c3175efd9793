"""grokinterp: mechanistic interpretability of grokking.

`import grokinterp` is fast: each public name is imported when it is first used.

    >>> import grokinterp as gi
    >>> run = gi.load("checkpoints/run42")
    >>> analysis = run.analyze()
    >>> analysis.transition.outcome
    'grokked'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Analysis": "analysis.result",
    "ConfigError": "errors",
    "GrokinterpError": "errors",
    "MissingNeedError": "errors",
    "RunError": "errors",
    "MLPConfig": "config",
    "OptimizerConfig": "config",
    "Recorder": "training.recorder",
    "RegressionConfig": "config",
    "RegressionTask": "tasks",
    "Run": "runs.run",
    "RunConfig": "config",
    "ScheduleConfig": "config",
    "Snapshot": "measures",
    "Sweep": "sweep",
    "Task": "tasks",
    "TaskConfig": "config",
    "TransformerConfig": "config",
    "Transition": "analysis.transition",
    "ablation_table": "analysis.ablations",
    "analyze": "analysis.timeline",
    "build_model": "models",
    "import_run": "formats.importing",
    "list_runs": "sweep.listing",
    "load": "sweep.listing",
    "export_run": "formats.exporting",
    "find_transition": "analysis.transition",
    "preset": "config.presets",
    "presets": "training.preset_table",
    "record_checkpoints": "formats.recording",
    "sample_run": "runs.sample",
    "snapshot": "models.snapshots",
    "save_figure": "figures.saving",
    "train": "training",
    "train_sweep": "sweep",
    "verify": "runs.verification",
    "write_report": "report",
    "write_sweep_report": "report",
}
_MODULES = {
    "experiments": "experiments",
    "figures": "figures",
    "fourier": "measures.fourier",
    "measures": "measures",
    "models": "models",
    "statistics": "statistics",
    "theory": "theory",
    "training": "training",
}

__all__ = [
    "Analysis",
    "ConfigError",
    "GrokinterpError",
    "MLPConfig",
    "MissingNeedError",
    "OptimizerConfig",
    "Recorder",
    "RegressionConfig",
    "RegressionTask",
    "Run",
    "RunConfig",
    "RunError",
    "ScheduleConfig",
    "Snapshot",
    "Sweep",
    "Task",
    "TaskConfig",
    "TransformerConfig",
    "Transition",
    "__version__",
    "ablation_table",
    "analyze",
    "build_model",
    "experiments",
    "export_run",
    "figures",
    "find_transition",
    "fourier",
    "import_run",
    "list_runs",
    "load",
    "measures",
    "models",
    "preset",
    "presets",
    "record_checkpoints",
    "sample_run",
    "save_figure",
    "snapshot",
    "statistics",
    "theory",
    "train",
    "train_sweep",
    "training",
    "verify",
    "write_report",
    "write_sweep_report",
]


# What other packages call what is here.
_INSTEAD = {
    ("open", "open_run", "load_run", "read", "from_pretrained"): "gi.load(path)",
    ("report", "save_report", "to_html"): "gi.write_report(analysis, output)",
    ("compare", "compare_runs"): "gi.write_report([analysis, ...]), or a figure of gi.figures with a list",
    ("sweep", "grid_search", "run_sweep"): "gi.train_sweep(path, config, grid=...)",
    ("fit", "run", "train_model"): "gi.train(config, path)",
    ("plot", "plots", "visualize", "plotting"): "gi.figures",
    ("Config", "TrainConfig", "config"): "gi.RunConfig, or gi.preset(name).replace({...})",
    ("restricted_loss", "excluded_loss", "key_frequencies"): "gi.measures, which has it",
    ("runs", "ls"): "gi.list_runs(folder)",
    ("modular_addition", "ModularAddition", "dataset", "Dataset"): "gi.Task.modular_addition(p=113)",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"grokinterp.{_MODULES[name]}")
    if name in _HOME:
        return getattr(import_module(f"grokinterp.{_HOME[name]}"), name)
    if name.startswith("_"):
        raise AttributeError(f"module 'grokinterp' has no attribute {name!r}")
    from grokinterp.display import instead_of
    from grokinterp.errors import nearest

    hint = instead_of(name, _INSTEAD) or nearest(name, __all__)
    raise AttributeError(f"grokinterp has no {name!r}: {hint}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ resolves the names
    from grokinterp import experiments, figures, measures, models, statistics, theory, training
    from grokinterp.analysis.ablations import ablation_table
    from grokinterp.analysis.result import Analysis
    from grokinterp.analysis.timeline import analyze
    from grokinterp.analysis.transition import Transition, find_transition
    from grokinterp.config import (
        MLPConfig,
        OptimizerConfig,
        RegressionConfig,
        RunConfig,
        ScheduleConfig,
        TaskConfig,
        TransformerConfig,
    )
    from grokinterp.config.presets import preset
    from grokinterp.errors import ConfigError, GrokinterpError, MissingNeedError, RunError
    from grokinterp.figures.saving import save_figure
    from grokinterp.formats.exporting import export_run
    from grokinterp.formats.importing import import_run
    from grokinterp.formats.recording import record_checkpoints
    from grokinterp.measures import Snapshot, fourier
    from grokinterp.models import build_model
    from grokinterp.models.snapshots import snapshot
    from grokinterp.report import write_report, write_sweep_report
    from grokinterp.runs.run import Run
    from grokinterp.runs.sample import sample_run
    from grokinterp.runs.verification import verify
    from grokinterp.sweep import Sweep, train_sweep
    from grokinterp.sweep.listing import list_runs, load
    from grokinterp.tasks import RegressionTask, Task
    from grokinterp.training import train
    from grokinterp.training.preset_table import presets
    from grokinterp.training.recorder import Recorder
