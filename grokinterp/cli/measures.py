"""grokinterp measures."""

import inspect
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from grokinterp.cli.options import parse, say

if TYPE_CHECKING:
    from grokinterp.measures.base import Measure


@dataclass(frozen=True)
class Measures:
    """List the measures that `grokinterp analyze` computes, with the definition of each."""

    name: tyro.conf.Positional[str | None] = None
    """measure or column to describe in detail, or package.module:function"""


def run_measures(arguments: Sequence[str]) -> int:
    options = parse(Measures, arguments)
    from grokinterp.measures.base import MEASURE_FOLDERS, find_measure, registered

    MEASURE_FOLDERS.append(str(Path.cwd()))
    entries = registered()
    if options.name is None:
        from grokinterp.cli.console import show_measures

        show_measures(list(entries.values()), costs := _costs())
        say(f"costs: of one checkpoint of run42, on one thread of {costs['processor']} (python -m benchmarks.measures)")
        say("next: grokinterp measures NAME for the full definition; grokinterp analyze RUN --measures NAME,NAME")
        return 0
    by_column = {column.name: entry for entry in entries.values() for column in entry.columns}
    name = options.name
    if ":" not in name and name not in by_column | entries:
        name = re.sub(r"[ -]", "_", name)
        name = _LABELS.get(name, name)
    _describe(by_column.get(name) or find_measure(name))
    return 0


def _costs() -> dict[str, Any]:
    """What the benchmark found each measure to cost."""
    return json.loads((resources.files("grokinterp.measures") / "costs.json").read_text(encoding="utf-8"))


# Labels in tables and figures that are no names of columns.
_LABELS = {"margin_ratio": "circuit_efficiency_ratio"}


# What each need means to a user.
_NEEDS = {
    "logits": "the logits of all inputs",
    "grid": "a task with a cyclic group (such as addition mod p)",
    "weights": "the weights, under TransformerLens names",
    "gradients": "a differentiable forward pass",
    "neurons": "the activations of the neurons",
    "attention": "the attention pattern",
    "pre_activations": "the pre-activations of the neurons",
    "embedded": "a model of known architecture",
    "split": "a known split into training and test inputs",
    "reference": "key frequencies, from the reference step",
    "history": "other steps",
}


def _describe(entry: "Measure") -> None:
    say(entry.name)
    for line in (inspect.getdoc(entry.function) or "").splitlines():
        say(f"  {line}".rstrip())
    module = inspect.unwrap(entry.function).__module__
    notes = (sys.modules[module].__doc__ or "").strip().split("\n")
    if entry.is_built_in and len(notes) > 1:  # says what its symbols mean
        say("background:")
        for line in notes[2:]:
            say(f"  {line}".rstrip())
    say("columns:")
    for column in entry.columns:
        say(f"  {column.name}: {column.definition}{' (one value per frequency)' if column.per_frequency else ''}")
    if entry.costly:
        say("computed only with analyze --circuit, or if it is named with --measures")
    say(f"needs: {'; '.join(_NEEDS.get(need, need) for need in entry.needs)}")
    if entry.is_built_in:
        say(f"in Python: from grokinterp.measures import {entry.function.__name__}")
    else:
        say(f"in Python: from {module} import {entry.function.__name__}")
