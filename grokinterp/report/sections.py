"""The text and tables of a report. Every text from a user's files passes through `escape`."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from grokinterp.analysis.overview import PRECISION, headline, key_doubles
from grokinterp.analysis.phases import Boundary
from grokinterp.analysis.result import Analysis
from grokinterp.runs.findings import findings_in
from grokinterp.statistics.formatting import MISSING, number, setting
from grokinterp.statistics.outcomes import Outcome

_UNKNOWN = "unknown"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table of HTML cells, without empty columns.

    A table wider than the window scrolls on its own. `kind` is a CSS class.
    """
    columns = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    top = "".join(f"<th>{head[i]}</th>" for i in columns)
    body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{row[i]}</td>' for i in columns if i)}</tr>" for row in rows)
    return f'<div class="table {kind}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def lead(analyses: list[Analysis], names: list[str]) -> str:
    """Return a paragraph per run, or, for many runs, one with the counts of their outcomes."""
    if len(analyses) > 6:
        counts = Counter(_outcome(analysis) for analysis in analyses)
        return f'<p class="lead">{", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())}.</p>'
    subjects = [f"<b>{name}</b> " if len(analyses) > 1 else "" for name in names]
    return "".join(
        f'<p class="lead">{subject}<span class="outcome">{_outcome(analysis)}</span> {_summary(analysis)}</p>'
        for subject, analysis in zip(subjects, analyses, strict=True)
    )


def _outcome(analysis: Analysis) -> str:
    return escape(analysis.transition.outcome.replace("_", " "))


def _summary(analysis: Analysis) -> str:
    """Summarize when the run fits and generalizes, and its key frequencies."""
    text = f"{escape(capital(headline(analysis)))}."
    if analysis.transition.outcome == Outcome.DNF_TEST:
        text += f" Test accuracy at the end: {number(analysis.transition.evidence.get('final_test_accuracy'))}."
    keys = analysis.reference.frequencies
    if not keys.values:
        return f"{text} No key frequencies: {escape(keys.reason or 'the rule finds none')}."
    noun = "frequency" if len(keys.values) == 1 else "frequencies"
    return f"{text} Key {noun} at step {number(keys.step)}: {', '.join(map(str, keys.values))}."


def capital(text: str) -> str:
    """Capitalize the first letter and leave the rest unchanged."""
    return text[:1].upper() + text[1:]


def warnings(analyses: list[Analysis], names: list[str]) -> list[str]:
    """Return the warnings of all runs, and one if the runs are not comparable."""
    items = [
        (f"<b>{name}</b>: " if len(analyses) > 1 else "") + escape(warning)
        for analysis, name in zip(analyses, names, strict=True)
        for warning in analysis.warnings
    ]
    moduli = sorted({analysis.run.classification.p for analysis in analyses})
    if len(moduli) > 1:
        items.append(
            f"the runs differ in p ({', '.join(map(str, moduli))}): the same k is a different frequency in each, the "
            "loss of a uniform guess differs, and losses and margins are not directly comparable"
        )
    return items


def facts(analyses: list[Analysis], names: list[str]) -> str:
    """Return a table of each run's task, model, optimizer, environment and files."""
    columns = [_facts(analysis) for analysis in analyses]
    rows = [[fact, *(column[fact] for column in columns)] for fact in columns[0]]
    if len(analyses) == 1:
        return table(["", ""], rows)
    differing = table(["", *names], [row for row in rows if len(set(row[1:])) > 1], "wide")
    shared = table(["", ""], [row[:2] for row in rows if len(set(row[1:])) == 1])
    return f"<h3>Differences</h3>{differing}<h3>Shared by all runs</h3>{shared}"


