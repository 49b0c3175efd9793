"""What a newcomer types first works, or is answered by one line that names the right call."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import grokinterp as gi
from grokinterp.analysis.result import Analysis
from grokinterp.display import Card
from grokinterp.measures import KeyFrequencies, Snapshot, circuit_efficiency, key_frequencies, restricted_loss
from grokinterp.sweep import train_sweep

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A run that grokked, with a few of its checkpoints."""
    folder = tmp_path_factory.mktemp("guesses") / "checkpoints" / "run42"
    shutil.copytree(ROOT / "checkpoints" / "run42", folder, ignore=shutil.ignore_patterns("analysis"))
    kept = {0, 133, 1000, 2300, 4240}
    for file in (folder / "weights").iterdir():
        if int(file.stem.removeprefix("step_")) not in kept:
            file.unlink()
    return folder


@pytest.fixture(scope="module")
def known(demo) -> dict[str, Any]:
    """The names that a guess may use."""
    run = gi.load(demo)
    analysis = run.analyze(workers=0)
    snapshot = run.snapshot(4240)
    model = run.model(4240)
    names = {"run": run, "analysis": analysis, "snapshot": snapshot, "task": run.task, "model": model}
    return (
        names
        | {"gi": gi, "np": np, "torch": torch, "key_frequencies": key_frequencies, "Snapshot": Snapshot}
        | {"restricted_loss": restricted_loss}
    )


@pytest.fixture(autouse=True)
def here(demo, monkeypatch) -> Iterator[None]:
    monkeypatch.chdir(demo.parent.parent)


WORKS = {
    'gi.load("checkpoints/run42")': gi.Run,
    "run.analyze(workers=0)": Analysis,
    "run.transition": gi.Transition,
    "analysis.key_frequencies": KeyFrequencies,
    'analysis["restricted_loss"]': pd.Series,
    'gi.preset("demo").replace({"task.p": 59, "optimizer.weight_decay": 0.5})': gi.RunConfig,
    "gi.preset('demo').replace({'model_seed': np.int64(3), 'optimizer.betas': (0.9, 0.98)})": gi.RunConfig,
    "Snapshot.from_logits(task, snapshot.logits.numpy())": Snapshot,
    "Snapshot.from_model(task, lambda tokens: snapshot.logits.numpy())": Snapshot,
    "restricted_loss(snapshot, np.array([8, 14, 21]))": float,
    "gi.find_transition(run.metrics)": gi.Transition,
    "gi.find_transition(analysis.timeline)": gi.Transition,
    "task.train_tokens": torch.Tensor,
    "task.test_labels": torch.Tensor,
}


@pytest.mark.parametrize("typed", WORKS)
def test_it_works(typed, known):
    assert isinstance(eval(typed, dict(known)), WORKS[typed])


ANSWERED = {
    'gi.Run("checkpoints/run42")': "call gi.load('checkpoints/run42')",
    'analysis["restricted_los"]': "did you mean 'restricted_loss'?",
    'gi.preset("demo", p=59)': 'write preset("demo").replace({"task.p": 59})',
    'gi.preset("demo").replace({"p": 59})': "replace: p is not a field of this configuration: did you mean 'task.p'?",
    'gi.preset("demo").replace({"task.p.q": 59})': "task.p.q is not a field",
    'gi.preset("demo").replace({"task.p": "many"})': "replace: task.p",
    'gi.preset("demo").replace(59)': 'a dict by dotted field, such as {"task.p": 59}',
    "gi.RunConfig(p=59)": "RunConfig has no field 'p': write RunConfig().replace({\"task.p\": ...})",
    "gi.TaskConfig(modulus=59)": "TaskConfig has no field 'modulus': choose from operation, p,",
    'gi.train("demo", "x")': "give gi.preset('demo')",
    'gi.train({"p": 59}, "x")': "config must be a RunConfig, but is dict",
    "restricted_loss(snapshot)": "call restricted_loss(snapshot, key_frequencies(snapshot)",
    "restricted_loss(model)": "Snapshot.from_model(task, model)",
    "key_frequencies(model)": "Snapshot.from_model(task, model)",
    "Snapshot.from_logits(task, np.array([['a']]))": "logits must be a tensor or an array of logits, but is ndarray",
    "gi.find_transition(run.metrics.to_dict())": "timeline must be a DataFrame",
    "gi.find_transition(gi.load('checkpoints/run42').metrics.assign(step=1).pipe(lambda t: t.__class__(t.values)))": (
        "n_classes is missing: give the number of possible answers"
    ),
    'gi.OptimizerConfig(lr="1e-3")': "lr must be a number, but is '1e-3'",
    "gi.load(None)": "path must be the path of a folder, but is NoneType",
    "gi.load('a\\0b')": "must not contain a null character",
    "gi.train(gi.preset('demo'), None)": "path must be the path of a folder, but is NoneType",
    "gi.Recorder('x', None)": "task must be a Task",
    "analysis.T_grok": "use analysis.transition",
    "run.checkpoint": "Run has no attribute 'checkpoint': did you mean",
    "gi.trian": "grokinterp has no 'trian': did you mean 'train'?",
}


