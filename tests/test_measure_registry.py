"""Missing needs, error messages, and the registry of measures."""

import inspect
import math
import sys

import pytest
import torch
from explicit_measures import normal, random_snapshot

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import (
    Snapshot,
    Undefined,
    accuracy,
    base,
    circuit_efficiency,
    cosine_coefficients,
    excluded_loss,
    excluded_loss_novel,
    excluded_loss_per_frequency,
    find_measure,
    gini_embedding,
    group_norms,
    key_frequencies,
    logit_variance_explained,
    loss,
    margin,
    measure,
    neuron_frequencies,
    neuron_logit_power,
    registered,
    restricted_loss,
    restricted_loss_novel,
    sum_of_squares,
    weight_rms,
)
from grokinterp.tasks import Task


class TestMissingNeeds:
    TASK = Task.modular_addition(11)
    NO_GROUP = Task.of("x^3+xy", 11, 0.4)

    @pytest.mark.parametrize(
        ("need", "call"),
        [
            ("grid", lambda s, g: restricted_loss(g, (2,))),
            ("grid", lambda s, g: excluded_loss(g, (2,))),
            ("grid", lambda s, g: excluded_loss_per_frequency(g)),
            ("grid", lambda s, g: restricted_loss_novel(g, (2,))),
            ("grid", lambda s, g: cosine_coefficients(g)),
            ("grid", lambda s, g: key_frequencies(g)),
            ("split", lambda s, g: loss(s, subset="train")),
            ("split", lambda s, g: accuracy(s, subset="novel")),
            ("split", lambda s, g: margin(g, subset="mirror")),
            ("split", lambda s, g: excluded_loss(s, (2,))),
            ("split", lambda s, g: restricted_loss_novel(s, (2,))),
            ("split", lambda s, g: excluded_loss_novel(s, (2,))),
            ("split", lambda s, g: circuit_efficiency(s)),
            ("weights", lambda s, g: sum_of_squares(s)),
            ("weights", lambda s, g: weight_rms(s)),
            ("weights", lambda s, g: group_norms(s)),
            ("weights", lambda s, g: gini_embedding(s)),
            ("weights", lambda s, g: key_frequencies(s, rule="embedding_norm")),
            ("neurons", lambda s, g: neuron_frequencies(s)),
            ("neurons", lambda s, g: neuron_logit_power(s)),
            ("neurons", lambda s, g: key_frequencies(s, rule="neuron_clusters")),
            ("neurons", lambda s, g: key_frequencies(s, rule="unembedding_power")),
            ("neurons", lambda s, g: restricted_loss(s, (2,), level="neuron")),
        ],
    )
    def test_are_named(self, need: str, call):
        snapshot = Snapshot.from_logits(self.TASK, normal(121, 11))
        without_group = Snapshot.from_logits(self.NO_GROUP, normal(121, 11))
        with pytest.raises(MissingNeedError, match=f" needs {need}: ") as error:
            call(snapshot, without_group)
        assert error.value.need == need
        assert error.value.reason

    def test_weights_without_an_embedding(self):
        snapshot = Snapshot.from_logits(self.TASK, normal(121, 11), weights={"head.weight": torch.ones(3)})
        with pytest.raises(MissingNeedError, match=r"no parameter named embed\.W_E, embed_a"):
            gini_embedding(snapshot)

    def test_circuit_efficiency_needs_no_group(self):
        efficiency = circuit_efficiency(Snapshot.from_logits(self.NO_GROUP, normal(121, 11)))
        assert efficiency.reason == "training set not fitted"


