"""Experiments: published studies of grokking as recipes that run them, and decide their claims.

    >>> from grokinterp.experiments import recipes
    >>> recipes()["ridge"].source
    'Xu, Vardi and Safran 2026, arXiv:2601.19791'

`reproduce("ridge", "results/ridge")` runs one and writes what it found into a folder.
"""

from grokinterp.experiments.base import Claim, Outcome, Recipe, Reproduction, Verdict, recipes, reproduce

__all__ = ["Claim", "Outcome", "Recipe", "Reproduction", "Verdict", "recipes", "reproduce"]
