"""Recipes of published experiments, one file per recipe: `psi_width.py` defines the `RECIPE` named `psi-width`."""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType

from grokinterp.experiments.recipe import Recipe


@cache
def catalog() -> Mapping[str, Recipe]:
    """All recipes, by name.

    >>> sorted(catalog())[:2]
    ['kumar-modular', 'kumar-polynomial']
    """
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    recipes: list[Recipe] = [module.RECIPE for module in modules]
    return MappingProxyType({recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.name)})
