"""The run configuration and the published numbers of Chopra 2026 (github AgentTorch/psi)."""

from collections.abc import Iterable, Mapping
from typing import Any

from grokinterp.experiments.recipe import Arm, Form, Published, printed, variant

SOURCE = "Chopra 2026, github AgentTorch/psi"
BASE = variant("psi", schedule={"evaluate_every": 10, "checkpoints": "every:500"})


def full_form(arm: str, axis: str, values: Iterable[Any], seeds: range, cost: str) -> Form:
    """The sweep of an arm along an axis at psi's size, with three seeds per value."""
    return Form((Arm(arm, BASE, {axis: tuple(values), "model_seed": seeds}),), cost, "three seeds where psi has one")


def published_times(
    arm: str,
    axis: str,
    times: Mapping[Any, tuple[int, int | None]],
    late_times: Mapping[Any, int],
    norms: Mapping[Any, int] | None = None,
) -> tuple[Published, ...]:
    """Lists the numbers that psi prints for the sweep of an arm along an axis.

    Args:
        arm: the arm with the runs.
        axis: the field that the sweep varies.
        times: T_train(0.99) and T_grok(0.95) by value of the axis; None if psi's run did not grok.
        late_times: T_grok(0.99) by value.
        norms: L2 norm at T_grok(0.95) by value.
    """
    return (
        *printed("T_train(0.99)", arm, axis, "T_train_0.99", {value: train for value, (train, _) in times.items()}),
        *printed("T_grok(0.95)", arm, axis, "T_grok_0.95", {value: grok for value, (_, grok) in times.items()}),
        *printed("T_grok(0.99)", arm, axis, "T_grok_0.99", late_times),
        *printed("L2 norm at T_grok(0.95)", arm, axis, "weight_norm_at_T_grok_0.95", norms or {}),
    )
