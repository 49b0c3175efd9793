"""Measures: plain functions of one checkpoint, of a saved run or of your own model.

    >>> import torch
    >>> from grokinterp.measures import Snapshot, key_frequencies, restricted_loss
    >>> from grokinterp.tasks import Task
    >>> task = Task.modular_addition(p=31)
    >>> a, b, c = torch.meshgrid(*[torch.arange(31)] * 3, indexing="ij")
    >>> logits = 20 * torch.cos(2 * torch.pi * 7 * (a + b - c) / 31)  # a model with one frequency
    >>> snapshot = Snapshot.from_logits(task, logits)
    >>> key_frequencies(snapshot).values
    (7,)

The docstring of each measure has its exact definition and source. Importing this package takes as long as importing
torch.
"""

from grokinterp.measures.base import (
    NEEDS,
    Column,
    KeyFrequencies,
    Measure,
    Reference,
    as_frequencies,
    find_measure,
    measure,
    registered,
)
from grokinterp.measures.circuit import cosine_coefficients, cosine_similarities, logit_variance_explained
from grokinterp.measures.efficiency import CircuitEfficiency, circuit_efficiency
from grokinterp.measures.frequencies import RULES, evaluation_pairs, key_frequencies
from grokinterp.measures.losses import accuracy, cross_entropy_from_logits, loss, margin, margin_from_logits
from grokinterp.measures.neurons import NeuronFrequencies, neuron_frequencies
from grokinterp.measures.norms import group_norms, group_rms, sum_of_squares, weight_norm, weight_rms
from grokinterp.measures.own_model import Activity
from grokinterp.measures.phases import IdealizedAccuracy, NeuronPhases, idealized_accuracy, neuron_phases
from grokinterp.measures.progress import (
    excluded_loss,
    excluded_loss_from_logits,
    excluded_loss_per_frequency,
    restricted_loss,
    restricted_loss_from_logits,
    restricted_loss_per_frequency,
)
from grokinterp.measures.progress_novel import excluded_loss_novel, restricted_loss_novel
from grokinterp.measures.snapshot import Snapshot, Undefined
from grokinterp.measures.spectrum import embedding_power, gini, gini_embedding, gini_neuron_logit, neuron_logit_power

__all__ = [
    "NEEDS",
    "RULES",
    "Activity",
    "CircuitEfficiency",
    "Column",
    "IdealizedAccuracy",
    "KeyFrequencies",
    "Measure",
    "NeuronFrequencies",
    "NeuronPhases",
    "Reference",
    "Snapshot",
    "Undefined",
    "accuracy",
    "as_frequencies",
    "circuit_efficiency",
    "cosine_coefficients",
    "cosine_similarities",
    "cross_entropy_from_logits",
    "embedding_power",
    "evaluation_pairs",
    "excluded_loss",
    "excluded_loss_from_logits",
    "excluded_loss_novel",
    "excluded_loss_per_frequency",
    "find_measure",
    "gini",
    "gini_embedding",
    "gini_neuron_logit",
    "group_norms",
    "group_rms",
    "idealized_accuracy",
    "key_frequencies",
    "logit_variance_explained",
    "loss",
    "margin",
    "margin_from_logits",
    "measure",
    "neuron_frequencies",
    "neuron_logit_power",
    "neuron_phases",
    "registered",
    "restricted_loss",
    "restricted_loss_from_logits",
    "restricted_loss_novel",
    "restricted_loss_per_frequency",
    "sum_of_squares",
    "weight_norm",
    "weight_rms",
]
