"""The parts of a report in words and tables. Whatever came from a user goes through `escape`."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from grokinterp.analysis.phases import Boundary
from grokinterp.analysis.result import Analysis
from grokinterp.analysis.transition import Event


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already, without columns that are empty throughout.

    It scrolls by itself where the window is narrower. `kind` is a CSS class.
    """
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    top = "".join(f"<th>{head[i]}</th>" for i in kept)
    body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{row[i]}</td>' for i in kept if i)}</tr>" for row in rows)
    return f'<div class="table {kind}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def number(x: Any) -> str:
    """A number as a person reads it; a dash where it is not known, or none."""
    if isinstance(x, int):
        return f"{x:,}"
    return f"{x:.4g}" if isinstance(x, float) and math.isfinite(x) else "–"


def lead(analyses: list[Analysis], names: list[str]) -> str:
    """A sentence on each run; of many, only how many had which outcome."""
    if len(analyses) > 6:
        counts = Counter(one.transition.outcome.replace("_", " ") for one in analyses)
        listed = ", ".join(f"{count} {escape(outcome)}" for outcome, count in counts.most_common())
        return f'<p class="lead">{listed}.</p>'
    parts = []
    for one, name in zip(analyses, names, strict=True):
        outcome = escape(one.transition.outcome.replace("_", " "))
        subject = f"<b>{name}</b> " if len(analyses) > 1 else ""
        parts.append(f'<p class="lead">{subject}<span class="outcome">{outcome}</span> {_sentence(one)}</p>')
    return "".join(parts)


def _sentence(analysis: Analysis) -> str:
    """What became of the run, in plain words."""
    transition, found = analysis.transition, analysis.reference.frequencies
    memorized, generalized = transition.T_train[0.99].step, transition.T_grok[0.95].step
    if transition.outcome in ("DNF_train", "diverged", "undetermined") or memorized is None:
        said = f"{escape(capital(transition.reason))}."
    elif generalized is None:
        final = transition.evidence.get("final_test_accuracy")
        said = (
            f"It memorized its training set by step {memorized:,} (train accuracy 0.99) and did not generalize: "
            f"test accuracy ends at {number(final)}."
        )
    else:
        delay = transition.delay[0.95]
        said = (
            f"It memorized its training set by step {memorized:,} (train accuracy 0.99) and generalized by step "
            f"{generalized:,} (test accuracy 0.95)"
            + (f", {number(delay)} steps after train accuracy had reached 0.95." if delay is not None else ".")
        )
    if not found.values:
        return f"{said} No key frequencies: {escape(found.reason or 'none was found')}."
    listed = ", ".join(map(str, found.values))
    return (
        f"{said} Key {'frequency' if len(found.values) == 1 else 'frequencies'} at step {number(found.step)}: {listed}."
    )


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def warnings(analyses: list[Analysis], names: list[str]) -> list[str]:
    """What to know before believing the numbers, a sentence each."""
    items = [
        (f"<b>{name}</b>: " if len(analyses) > 1 else "") + escape(warning)
        for one, name in zip(analyses, names, strict=True)
        for warning in one.warnings
    ]
    moduli = sorted({one.run.classification.p for one in analyses})
    if len(moduli) > 1:
        items.append(
            f"the runs differ in p ({', '.join(map(str, moduli))}): their frequencies are not the same ones, a uniform "
            "guess has another loss in each, and neither losses nor margins should be compared across p as they stand"
        )
    return items


def facts(analyses: list[Analysis], names: list[str]) -> str:
    columns = [_facts_of(one) for one in analyses]
    rows = [[fact, *(column[fact] for column in columns)] for fact in columns[0]]
    if len(analyses) == 1:
        return table(["", ""], rows)
    differing = table(["", *names], [row for row in rows if len(set(row[1:])) > 1], "wide")
    alike = table(["", ""], [row[:2] for row in rows if len(set(row[1:])) == 1])
    return f"<h3>What differs</h3>{differing}<h3>What is the same in all</h3>{alike}"