class TestErrors:
    @pytest.mark.parametrize("shape", [(24, 5), (5, 25), (25, 4), (5, 5), (5, 5, 4), (4, 5, 5), (125,)])
    def test_logits_of_a_wrong_shape(self, shape: tuple[int, ...]):
        with pytest.raises(ConfigError) as error:
            Snapshot.from_logits(Task.modular_addition(5), torch.zeros(shape))
        assert str(error.value) == (
            "logits of add mod 5 must be floating point, of shape [25, 5] or [5, 5, 5] (extra classes are dropped), "
            f"but are torch.float32 of shape {list(shape)}"
        )

    def test_logits_of_a_task_without_all_pairs(self):
        with pytest.raises(ConfigError, match=r"logits of divide mod 5 .* of shape \[20, 5\] \(extra classes"):
            Snapshot.from_logits(Task.of("divide", 5), torch.zeros(5, 5, 5))

    def test_logits_of_whole_numbers(self):
        with pytest.raises(ConfigError, match=r"must be floating point.*but are torch\.int64 of shape \[25, 5\]"):
            Snapshot.from_logits(Task.modular_addition(5), torch.zeros(25, 5, dtype=torch.int64))

    def test_the_class_of_equals_is_dropped(self):
        task, logits = Task.modular_addition(5), normal(25, 6)
        for shaped in (logits, logits.reshape(5, 5, 6)):
            assert torch.equal(Snapshot.from_logits(task, shaped).logits, logits[:, :5])
        positions = torch.stack([normal(25, 6, seed=1), logits], dim=1)
        assert torch.equal(Snapshot.from_model(task, lambda tokens: positions).logits, logits[:, :5])

    @pytest.mark.parametrize(
        ("operation", "p", "order", "wrong"),
        [("add", 31, 31, 16), ("add", 31, 31, 0), ("add", 30, 30, 16), ("divide", 11, 10, 6), ("add", 31, 31, -3)],
    )
    def test_frequencies_out_of_range(self, operation: str, p: int, order: int, wrong: int):
        snapshot = random_snapshot(operation, p)
        for function in (restricted_loss, excluded_loss, excluded_loss_novel, logit_variance_explained):
            with pytest.raises(ConfigError) as error:
                function(snapshot, (2, wrong))
            assert str(error.value) == f"frequencies of Z_{order} lie in 1 .. {order // 2}; given: [{wrong}]"

    def test_unknown_rule_and_subset_give_the_nearest_name(self):
        snapshot = random_snapshot("add", 11)
        with pytest.raises(ConfigError, match="rule 'cube_cosin' is not known: did you mean 'cube_cosine'"):
            inspect.unwrap(key_frequencies)(snapshot, "cube_cosin")
        with pytest.raises(ConfigError, match="subset 'trian': did you mean 'train'"):
            inspect.unwrap(Snapshot.mask)(snapshot, "trian")

    def test_undefined_is_a_nan_with_a_reason(self):
        value = Undefined("because")
        assert math.isnan(value)
        assert isinstance(value, float)
        assert value.reason == "because"


@pytest.fixture
def own_register(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "_REGISTER", dict(base._REGISTER))


