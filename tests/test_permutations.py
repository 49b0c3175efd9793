"""S5 against plain tuples, the axioms of a group, and the permutations of sympy; and that it trains."""

from collections import Counter
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F
from sympy.combinatorics import Permutation

from grokinterp.analysis.timeline import analyze
from grokinterp.config import (
    S5_OPERATIONS,
    MLPConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import restricted_loss
from grokinterp.models import task_of
from grokinterp.report import write_report
from grokinterp.runs.run import Run
from grokinterp.tasks import Task, s5_elements, s5_inverses, s5_table
from grokinterp.training import train, train_many
from grokinterp.training.evaluation import evaluate

ELEMENTS = list(permutations(range(5)))
NUMBER = {element: i for i, element in enumerate(ELEMENTS)}
CONFIG = TaskConfig(operation="s5_xy", p=120, train_fraction=0.4, data_seed=3)


def after(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    """x(y(i)) for each i."""
    return tuple(x[y[i]] for i in range(5))


def cycle_type(element: tuple[int, ...]) -> list[int]:
    seen: set[int] = set()
    lengths = []
    for start in range(5):
        length = 0
        while start not in seen:
            seen.add(start)
            start, length = element[start], length + 1
        lengths += [length] if length else []
    return sorted(lengths)


def by_sympy(operation: str, x: tuple[int, ...], y: tuple[int, ...]) -> int:
    """The answer by sympy, whose product p * q makes p first, and q of what comes out: the other way round."""
    p, q = Permutation(x), Permutation(y)
    composed = {"s5_xy": q * p, "s5_xyx": p * q * p, "s5_xyx^-1": p**-1 * q * p}[operation]
    return NUMBER[tuple(composed.array_form)]


def task(**changes) -> Task:
    return Task.from_config(replace(CONFIG, **changes))


# --- the group -------------------------------------------------------------------------------------------------------


def test_elements_are_the_permutations_in_lexicographic_order():
    assert [tuple(row) for row in s5_elements().tolist()] == ELEMENTS
    assert ELEMENTS[0] == (0, 1, 2, 3, 4)
    assert sorted(ELEMENTS) == ELEMENTS


def test_the_table_against_a_loop():
    table = s5_table().tolist()
    assert all(table[i][j] == NUMBER[after(x, y)] for (i, x), (j, y) in product(enumerate(ELEMENTS), repeat=2))


def test_the_table_is_that_of_a_group():
    table, every = s5_table(), torch.arange(120)
    for lines in (table, table.T):  # closure and cancellation: each row and column holds each element once
        assert torch.equal(lines.sort(dim=1).values, every.expand(120, 120))
    assert torch.equal(table[0], every)
    assert torch.equal(table[:, 0], every)
    assert torch.equal(table[table], table[:, table])  # (x y) z = x (y z) for all 120^3 triples
    inverses = s5_inverses()
    assert not table[every, inverses].any()
    assert not table[inverses, every].any()


def test_the_group_does_not_commute_and_its_centre_is_the_identity():
    commuting = s5_table() == s5_table().T
    assert int(commuting.sum()) == 120 * 7  # order times the number of conjugacy classes, one for each partition of 5
    assert commuting.all(dim=1).nonzero().flatten().tolist() == [0]


def test_products_of_swaps_and_a_cycle_by_hand():
    first, last = NUMBER[1, 0, 2, 3, 4], NUMBER[0, 1, 2, 4, 3]
    assert s5_table()[first, last] == s5_table()[last, first] == NUMBER[1, 0, 2, 4, 3]
    cycle, swap = NUMBER[1, 2, 0, 3, 4], NUMBER[1, 0, 2, 3, 4]
    assert ELEMENTS[int(s5_table()[cycle, swap])] == (2, 1, 0, 3, 4)  # 0 -> 1 -> 2, 1 -> 0 -> 1, 2 -> 2 -> 0


# --- the tasks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", S5_OPERATIONS)
def test_every_label_equals_that_of_sympy(operation):
    found = task(operation=operation)
    pairs = list(product(ELEMENTS, repeat=2))
    assert found.inputs.tolist() == [[NUMBER[x], NUMBER[y]] for x, y in pairs]
    if operation == "s5_xy":
        expected = [by_sympy(operation, x, y) for x, y in pairs]
        assert found.labels.tolist() == expected
    else:  # sympy is slow: every pair with one in 17 of the first operands, and all of them by the loop
        for i, (x, y) in enumerate(pairs):
            if NUMBER[x] % 17 == 3:
                assert int(found.labels[i]) == by_sympy(operation, x, y)
        last = {"s5_xyx": lambda x: x, "s5_xyx^-1": lambda x: tuple(x.index(i) for i in range(5))}[operation]
        assert found.labels.tolist() == [NUMBER[after(after(x, y), last(x))] for x, y in pairs]


def test_conjugation_preserves_the_cycle_type_and_nothing_else_does():
    def preserved(operation: str) -> bool:
        found = task(operation=operation)
        triples = zip(found.inputs[:, 1].tolist(), found.labels.tolist(), strict=True)
        return all(cycle_type(ELEMENTS[y]) == cycle_type(ELEMENTS[answer]) for y, answer in triples)

    assert preserved("s5_xyx^-1")
    assert not preserved("s5_xy")
    assert not preserved("s5_xyx")


def test_the_order_of_composition_of_power_et_al_gives_the_same_task_with_the_operands_exchanged():
    theirs = torch.tensor([NUMBER[tuple(b[i] for i in a)] for a, b in product(ELEMENTS, repeat=2)])  # c = b[a]
    assert torch.equal(theirs.view(120, 120), task().labels.view(120, 120).T)


@pytest.mark.parametrize("operation", S5_OPERATIONS)
def test_the_properties_of_an_s5_task(operation):
    found = task(operation=operation)
    assert (found.p, found.n_classes, len(found.inputs)) == (120, 120, 14_400)
    assert found.tokens[-1].tolist() == [119, 119, 120]
    assert torch.equal(found.elements, s5_elements())
    assert found.config.title == operation
    labels = found.labels.view(120, 120)
    assert not found.commutes
    assert not torch.equal(labels, labels.T)
    assert found.mirror_mask is None
    assert found.why_no_mirror == f"{operation} does not commute: no pair has a mirror of the same label"
    assert found.group is None
    assert found.grid_indices is None
    assert found.why_no_group == f"{operation} has no cyclic group: S5 is not cyclic, and not even commutative"


def test_other_tasks_have_no_elements():
    assert Task.of("add", 120).elements is None


@pytest.mark.parametrize("p", [5, 113, 119, 121])
def test_another_p_is_refused_with_advice(p):
    with pytest.raises(ConfigError, match=rf"^S5 has 120 elements: set task.p to 120 \(it is {p}\)$"):
        TaskConfig(operation="s5_xy", p=p)


# --- splits and chance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["torch", "python", "numpy"])
@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.75])
def test_splits_are_disjoint_whole_sized_and_seeded(split, fraction):
    found = task(split=split, train_fraction=fraction)
    assert int(found.train_mask.sum()) == int(fraction * 14_400)
    assert not (found.train_mask & found.test_mask).any()
    assert (found.train_mask | found.test_mask).all()
    assert torch.equal(found.train_mask, task(split=split, train_fraction=fraction).train_mask)
    assert not torch.equal(found.train_mask, task(split=split, train_fraction=fraction, data_seed=4).train_mask)


