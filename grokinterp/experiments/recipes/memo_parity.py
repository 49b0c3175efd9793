"""Recipe `memo-parity`: is training on parity of 10 bits stuck without weight decay?"""

from dataclasses import replace

from grokinterp.config import OptimizerConfig, RunConfig, ScheduleConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.parity import delayed, sooner_with_decay, stuck_without_decay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe

_DECAY = "optimizer.weight_decay"


def _mlp(steps: int) -> RunConfig:
    schedule = ScheduleConfig(steps=steps, evaluate_every=20, checkpoints="log:10+every:1000")
    return replace(preset("parity"), schedule=schedule)


def _transformer(steps: int) -> RunConfig:
    return replace(
        preset("parity"),
        model=TransformerConfig(d_model=64, n_heads=4, d_mlp=256),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0),
        schedule=ScheduleConfig(steps=steps, evaluate_every=10, checkpoints="log:10+every:100"),
    )


_POWER = replace(
    preset("parity"),
    model=preset("power").model,
    optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, warmup_steps=10, batch_size=256),
    schedule=ScheduleConfig(steps=4000, evaluate_every=20, checkpoints="log:10+every:500"),
)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    networks = {"MLP": "mlp", "transformer": "transformer", "2-layer transformer": "power"}
    return tuple(
        claim(evidence.table(arm), network)
        for network, arm in networks.items()
        if arm in evidence.arms
        for claim in (stuck_without_decay, sooner_with_decay, delayed)
    )


RECIPE = Recipe(
    name="memo-parity",
    title="Parity of 10 bits, with and without weight decay",
    source="Grokking as a phase transition in transformer training, a memo of February 2026",
    full=Form(
        (
            Arm("mlp", _mlp(20_000), {_DECAY: (0.0, 1.0), "model_seed": range(5)}),
            Arm("transformer", _transformer(3000), {_DECAY: (0.0, 1.0), "model_seed": range(5)}),
            Arm("power", _POWER, {_DECAY: (0.0, 1.0), "model_seed": range(3)}),
        ),
        "about an hour (estimated)",
        "the memo specifies only 10 bits as tokens; this recipe trains on half of the strings with the preset's MLP, a "
        "1-layer transformer, and the 2-layer transformer of Power et al. 2022",
    ),
    quick=Form(
        (
            Arm("mlp", _mlp(3000), {_DECAY: (0.0, 1.0), "model_seed": range(3)}),
            Arm("transformer", _transformer(400), {_DECAY: (0.0, 1.0), "model_seed": range(3)}),
        ),
        "40 s",
        "three seeds, fewer steps, no 2-layer transformer",
    ),
    decide=_decide,
)
