"""Figures: each function takes an analysis, a run, the path of a run, or a list of them, and returns a plotly Figure.

A figure of one run shows the phases as light bands, and T_train and T_grok as vertical lines. In a figure of several
runs, each run has a color, and the legend shows the name of its folder. If something cannot be drawn, the figure and
`figure.layout.meta["notes"]` give the reason. Buttons above a figure over training switch between linear and
logarithmic steps.

    >>> import grokinterp as gi
    >>> analysis = gi.analyze("checkpoints/run42")
    >>> figure = gi.figures.progress_measures(analysis)      # figure.show() opens it, gi.save_figure saves it
    >>> figure.layout.yaxis.title.text
    'cross entropy (nats)'
    >>> both = gi.figures.accuracy_curves([analysis, analysis])

Figures of a sweep (`phase_diagram`, `outcome_counts`, `delay_against`, `norm_at_grok`, `learning_curves`,
`slingshot_curves`) take a Sweep, its path, or its table, a pandas DataFrame with one row per run, and the names of the
axes.
The functions in `ridge` and `polynomial` draw results of `grokinterp.theory`.
"""

from grokinterp.figures import polynomial as polynomial
from grokinterp.figures import ridge as ridge
from grokinterp.figures.curves import (
    accuracy_curves,
    circuit_efficiency,
    gini,
    idealized_accuracy,
    logit_margins,
    loss_curves,
    nanda_figure_7,
    overview,
    progress_measures,
    weight_norms,
)
from grokinterp.figures.learning import learning_curves, pair_curves
from grokinterp.figures.replicates import delay_against, norm_at_grok
from grokinterp.figures.slingshots import slingshot_curves
from grokinterp.figures.spectra import (
    cosine_coefficients,
    embedding_spectrum,
    embedding_spectrum_over_training,
    excluded_loss_per_frequency,
    key_frequencies_over_training,
    neuron_logit_spectrum,
)
from grokinterp.figures.style import show_in_exported_notebooks
from grokinterp.figures.sweeps import outcome_counts, phase_diagram

show_in_exported_notebooks()

# Figures that take analyses or runs, in the order in which `grokinterp figures` draws them.
OF_RUNS = (
    "overview",
    "accuracy_curves",
    "loss_curves",
    "progress_measures",
    "nanda_figure_7",
    "weight_norms",
    "gini",
    "embedding_spectrum_over_training",
    "embedding_spectrum",
    "neuron_logit_spectrum",
    "key_frequencies_over_training",
    "excluded_loss_per_frequency",
    "cosine_coefficients",
    "idealized_accuracy",
    "circuit_efficiency",
    "logit_margins",
)

__all__ = [
    "accuracy_curves",
    "circuit_efficiency",
    "cosine_coefficients",
    "delay_against",
    "embedding_spectrum",
    "embedding_spectrum_over_training",
    "excluded_loss_per_frequency",
    "gini",
    "idealized_accuracy",
    "key_frequencies_over_training",
    "learning_curves",
    "logit_margins",
    "loss_curves",
    "nanda_figure_7",
    "neuron_logit_spectrum",
    "norm_at_grok",
    "outcome_counts",
    "overview",
    "pair_curves",
    "phase_diagram",
    "progress_measures",
    "slingshot_curves",
    "weight_norms",
]
