"""Tasks mod p against plain Python loops, and splits against the libraries that make them.

Permutations have test_permutations.py, parity test_parity.py."""

import random
import sys
from dataclasses import replace

import numpy as np
import processes
import pytest
import torch

from grokinterp.config import OPERATIONS, S5_OPERATIONS, TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.tasks import Task

MODULI = [3, 5, 13, 4, 8, 9, 15]
PRIMES = [3, 5, 7, 13, 23]
MODULAR = [operation for operation in OPERATIONS if operation not in (*S5_OPERATIONS, "parity")]
COMMUTATIVE = ["add", "multiply", "multiply_nonzero", "x^2+y^2", "x^2+xy+y^2"]
NON_COMMUTATIVE = ["subtract", "divide", "x^2+xy+y^2+x", "x^3+xy", "x^3+xy^2+y"]
FORMULAS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "multiply_nonzero": lambda a, b: a * b,
    "x^2+y^2": lambda a, b: a * a + b * b,
    "x^2+xy+y^2": lambda a, b: a * a + a * b + b * b,
    "x^2+xy+y^2+x": lambda a, b: a * a + a * b + b * b + a,
    "x^3+xy": lambda a, b: a * a * a + a * b,
    "x^3+xy^2+y": lambda a, b: a * a * a + a * b * b + b,
}


def answer(operation: str, a: int, b: int, p: int) -> int:
    if operation == "divide":
        (quotient,) = [x for x in range(p) if x * b % p == a]
        return quotient
    return FORMULAS[operation](a, b) % p


def operands(operation: str, p: int) -> list[tuple[int, int]]:
    first = range(1 if operation == "multiply_nonzero" else 0, p)
    second = range(1 if operation in ("multiply_nonzero", "divide") else 0, p)
    return [(a, b) for a in first for b in second]


def pairs(task: Task, mask: torch.Tensor) -> set[tuple[int, int]]:
    return {(a, b) for a, b in task.inputs[mask].tolist()}


def make(**changes) -> Task:
    return Task.from_config(replace(TaskConfig(p=13, train_fraction=0.4, data_seed=3), **changes))


@pytest.mark.parametrize("p", MODULI)
@pytest.mark.parametrize("operation", [o for o in MODULAR if o != "divide"])
def test_labels_against_a_loop(operation, p):
    task = Task.of(operation, p)
    expected = operands(operation, p)
    assert [tuple(pair) for pair in task.inputs.tolist()] == expected
    assert task.labels.tolist() == [answer(operation, a, b, p) for a, b in expected]
    assert task.n_classes == p


@pytest.mark.parametrize("p", PRIMES)
def test_division_against_a_loop(p):
    task = Task.of("divide", p)
    expected = operands("divide", p)
    assert [tuple(pair) for pair in task.inputs.tolist()] == expected
    assert len(expected) == p * (p - 1)
    assert task.labels.tolist() == [answer("divide", a, b, p) for a, b in expected]


@pytest.mark.parametrize("p", [4, 9, 15, 91])
def test_division_refuses_composite_moduli(p):
    with pytest.raises(ConfigError, match=rf"division mod {p} .* {p} is not a prime: choose a prime p"):
        Task.of("divide", p)


def test_every_operation_is_tested():
    assert sorted(COMMUTATIVE + NON_COMMUTATIVE) == sorted(MODULAR)


def test_torch_split_equals_that_of_the_transformer_lens_demo():
    task = Task.modular_addition(p=113, train_fraction=0.3, data_seed=598)
    assert task.train_mask is not None
    assert task.test_mask is not None
    assert int(task.train_mask.sum()) == 3830
    assert int(task.test_mask.sum()) == 8939
    assert {(21, 31), (30, 98), (47, 10)} <= pairs(task, task.train_mask)
    assert {(43, 40), (31, 42)} <= pairs(task, task.test_mask)


def test_torch_split_is_randperm_after_manual_seed():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first = torch.randperm(169)[:67].tolist()
    assert make(data_seed=7).train_mask.nonzero().flatten().tolist() == sorted(first)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_python_split_is_nandas_shuffle_of_the_list_of_pairs(seed):
    before = random.getstate()
    random.seed(seed)
    shuffled = [(a, b) for a in range(113) for b in range(113)]
    random.shuffle(shuffled)
    random.setstate(before)
    task = Task.from_config(TaskConfig(p=113, train_fraction=0.3, split="python", data_seed=seed))
    assert pairs(task, task.train_mask) == set(shuffled[: int(0.3 * 113 * 113)])


@pytest.mark.parametrize("seed", [0, 42])
def test_numpy_split_is_permutation_after_numpys_seed(seed):
    before = np.random.get_state()
    np.random.seed(seed)
    order = np.random.permutation(97 * 97)
    np.random.set_state(before)
    task = Task.from_config(TaskConfig(p=97, train_fraction=0.5, split="numpy", data_seed=seed))
    assert task.train_mask.nonzero().flatten().tolist() == sorted(order[:4704].tolist())


