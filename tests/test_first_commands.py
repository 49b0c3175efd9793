"""What a newcomer types first: short help, names of options, and the tables of presets and measures."""

import pytest

from grokinterp.cli.options import flat_fields
from grokinterp.cli.train_help import _FIELDS
from grokinterp.config.presets import PRESETS, preset
from grokinterp.errors import ConfigError, similar_fields
from grokinterp.sweep import expand


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
    def test_train_shows_what_people_use_on_a_screen(self, name, shell):
        lines = shell("train", "--preset", name, "--help").out.splitlines()
        assert len(lines) <= 60
        assert max(map(len, lines)) <= 80
        shown = {line.split()[0] for line in lines if line.startswith("  --")}
        fields = {f"--{field.replace('_', '-')}" for field in flat_fields(preset(name)).keys() & _FIELDS.keys()}
        assert fields <= shown
        assert {"--preset", "--resume", "--dry-run", "--help-all"} <= shown

    def test_every_option_shown_exists(self):
        known = {field for name in PRESETS for field in flat_fields(preset(name))}
        assert known >= set(_FIELDS)

    def test_the_rest_is_in_groups(self, shell):
        everything = shell("train", "--help-all").out
        for text in ("--optimizer.grokfast-lambda", "--compile", "task options", "optimizer options"):
            assert text in everything
