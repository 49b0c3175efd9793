"""Models: building one from a configuration, and computing its logits directly from its weights.

Importing this package does not import transformer_lens, which takes seconds; only building a module does.
"""

from grokinterp.models.building import ModularModel, build_model, task_of
from grokinterp.models.dispatch import Forward, forward_for
from grokinterp.models.folding import Weights
from grokinterp.models.forward import Activations
from grokinterp.models.initialization import initial_parameters
from grokinterp.models.shapes import parameter_count

__all__ = [
    "Activations",
    "Forward",
    "ModularModel",
    "Weights",
    "build_model",
    "forward_for",
    "initial_parameters",
    "parameter_count",
    "task_of",
]