@pytest.mark.parametrize("operation", S5_OPERATIONS)
def test_chance_is_one_in_120(operation):
    """For each x and answer there is one y, so whatever is always answered is right for 120 of the 14,400 pairs."""
    found = task(operation=operation)
    assert set(Counter(found.labels.tolist()).values()) == {120}
    for answer in (0, 77, 119):
        row = evaluate(found, F.one_hot(torch.full((14_400,), answer), 120).double(), {})
        shares = {"train": row["train_accuracy"], "test": row["test_accuracy"]}
        in_training = int((found.labels[found.train_mask] == answer).sum())
        assert shares == pytest.approx({"train": in_training / 5760, "test": (120 - in_training) / 8640})
    untrained = evaluate(found, torch.randn(14_400, 120, generator=torch.Generator().manual_seed(0)), {})
    assert untrained["test_accuracy"] == pytest.approx(1 / 120, abs=4 * (1 / 120 / 8640) ** 0.5)


# --- training --------------------------------------------------------------------------------------------------------

# An MLP on two embeddings added, which generalizes in seconds where three quarters of the pairs are trained on.
FAST = RunConfig(
    task=replace(CONFIG, train_fraction=0.75),
    model=MLPConfig(input="sum", shared_embedding=False, depth=1, width=128, init="normal"),
    optimizer=OptimizerConfig(lr=1e-2, weight_decay=1.0, batch_size=512),
    schedule=ScheduleConfig(steps=1200, evaluate_every=200, checkpoints=600),
    loss_dtype="float32",
)
SHORT = ScheduleConfig(steps=30, evaluate_every=10, checkpoints=10, resume_every=10)
SMALL = {
    "mlp": replace(FAST, task=replace(CONFIG, train_fraction=0.05), schedule=SHORT),
    "transformer": RunConfig(
        task=replace(CONFIG, operation="s5_xyx^-1", train_fraction=0.05),
        model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
        schedule=SHORT,
    ),
}