def _facts(analysis: Analysis) -> dict[str, str]:
    run, steps = analysis.run, list(analysis.timeline.index)
    config, environment, status = run.config, run.environment, run.status
    task, n = run.classification.config, len(run.classification.inputs)
    noise = f"label noise {task.label_noise:g}" if task.label_noise else ""
    labels = "random labels" if task.random_labels else noise
    if run.classification.train_mask is None:
        split = _UNKNOWN
    else:
        n_train = int(run.classification.train_mask.sum())
        split = f"{n_train:,} of {n:,} inputs are training inputs ({n_train / n:.1%}), shuffled by {task.split}"
    unrecorded = f"{_UNKNOWN}: the run was recorded or imported"
    timing, packages = _mapping(status.get("timing")), _mapping(environment.get("packages"))
    facts = {
        "task": "; ".join(filter(None, [f"{task.title}, {n:,} inputs", labels])),
        "split": split,
        "model": _fields(config.model),
        "optimizer": _fields(config.optimizer) if config.optimizer else unrecorded,
        "schedule": _fields(config.schedule) if config.schedule else unrecorded,
        "loss": f"{config.loss.replace('_', ' ')}, computed in {config.loss_dtype}",
        "seeds": f"model {config.model_seed}, data {task.data_seed}",
        "checkpoints": f"{len(steps):,} analyzed, steps {steps[0]:,} to {steps[-1]:,}; "
        f"{len(analysis.metrics):,} steps evaluated during training",
        "status": f"{status.get('status', _UNKNOWN)} at step {_number(status.get('step'))}"
        + (f" ({status['reason']})" if status.get("reason") else "")
        + "".join(f"; {f.message}" for f in findings_in(status) if f.kind == "environment_changed"),
        "time": f"{_number(timing.get('seconds'))} s, {_number(timing.get('steps_per_second'))} steps per second"
        if timing
        else _UNKNOWN,
        "forward path": environment.get("forward_path") or _UNKNOWN,
        "hardware": _join({name: environment.get(name) for name in ("machine", "device", "threads")}),
        "versions": _join({"python": environment.get("python"), **packages}),
        "command": _command(environment.get("command")),
        "commit": environment.get("commit") or _UNKNOWN,
        "folder": run.path.name,
    }
    return {fact: escape(str(value)) for fact, value in facts.items()}


def _mapping(value: Any) -> dict[str, Any]:
    """Return a value from a file if it is a mapping, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def _command(recorded: Any) -> str:
    """Return grokinterp's command, or the name of another program, whose arguments earlier versions recorded too."""
    text = recorded if isinstance(recorded, str) else ""
    return (text if text.startswith("grokinterp ") else text.partition(" ")[0]) or _UNKNOWN


def _number(value: Any) -> str:
    """Format a value from a file, which may not be a number."""
    return number(value if isinstance(value, int | float) else None)


def _fields(config: Any) -> str:
    """Format a configuration as its kind and its fields, without fields that are not set."""
    values = asdict(config)
    kind = values.pop("kind", None) or values.pop("name", None)
    return f"{kind}: {_join(values)}" if kind else _join(values)


def _join(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(v)}" for name, v in values.items() if v not in (None, "")) or _UNKNOWN


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return setting(value)


def transitions(analyses: list[Analysis], names: list[str]) -> str:
    """Return the events, phases and evidence of each run, and a table that compares several runs."""
    if len(analyses) == 1:
        return _transition(analyses[0])
    events = [f"{event}({theta})" for event in ("T_train", "T_grok", "delay") for theta in ("0.95", "0.99")]
    rows, details = [], ""
    for analysis, name in zip(analyses, names, strict=True):
        transition = analysis.transition
        steps = [event.step for by_theta in (transition.T_train, transition.T_grok) for event in by_theta.values()]
        keys = ", ".join(map(str, analysis.reference.frequencies.values)) or MISSING
        rows.append([name, _outcome(analysis), *map(number, [*steps, *transition.delay.values()]), keys])
        details += f"<details><summary>{name}</summary>{_transition(analysis)}</details>"
    return table(["run", "outcome", *events, "key frequencies"], rows) + details


def _transition(analysis: Analysis) -> str:
    transition = analysis.transition

    def phase_row(name: str, end: Boundary) -> list[str]:
        interval = MISSING if end.low is None and end.high is None else f"{number(end.low)} to {number(end.high)}"
        remarks = "; ".join([*filter(None, [end.reason]), *end.flags])
        return [name, number(end.step), number(end.previous), interval, escape(remarks)]

    events = [
        [f"{name}({theta})", number(event.step), number(event.previous), escape(event.reason)]
        for name, by_threshold in (
            ("fits: T_train", transition.T_train),
            ("generalizes: T_grok", transition.T_grok),
            ("generalizes to novel pairs: T_grok", transition.T_grok_novel),
        )
        for theta, event in by_threshold.items()
    ]
    events += [[f"delay({theta})", number(delay), "", ""] for theta, delay in transition.delay.items()]
    phases = [
        phase_row("memorization phase ends", transition.memorization_end),
        phase_row("circuit formation ends", transition.circuit_formation_end),
        phase_row("cleanup ends", transition.cleanup_end),
    ]
    evidence = [[escape(name.replace("_", " ")), number(value)] for name, value in transition.evidence.items()]
    return (
        f"<p>Outcome: <b>{_outcome(analysis)}</b> ({escape(headline(analysis))}).</p>"
        + table(["event", "at step", "previous evaluated step", "reason if none"], events)
        + '<p class="caption">The run fits at T_train(θ) and generalizes at T_grok(θ), the first evaluated steps with '
        "train and test accuracy of at least θ. Each event happened after the previous evaluated step.</p>"
        + table(["phase", "at step", "previous evaluated step", "interval", "remarks"], phases)
        + '<p class="caption">The phases are those of Nanda et al. 2023, with ends located by rule. The interval is '
        "what the same rule gives at a looser and at a stricter level. The memorization phase ends where excluded loss "
        "is lowest, which is later than T_train.</p>"
        + f"<details><summary>Evidence</summary>{table(['quantity', 'value'], evidence)}</details>"
    )