@pytest.mark.parametrize("typed", ANSWERED)
def test_it_is_answered_by_one_line(typed, known, unchecked):
    with pytest.raises((gi.GrokinterpError, AttributeError)) as raised:
        eval(typed, dict(known))
    assert ANSWERED[typed] in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not Path("x").exists()


# What became of each guess of first_guesses.json: the end of its message, or None if it works.
GUESSES: tuple[str | None, ...] = (
    None,
    "object of type 'Run' has no len()",  # neither
    'run.model("last")',
    "got an unexpected keyword argument 'device'",  # neither
    "use run.model(step) or run.snapshot(step) for step in run.steps",
    "'test_acc'",  # neither
    "use analysis.timeline, with one row per checkpoint",
    "use analysis.summary()",
    "use T_grok[0.99].step",
    "use analysis.transition, which has them",
    None,
    '"optimizer.weight_decay": 0.5})',
    None,
    "use gi.write_report([analysis, ...]), or a figure of gi.figures with a list",
    "use gi.write_report(analysis, output)",
    None,
    "use recorder.record(step, model)",
    "use task.test_mask.nonzero().flatten(), or task.test_tokens",
    "make one with Snapshot.from_logits(task, logits), Snapshot.from_model(task, model) or run.snapshot(step)",
    "use gi.train_sweep(path, config, grid=...)",
)
NEITHER = (1, 3, 5)


@pytest.mark.parametrize("number", range(20))
def test_twenty_guesses_of_a_reader_of_the_readme(number, known, unchecked, monkeypatch, tmp_path):
    typed = json.loads((Path(__file__).parent / "first_guesses.json").read_text())[number]["typed"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for submodule in ("report", "sweep"):  # a name that is resolved only as long as the submodule is not imported
        monkeypatch.delattr(gi, submodule, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(known["run"].path, "checkpoints/run42")
    names = dict(known) | {"hook": lambda neurons, hook: neurons, "step": 0}
    if GUESSES[number] is None:
        exec(typed.replace("4200", "4240").replace('"cuda"', '"cpu"'), names)
        return
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one, the message says
        exec(typed.replace("4200", "4240"), names)
    assert str(raised.value).endswith(str(GUESSES[number]))
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, gi.GrokinterpError | AttributeError) or number in NEITHER


def test_most_guesses_are_answered():
    assert len(GUESSES) - len(NEITHER) >= 16


@pytest.fixture(scope="module")
def objects(known, tmp_path_factory) -> dict[str, Any]:
    short = {"schedule.steps": 1, "schedule.checkpoints": 1, "task.p": 7, "model.d_model": 8, "model.d_mlp": 8}
    config = gi.preset("demo").replace(short)
    sweep = train_sweep(tmp_path_factory.mktemp("cards") / "sweep", config, grid={"model_seed": [0]}, workers=1)
    config = known["run"].config
    objects = {name: known[name] for name in ("run", "analysis", "snapshot", "task")}
    objects |= {"config": config, "transition": known["analysis"].transition, "sweep": sweep}
    return objects | {"keys": key_frequencies(known["snapshot"]), "margins": circuit_efficiency(known["snapshot"])}


class TestCards:
    """Each object fits on a screen of 80 x 24, and in a notebook has a card."""

    @pytest.mark.parametrize(
        "name", ["run", "analysis", "snapshot", "task", "config", "transition", "sweep", "keys", "margins"]
    )
    def test_a_screen_holds_it(self, name, objects):
        lines = [line[i : i + 80] for line in str(objects[name]).splitlines() for i in range(0, len(line) or 1, 80)]
        assert len(lines) <= 24
        html = objects[name]._repr_html_()
        assert html.startswith("<div")
        assert "next: <code>" in html
        assert {n for n in dir(objects[name]) if not n.startswith("_")}  # dir works

    def test_a_long_value_can_be_broken(self):
        assert "log:60+<wbr>every:2000" in Card("Run", {"checkpoints": "log:60+every:2000"}, []).to_html()

    def test_text_of_others_is_text(self):
        card = Card("<b>\x1b[31m", {"<i>": "<script>\x07"}, ["<u>"])
        assert "<b>" not in card.to_html()
        assert "<script>" not in card.to_html()
        assert "\x1b" not in card.to_html()
        assert "\x1b" not in str(card)
        assert "\x07" not in str(card)

    def test_an_error_inside_a_property_is_not_hidden(self):
        from grokinterp.display import Displayed

        class Broken(Displayed):
            @property
            def broken(self) -> int:
                return [].missing  # pyright: ignore[reportAttributeAccessIssue]

        with pytest.raises(AttributeError, match="'list' object has no attribute 'missing'"):
            Broken().broken  # noqa: B018
        with pytest.raises(AttributeError, match="did you mean 'broken'"):
            Broken().brokn  # pyright: ignore # noqa: B018