@pytest.fixture(scope="module")
def generalized(tmp_path_factory) -> Run:
    return train(FAST, tmp_path_factory.mktemp("s5") / "run", device="cpu", progress=False)


@pytest.mark.slow
def test_an_mlp_generalizes(generalized):
    metrics = generalized.metrics
    assert metrics.test_accuracy[0] < 0.03
    assert metrics.train_loss[0] == pytest.approx(4.79, abs=1.0)
    assert metrics.train_accuracy[1200] >= 0.98
    assert metrics.test_accuracy[1200] >= 0.9


def test_too_few_pairs_are_memorized_only(tmp_path):
    config = replace(FAST, task=replace(CONFIG, train_fraction=0.1), schedule=replace(FAST.schedule, steps=400))
    metrics = train(config, tmp_path / "run", device="cpu", progress=False).metrics
    assert metrics.train_accuracy[400] >= 0.99
    assert metrics.test_accuracy[400] < 0.05


@pytest.mark.slow
def test_an_s5_run_is_analyzed_and_reported(generalized, tmp_path):
    analysis = analyze(generalized, workers=0)
    final = analysis.timeline.iloc[-1]
    assert final.test_accuracy == generalized.metrics.test_accuracy[1200]
    assert final.isna()["restricted_loss"]
    assert analysis.transition.outcome == "generalized_without_delay"
    assert analysis.reference.frequencies.reason == generalized.task.why_no_group
    assert "s5_xy, 14,400 inputs" in write_report(analysis, tmp_path / "report.html").read_text()
    with pytest.raises(MissingNeedError, match="S5 is not cyclic"):
        restricted_loss(generalized.snapshot(1200), [1])


def result(run: Run) -> dict[str, bytes]:
    files = [run.path / "metrics.jsonl", run.path / "resume.safetensors", *(run.path / "weights").iterdir()]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("name", SMALL)
def test_a_stopped_run_resumes_to_the_same_bits(name, tmp_path):
    config = SMALL[name]
    whole = train(config, tmp_path / "whole", device="cpu", progress=False)
    train(replace(config, schedule=replace(SHORT, steps=20)), tmp_path / "part", device="cpu", progress=False)
    resumed = train(config, tmp_path / "part", resume=True, device="cpu", progress=False)
    assert result(resumed) == result(whole)
    assert whole.environment["forward_path"] == {"mlp": "mlp", "transformer": "last_position"}[name]
    assert whole.metrics.train_loss[30] < whole.metrics.train_loss[0]


def test_runs_trained_together_equal_those_trained_alone(tmp_path):
    configs = [replace(SMALL["mlp"], model_seed=seed) for seed in (0, 1)]
    together = train_many(configs, [tmp_path / "0", tmp_path / "1"], device="cpu", progress=False)
    for seed, run in enumerate(together):
        alone = train(configs[seed], tmp_path / f"alone{seed}", device="cpu", progress=False)
        assert run.metrics.train_loss.to_numpy() == pytest.approx(alone.metrics.train_loss.to_numpy(), rel=1e-3)


def test_the_preset_has_the_settings_that_grok():
    config = preset("s5")
    assert (config.task.operation, config.task.train_fraction, config.model.kind) == ("s5_xy", 0.4, "mlp")
    assert len(task_of(config).inputs) == 14_400
