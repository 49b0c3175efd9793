"""Configurations: frozen dataclasses that determine a run, check their fields, and convert to and from JSON.

Nothing here imports torch, so that `--help` is fast.
"""

from grokinterp.config.checks import is_prime, require_one_of
from grokinterp.config.model import MLPConfig, ModelConfig, RecordedConfig, TransformerConfig, require_fit
from grokinterp.config.optimizer import STATE_SLOTS, OptimizerConfig
from grokinterp.config.regression import AnyTaskConfig, RegressionConfig
from grokinterp.config.run import FORMAT_VERSION, PLAIN, RunConfig, TrainingSettings
from grokinterp.config.schedule import ScheduleConfig, schedule_terms
from grokinterp.config.task import OPERATIONS, S5_OPERATIONS, Operation, TaskConfig

__all__ = [
    "FORMAT_VERSION",
    "OPERATIONS",
    "PLAIN",
    "S5_OPERATIONS",
    "STATE_SLOTS",
    "AnyTaskConfig",
    "MLPConfig",
    "ModelConfig",
    "Operation",
    "OptimizerConfig",
    "RecordedConfig",
    "RegressionConfig",
    "RunConfig",
    "ScheduleConfig",
    "TaskConfig",
    "TrainingSettings",
    "TransformerConfig",
    "is_prime",
    "require_fit",
    "require_one_of",
    "schedule_terms",
]
