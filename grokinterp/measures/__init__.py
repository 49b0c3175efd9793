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

from grokinterp.measures.attention import AttentionByToken, attention_by_token
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
from grokinterp.measures.formula import FormulaFit, formula_explained, formula_fit, guaranteed_share
from grokinterp.measures.frequencies import RULES, evaluation_pairs, key_frequencies
from grokinterp.measures.losses import accuracy, cross_entropy_from_logits, loss, margin, margin_from_logits
from grokinterp.measures.neurons import NeuronFrequencies, neuron_frequencies
from grokinterp.measures.norms import group_norms, group_rms, sum_of_squares, weight_norm, weight_rms
from grokinterp.measures.own_model import Activity
from grokinterp.measures.phases import IdealizedAccuracy, NeuronPhases, idealized_accuracy, neuron_phases
from grokinterp.measures.probes import LinearProbe, linear_probe
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
from grokinterp.measures.sparsity import activation_sparsity, inverse_participation_ratios, mean_ipr
from grokinterp.measures.spectra import Spectra, logit_spectra, neuron_spectra, spectrum_shares
from grokinterp.measures.spectrum import (
    embedding_power,
    gini,
    gini_embedding,
    gini_neuron_logit,
    gini_unembedding,
    neuron_logit_power,
)
from grokinterp.measures.symmetry import (
    CircuitVerdict,
    circuit_verdict,
    circularity,
    distance_irrelevance,
    gradient_symmetricity,
)

__all__ = [
    "NEEDS",
    "RULES",
    "Activity",
    "AttentionByToken",
    "CircuitEfficiency",
    "CircuitVerdict",
    "Column",
    "FormulaFit",
    "IdealizedAccuracy",
    "KeyFrequencies",
    "LinearProbe",
    "Measure",
    "NeuronFrequencies",
    "NeuronPhases",
    "Reference",
    "Snapshot",
    "Spectra",
    "Undefined",
    "accuracy",
    "activation_sparsity",
    "as_frequencies",
    "attention_by_token",
    "circuit_efficiency",
    "circuit_verdict",
    "circularity",
    "cosine_coefficients",
    "cosine_similarities",
    "cross_entropy_from_logits",
    "distance_irrelevance",
    "embedding_power",
    "evaluation_pairs",
    "excluded_loss",
    "excluded_loss_from_logits",
    "excluded_loss_novel",
    "excluded_loss_per_frequency",
    "find_measure",
    "formula_explained",
    "formula_fit",
    "gini",
    "gini_embedding",
    "gini_neuron_logit",
    "gini_unembedding",
    "gradient_symmetricity",
    "group_norms",
    "group_rms",
    "guaranteed_share",
    "idealized_accuracy",
    "inverse_participation_ratios",
    "key_frequencies",
    "linear_probe",
    "logit_spectra",
    "logit_variance_explained",
    "loss",
    "margin",
    "margin_from_logits",
    "mean_ipr",
    "measure",
    "neuron_frequencies",
    "neuron_logit_power",
    "neuron_phases",
    "neuron_spectra",
    "registered",
    "restricted_loss",
    "restricted_loss_from_logits",
    "restricted_loss_novel",
    "restricted_loss_per_frequency",
    "spectrum_shares",
    "sum_of_squares",
    "weight_norm",
    "weight_rms",
]
