"""The Markdown page on all reproductions, from the records of runs and the results of miniatures."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from grokinterp.errors import RunError
from grokinterp.experiments.assertions import (
    ASSERTIONS,
    Assertion,
    Verdicts,
    claims_by_assertion,
    decide_assertion,
    decides,
)
from grokinterp.experiments.contradictions import CONTRADICTIONS
from grokinterp.experiments.missing import Missing, missing_runs
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.pages import COMPARISON_HEAD, CONTRADICTION_HEAD, comparison_rows, contradiction_rows
from grokinterp.experiments.recipes import catalog
from grokinterp.experiments.records.folder import Records, default_folder
from grokinterp.experiments.reproduction import results_of_records
from grokinterp.experiments.results import RESULTS, Machine, Results, results_in
from grokinterp.report.page import write_output
from grokinterp.statistics.formatting import duration

# Markdown passes HTML tags through; <br> is the only one that the page needs.
_TAG = re.compile(r"<(?=[A-Za-z/!?])(?!br>)")

_HEAD = """# Reproductions

This page compares the results that published studies of grokking report with those that grokinterp measures when it
repeats the experiments. Runs of the published size come from their records in `docs/reproductions/records`: small files
with configuration, machine, thinned curves, and checksums. Miniatures come from the `results.json` files that
`grokinterp reproduce NAME --quick` writes. To regenerate the page from these files, run

    grokinterp reproduce --document {page} --folder {folder}

