"""Training: `train` makes a run; `scheduled_steps` says what a schedule means."""

from grokinterp.training.callbacks import Callback, Tracker
from grokinterp.training.schedule import scheduled_steps
from grokinterp.training.trainer import train

__all__ = ["Callback", "Tracker", "scheduled_steps", "train"]
