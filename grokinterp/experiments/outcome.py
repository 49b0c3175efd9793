"""What an experiment comes to: claims with their verdicts, published numbers beside measured ones, tables, figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from grokinterp.report.plots import Figure

Verdict = Literal["supported", "not supported", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = ("supported", "not supported", "inconclusive")
Progress = Callable[[int, int], None]
Figures = Mapping[str, tuple[tuple[Figure, str], ...]]


@dataclass(frozen=True)
class Claim:
    """A statement, and what became of it.

    Attributes:
        name: short, one word where it can be.
        statement: what is claimed, as a sentence.
        published: what the source says or prints.
        measured: what was found here.
        n: how many runs it rests on.
        threshold: what had to be found for "supported".
        verdict: "inconclusive" where nothing was found that could decide it.
        should_hold: whether we expect it to hold at the scale of the recipe. Some claims are here because they are
            repeated elsewhere and do not hold.
        number: of the assertion in `grokinterp.experiments.literature` that it decides, alone or with others.
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

    @property
    def failed(self) -> bool:
        """It should hold at this scale, and does not."""
        return self.should_hold and self.verdict == "not supported"


@dataclass(frozen=True)
class Comparison:
    """A published number, and what was measured in its place.

    Attributes:
        quantity: what it is of.
        printed: as the source has it.
        measured: the median, the range where there are several runs, and how many of them have it.
        n: runs of that setting.
        comparable: whether the runs are of the published size.
    """

    quantity: str
    printed: str
    measured: str
    n: int
    comparable: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a recipe found.

    Attributes:
        claims: each with its verdict.
        tables: the numbers behind them, by the name of the file they go to.
        figures: by the section of the report they stand in; each with its caption.
        settings: what was run, by name.
        comparisons: published numbers beside measured ones.
        warnings: what to know before believing any of it, for instance runs that failed.
        lost: how many runs failed or did not come to their end.
        seconds: that the runs took, each on its own, added up; None where there are none.
    """

    claims: tuple[Claim, ...]
    tables: Mapping[str, pd.DataFrame]
    figures: Figures
    settings: Mapping[str, Any]
    comparisons: tuple[Comparison, ...] = ()
    warnings: tuple[str, ...] = ()
    lost: int = 0
    seconds: float | None = None
