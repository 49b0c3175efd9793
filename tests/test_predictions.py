"""predictions.json: each claim with its criterion, when it was set, and what changed later; held to the git history."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from grokinterp.experiments import catalog
from grokinterp.experiments.records.folder import Records
from grokinterp.experiments.reproduction import results_of_records
from grokinterp.experiments.results import results_in

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reproductions"
ENTRIES = json.loads((FOLDER / "predictions.json").read_text(encoding="utf-8"))["claims"]


def git(*arguments: str, check: bool = True) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120).stdout


@cache
def has_history() -> bool:
    try:
        return git("rev-parse", "--is-shallow-repository").strip() == "false"
    except (OSError, subprocess.SubprocessError):
        return False


needs_history = pytest.mark.skipif(not has_history(), reason="needs the git history")


def stored_results():
    for file in sorted(FOLDER.glob("*/results.json")):
        yield results_in(file.parent)
    records = Records(FOLDER / "records")
    for recipe in catalog().values():
        if (found := results_of_records(recipe, records)) is not None:
            yield found


def test_every_claim_with_a_result_is_registered_as_it_stands():
    entries = {(entry["recipe"], entry["claim"]): entry for entry in ENTRIES}
    assert len(entries) == len(ENTRIES)
    for result in stored_results():
        for claim in result.claims:
            entry = entries[result.recipe, claim.name]
            assert claim.threshold in entry["criteria"], (result.recipe, claim.name)
            assert entry["recipe"] in catalog()


def test_entries_say_when_and_why():
    for entry in ENTRIES:
        assert set(entry) == {"recipe", "claim", "criteria", "expected", "introduced", "set", "changes"}
        assert entry["set"] in ("before the first result", "after the first result")
        assert (entry["set"] == "after the first result") == bool(entry["changes"])
        for change in entry["changes"]:
            assert set(change) == {"commit", "what", "why"}
            assert change["what"]
            assert change["why"]


@needs_history
def test_each_was_introduced_by_the_commit_that_it_names():
    for recipe, commit in {(entry["recipe"], entry["introduced"]) for entry in ENTRIES}:
        assert is_ancestor(commit, "HEAD")
        pattern = f'name="{recipe}"'
        assert git("grep", "-l", "-F", pattern, commit, "--", "*.py", check=False), (recipe, commit)
        assert not git("grep", "-l", "-F", pattern, f"{commit}^", "--", "*.py", check=False), (recipe, commit)


@needs_history
def test_no_result_is_older_than_its_prediction():
    for recipe, commit in {(entry["recipe"], entry["introduced"]) for entry in ENTRIES}:
        places = [f"docs/reproductions/{place}" for place in (recipe, f"{recipe}-quick", f"records/{recipe}")]
        added = git("log", "--diff-filter=A", "--format=%H", "--reverse", "--", *places).split()
        if added:
            assert git("rev-parse", commit).strip() != added[0], recipe
            assert is_ancestor(commit, added[0])


@needs_history
def test_changes_after_a_stored_result_are_registered():
    """The numbers of a criterion, except for single digits, which were once words, and whether it should hold."""
    registered = {(entry["recipe"], entry["claim"]): entry["changes"] for entry in ENTRIES}
    for file in sorted(FOLDER.glob("*/results.json")):
        path, earlier = file.relative_to(ROOT).as_posix(), dict[str, tuple[list[str], bool]]()
        for commit in git("log", "--format=%H", "--reverse", "--", path).split():
            content = json.loads(git("show", f"{commit}:{path}"))
            for claim in content["claims"]:
                criterion = re.sub(r"T_\w+\([\d.]+\)", "", claim["threshold"])
                found = (re.findall(r"\d[\d.]*\d", criterion), claim["should_hold"])
                if found != earlier.setdefault(claim["name"], found):  # perhaps long after the change itself
                    changes = registered.get((content["recipe"], claim["name"]), [])
                    assert any(is_ancestor(c["commit"], commit) for c in changes), (path, commit, claim["name"])
                earlier[claim["name"]] = found


def is_ancestor(commit: str, of: str) -> bool:
    command = ["git", "-C", str(ROOT), "merge-base", "--is-ancestor", commit, of]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
