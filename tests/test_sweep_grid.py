"""The grid of a sweep: its points, their names, and values on a command line."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sweeps import BASE

from grokinterp.errors import ConfigError
from grokinterp.sweep import expand, parse_values


def test_every_combination_is_a_run():
    points = expand(BASE, grid={"optimizer.weight_decay": [0.3, 1], "model_seed": range(2)})
    assert [point.name for point in points] == [
        "weight_decay=0.3,model_seed=0",
        "weight_decay=0.3,model_seed=1",
        "weight_decay=1,model_seed=0",
        "weight_decay=1,model_seed=1",
    ]
    assert points[1].config(BASE) == replace(BASE, optimizer=replace(BASE.optimizer, weight_decay=0.3), model_seed=1)


def test_zipped_fields_move_together():
    points = expand(BASE, zipped={"optimizer.lr": [1e-3, 1e-2], "schedule.steps": [1000, 100]})
    assert [dict(point.values) for point in points] == [
        {"optimizer.lr": 1e-3, "schedule.steps": 1000},
        {"optimizer.lr": 1e-2, "schedule.steps": 100},
    ]


def test_points_zip_and_grid_combine():
    points = expand(
        BASE,
        points=[{"model.width": 8}, {"model.width": 16}],
        zipped={"optimizer.lr": [0.1, 0.2], "optimizer.eps": [1, 2]},
        grid={"model_seed": [5]},
    )
    assert [point.name for point in points] == [
        "width=8,lr=0.1,eps=1,model_seed=5",
        "width=8,lr=0.2,eps=2,model_seed=5",
        "width=16,lr=0.1,eps=1,model_seed=5",
        "width=16,lr=0.2,eps=2,model_seed=5",
    ]


def test_fields_are_shortened_to_their_last_word_and_numpy_values_become_python_values():
    (point,) = expand(BASE, grid={"task.data_seed": [1], "schedule.checkpoints": ["log:5+every:50"]})
    assert point.name == "data_seed=1,checkpoints=log_5+every_50"
    (point,) = expand(BASE, grid={"optimizer.lr": np.array([0.5])})
    assert point.values == {"optimizer.lr": 0.5}
    assert type(point.values["optimizer.lr"]) is float


def test_values_with_the_same_folder_name_get_different_names():
    points = expand(BASE, grid={"schedule.checkpoints": ["every:50", "every/50"]})
    first, second = (point.name for point in points)
    assert first == "checkpoints=every_50"
    assert re.fullmatch(r"checkpoints=every_50-[0-9a-f]{8}", second)


def test_long_names_are_shortened_and_stay_unique_in_any_order():
    values = ["every:100" + "+every:100" * 30, "every:100" + "+every:100" * 31]
    names = [point.name for point in expand(BASE, grid={"schedule.checkpoints": values})]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 160 for name in names)
    backwards = [point.name for point in expand(BASE, grid={"schedule.checkpoints": values[::-1]})]
    assert backwards == names[::-1]
    (wide,) = expand(BASE, grid={"schedule.evaluate_every": ["é" * 150]})
    assert len(wide.name.encode()) <= 160


def test_names_differ_on_file_systems_that_ignore_case():
    names = [point.name for point in expand(BASE, grid={"task.operation": ["add", "ADD"]})]
    assert names[0] == "operation=add"
    assert names[1].lower() != names[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": {"optimizer.weight_decoy": [1]}}, "did you mean 'optimizer.weight_decay'"),
        ({"grid": {"model.d_mlp": [1]}}, "model.d_mlp is not a field"),
        ({"grid": {"model.kind": ["mlp"]}}, "one sweep per kind"),
        ({"grid": {"model_seed": [1]}, "zipped": {"model_seed": [2]}}, "given twice"),
        ({"grid": {"model_seed": []}}, "no values"),
        ({"zipped": {"model_seed": [1, 2], "optimizer.lr": [1]}}, "2 of model_seed, 1 of optimizer.lr"),
        ({"grid": {"model_seed": [1, 1]}}, "model_seed=1 is in the sweep twice"),
        ({"grid": {"optimizer.weight_decay": [1, 1.0]}}, "twice"),
        ({"grid": {"optimizer.weight_decay": [0.5, "0.5 "]}}, "the same run"),
        ({"grid": {"model.activation": "relu"}}, "needs a list of values"),
        ({"grid": {"model_seed": [{1, 2}]}}, "cannot be the value of a field"),
        ({"grid": {"task.operation": ["\ud800"]}}, "cannot be the value of a field"),
        ({"points": []}, "at least one"),
        ({"grid": {"model_seed": range(1000), "task.data_seed": range(1000)}}, "has 1,000,000 runs"),
    ],
)
def test_expand_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        expand(BASE, **arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model_seed=0:5", ("model_seed", [0, 1, 2, 3, 4])),
        ("model_seed=0:10:4,20", ("model_seed", [0, 4, 8, 20])),
        ("optimizer.lr=1e-3,0.3", ("optimizer.lr", [0.001, 0.3])),
        ("optimizer.betas=[0.9,0.98],[0.9,0.999]", ("optimizer.betas", [[0.9, 0.98], [0.9, 0.999]])),
        ("task.operation=x^2+xy,add", ("task.operation", ["x^2+xy", "add"])),
        ("model.biases=true,false", ("model.biases", [True, False])),
        ("schedule.checkpoints=log:22:300+every:100", ("schedule.checkpoints", ["log:22:300+every:100"])),
    ],
)
def test_values_on_a_command_line(text, expected):
    assert parse_values(text) == expected


def test_numpy_numbers_inside_lists_become_python_numbers():
    (point,) = expand(BASE, grid={"optimizer.betas": [(np.float32(0.5), np.array([0.25])[0])]})
    assert point.values == {"optimizer.betas": [0.5, 0.25]}


@pytest.mark.parametrize(
    "text", ["model_seed", "=1", "model_seed=", "model_seed=3:3", "a=0:4:0", "a=1,,2", "a=0:3000000000"]
)
def test_malformed_values_on_a_command_line(text):
    with pytest.raises(ConfigError):
        parse_values(text)
