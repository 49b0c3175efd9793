"""Schedules: which steps they select, and which specifications are refused."""

import pytest

from grokinterp.config import ScheduleConfig, schedule_terms
from grokinterp.config.schedule import scheduled_steps
from grokinterp.errors import ConfigError

SCHEDULES = [
    (100, 250, [0, 100, 200, 250]),
    ("100", 250, [0, 100, 200, 250]),
    ("every:100", 200, [0, 100, 200]),
    ("every:1000", 1, [0, 1]),
    (1, 3, [0, 1, 2, 3]),
    ("log:4", 1000, [0, 1, 10, 100, 1000]),
    ("log:4:1000", 5000, [0, 1, 10, 100, 1000, 5000]),
    ("log:3", 1, [0, 1]),
    ("log:5", 16, [0, 1, 2, 4, 8, 16]),
    ("dense:10:12:1", 100, [0, 10, 11, 12, 100]),
    ("dense:800:1600:400", 1500, [0, 800, 1200, 1500]),
    ("dense:800:1600:300", 5000, [0, 800, 1100, 1400, 5000]),
    ("dense:0:4:2", 9, [0, 2, 4, 9]),
    ("dense:50:60:5", 40, [0, 40]),
    ("every:50+dense:10:12:1", 100, [0, 10, 11, 12, 50, 100]),
    (" log:3:100 + every:40 ", 120, [0, 1, 10, 40, 80, 100, 120]),
]


@pytest.mark.parametrize(("spec", "last", "steps"), SCHEDULES, ids=[f"{s}|{n}" for s, n, _ in SCHEDULES])
def test_schedules_select_these_steps(spec, last, steps):
    assert scheduled_steps(spec, last) == steps


def test_sixty_log_spaced_steps_and_every_two_thousandth():
    steps = scheduled_steps("log:60+every:2000", 400_000)
    assert set(range(0, 400_001, 2000)) <= set(steps)
    assert steps == sorted(set(steps))
    assert sum(step < 2000 for step in steps) == 1 + len(
        {round(400_000 ** (i / 59)) for i in range(60)} & set(range(2000))
    )


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "+",
        "100+",
        "0",
        "-5",
        "1.5",
        "every",
        "every:",
        "every:0",
        "every:1:2",
        "each:100",
        "log",
        "log:0",
        "log:3:0",
        "log:1:2:3",
        "log:-3",
        "dense:1:2",
        "dense:1:2:3:4",
        "dense:5:2:1",
        "dense:1:2:0",
        "every:100,log:60",
        0,
        -5,
    ],
)
def test_malformed_schedules_are_refused(spec):
    with pytest.raises(ConfigError) as error:
        schedule_terms(spec)
    assert f"schedule {str(spec)!r}" in str(error.value)
    assert "dense:FROM:TO:K" in str(error.value)
    with pytest.raises(ConfigError):
        ScheduleConfig(evaluate_every=spec)
    with pytest.raises(ConfigError):
        ScheduleConfig(checkpoints=spec)
