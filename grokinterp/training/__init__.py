"""Training: `train` trains a run, `train_many` many runs of one shape; `scheduled_steps` lists a schedule's steps."""

from grokinterp.config.schedule import scheduled_steps
from grokinterp.training.callbacks import Callback
from grokinterp.training.ensemble import ensemble_pays, train_many
from grokinterp.training.stopping import last_needed_step
from grokinterp.training.tracker import Tracker
from grokinterp.training.trainer import train

__all__ = ["Callback", "Tracker", "ensemble_pays", "last_needed_step", "scheduled_steps", "train", "train_many"]