@pytest.mark.usefixtures("own_register")
class TestRegister:
    def test_a_measure_is_found_by_name_and_by_function(self):
        @measure("largest_weight", needs=("weights",), version=3)
        def largest(snapshot: Snapshot) -> float:
            """The largest weight.

            Of all.
            """
            return max(w.max().item() for w in snapshot.weights.values())

        entry = find_measure("largest_weight")
        assert entry == registered()["largest_weight"] == find_measure(largest)
        assert (entry.needs, entry.version, entry.uses_reference) == (("weights",), 3, False)
        assert [(c.name, c.definition) for c in entry.columns] == [("largest_weight", "The largest weight.")]
        task, logits = Task.modular_addition(5), normal(25, 5)
        weights = {"embed.W_E": torch.tensor([1.0, 4.0])}
        assert entry.function(Snapshot.from_logits(task, logits, weights=weights)) == 4.0
        with pytest.raises(MissingNeedError, match="largest_weight needs weights: the snapshot was made without"):
            largest(Snapshot.from_logits(task, logits))

    def test_a_function_elsewhere_is_found_by_module_and_name(self, tmp_path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "external_measures.py").write_text(
            "def spread(snapshot):\n"
            "    '''Largest minus smallest logit.'''\n"
            "    return (snapshot.logits.max() - snapshot.logits.min()).item()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        entry = find_measure("external_measures:spread")
        assert (entry.name, entry.needs) == ("spread", ("logits",))
        logits = torch.zeros(25, 5)
        logits[3, 2] = 7.0
        assert entry.function(Snapshot.from_logits(Task.modular_addition(5), logits)) == 7.0

    def test_a_folder_of_measures_serves_only_packages_that_are_not_installed(self, tmp_path, monkeypatch):
        """An installed package that tries to import an optional one must not get it from someone's folder."""
        for folder in ("installed", "current"):
            (tmp_path / folder).mkdir()
        tries = "try:\n    import optional_extra\nexcept ImportError:\n    optional_extra = None\n"
        function = "def {}(snapshot):\n    return 1.0\n"
        (tmp_path / "installed" / "published_measures.py").write_text(tries + function.format("published"))
        (tmp_path / "current" / "optional_extra.py").write_text("raise SystemExit('executed')\n")
        (tmp_path / "current" / "json.py").write_text("raise SystemExit('executed')\n")
        (tmp_path / "current" / "sibling_of_mine.py").write_text(function.format("mine"))
        (tmp_path / "current" / "measures_of_mine").mkdir()
        for name in ("first", "second"):  # siblings are also importable for the second module of a package
            source = f"import json\nfrom sibling_of_mine import mine\n{name} = lambda snapshot: 1.0\n"
            (tmp_path / "current" / "measures_of_mine" / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path / "installed")
        monkeypatch.setattr(base, "MEASURE_FOLDERS", [str(tmp_path / "current")])
        monkeypatch.setattr(base, "_REGISTER", registered())
        before = list(sys.path)
        find_measure("published_measures:published")
        for name in ("first", "second"):
            find_measure(f"measures_of_mine.{name}:mine")
            sys.modules.pop("sibling_of_mine")
        assert sys.path == before

    @pytest.mark.parametrize("source", ["def broken(:\n", "1 / 0\n", "raise ValueError('no')\n"])
    def test_a_module_that_fails_is_named_with_its_error(self, source, tmp_path, monkeypatch):
        (tmp_path / "failing_measures.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        message = r"measure 'failing_measures:f' cannot be imported: \w+Error: "
        with pytest.raises(ConfigError, match=message):
            find_measure("failing_measures:f")

    @pytest.mark.parametrize("name", [":f", "m:", ":", ".m:f"])
    def test_a_name_without_a_module_or_function(self, name: str):
        with pytest.raises(ConfigError, match=r"is not known: give package\.module:function"):
            find_measure(name)

    @pytest.mark.parametrize("name", ["no_such_module:spread", "grokinterp.measures:no_such_function"])
    def test_a_failed_import_says_how_to_name_a_measure(self, name: str):
        with pytest.raises(ConfigError, match=rf"measure '{name}' cannot be imported: .*; give package\.module:func"):
            find_measure(name)

    @pytest.mark.parametrize(
        ("typo", "meant"), [("restricted_los", "restricted_loss"), ("gini_embeding", "gini_embedding")]
    )
    def test_a_typo_gives_the_nearest_name(self, typo: str, meant: str):
        with pytest.raises(ConfigError, match=rf"measure '{typo}' is not known: did you mean '{meant}'\?"):
            find_measure(typo)

    def test_an_unknown_need_is_refused(self):
        with pytest.raises(ConfigError, match=r"measure 'm': unknown needs \['wieghts'\]; known: logits, grid"):
            measure("m", needs=("wieghts",))

    def test_every_built_in_measure_defines_its_columns(self):
        for entry in registered().values():
            assert entry.columns
            assert all(column.name and column.definition for column in entry.columns)
            assert set(entry.needs) <= set(base.NEEDS)
