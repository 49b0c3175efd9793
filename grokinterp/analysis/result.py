"""Analysis: the result of `analyze`, and the plain object that `--json` prints."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from grokinterp.analysis.phases import Boundary, known_values
from grokinterp.analysis.transition import Event, Transition
from grokinterp.display import Card, Carded
from grokinterp.errors import ConfigError, nearest
from grokinterp.measures import KeyFrequencies, Reference, registered
from grokinterp.runs.checksums import sha256
from grokinterp.runs.run import Run
from grokinterp.statistics.formatting import number


@dataclass(frozen=True, eq=False, repr=False)
class Analysis(Carded):
    """The measures of a run at its checkpoints, and the transition located from them.

    >>> import grokinterp as gi
    >>> analysis = gi.load("checkpoints/run42").analyze()
    >>> analysis.transition.outcome, analysis.key_frequencies.values
    ('grokked', (8, 14, 21))

    Attributes:
        run: the run.
        timeline: one row per checkpoint (index `step`), one column per scalar.
        frequencies: one row per checkpoint and frequency (index `step`, `k`), one column per array over frequencies.
        reference: the key frequencies used, with the rule and the step that gave them.
        transition: events, outcome and phases.
        warnings: problems that make a number mean less than it seems to.
        definitions: what each column of `timeline` and `frequencies` means.
        reasons: column -> reason -> steps, for what could not be computed.
        checksums: by step, SHA-256 of the weights that were analyzed.
    """

    run: Run
    timeline: pd.DataFrame
    frequencies: pd.DataFrame
    reference: Reference
    transition: Transition
    warnings: tuple[str, ...]
    definitions: dict[str, str]
    reasons: dict[str, dict[str, list[int]]]
    checksums: dict[int, str]

    _INSTEAD: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("to_pandas", "to_dataframe", "df", "table", "data"): "analysis.timeline, with one row per checkpoint",
        ("to_dict", "to_json", "as_dict"): "analysis.summary()",
        ("to_csv",): "analysis.timeline.to_csv(path)",
        ("save", "report", "to_html"): "gi.write_report(analysis)",
        ("phases", "T_grok", "T_train", "outcome"): "analysis.transition, which has them",
    }

    @property
    def name(self) -> str:
        """The name of the run's folder, for legends."""
        return self.run.path.name

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Losses, accuracies and norms on the grid of the training, read once on first access."""
        return self.run.metrics

    @property
    def key_frequencies(self) -> KeyFrequencies:
        """The key frequencies that the measures used: those of the reference step."""
        return self.reference.frequencies

    def __getitem__(self, column: str) -> pd.Series:
        """A column of the timeline, by step.

        >>> import grokinterp as gi
        >>> gi.load("checkpoints/run42").analyze()["restricted_loss"].index.name
        'step'

        Raises:
            ConfigError: the timeline has no such column.
        """
        if column not in self.timeline:
            raise ConfigError(f"the timeline has no column {column!r}: {nearest(column, map(str, self.timeline))}")
        return pd.Series(self.timeline[column])

    def plot(self) -> Any:
        """The run at a glance: the Plotly figure that `grokinterp.figures.overview` draws."""
        import grokinterp

        return grokinterp.figures.overview(self)

    def _card(self) -> Card:
        from grokinterp.analysis.overview import headline

        keys, last = self.reference.frequencies, self.timeline.iloc[-1]
        steps = self.timeline.index
        facts = {
            "outcome": f"{self.transition.outcome}: {headline(self)}",
            "key frequencies": ", ".join(map(str, keys.values)) or f"none: {keys.reason}",
            "checkpoints": f"{len(steps):,}, steps {steps[0]:,} to {steps[-1]:,}",
        }
        for name in ("restricted_loss", "excluded_loss", "test_accuracy"):
            if name in last:
                facts[name.replace("_", " ")] = f"{number(float(last[name]))} at the last step"
        facts["warnings"] = str(len(self.warnings))
        calls = ['analysis["restricted_loss"]', "analysis.timeline", "analysis.plot()", "gi.write_report(analysis)"]
        return Card(f"Analysis of {self.run.path}", facts, calls)

    @property
    def weights_sha256(self) -> str:
        """One checksum of all weights: SHA-256 of the lines `STEP CHECKSUM`, ordered by step."""
        lines = "".join(f"{step} {checksum}\n" for step, checksum in sorted(self.checksums.items()))
        return sha256(lines.encode())

    def curves(self, column: str) -> pd.Series:
        """A column without NaN on the finest grid available: the training's if it was logged, else the timeline's.

        Raises:
            ConfigError: there is no such column.
        """
        self._require_column(column)
        logged = known_values(self.metrics, column)
        return known_values(self.timeline, column) if logged.empty else logged

    def why_missing(self, column: str, step: int | None = None) -> str:
        """The reason for a NaN in a column at a step, or else all reasons, each with its steps; empty without a NaN.

        >>> import grokinterp as gi
        >>> gi.load("checkpoints/run42").analyze().why_missing("circuit_efficiency_ratio", 4240)
        'memorized margin exhausted'

        Raises:
            ConfigError: there is no such column, or no such step.
        """
        self._require_column(column)
        reasons = self.reasons.get(column, {})
        if step is not None and step not in self.timeline.index:
            near = self.timeline.index[abs(self.timeline.index - step).argmin()]
            raise ConfigError(f"step {step} was not analyzed: the nearest one is {near}")
        if step is not None:
            return self._reason(column, step)
        if len(reasons) < 2:
            return "".join(reasons)
        return "; ".join(f"{reason} (steps {min(steps)} to {max(steps)})" for reason, steps in reasons.items())

    def _reason(self, column: str, step: int) -> str:
        return next((reason for reason, steps in self.reasons.get(column, {}).items() if step in steps), "")

    def _require_column(self, name: str) -> None:
        """Raises a ConfigError unless a table has this column, or a measure contributes it that was not computed."""
        columns = {*self.metrics, *self.timeline, *self.frequencies, *self.reasons, *self.definitions}
        columns |= {column.name for entry in registered().values() for column in entry.columns}
        if name not in columns and str(name).removesuffix("_union") not in columns:
            raise ConfigError(f"there is no column {name!r}: {nearest(name, sorted(map(str, columns)))}")

    def summary(self) -> dict[str, Any]:
        """The object that `grokinterp analyze --json` prints; unknown values are null."""
        run, transition, keys = self.run, self.transition, self.reference.frequencies
        config = run.classification.config
        observed = {"T_train": transition.T_train, "T_grok": transition.T_grok}
        steps = [int(step) for step in self.timeline.index]

        def events(by_threshold: dict[float, Event]) -> dict[str, Any]:
            return {str(theta): event.step for theta, event in by_threshold.items()}

        def boundary(b: Boundary) -> dict[str, Any]:
            return {**asdict(b), "flags": list(b.flags)}

        last = self.timeline.iloc[-1]
        final = {name: (float(x) if math.isfinite(x) else None) for name, x in last.items()}
        missing = {str(name): self._reason(str(name), steps[-1]) for name, x in final.items() if x is None}
        return {
            "run": str(run.path),
            "task": {"operation": config.operation, "p": config.p, "train_fraction": config.train_fraction},
            "steps": {"first": steps[0], "last": steps[-1], "count": len(steps)},
            "weights_sha256": self.weights_sha256,
            "reference": {
                "rule": keys.rule,
                "step": keys.step,
                "key_frequencies": list(keys.values),
                "reason": keys.reason or None,
                "harmonics": [list(pair) for pair in keys.harmonics],
                "generalizes": self.reference.generalizes,
                "lost": list(self.reference.lost),
                "union": list(self.reference.union),
                "by_rule": {rule: list(values) for rule, values in self.reference.by_rule.items()},
            },
            "transition": {
                "outcome": transition.outcome,
                "reason": transition.reason,
                "T_train": events(transition.T_train),
                "T_grok": events(transition.T_grok),
                "T_grok_novel": events(transition.T_grok_novel),
                "delay": {str(theta): delay for theta, delay in transition.delay.items()},
                "grid": {name: {str(theta): e.previous for theta, e in by.items()} for name, by in observed.items()},
                "reasons": {
                    f"{name}({theta})": event.reason
                    for name, by_threshold in observed.items()
                    for theta, event in by_threshold.items()
                    if event.step is None
                },
                "phases": {
                    name: boundary(getattr(transition, name))
                    for name in ("memorization_end", "circuit_formation_end", "cleanup_end")
                },
                "evidence": transition.evidence,
            },
            "final": final,
            "missing": missing,
            "warnings": list(self.warnings),
        }
