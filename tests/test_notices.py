"""What an analysis warns of: on runs that have it, with the steps; and what it does not warn of."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from grokinterp.analysis.key_rules import reported_doubles
from grokinterp.analysis.notices import notices
from grokinterp.analysis.phases import Boundary
from grokinterp.analysis.timeline import analyze
from grokinterp.analysis.transition import Event, Transition
from grokinterp.cli import main
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.measures import KeyFrequencies, Reference
from grokinterp.runs.run import Run
from grokinterp.statistics.outcomes import Outcome
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"
KEYS = Reference(KeyFrequencies((3,), "cube_cosine", step=900), True, (3,), (), {"cube_cosine": (3,)})
NONE = Boundary(None)


def transition(
    train_at: tuple[int | None, int | None],
    grok_at: tuple[int | None, int | None],
    outcome: Any = "grokked",
    **phases: Any,
) -> Transition:
    """Both thresholds are reached at the same step; each event is (step, the evaluated step before it)."""
    events = [{theta: Event(*at) for theta in (0.95, 0.99)} for at in (train_at, grok_at)]
    delay = None if train_at[0] is None or grok_at[0] is None else grok_at[0] - train_at[0]
    ends = {"memorization_end": NONE, "circuit_formation_end": NONE, "cleanup_end": NONE} | phases
    return Transition(Outcome(outcome), "", *events, events[1], {0.95: delay, 0.99: delay}, **ends)


@pytest.fixture(scope="module")
def run() -> Run:
    return Run.open(RUN42)


def said(run: Run, found: Transition, reference: Reference = KEYS) -> list[str]:
    return notices(run, reference, found, pd.DataFrame(index=pd.Index([0, 900], name="step")), {})


FINE = transition((100, 90), (900, 890))


class TestGrid:
    def test_a_fine_grid_is_not_spoken_of(self, run):
        assert said(run, FINE) == []

    @pytest.mark.parametrize(("previous", "coarse"), [(701, False), (700, False), (699, True), (100, True)])
    def test_a_quarter_of_the_delay(self, run, previous, coarse):
        """Memorized at 100, generalized at 900: the delay is 800, a quarter of it 200."""
        found = said(run, transition((100, 90), (900, previous)))
        assert found == (
            [
                f"coarse grid: T_grok(0.95) and T_grok(0.99) in ({previous}, 900]: these intervals are longer than a "
                "quarter of the delay; evaluate and save checkpoints more often there"
            ]
            if coarse
            else []
        )

    def test_memorization_may_be_what_is_coarse(self, run):
        (found,) = said(run, transition((300, 0), (900, 890)))
        assert found.startswith("coarse grid: T_train(0.95) and T_train(0.99) in (0, 300]: ")

    def test_what_held_at_the_first_evaluated_step_lies_between_the_start_and_it(self, run):
        (found,) = said(run, transition((500, None), (900, 890)))
        assert "T_train(0.95) and T_train(0.99) in (0, 500]" in found
        assert said(run, transition((0, None), (900, 890))) == []

    def test_without_a_delay_it_is_compared_with_the_step_itself(self, run):
        """Memorized and generalized at the first look: there may have been a delay that nobody saw."""
        (found,) = said(run, transition((1000, 0), (1000, 0), "generalized_without_delay"))
        names = "T_train(0.95) and T_grok(0.95) and T_train(0.99) and T_grok(0.99)"
        assert found.startswith(
            f"coarse grid: {names} in (0, 1000]: these intervals are longer than a quarter of the step itself"
        )
        assert said(run, transition((1000, 900), (1000, 900), "generalized_without_delay")) == []
        assert said(run, transition((1000, 900), (1100, 1000), "generalized_without_delay")) == []

    def test_a_run_that_never_generalized_has_no_transition_to_look_at(self, run):
        assert said(run, transition((1000, 0), (None, None), "DNF_test")) == []

    def test_phases_lie_on_the_grid_of_the_checkpoints(self, run):
        formed = Boundary(800, 750, 850, previous=500)
        (found,) = said(run, transition((100, 90), (900, 890), circuit_formation_end=formed))
        assert found.startswith("coarse grid: circuit_formation_end in (500, 800]: ")
        formed = replace(formed, previous=700)
        assert said(run, transition((100, 90), (900, 890), circuit_formation_end=formed)) == []

    def test_few_steps_before_the_circuit_formed(self, run):
        formed = Boundary(800, 750, 850, previous=790, flags=("coarse grid",))
        (found,) = said(run, transition((100, 90), (900, 890), circuit_formation_end=formed))
        assert "rests on fewer than 10 evaluated steps before the circuit had formed, at step 800" in found

    def test_of_a_real_run_that_was_seldom_evaluated(self, tmp_path):
        """What was seen at 50 000 steps is known for one interval only."""
        task = Task.modular_addition(13, train_fraction=0.4)
        right = 12.0 * torch.eye(13)[task.labels]
        with Recorder(tmp_path / "run", task) as recorder:
            for step, learned in ((0, 0.0), (1000, task.train_mask[:, None]), (50_000, 1.0)):
                recorder.record(step, right * learned)
        found = analyze(recorder.run)
        assert found.transition.outcome == "grokked"
        assert any("T_grok(0.95) and T_grok(0.99) in (1000, 50000]" in warning for warning in found.warnings)
        assert not any("T_train" in warning for warning in found.warnings)


class TestKeys:
    def test_a_circuit_may_still_be_forming(self, run):
        (found,) = said(run, FINE, replace(KEYS, generalizes=False))
        assert found.endswith(
            "may belong to a circuit that is still forming, or to none; measures that use them do not tell which"
        )

    @pytest.mark.parametrize(("count", "dense"), [(24, False), (25, True), (33, True)])
    def test_a_dense_spectrum(self, run, count, dense):
        """Z_67 has 33 frequencies; three quarters of them are 24.75."""
        keys = KeyFrequencies(tuple(range(1, count + 1)), "cube_cosine", 0.05, step=900)
        found = said(run, FINE, Reference(keys, True, keys.values))
        assert [text.split(", so")[0] for text in found] == (
            [f"dense spectrum: {count} of 33 frequencies are key by the rule cube_cosine (threshold 0.05) at step 900"]
            if dense
            else []
        )

    def test_of_a_model_that_does_not_generalize_the_reference_step_is_named(self, run):
        (found,) = said(run, FINE, replace(KEYS, generalizes=False))
        assert found.startswith("the model does not generalize at the reference step 900: ")

    def test_every_other_one_names_its_step_too(self, run):
        lost = replace(KEYS, lost=(2,), by_rule={"cube_cosine": (3,), "embedding_norm": (3, 4)})
        assert all("step 900" in text for text in said(run, FINE, lost))
        assert len(said(run, FINE, lost)) == 2

    def test_no_keys_are_no_warning_because_the_headline_says_so(self, run):
        nothing = replace(KEYS, frequencies=KeyFrequencies((), "cube_cosine", step=900, reason="constant logits"))
        assert said(run, FINE, replace(nothing, by_rule={"embedding_norm": (3, 4)})) == []

    @pytest.mark.parametrize(
        ("values", "warned"), [((14,), False), ((14, 28), False), ((14, 27), True), ((), True), ((28,), True)]
    )
    def test_rules_that_differ_by_doubles_agree(self, values, warned, run):
        """Z_67: 28 is the double of 14."""
        keys = Reference(KeyFrequencies((14,), "cube_cosine", step=900), True, (14,), (), {"embedding_norm": values})
        found = said(run, FINE, keys)
        assert found == (
            [
                "the rules for key frequencies disagree at step 900, by more than doubles: cube_cosine [14]; "
                f"embedding_norm {list(values)}"
            ]
            * warned
        )
        assert reported_doubles(keys, 67) == ({(28, 14): ["embedding_norm"]} if 28 in values else {})

    def test_of_a_model_that_does_not_generalize_rules_need_not_agree(self, run):
        keys = replace(KEYS, generalizes=False, by_rule={"embedding_norm": (5,)})
        assert len(said(run, FINE, keys)) == 1


class TestGradualRise:
    def recorded(self, folder: Path, rise: Any) -> list[str]:
        """A run that memorizes at step 1,000 and whose accuracy on novel pairs is `rise(step)`."""
        task = Task.modular_addition(13, train_fraction=0.4)
        right, n = 12.0 * torch.eye(13)[task.labels], len(task.labels)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(1))  # the split has seed 0
        with Recorder(folder / "run", task) as recorder:
            for step in range(0, 42_000, 1000):
                learned = torch.zeros(n, 1)
                learned[order[: round(n * rise(step))]] = 1.0
                if step >= 1000:
                    learned[task.train_mask] = 1.0
                recorder.record(step, right * learned)
        analysis = analyze(recorder.run)
        assert analysis.transition.outcome == "grokked"
        return [text for text in analysis.warnings if text.startswith("no sudden transition")]

    def test_a_straight_rise_is_named(self, tmp_path):
        (found,) = self.recorded(tmp_path, lambda step: min(step / 40_000, 1.0))
        assert re.search(r"a tenth of its rise is complete at step \d000, nine tenths at step 3\d000", found)

    def test_a_sudden_one_is_not(self, tmp_path):
        assert self.recorded(tmp_path, lambda step: min(max(step - 30_000, 0) / 10_000, 1.0)) == []


class TestStability:
    def test_of_a_recorded_run_falls_are_listed(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        right = 12.0 * torch.eye(13)[task.labels]
        half = right * (torch.arange(169) % 2)[:, None]
        with Recorder(tmp_path / "run", task) as recorder:
            for step, logits in enumerate([0 * right, right, half, right, half, right]):
                recorder.record(10 * step, logits)
        found = [text for text in analyze(recorder.run).warnings if text.startswith("instability")]
        low = min(recorder.run.metrics["train_accuracy"].iloc[[2, 4]])
        assert found == [
            f"instability: after train accuracy had reached 0.95, it fell below 0.9 at steps 20, 40 (lowest: {low:.3f})"
        ]


class TestCheckpoints:
    def test_logits_and_weights_that_are_not_finite(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        good, bad = torch.zeros(169, 13), torch.full((169, 13), math.nan)
        with Recorder(tmp_path / "run", task) as recorder:
            for step, logits, weight in (
                (0, good, 1.0),
                (10, good, math.inf),
                (20, bad, math.nan),
                (30, bad, math.nan),
            ):
                recorder.record(step, logits, weights={"embed.W_E": torch.full((13, 4), weight)})
        found = analyze(recorder.run).warnings
        assert (
            "weights are not finite at 3 checkpoints, the first at step 10: nothing is computed from them there"
            in found
        )
        assert (
            "logits are not finite at 2 checkpoints, the first at step 20: nothing is computed from them there" in found
        )

    def test_a_loss_of_zero(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        right = torch.eye(13)[task.labels]
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, right)
            recorder.record(10, 700 * right)
            recorder.record(20, 800 * right)
        zero = [text for text in analyze(recorder.run).warnings if "exactly 0 in float64" in text]
        assert [text.split(":")[0] for text in zero] == [
            f"the {subset} loss is exactly 0 in float64 at 1 checkpoint, the first at step 20"
            for subset in ("training", "test")
        ]


class TestSoftmaxCollapse:
    CONFIG = RunConfig(
        task=TaskConfig(p=5, train_fraction=0.6),
        model=MLPConfig(width=32),
        optimizer=OptimizerConfig(name="adam", lr=0.1, weight_decay=0.0),
        schedule=ScheduleConfig(steps=60, evaluate_every=10, checkpoints=20, resume_every=60),
        loss_dtype="float32_plain",
    )

    def test_of_a_run_made_before_its_numbers_were_watched(self, tmp_path):
        run = train(self.CONFIG, tmp_path / "run", progress=False)
        watched = analyze(run).warnings
        assert "softmax collapse at step" in watched[0]
        assert not any("is likely" in text for text in watched)
        status = run.status
        del status["warnings"]
        (run.path / "status.json").write_text(json.dumps(status))
        step = next(int(step) for step, loss in run.metrics["train_loss"].items() if loss < 2**-24)
        found = analyze(run).warnings[0]
        assert found.startswith(f"softmax collapse is likely from step {step} on, where the training loss is ")
        assert "this run was trained on PyTorch's float32 cross entropy" in found

    def test_of_somebody_elses_loop_only_if_it_was_in_float32(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        with Recorder(tmp_path / "run", task) as recorder:
            for step, margin in ((0, 1.0), (10, 15.0), (20, 25.0)):
                recorder.record(step, margin * torch.eye(13)[task.labels])
        found = [text for text in analyze(recorder.run).warnings if "softmax collapse" in text]
        assert len(found) == 1
        assert "from step 20 on" in found[0]
        assert "if this model was trained on PyTorch's float32 cross entropy" in found[0]

    def test_not_of_the_exact_form(self, tmp_path):
        run = train(replace(self.CONFIG, loss_dtype="float32"), tmp_path / "run", progress=False)
        assert run.metrics["train_loss"].min() < 2**-24
        assert not any("collapse" in text for text in analyze(run).warnings)


def test_they_are_on_the_terminal_in_the_json_and_in_the_report(tmp_path, capsys):
    run = train(TestSoftmaxCollapse.CONFIG, tmp_path / "run", progress=False)
    message = run.status["warnings"][0]["message"]
    assert main(["analyze", str(run.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(message.split()) in shown
    assert main(["analyze", str(run.path), "--json"]) == 0
    assert message in json.loads(capsys.readouterr().out)["warnings"]
    page = (run.path / "analysis" / "report.html").read_text()
    assert message.split(":")[0] in page
    for text in (shown, page):
        assert "float32 logits, whose rounding changes losses and measures by at most about 5e-5" in text


@pytest.mark.slow
def test_a_run_that_groks_on_a_fine_grid_has_none(tmp_path):
    shutil.copytree(RUN42, tmp_path / "run42", ignore=shutil.ignore_patterns("analysis"))
    assert analyze(tmp_path / "run42").warnings == ()