`grokinterp reproduce NAME` repeats an experiment: runs that have a record count as done, and the others are trained and
add theirs. `grokinterp reproduce NAME --check RECORD` trains a recorded run again and says where, if anywhere, its
metrics part. A miniature is smaller than the published experiment, so it can show a trend but decides nothing about
published numbers. The verdict `not supported` is a result, not an error; `inconclusive` means that these runs cannot
decide the claim. Times are in updates, which equal epochs in full-batch training.
"""

_RULES = (
    'An assertion is "supported" or "not supported" only if every part of it is decided; "mixed" means that some parts '
    'hold and others do not, and "partly" that some are not decided. A part is decided by at least three runs of every '
    "setting that it compares, of arms whose runs all have a "
    "record; runs with bf16 products decide nothing. Miniatures stand in a column of their own. n is "
    "the number of runs."
)


def write_markdown(folder: Path, page: Path, *, records: Path | None = None) -> Path:
    """Writes a Markdown page on all results below a folder and on all records.

    Args:
        folder: the parent of the folders that `reproduce` wrote.
        page: the output file.
        records: the folder of records; None for `records` in `folder` or, if there is none, the default.

    Raises:
        RunError: there are no results, one of them or a record is damaged, or the page cannot be written (as in
            `write_output`).
    """
    kept = Records(records or (folder / "records" if (folder / "records").is_dir() else default_folder()))
    results = _all_results(folder, kept)
    if not results:
        raise RunError(f"{folder} has no results: run grokinterp reproduce NAME first, or use --folder")
    by_source: dict[str, list[Results]] = {}
    for result in results:
        by_source.setdefault(result.source, []).append(result)
    parts = [_HEAD.format(page=page.as_posix(), folder=folder.as_posix()), _assertions(results)]
    for source, group in by_source.items():
        parts.append(f"\n## {source}")
        parts += [_recipe(result, _images(result, folder, page)) for result in group]
    missing = missing_runs(kept)
    if missing:
        parts.append(_remaining(missing))
    contradictions = _table(CONTRADICTION_HEAD, contradiction_rows(CONTRADICTIONS))
    parts.append(f"\n## Where sources disagree\n\n{contradictions}")
    write_output(page, _TAG.sub("&lt;", "\n".join(parts)))
    return page


def _all_results(folder: Path, records: Records) -> list[Results]:
    """For each recipe, the results of its full form and then those of its miniature, each if it exists."""
    stored: dict[tuple[str, bool], Results] = {}
    for file in sorted(folder.glob(f"*/{RESULTS}")):
        result = results_in(file.parent)
        if result is not None:  # not deleted since the folder was listed
            stored[result.recipe, result.quick] = result if result.quick else _without_records(result)
    for recipe in catalog().values():
        recorded = results_of_records(recipe, records)
        if recorded is not None:
            stored[recipe.name, False] = recorded
    return [stored[key] for key in sorted(stored)]


def _without_records(result: Results) -> Results:
    """Results of published size that left no records, which show something but decide nothing."""
    return replace(result, partial=True, warnings=(*result.warnings, "These results have left no records."))


def _images(result: Results, folder: Path, page: Path) -> list[str]:
    place = folder / _folder_name(result)
    files = sorted(place.glob("*.png"), key=lambda image: (len(image.name), image.name))
    return [os.path.relpath(file, page.parent) for file in files]


def _folder_name(result: Results) -> str:
    return f"{result.recipe}-quick" if result.quick else result.recipe


def _assertions(results: Sequence[Results]) -> str:
    """The table of assertions, each decided by runs of the published size, and by miniatures apart from them."""
    rows, evidence, decisions, miniatures = [], list[str](), list[Verdicts](), list[Verdicts]()
    for number, claims in claims_by_assertion(results).items():
        assertion = ASSERTIONS[number]
        full = decide_assertion(assertion, [(result, claim) for result, claim in claims if not result.quick])
        quick = decide_assertion(assertion, [(result, claim) for result, claim in claims if result.quick])
        decisions.append(full)
        miniatures.append(quick)
        small = quick.text if assertion.parts and any(result.quick for result, _ in claims) else "-"
        rows.append([str(number), _statement(assertion), f"**{full.text}**", small])
        evidence.append(f"\nAssertion {number}:{_evidence(claims)}")
    head = ["", "assertion", "verdict", "miniatures"]
    return (
        f"\n## The assertions\n\n{_summary(decisions, miniatures)}\n\n{_RULES}\n\n{_table(head, rows)}\n\n"
        "### Evidence for each assertion\n" + "\n".join(evidence)
    )


def _summary(decisions: Sequence[Verdicts], miniatures: Sequence[Verdicts]) -> str:
    """How many assertions are decided, and how."""

    def count(name: str, among: Sequence[Verdicts] = decisions) -> int:
        return sum(found.decision == name for found in among)

    decided = ("supported", "not supported", "mixed")
    total = sum(count(name) for name in decided)
    undecided = ("partly", "inconclusive")
    small = [quick for full, quick in zip(decisions, miniatures, strict=True) if full.decision in undecided]
    shown = sum(count(name, small) for name in decided)
    return (
        f"Of {len(decisions)} assertions, {count('true by construction')} is true by construction. Runs of the "
        f"published size decide {total} ({', '.join(f'{count(name)} {name}' for name in decided)}), and "
        f"{count('partly')} in part; {count('inconclusive')} are open. Of those that are open or decided in part, "
        f"miniatures show a complete trend for {shown}."
    )


def _statement(assertion: Assertion) -> str:
    return f"{assertion.statement}\n({assertion.note})" if assertion.note else assertion.statement


def _evidence(claims: Iterable[tuple[Results, Claim]]) -> str:
    """The claims behind an assertion as a list, after a colon."""
    lines = [
        f"\n- [{result.recipe}](#{_anchor(result)}){' (miniature)' if result.quick else ''}: {claim.name}: "
        f"{claim.measured} ({_counts(claim)}; {claim.verdict}{'' if _counted(result, claim) else ', not counted'})"
        for result, claim in claims
    ]
    return "\n" + "".join(lines) if lines else " not run"


def _counted(result: Results, claim: Claim) -> bool:
    return claim.verdict == "inconclusive" or decides(result, claim)


def _counts(claim: Claim) -> str:
    fewest = "" if claim.fewest is None or claim.fewest == claim.n else f", at least {claim.fewest} per setting"
    return f"n = {claim.n}{fewest}"


def _anchor(result: Results) -> str:
    return f"{result.recipe}-miniature" if result.quick else result.recipe


def _recipe(result: Results, images: Iterable[str]) -> str:
    form = "Miniature" if result.quick else "Published size"
    machine = f", on {_describe_machine(result.machine)}" if result.machine else ""
    time = "" if result.seconds is None else f"; total run time {duration(result.seconds)}, one thread per run"
    missing = f"; {result.missing:,} runs are missing" if result.missing else ""
    parts = [
        f"\n### {result.recipe}{', miniature' if result.quick else ''}\n",
        f"{result.title}. {form}{machine}{time}{missing}.\n",
        *(f"- {name}: {value}" for name, value in result.settings.items() if name != "cost"),
        *(f"- **{warning}**" for warning in result.warnings),
    ]
    if result.comparisons:
        parts.append("\n" + _table(COMPARISON_HEAD, comparison_rows(result.comparisons)))
    rows = [
        [
            *(claim.name, claim.statement, claim.published, claim.measured, str(claim.n), claim.threshold),
            claim.verdict if claim.should_hold else f"{claim.verdict} (not expected to hold)",
        ]
        for claim in result.claims
    ]
    head = ["claim", "", "published", "measured", "runs", "criterion", "verdict"]
    parts.append("\n" + _table(head, rows))
    parts += [f"\n![{result.title}]({image})" for image in images]
    return "\n".join(parts)


def _describe_machine(machine: Machine) -> str:
    gpu = f", {machine.gpu}" if machine.gpu else ""
    cores = f", {machine.cores} cores" if machine.cores else ""
    return f"{machine.processor}{cores}{gpu}, torch {machine.torch}"


def _remaining(missing: Sequence[Missing]) -> str:
    """What has not been run: per arm, its place in the order of training, the runs, and the estimated time."""
    arms: dict[tuple[str, str], list[tuple[int, Missing]]] = {}
    for place, run in enumerate(missing, start=1):
        arms.setdefault((run.recipe.name, run.arm.name), []).append((place, run))
    rows = [
        [f"{places[0][0]}", recipe, arm, str(len(places)), f"{sum(run.hours for _, run in places):.2g}"]
        for (recipe, arm), places in arms.items()
    ]
    hours = sum(run.hours for run in missing)
    return (
        f"\n## What remains\n\n{len(missing):,} runs of the published size have no record yet; on two cores, they "
        f"would take about {hours / 2:,.0f} hours. `make evidence` trains them in this order, one thread each, and "
        "adds the record of each run as soon as it has ended. The times are estimates from the number of operations."
        "\n\n" + _table(["place", "recipe", "arm", "runs", "core-hours"], rows)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Renders plain text as a Markdown table; line breaks in cells become <br>."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in line) + " |" for line in lines
    )
