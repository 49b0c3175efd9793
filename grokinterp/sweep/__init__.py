"""Sweeps: many runs that differ in some configuration fields, trained locally or on a cluster, and their table.

>>> import grokinterp as gi
>>> grid = {"optimizer.weight_decay": [0.5, 1, 2], "model_seed": range(3)}
>>> sweep = gi.train_sweep("checkpoints/decay", gi.preset("psi"), grid=grid)  # doctest: +SKIP
>>> sweep.table[["run", "outcome", "T_grok_0.95"]]  # doctest: +SKIP
"""

from grokinterp.sweep.executors import Executor, LocalExecutor
from grokinterp.sweep.folder import Sweep
from grokinterp.sweep.grid import Point, expand, parse_values
from grokinterp.sweep.jobs import Failure
from grokinterp.sweep.ray_executor import RayExecutor
from grokinterp.sweep.running import Progress, commands, plan, train_point, train_sweep

__all__ = [
    "Executor",
    "Failure",
    "LocalExecutor",
    "Point",
    "Progress",
    "RayExecutor",
    "Sweep",
    "commands",
    "expand",
    "parse_values",
    "plan",
    "train_point",
    "train_sweep",
]
