"""grokinterp: mechanistic interpretability of grokking.

`import grokinterp` is fast: each public name is imported when it is first used.

    >>> import grokinterp as gi
    >>> run = gi.Run.open("checkpoints/run42")
    >>> analysis = gi.analyze(run)
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
    "Sweep": "sweep",
    "Task": "tasks",
    "TaskConfig": "config",
    "TransformerConfig": "config",
    "Transition": "analysis.transition",
    "analyze": "analysis.timeline",
    "build_model": "models",
    "list_runs": "sweep.listing",
    "find_transition": "analysis.transition",
    "preset": "config.presets",
    "presets": "training.preset_table",
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
    "Sweep",
    "Task",
    "TaskConfig",
    "TransformerConfig",
    "Transition",
    "__version__",
    "analyze",
    "build_model",
    "experiments",
    "figures",
    "find_transition",
    "fourier",
    "list_runs",
    "measures",
    "models",
    "preset",
    "presets",
    "statistics",
    "theory",
    "train",
    "train_sweep",
    "training",
    "verify",
    "write_report",
    "write_sweep_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"grokinterp.{_MODULES[name]}")
    if name in _HOME:
        return getattr(import_module(f"grokinterp.{_HOME[name]}"), name)
    raise AttributeError(f"module 'grokinterp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ resolves the names
    from grokinterp import experiments, figures, measures, models, statistics, theory, training
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
    from grokinterp.measures import fourier
    from grokinterp.models import build_model
    from grokinterp.report import write_report, write_sweep_report
    from grokinterp.runs.run import Run
    from grokinterp.runs.verification import verify
    from grokinterp.sweep import Sweep, train_sweep
    from grokinterp.sweep.listing import list_runs
    from grokinterp.tasks import RegressionTask, Task
    from grokinterp.training import train
    from grokinterp.training.preset_table import presets
    from grokinterp.training.recorder import Recorder
