"""Experiments: published studies of grokking as recipes that rerun them and test their claims.

    >>> from grokinterp.experiments import catalog
    >>> catalog()["ridge"].source
    'Xu, Vardi, and Safran 2026, arXiv:2601.19791'

`reproduce("ridge", "results/ridge")` runs a recipe and writes its results into a folder.
"""

from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Comparison, Outcome, Verdict
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe
from grokinterp.experiments.recipes import catalog
from grokinterp.experiments.reproduction import Reproduction, reproduce

__all__ = [
    "Arm",
    "Claim",
    "Comparison",
    "Evidence",
    "Form",
    "Outcome",
    "Published",
    "Recipe",
    "Reproduction",
    "Verdict",
    "catalog",
    "reproduce",
]
