"""The outcome of an experiment: claims with verdicts, published and measured numbers, tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from grokinterp.report.plots import Figure

Verdict = Literal["supported", "not supported", "inconclusive"]
"""What the runs of an experiment say about a claim."""
VERDICTS: tuple[Verdict, ...] = ("supported", "not supported", "inconclusive")
Progress = Callable[[int, int], None]
Figures = Mapping[str, tuple[tuple[Figure, str], ...]]


def verdict(holds: bool, n: int) -> Verdict:
    """Whether a claim holds; inconclusive if it rests on no run (n = 0)."""
    return "inconclusive" if n <= 0 else "supported" if holds else "not supported"


@dataclass(frozen=True)
class Claim:
    """A published statement and its verdict.

    >>> claim = Claim("norm", "The norm falls.", "Figure 1", "falls in 3 of 3 runs", 3, "every run", verdict(True, 3))
    >>> claim.verdict
    'supported'

    Attributes:
        name: a short name, one word where possible.
        statement: the claim as a sentence.
        published: what the source states or prints.
        measured: the result of this reproduction.
        n: the number of runs behind the result.
        threshold: the criterion for "supported".
        verdict: "inconclusive" if the results cannot decide the claim.
        should_hold: whether we expect the claim to hold at the scale of the recipe. Some claims are included because
            they are often repeated although they do not hold.
        number: the assertion in `grokinterp.experiments.assertions` that this claim decides, alone or with others.
        fewest: the number of runs behind the setting with the fewest, if the claim compares settings; None if it does
            not, so that n is that number.
    """

    name: str
    statement: str
    published: str
    measured: str
    n: int
    threshold: str
    verdict: Verdict
    should_hold: bool = True
    number: int | None = None
    fewest: int | None = None

    @classmethod
    def of_all(
        cls,
        name: str,
        statement: str,
        published: str,
        measured: str,
        threshold: str,
        met: Sequence[bool] | np.ndarray | pd.Series,
        **options: Any,
    ) -> "Claim":
        """The claim that every run (or seed, or trajectory) meets a threshold.

        Args:
            name: see the attributes, also for the other texts and the options.
            statement: the claim as a sentence.
            published: what the source states or prints.
            measured: the result of this reproduction.
            threshold: the criterion that every run must meet.
            met: whether each run meets it; n is their number.
            **options: `should_hold`, `number` and `fewest`.
        """
        n = len(met)
        return cls(name, statement, published, measured, n, threshold, verdict(bool(np.all(met)), n), **options)

    @property
    def failed(self) -> bool:
        """Whether the claim should hold at this scale but does not."""
        return self.should_hold and self.verdict == "not supported"


@dataclass(frozen=True)
class Comparison:
    """A published number and its measured counterpart.

    >>> Comparison("T_grok", "9,400", "9,100 (8,700 to 10,200)", n=3).comparable
    True

    Attributes:
        quantity: the name of the number.
        printed: the number as the source prints it.
        measured: the median, the range over several runs, and how many of the runs have a value.
        n: the number of runs with that setting.
        comparable: whether the runs have the published size.
    """

    quantity: str
    printed: str
    measured: str
    n: int
    comparable: bool = True


@dataclass(frozen=True)
class Outcome:
    """The outcome of a recipe.

    >>> claim = Claim("norm", "The norm falls.", "Figure 1", "falls in 1 of 3 runs", 3, "every run", verdict(False, 3))
    >>> Outcome((claim,), tables={}, figures={}, settings={"p": 59}).claims[0].failed
    True

    Attributes:
        claims: the claims with their verdicts.
        tables: the numbers behind the claims, by the name of the file that stores them.
        figures: the figures with their captions, by section of the report.
        settings: what was run, by name.
        comparisons: published and measured numbers.
        warnings: caveats about the results, for instance runs that failed.
        lost: the number of runs that failed.
        missing: the number of runs that have not been trained.
        bf16: whether some runs were trained with bf16 products, so that they decide no assertion.
        partial: whether an arm has some of its runs but not all, so that they decide no assertion either.
        seconds: the summed training time of the runs; None if there are no runs.
        results: of a recipe that trains no runs, the tables that its record keeps, with one row per setting.
    """

    claims: tuple[Claim, ...]
    tables: Mapping[str, pd.DataFrame]
    figures: Figures
    settings: Mapping[str, Any]
    comparisons: tuple[Comparison, ...] = ()
    warnings: tuple[str, ...] = ()
    lost: int = 0
    missing: int = 0
    bf16: bool = False
    partial: bool = False
    seconds: float | None = None
    results: Mapping[str, pd.DataFrame] = field(default_factory=dict)