def rules(analyses: list[Analysis], names: list[str]) -> str:
    """Return the key frequencies of each run, and those that other rules find."""
    parts = []
    for analysis, name in zip(analyses, names, strict=True):
        keys, by_rule = analysis.reference.frequencies, analysis.reference.by_rule
        doubles = dict(key_doubles(analysis).keys())
        head = f"<h3>{name}</h3>" if len(analyses) > 1 else ""
        parts.append(f"{head}<p>{escape(_keys(analysis))}</p>")
        rows = [
            [
                f"<b>{escape(rule)}</b> (used)" if rule == keys.rule else escape(rule),
                ", ".join(map(str, values)) or "none",
                _difference(set(values), set(keys.values), doubles),
            ]
            for rule, values in by_rule.items()
        ]
        if rows:
            parts.append(table(["rule", "key frequencies", "compared with those used"], rows))
        if doubles:
            parts.append(
                '<p class="caption">Doubles 2k of a key frequency k often show in the embedding and in single neurons. '
                "They are expected, and say nothing against the key frequencies.</p>"
            )
    return "".join(parts)


def _keys(analysis: Analysis) -> str:
    """Describe the key frequencies of a run in sentences."""
    reference, keys = analysis.reference, analysis.reference.frequencies
    threshold = f" (threshold {number(keys.threshold)})" if keys.threshold is not None else ""
    values = ", ".join(map(str, keys.values)) or "none"
    sentences = [f"Used: {values}, found by the rule {keys.rule} at step {number(keys.step)}{threshold}."]
    sentences += [f"{capital(keys.reason)}."] if keys.reason else []
    sentences += [f"{double} is a harmonic: the double of {key}." for double, key in keys.harmonics]
    if reference.lost:
        lost, union = (", ".join(map(str, values)) for values in (reference.lost, reference.union))
        sentences.append(
            f"Died after T_grok: {lost}. Columns that end in _union use all keys since T_grok ({union}); "
            f"restricted_loss and excluded_loss use the keys of step {number(keys.step)}. "
            "The figure of progress measures shows both."
        )
    return " ".join(sentences)


def _difference(values: set[int], used: set[int], doubles: Mapping[int, int]) -> str:
    extra = ", ".join(f"{k} (= 2 × {doubles[k]})" if k in doubles else str(k) for k in sorted(values - used))
    absent = ", ".join(map(str, sorted(used - values)))
    parts = [f"also {extra}" if extra else "", f"without {absent}" if absent else ""]
    return "; ".join(filter(None, parts)) or "the same"


def final(analyses: list[Analysis], names: list[str]) -> str:
    """Return a table of every column of the timeline at the last analyzed step, with its definition."""
    columns = list(dict.fromkeys(str(column) for analysis in analyses for column in analysis.timeline))
    rows = []
    for column in columns:
        cells = [_final_cell(analysis, column) for analysis in analyses]
        definition = next(filter(None, (definition_of(analysis, column) for analysis in analyses)), "")
        rows.append([f"<code>{escape(column)}</code>", *cells, escape(definition)])
    steps = ", ".join(f"{int(analysis.timeline.index[-1]):,}" for analysis in analyses)
    heading = f'<p>At the last analyzed step: {steps}.</p><p class="caption">{PRECISION}.</p>'
    return heading + table(["name", *(names if len(analyses) > 1 else ["value"]), "definition"], rows)


def _final_cell(analysis: Analysis, column: str) -> str:
    if column not in analysis.timeline:
        return f"{MISSING}<small>not measured in this run</small>"
    value = float(analysis.timeline[column].iloc[-1])
    if math.isfinite(value):
        return number(value)
    reason = analysis.why_missing(column, int(analysis.timeline.index[-1])) or "the value is not finite"
    return f"{MISSING}<small>{escape(reason)}</small>"


def definition_of(analysis: Analysis, column: str) -> str:
    """Return the definition of a column of the timeline and, for losses by keys, which keys it uses."""
    # Columns with one number per part of the model share a definition.
    definition = analysis.definitions.get(column) or analysis.definitions.get(column.split(".")[0], "")
    if definition and analysis.reference.lost and f"{column}_union" in analysis.timeline:
        return f"{definition} (keys of step {number(analysis.reference.frequencies.step)})"
    return definition