# In a separate process: the type checker that conftest.py installs draws from Python's global generator itself.
GLOBAL_GENERATORS = """
import random, numpy, torch
from grokinterp.config import TaskConfig
from grokinterp.tasks import Task

def state():
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()

before = state()
for split in ("torch", "python", "numpy"):
    for labels in ({"label_noise": 0.1}, {"random_labels": True}):
        Task.from_config(TaskConfig(p=13, split=split, **labels)).mirror_mask
        assert state() == before, f"{split} {labels}"
"""


def test_making_a_task_leaves_the_global_generators_alone():
    processes.run([sys.executable, "-c", GLOBAL_GENERATORS], check=True)


@pytest.mark.parametrize("split", ["torch", "python", "numpy"])
def test_the_split_depends_on_the_seed_alone(split):
    assert torch.equal(make(split=split).train_mask, make(split=split).train_mask)
    assert not torch.equal(make(split=split).train_mask, make(split=split, data_seed=4).train_mask)


@pytest.mark.parametrize("operation", COMMUTATIVE)
def test_mirror_and_novel_pairs_against_a_loop(operation):
    task = make(operation=operation)
    trained = pairs(task, task.train_mask)
    tested = set(operands(operation, 13)) - trained
    mirrored = {(a, b) for a, b in tested if (b, a) in trained}
    assert pairs(task, task.mirror_mask) == mirrored
    assert pairs(task, task.novel_mask) == tested - mirrored
    assert pairs(task, task.held_out_mask) == tested - mirrored
    assert mirrored
    assert tested - mirrored


@pytest.mark.parametrize("operation", NON_COMMUTATIVE)
def test_operations_that_do_not_commute_have_no_mirrors(operation):
    task = make(operation=operation)
    assert not task.commutes
    assert task.mirror_mask is None
    assert task.why_no_mirror.endswith("does not commute: no pair has a mirror of the same label")
    assert torch.equal(task.held_out_mask, ~task.train_mask)


@pytest.mark.parametrize("operation", NON_COMMUTATIVE)
def test_novel_pairs_are_trained_on_in_neither_order(operation):
    task = make(operation=operation)
    trained = {tuple(pair) for pair in task.inputs[task.train_mask].tolist()}
    expected = [(a, b) not in trained and (b, a) not in trained for a, b in task.inputs.tolist()]
    assert task.novel_mask.tolist() == expected


@pytest.mark.parametrize("operation", MODULAR)
def test_commutes_agrees_with_the_labels(operation):
    task = make(operation=operation)
    labels = {(a, b): int(y) for (a, b), y in zip(task.inputs.tolist(), task.labels, strict=True)}
    assert task.commutes == all(labels.get((b, a)) == y for (a, b), y in labels.items())


def test_random_labels_have_no_mirrors():
    assert make(random_labels=True).mirror_mask is None


def test_an_unknown_split_has_no_masks():
    task = Task.of("add", 5)
    for name in ("train_mask", "test_mask", "mirror_mask", "novel_mask", "held_out_mask"):
        assert getattr(task, name) is None, name
    with pytest.raises(ConfigError, match="the train/test split is unknown: give a split"):
        task.require_split()


def test_what_is_required_is_returned():
    task = make()
    assert task.require_split() is task.train_mask
    assert task.require_group() is task.group


GROUPS = [("add", p) for p in MODULI] + [("subtract", p) for p in MODULI]
GROUPS += [(operation, p) for operation in ("multiply", "multiply_nonzero", "divide") for p in PRIMES]


@pytest.mark.parametrize(("operation", "p"), GROUPS)
def test_in_group_order_the_operation_is_addition(operation, p):
    group = Task.of(operation, p).group
    assert group is not None
    g = p if operation in ("add", "subtract") else p - 1
    left, right, classes = group.left.tolist(), group.right.tolist(), group.classes.tolist()
    assert group.order == g == len(set(left)) == len(set(right))
    assert sorted(classes) == list(range(p))
    for i in range(g):
        for j in range(g):
            assert answer(operation, left[i], right[j], p) == classes[(i + j) % g]


@pytest.mark.parametrize(("operation", "p"), GROUPS)
def test_grid_and_sum_classes_against_a_loop(operation, p):
    task = Task.of(operation, p)
    place = {pair: i for i, pair in enumerate(operands(operation, p))}
    left, right = task.group.left.tolist(), task.group.right.tolist()
    g = len(left)
    expected = [-1] * len(place)
    for i in range(g):
        for j in range(g):
            position = place[left[i], right[j]]
            assert int(task.grid_indices[i, j]) == position
            expected[position] = (i + j) % g
    assert task.sum_class.tolist() == expected


@pytest.mark.parametrize(
    ("operation", "p"),
    [(operation, 7) for operation in MODULAR if "^" in operation]
    + [(operation, p) for operation in ("multiply", "multiply_nonzero") for p in (4, 8, 15)],
)
def test_no_group_behind_polynomials_and_composite_products(operation, p):
    task = Task.of(operation, p)
    assert task.group is None
    assert task.grid_indices is None
    assert task.sum_class is None
    for call in (task.require_group, lambda: task.sum_classes("all")):
        with pytest.raises(ConfigError, match=r"has no cyclic group$"):
            call()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.9])
