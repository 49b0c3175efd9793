"""grokinterp reproduce: output, files and errors."""

import json
from dataclasses import replace

import pytest

from grokinterp.cli import main
from grokinterp.experiments import Claim, Comparison, Form, Outcome, Recipe
from grokinterp.experiments import recipes as shelf
from grokinterp.experiments import reproduction as reproducing
from grokinterp.figures import learning_curves

GOOD = Claim("a", "A.", "1", "1", 3, "=", "supported", number=1)
BAD = Claim("b", "B.", "1", "2", 3, "one", "not supported")


def outcome(*claims: Claim) -> Outcome:
    import pandas as pd

    row = pd.DataFrame({"run": ["r"], "model_seed": [0]})
    curve = pd.DataFrame({"train_accuracy": [0.0, 1.0], "test_accuracy": [0.0, 0.5], "weight_norm": [1.0, 2.0]})
    figures = {"Curves": ((learning_curves(row, [curve]), "A caption."),)}
    return Outcome(claims, {}, figures, {"x": 1}, (Comparison("T", "33,000", "30,100", 2),), ("mind this",))


def toy(name: str, *claims: Claim, gpu: bool = False) -> Recipe:
    return Recipe(
        name,
        f"On {name}",
        "Nobody 2026",
        Form((), "a second", gpu=gpu),
        Form((), "less"),
        run=lambda *_: outcome(*claims),
    )


@pytest.fixture(autouse=True)
def three_recipes(monkeypatch, tmp_path):
    recipes = {recipe.name: recipe for recipe in (toy("toy-bad", GOOD, BAD), toy("toy-good", GOOD))}
    for place in (reproducing, shelf):
        monkeypatch.setattr(place, "catalog", lambda: recipes)
    monkeypatch.setattr("grokinterp.experiments.catalog", lambda: recipes)
    monkeypatch.setattr(reproducing, "default_folder", lambda: tmp_path / "records")
    monkeypatch.chdir(tmp_path)
    return recipes


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["reproduce", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_published_stands_beside_measured(capsys, tmp_path):
    code, out, _ = run(capsys, "toy-good")
    assert code == 0
    for text in ("33,000", "30,100", "mind this", "report: reproductions/toy-good/report.html"):
        assert text in out
    assert (tmp_path / "reproductions" / "toy-good" / "results.json").is_file()
    assert (tmp_path / "records" / "toy-good" / "computation.json").is_file()


def test_a_claim_that_should_hold_but_does_not_exits_with_1(capsys):
    code, out, _ = run(capsys, "toy-bad", "--quick")
    assert code == 1
    assert "does not hold: B. (criterion: one)" in out


def test_all_continues_where_it_stopped(capsys, tmp_path):
    code, out, _ = run(capsys, "--all", "--quick")
    assert code == 1
    assert out.count("report: ") == 2
    results = tmp_path / "reproductions" / "toy-bad-quick" / "results.json"
    before = results.stat().st_mtime_ns
    (tmp_path / "reproductions" / "toy-good-quick" / "results.json").unlink()
    code, out, _ = run(capsys, "--all", "--quick")
    assert code == 1  # the claim of the stored result fails again
    assert "toy-bad: results are in reproductions/toy-bad-quick" in out
    assert out.count("report: ") == 1
    assert results.stat().st_mtime_ns == before


def test_all_skips_recipes_that_cannot_run_here(capsys, three_recipes, monkeypatch):
    three_recipes["toy-bad"] = replace(three_recipes["toy-bad"], full=Form((), "60 h", gpu=True))
    monkeypatch.setattr("grokinterp.experiments.reproduction.choose_device", lambda _: "cpu")
    code, out, _ = run(capsys, "--all")
    assert code == 1
    assert "toy-bad: toy-bad needs a GPU (60 h)" in out
    assert "report: reproductions/toy-good/report.html" in out


def test_a_page_of_all_results(capsys, tmp_path):
    run(capsys, "toy-good")
    code, out, _ = run(capsys, "--document", "page.md")
    assert (code, out) == (0, "written: page.md\n")
    assert "30,100" in (tmp_path / "page.md").read_text()


def test_an_interruption_prints_how_to_resume(capsys, three_recipes):
    def interrupted(*_):
        raise KeyboardInterrupt

    three_recipes["toy-good"] = replace(three_recipes["toy-good"], run=interrupted)
    code, out, _ = run(capsys, "toy-good")
    assert code == 130
    assert "Run the same command again to continue from reproductions/toy-good." in out


def test_an_interruption_stops_all_recipes(capsys, three_recipes):
    def interrupted(*_):
        raise KeyboardInterrupt

    three_recipes["toy-bad"] = replace(three_recipes["toy-bad"], run=interrupted)  # the first
    code, out, _ = run(capsys, "--all")
    assert code == 130
    assert "toy-good" not in out


def test_failed_runs_exit_with_1_and_are_retried(capsys, three_recipes):
    lost = replace(outcome(GOOD), lost=1)
    three_recipes["toy-good"] = replace(three_recipes["toy-good"], run=lambda *_: lost)
    assert run(capsys, "toy-good")[0] == 1
    three_recipes["toy-good"] = toy("toy-good", GOOD)
    _, out, _ = run(capsys, "--all")
    assert "toy-good: results are in" not in out
    assert out.count("report: ") == 2


@pytest.mark.parametrize("arguments", [(), ("toy-good", "--all"), ("--list", "--document", "x.md")])
def test_one_thing_at_a_time(capsys, arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "give the name of an experiment, --all, --list, --missing or --document FILE" in err


def test_the_list_names_cost_and_gpu(capsys, three_recipes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    three_recipes["toy-bad"] = toy("toy-bad", gpu=True)
    code, out, _ = run(capsys, "--list")
    assert code == 0
    assert "a second (GPU)" in out
    assert "toy-good" in out


def test_images_are_written_or_the_reason_is_reported(capsys, tmp_path, monkeypatch):
    kaleido = pytest.importorskip("kaleido")

    def write(specifications, **_):
        for specification in specifications:
            specification["path"].write_bytes(b"PNG")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", write)
    assert run(capsys, "toy-good", "--images")[0] == 0
    assert (tmp_path / "reproductions" / "toy-good" / "figure-1.png").read_bytes() == b"PNG"

    def fail(specifications, **_):
        raise RuntimeError("no Chrome\nat all")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", fail)
    code, _, err = run(capsys, "toy-bad", "--images")
    assert code == 2
    assert "cannot draw PNG files (RuntimeError: no Chrome): install Chrome" in err
    assert json.loads((tmp_path / "reproductions" / "toy-good" / "results.json").read_text())


def test_a_computation_can_be_checked(capsys, tmp_path, three_recipes):
    run(capsys, "toy-good")
    record = str(tmp_path / "records" / "toy-good" / "computation.json")
    code, out, _ = run(capsys, "toy-good", "--check", record)
    assert (code, out) == (0, "toy-good: all results equal to 6 digits; the same verdicts\n")
    code, _, err = run(capsys, "toy-good", "--check", record, "--steps", "5")
    assert (code, err) == (2, "grokinterp: toy-good trains no runs: leave out --steps\n")
    code, _, err = run(capsys, "toy-bad", "--check", record)
    assert (code, err) == (2, f"grokinterp: {record} is a record of toy-good, not of toy-bad\n")
    three_recipes["toy-good"] = replace(three_recipes["toy-good"], run=lambda *_: outcome(BAD))
    code, out, _ = run(capsys, "toy-good", "--check", record)
    assert (code, out) == (1, "toy-good: all results equal to 6 digits; other verdicts: a, b\n")
