"""The numbers of an analysis as one plain object, for JSON and for tables."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from grokinterp.transition import Boundary, Event

if TYPE_CHECKING:
    from grokinterp.timeline import Analysis


def summarize(analysis: "Analysis") -> dict[str, Any]:
    """What an analysis says, as the JSON object of `grokinterp analyze --json`; what is unknown is null."""
    run, transition, found = analysis.run, analysis.transition, analysis.reference.frequencies
    config = run.config.task
    steps = [int(step) for step in analysis.timeline.index]

    def events(by_threshold: dict[float, Event]) -> dict[str, Any]:
        return {str(theta): event.step for theta, event in by_threshold.items()}

    def boundary(b: Boundary) -> dict[str, Any]:
        return {**asdict(b), "flags": list(b.flags)}

    last = analysis.timeline.iloc[-1]
    final = {name: (float(x) if math.isfinite(x) else None) for name, x in last.items()}
    missing = {str(name): analysis.why_missing(str(name), steps[-1]) for name, x in final.items() if x is None}
    return {
        "run": str(run.path),
        "task": {"operation": config.operation, "p": config.p, "train_fraction": config.train_fraction},
        "steps": {"first": steps[0], "last": steps[-1], "count": len(steps)},
        "reference": {
            "rule": found.rule,
            "step": found.step,
            "key_frequencies": list(found.values),
            "reason": found.reason or None,
            "harmonics": [list(pair) for pair in found.harmonics],
            "generalizes": analysis.reference.generalizes,
            "lost": list(analysis.reference.lost),
            "union": list(analysis.reference.union),
            "by_rule": {rule: list(values) for rule, values in analysis.reference.by_rule.items()},
        },
        "transition": {
            "outcome": transition.outcome,
            "reason": transition.reason,
            "T_train": events(transition.T_train),
            "T_grok": events(transition.T_grok),
            "T_grok_novel": events(transition.T_grok_novel),
            "delay": {str(theta): delay for theta, delay in transition.delay.items()},
            "grid": {
                name: {str(theta): event.previous for theta, event in by_threshold.items()}
                for name, by_threshold in (("T_train", transition.T_train), ("T_grok", transition.T_grok))
            },
            "reasons": {
                f"{name}({theta})": event.reason
                for name, by_threshold in (("T_train", transition.T_train), ("T_grok", transition.T_grok))
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
        "warnings": list(analysis.warnings),
    }