def _facts_of(analysis: Analysis) -> dict[str, str]:
    run, steps = analysis.run, list(analysis.timeline.index)
    config, environment, status = run.config, run.environment, run.status
    task, n = run.classification.config, len(run.classification.inputs)
    labelled = "random labels" if task.random_labels else f"label noise {task.label_noise:g}" * bool(task.label_noise)
    if run.classification.train_mask is None:
        split = "not known"
    else:
        trained = int(run.classification.train_mask.sum())
        split = f"{trained:,} of {n:,} inputs are trained on ({trained / n:.1%}); shuffled by {task.split}"
    unknown = "not known: the run was recorded or imported"
    timing, packages = _mapping(status.get("timing")), _mapping(environment.get("packages"))
    facts = {
        "task": "; ".join(filter(None, [f"{task.title}, {n:,} inputs", labelled])),
        "split": split,
        "model": _fields(config.model),
        "optimizer": _fields(config.optimizer) if config.optimizer else unknown,
        "schedule": _fields(config.schedule) if config.schedule else unknown,
        "loss": f"{config.loss.replace('_', ' ')}, computed in {config.loss_dtype}",
        "seeds": f"model {config.model_seed}, data {task.data_seed}",
        "checkpoints": f"{len(steps):,} analyzed, steps {steps[0]:,} to {steps[-1]:,}; "
        f"{len(analysis.metrics):,} steps evaluated while training",
        "status": f"{status.get('status', 'not known')} at step {number(status.get('step'))}"
        + (f" ({status['reason']})" if status.get("reason") else ""),
        "time": f"{number(timing.get('seconds'))} s, {number(timing.get('steps_per_second'))} steps a second"
        if timing
        else "not known",
        "forward path": environment.get("forward_path") or "not known",
        "machine": _listed(environment, ("machine", "device", "threads")),
        "versions": _listed({"python": environment.get("python"), **packages}),
        "command": environment.get("command") or "not known",
        "commit": environment.get("commit") or "not known",
        "folder": run.path.name,
    }
    return {fact: escape(str(value)) for fact, value in facts.items()}


def _mapping(value: Any) -> dict[str, Any]:
    """What a file may say in a mapping, or not."""
    return value if isinstance(value, dict) else {}


def _fields(config: Any) -> str:
    """A configuration as its kind and a list of its fields; those that are not set are left out."""
    values = asdict(config)
    kind = values.pop("kind", None) or values.pop("name", None)
    return f"{kind}: {_listed(values)}" if kind else _listed(values)


def _listed(values: dict[str, Any], names: Sequence[str] | None = None) -> str:
    chosen = {name: values.get(name) for name in (names or values)}
    return ", ".join(f"{name} {_plain(v)}" for name, v in chosen.items() if v not in (None, "")) or "not known"


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def transitions(analyses: list[Analysis], names: list[str]) -> str:
    if len(analyses) == 1:
        return _transition(analyses[0])
    rows = [
        [
            name,
            escape(one.transition.outcome),
            *(number(one.transition.T_train[theta].step) for theta in one.transition.T_train),
            *(number(one.transition.T_grok[theta].step) for theta in one.transition.T_grok),
            *(number(one.transition.delay[theta]) for theta in one.transition.delay),
            ", ".join(map(str, one.reference.frequencies.values)) or "–",
        ]
        for one, name in zip(analyses, names, strict=True)
    ]
    events = [f"{event}({theta})" for event in ("T_train", "T_grok", "delay") for theta in ("0.95", "0.99")]
    each = "".join(
        f"<details><summary>{name}</summary>{_transition(one)}</details>"
        for one, name in zip(analyses, names, strict=True)
    )
    return table(["run", "outcome", *events, "key frequencies"], rows) + each