@pytest.mark.parametrize("operation", ["add", "divide"])
def test_label_noise_changes_only_a_fraction_of_the_training_labels(operation, share):
    noisy = make(operation=operation, label_noise=share)
    clean = make(operation=operation)
    changed = noisy.labels != clean.labels
    assert torch.equal(noisy.train_mask, clean.train_mask)
    assert int(changed.sum()) == round(share * int(clean.train_mask.sum()))
    assert not (changed & ~clean.train_mask).any()
    assert set(noisy.labels.tolist()) <= set(range(13))


def test_label_noise_reaches_every_other_class():
    noisy = Task.from_config(TaskConfig(p=31, train_fraction=0.9, label_noise=0.99))
    clean = Task.of("add", 31)
    shifts = ((noisy.labels - clean.labels) % 31)[noisy.labels != clean.labels]
    assert set(shifts.tolist()) == set(range(1, 31))


def test_random_labels_keep_the_split_and_are_uniform():
    control = Task.from_config(TaskConfig(p=31, train_fraction=0.3, data_seed=5, random_labels=True))
    original = Task.modular_addition(31, 0.3, data_seed=5)
    assert torch.equal(control.train_mask, original.train_mask)
    counts = np.bincount(control.labels.numpy(), minlength=31)
    assert len(counts) == 31
    chi_square = ((counts - 31.0) ** 2 / 31.0).sum()
    assert chi_square < 59.7, "30 degrees of freedom, one in a thousand"
    assert (control.labels == original.labels).float().mean() < 0.08


def test_random_labels_are_drawn_from_another_stream_than_the_split():
    task = make(random_labels=True, data_seed=5)
    stream_of_the_split = torch.Generator().manual_seed(5)
    assert not torch.equal(task.labels, torch.randint(13, (169,), generator=stream_of_the_split))


def test_label_noise_is_drawn_from_another_stream_than_the_split():
    noisy, clean = make(label_noise=0.3, data_seed=5), make(data_seed=5)
    trained = clean.train_mask.nonzero().flatten()
    stream_of_the_split = torch.Generator().manual_seed(5)
    drawn = trained[torch.randperm(len(trained), generator=stream_of_the_split)[: round(0.3 * len(trained))]]
    assert set((noisy.labels != clean.labels).nonzero().flatten().tolist()) != set(drawn.tolist())


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_outside_0_and_1_are_refused(fraction):
    with pytest.raises(ConfigError, match=r"train_fraction must lie strictly between 0 and 1, so that .* but is"):
        Task.modular_addition(5, fraction)


def test_fractions_without_training_inputs_are_refused():
    with pytest.raises(ConfigError, match=r"train_fraction 0.01 of 25 inputs leaves 0 to train on: choose a fraction"):
        Task.modular_addition(5, 0.01)


@pytest.mark.parametrize("indices", [[0, 7, 24], torch.tensor([24, 0, 7])])
def test_train_indices_make_the_training_set(indices):
    task = Task.modular_addition(5, train_indices=indices)
    assert task.train_mask.nonzero().flatten().tolist() == [0, 7, 24]
    assert task.config.split == "given"
    assert task.config.train_fraction == pytest.approx(3 / 25)


@pytest.mark.parametrize(
    "indices",
    [[], [0, 0], [25], [-1], list(range(25))],
    ids=["none", "repeated", "too large", "negative", "all"],
)
def test_invalid_train_indices_are_refused(indices):
    with pytest.raises(ConfigError, match="train_indices must be distinct positions among the 25 inputs"):
        Task.modular_addition(5, train_indices=indices)


@pytest.mark.parametrize(
    "indices", [[1.5, 2.5], [1.0, 2.0], [True, False], [True, 2], torch.arange(25) < 3, "12", [[1], [2, 3]], 1j]
)
def test_train_indices_that_are_not_integers_are_refused(indices, unchecked):
    with pytest.raises(ConfigError, match=r"^train_indices must be .*integers, but"):
        Task.modular_addition(5, train_indices=indices)


@pytest.mark.parametrize("p", [5.0, "5", True])
def test_the_modulus_is_an_integer(p, unchecked):
    with pytest.raises(ConfigError, match=r"^p must be an integer, but is "):
        Task.modular_addition(p)


def test_a_fraction_and_indices_exclude_each_other():
    with pytest.raises(ConfigError, match=r"^train_fraction and train_indices exclude each other"):
        Task.modular_addition(5, 0.4, train_indices=[1, 2])


def test_a_given_split_needs_its_indices():
    with pytest.raises(ConfigError, match="split 'given' needs train_indices"):
        Task.from_config(TaskConfig(p=5, split="given", train_fraction=0.2))


@pytest.mark.parametrize("operation", ["add", "divide"])
def test_tokens_end_in_equals_where_the_model_takes_it(operation):
    expected = operands(operation, 5)
    with_equals = Task.of(operation, 5)
    without = Task.of(operation, 5, equals_token=False)
    assert with_equals.tokens.tolist() == [[a, b, 5] for a, b in expected]
    assert without.tokens.tolist() == [[a, b] for a, b in expected]
