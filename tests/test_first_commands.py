"""What a newcomer types first: short help, names of options, and the tables of presets and measures."""

import re

import pytest

import grokinterp as gi
from grokinterp.cli.options import flat_fields
from grokinterp.cli.short_help import _SETTINGS
from grokinterp.config import RunConfig
from grokinterp.config.presets import DESCRIPTIONS, PRESETS, preset
from grokinterp.config.schedule import scheduled_steps
from grokinterp.errors import ConfigError, similar_fields
from grokinterp.measures import registered
from grokinterp.sweep import expand
from grokinterp.training.estimate import estimate
from grokinterp.training.preset_table import cost_text


class TestOptions:
    @pytest.mark.parametrize(
        ("typed", "meant"),
        [
            (["--p", "59"], "--task.p"),
            (["--weight_decay=3"], "--optimizer.weight-decay"),
            (["--optimizer.wd", "3"], "--optimizer.weight-decay"),
            (["--d_model", "3"], "--model.d-model"),
            (["--steps", "3"], "--schedule.steps"),
            (["--epochs", "3"], "--schedule.steps"),
            (["--seed", "3"], "--task.data-seed or --model-seed"),
            (["--resum"], "--resume"),
        ],
    )
    def test_a_bare_field_gets_its_dotted_name(self, typed, meant, shell):
        word = typed[0].partition("=")[0]
        expected = f"grokinterp: train: there is no option {word}: did you mean {meant}?"
        assert shell("train", "new", *typed).err.startswith(expected)

    def test_a_field_of_another_kind_of_model_says_so(self, shell):
        message = shell("train", "new", "--width", "3").err
        assert "--model.width applies only to model.kind mlp, which --preset or --config selects" in message

    def test_every_bare_field_of_every_preset(self):
        for name in PRESETS:
            fields = flat_fields(preset(name))
            for field in fields:
                assert field in similar_fields(field.rpartition(".")[2], fields)

    def test_so_does_the_field_of_a_grid(self):
        with pytest.raises(ConfigError, match=r"p is not a field of this configuration: did you mean 'task\.p'\?"):
            expand(preset("demo"), grid={"p": [5, 7]})


class TestHelp:
    @pytest.mark.parametrize("name", PRESETS)
    @pytest.mark.parametrize("command", ["train", "sweep"])
    def test_train_and_sweep_show_what_people_use_on_a_screen(self, command, name, shell):
        lines = shell(command, "--preset", name, "--help").out.splitlines()
        assert len(lines) <= 60
        assert max(map(len, lines)) <= 80
        shown = {line.split()[0] for line in lines if line.startswith("  --")}
        fields = {f"--{field.replace('_', '-')}" for field in flat_fields(preset(name)).keys() & _SETTINGS.keys()}
        assert fields <= shown
        assert {"--preset", "--dry-run", "--help-all", {"train": "--resume", "sweep": "--grid"}[command]} <= shown

    def test_every_option_shown_exists(self):
        known = {field for name in PRESETS for field in flat_fields(preset(name))}
        assert known >= set(_SETTINGS)

    @pytest.mark.parametrize(("command", "rare"), [("train", "--compile"), ("sweep", "--gpus-per-run")])
    def test_the_rest_is_in_groups(self, command, rare, shell):
        everything = shell(command, "--help-all").out
        for text in ("--optimizer.grokfast-lambda", rare, "task options", "optimizer options"):
            assert text in everything
        assert ">>>" not in everything  # examples of the classes are for Python


class TestPresets:
    def test_a_line_for_each_with_its_cost_and_source(self, shell):
        shown = shell("presets")
        assert (shown.code, shown.err) == (0, "")
        lines = shown.out.splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80
        for name in PRESETS:
            (line,) = [line for line in lines if line.split()[:1] == [name]]
            assert re.search(r" [<~]?\d[\d.]* (s|min|h) ", line)
            assert DESCRIPTIONS[name].source in line

    def test_one_in_detail_with_settings_that_give_it_back(self, shell):
        shown = shell("presets", "nanda").out
        assert "arXiv:2301.05217" in shown
        flags = " ".join(line for line in shown.splitlines() if line.startswith("  --")).split()
        assert RunConfig.from_json(shell("train", "new", *flags, "--dry-run").out) == preset("nanda")

    def test_in_python(self):
        assert gi.preset() is gi.presets
        assert list(gi.presets) == list(PRESETS)
        assert gi.presets["demo"] == preset("demo")

    def test_a_slow_update_is_measured_on_part_of_its_examples(self, monkeypatch):
        config = preset("parity")
        monkeypatch.setattr("grokinterp.training.estimate._SLOW", 0.0)
        assert estimate(config, quick=True).scaled
        assert not estimate(config).scaled
        assert cost_text(600, False, True) == "~10 min"

    def test_nanda_is_evaluated_densely_while_it_memorizes(self):
        schedule = preset("nanda").schedule
        assert scheduled_steps(schedule.evaluate_every, schedule.steps)[:3] == [0, 10, 20]
        assert len(scheduled_steps(schedule.evaluate_every, schedule.steps)) < 500


class TestMeasures:
    def test_a_line_for_each(self, shell):
        shown = shell("measures")
        assert (shown.code, shown.err) == (0, "")
        *lines, costs, hint = shown.out.splitlines()
        assert [line.split()[0] for line in lines] == list(registered())
        assert all(re.search(r" \d+\.\d ms ", line) for line in lines)
        assert [line.split()[0] for line in lines if " --circuit " in line] == [
            name for name, entry in registered().items() if entry.costly
        ]
        assert costs.startswith("costs: of one checkpoint of run42")
        assert hint.startswith("next: ")

    @pytest.mark.parametrize("name", ["excluded_loss", "excluded_loss_novel"])
    def test_one_by_its_name_or_that_of_a_column(self, name, shell):
        shown = shell("measures", name)
        assert shown.code == 0
        assert f"  {name}: " in shown.out
        assert "needs: a task with a cyclic group" in shown.out

    def test_an_unknown_one_suggests_the_nearest(self, shell):
        assert shell("measures", "margin ratio").out.startswith("circuit_efficiency\n")
        assert "P_K projects the logits L" in shell("measures", "excluded-loss").out
        assert shell("measures", "margi").err == "grokinterp: measure 'margi' is not known: did you mean 'margin'?\n"