def _transition(analysis: Analysis) -> str:
    transition = analysis.transition

    def event(name: str, theta: float, e: Event) -> list[str]:
        return [f"{name}({theta})", number(e.step), number(e.previous), escape(e.reason)]

    def phase(name: str, b: Boundary) -> list[str]:
        interval = "–" if b.low is None and b.high is None else f"{number(b.low)} to {number(b.high)}"
        said = "; ".join([*filter(None, [b.reason]), *b.flags])
        return [name, number(b.step), number(b.previous), interval, escape(said)]

    events = [
        event(name, theta, e)
        for name, by_threshold in (
            ("T_train", transition.T_train),
            ("T_grok", transition.T_grok),
            ("T_grok, novel pairs", transition.T_grok_novel),
        )
        for theta, e in by_threshold.items()
    ]
    events += [[f"delay({theta})", number(delay), "", ""] for theta, delay in transition.delay.items()]
    phases = [
        phase("memorization", transition.memorization_end),
        phase("circuit formation", transition.circuit_formation_end),
        phase("cleanup", transition.cleanup_end),
    ]
    evidence = [[escape(name.replace("_", " ")), number(value)] for name, value in transition.evidence.items()]
    return (
        f"<p>Outcome: <b>{escape(transition.outcome)}</b> ({escape(transition.reason)}).</p>"
        + table(["event", "step", "evaluated before it", "why not"], events)
        + '<p class="caption">T_train(θ) and T_grok(θ) are the first evaluated steps with train and test accuracy of '
        "at least θ; the step evaluated before it bounds how much earlier it may have happened.</p>"
        + table(["phase", "ends at", "evaluated before it", "interval", "why not, and flags"], phases)
        + '<p class="caption">The phases are those of Nanda et al. 2023, their ends found by rule; the interval is '
        "what the same rule gives at a looser and at a stricter level.</p>"
        + f"<details><summary>Evidence</summary>{table(['what', 'value'], evidence)}</details>"
    )


def rules(analyses: list[Analysis], names: list[str]) -> str:
    parts = []
    for one, name in zip(analyses, names, strict=True):
        reference, found = one.reference, one.reference.frequencies
        used = set(found.values)
        rows = []
        for rule, values in reference.by_rule.items():
            extra, absent = sorted(set(values) - used), sorted(used - set(values))
            agrees = "the same" if not extra and not absent else ""
            agrees += f"also {', '.join(map(str, extra))}" if extra else ""
            agrees += f"{'; ' if extra else ''}without {', '.join(map(str, absent))}" if absent else ""
            listed = ", ".join(map(str, values)) or "none"
            rows.append([f"<b>{escape(rule)}</b> (used)" if rule == found.rule else escape(rule), listed, agrees])
        listed = ", ".join(map(str, found.values)) or "none"
        said = f"Used: {listed}, by the rule {found.rule} at step {number(found.step)}"
        said += f" (threshold {number(found.threshold)})." if found.threshold is not None else "."
        if found.reason:
            said += f" {capital(found.reason)}."
        for double, key in found.harmonics:
            said += f" {double} is a harmonic: the double of {key}."
        if reference.lost:
            died = ", ".join(map(str, reference.lost))
            said += f" Died since T_grok: {died}; the figures use {', '.join(map(str, reference.union))}."
        head = f"<h3>{name}</h3>" if len(analyses) > 1 else ""
        parts.append(f"{head}<p>{escape(said)}</p>")
        if rows:
            parts.append(table(["rule", "key frequencies", "against those used"], rows))
    return "".join(parts)


def final(analyses: list[Analysis], names: list[str]) -> str:
    columns = list(dict.fromkeys(str(column) for one in analyses for column in one.timeline))
    rows = []
    for column in columns:
        cells = [_final_cell(one, column) for one in analyses]
        definition = next(filter(None, (definition_of(one, column) for one in analyses)), "")
        rows.append([f"<code>{escape(column)}</code>", *cells, escape(definition)])
    steps = ", ".join(f"{int(one.timeline.index[-1]):,}" for one in analyses)
    at = f"<p>At the last analyzed step: {steps}.</p>"
    return at + table(["name", *(names if len(analyses) > 1 else ["value"]), "definition"], rows)


def _final_cell(analysis: Analysis, column: str) -> str:
    if column not in analysis.timeline:
        return "–<small>not measured in this run</small>"
    value = float(analysis.timeline[column].iloc[-1])
    if math.isfinite(value):
        return number(value)
    reason = analysis.why_missing(column, int(analysis.timeline.index[-1])) or "the value is not finite"
    return f"–<small>{escape(reason)}</small>"


def definition_of(analysis: Analysis, column: str) -> str:
    """What a column of the timeline means."""
    # A measure that gives a number to each part of the model has one definition for them all.
    return analysis.definitions.get(column) or analysis.definitions.get(column.split(".")[0], "")
