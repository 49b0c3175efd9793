"""Named configurations: those of published work and a small one for newcomers."""

from dataclasses import dataclass
from functools import partial
from typing import Any, overload

from grokinterp.config.checks import require_one_of
from grokinterp.config.model import MLPConfig, TransformerConfig
from grokinterp.config.optimizer import OptimizerConfig
from grokinterp.config.regression import RegressionConfig
from grokinterp.config.run import RunConfig, config_fields
from grokinterp.config.schedule import ScheduleConfig
from grokinterp.config.task import TaskConfig
from grokinterp.errors import ConfigError, similar_fields

_float32 = partial(RunConfig, loss_dtype="float32")
_PRESETS: dict[str, RunConfig] = {
    "demo": _float32(
        model_seed=2,
        task=TaskConfig(p=67, train_fraction=0.4),
        model=TransformerConfig(d_model=64, n_heads=4, d_mlp=256),
        optimizer=OptimizerConfig(lr=2e-3, weight_decay=1.0),
        schedule=ScheduleConfig(
            steps=6000, evaluate_every=10, checkpoints="log:22:300+every:100", stop_when_grokked=True, stop_factor=1.7
        ),
    ),
    "nanda": RunConfig(
        task=TaskConfig(p=113, train_fraction=0.3, split="python", data_seed=0),
        model=TransformerConfig(biases="mlp", equals_logit=True, init="nanda"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, warmup_steps=10),
        schedule=ScheduleConfig(steps=40_000, evaluate_every="dense:0:1000:10+every:100"),
        model_seed=0,
    ),
    "transformer-lens": RunConfig(
        task=TaskConfig(p=113, train_fraction=0.3, split="torch", data_seed=598),
        model=TransformerConfig(d_model=128, n_heads=4, d_mlp=512),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0),
        schedule=ScheduleConfig(steps=25_000),
        model_seed=999,
    ),
    "psi": _float32(
        task=TaskConfig(p=97, train_fraction=0.5, split="numpy", data_seed=42),
        model=MLPConfig(input="one_hot", depth=2, width=128, activation="relu"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(steps=5000, evaluate_every=50, checkpoints=50),
        model_seed=42,
    ),
    "manir": _float32(
        task=TaskConfig(p=97, train_fraction=0.2),
        model=MLPConfig(input="sum", depth=2, width=256, activation="gelu"),
        optimizer=OptimizerConfig(name="sgd", lr=1e-2, momentum=0.9, weight_decay=2e-3, decay="coupled"),
        schedule=ScheduleConfig(
            steps=400_000, evaluate_every=100, checkpoints="log:60+every:2000", memorization_budget=60_000
        ),
    ),
    "manir-transformer": _float32(
        task=TaskConfig(p=97, train_fraction=0.2),
        model=TransformerConfig(
            d_model=512,
            d_mlp=2048,
            activation="gelu",
            normalization="layernorm",
            biases="trained",
            equals_token=False,
            init="torch_encoder",
            attention="bidirectional",
            readout="mean",
            final_norm=False,
        ),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.999), clip=1.0),
        schedule=ScheduleConfig(steps=400_000, evaluate_every=100, checkpoints="log:60+every:2000"),
    ),
    "power": _float32(
        task=TaskConfig(operation="divide", p=97, train_fraction=0.5),
        model=TransformerConfig(n_layers=2, normalization="post_layernorm", positions="sinusoidal", init="torch"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, warmup_steps=10, batch_size=512),
        schedule=ScheduleConfig(steps=100_000, evaluate_every=100, checkpoints="log:40+every:1000"),
    ),
    "s5": _float32(
        task=TaskConfig(operation="s5_xy", p=120, train_fraction=0.4),
        model=MLPConfig(input="concat", d_embed=128, depth=1, width=256, activation="relu"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, batch_size=1024),
        schedule=ScheduleConfig(
            steps=40_000, evaluate_every=100, checkpoints="log:40+every:500", stop_when_grokked=True, stop_factor=1.2
        ),
    ),
    "parity": _float32(
        task=TaskConfig(operation="parity", p=2, operands=10, train_fraction=0.5),
        model=MLPConfig(input="signs", depth=2, width=128, activation="relu"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(steps=2000, evaluate_every=10, checkpoints="log:20:200+every:50"),
    ),
    "teacher-student": _float32(
        task=RegressionConfig(threshold=1e-3),
        model=MLPConfig(input="vector", depth=2, width=100, activation="tanh", init_scale=2.0),
        optimizer=OptimizerConfig(lr=3e-4, weight_decay=0.05, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(steps=100_000, evaluate_every=200, checkpoints="log:40+every:2000"),
        model_seed=1,
        loss="mse",
    ),
}
PRESETS = tuple(_PRESETS)


@dataclass(frozen=True)
class Description:
    """What a preset is for.

    Attributes:
        what: the task and the model, in at most 32 characters.
        source: the work whose settings it has, in at most 20 characters.
        details: where the settings come from, and when the run ends, in sentences.
    """

    what: str
    source: str
    details: str


DESCRIPTIONS = {
    "demo": Description(
        "a+b mod 67, small transformer",
        "grokinterp",
        "For newcomers: it groks within minutes. It ends at 1.7 times the step of 99 % test accuracy.",
    ),
    "nanda": Description(
        "a+b mod 113, 1-layer transformer",
        "Nanda et al. 2023",
        "The main run of Nanda et al. 2023 (arXiv:2301.05217). It makes all 40,000 steps, as published, and so goes on "
        "long after it has grokked; with --schedule.stop-when-grokked it ends at 1.5 times the step of 99 % test "
        "accuracy. The first 1,000 steps are evaluated every 10 steps, which resolves T_train.",
    ),
    "transformer-lens": Description(
        "a+b mod 113, 1-layer transformer",
        "TransformerLens demo",
        "The grokking demo of TransformerLens (Grokking_Demo.ipynb): frozen biases and its split. It makes all steps.",
    ),
    "psi": Description(
        "a+b mod 97, MLP",
        "AgentTorch/psi",
        "The MLP on one-hot inputs of the repository AgentTorch/psi. It makes all steps.",
    ),
    "manir": Description(
        "a+b mod 97, MLP",
        "Manir and Rupa 2026",
        "The canonical run of Manir and Rupa 2026 (arXiv:2603.25009): SGD with momentum and coupled weight decay. It "
        "makes all 400,000 steps.",
    ),
    "manir-transformer": Description(
        "a+b mod 97, wide transformer",
        "Manir and Rupa 2026",
        "The transformer encoder of Manir and Rupa 2026 (arXiv:2603.25009), with bidirectional attention. It needs a "
        "GPU in practice.",
    ),
    "power": Description(
        "a/b mod 97, 2-layer transformer",
        "Power et al. 2022",
        "Division as in Power et al. 2022 (arXiv:2201.02177), in minibatches of 512, with weight decay. It makes all "
        "steps.",
    ),
    "s5": Description(
        "permutations in S5, MLP",
        "Power et al. 2022",
        "Composition of permutations, another task of Power et al. 2022 (arXiv:2201.02177), with an MLP that trains "
        "within minutes. It ends at 1.2 times the step of 99 % test accuracy.",
    ),
    "parity": Description(
        "parity of 10 bits, MLP", "grokinterp", "A small task that trains within seconds. It makes all steps."
    ),
    "teacher-student": Description(
        "regression, random teacher, MLP",
        "Liu et al. 2022",
        "A tanh MLP that learns another's outputs, as in the code of Liu et al. 2022 (arXiv:2210.01117). It makes all "
        "steps. Regressions have curves and figures of them, but no measures of circuits.",
    ),
}


@overload
def preset(name: str, **fields: Any) -> RunConfig: ...
@overload
def preset(name: None = None) -> Any: ...
def preset(name: str | None = None, **fields: Any) -> Any:
    """Returns the configuration with this name; without a name, the table of presets (`grokinterp.presets`).

    >>> preset("nanda").task.p
    113

    Args:
        name: one of `PRESETS`; the table says what each is.

    Raises:
        ConfigError: no preset has this name, or something else is given.
    """
    if name is None:
        import grokinterp

        return grokinterp.presets
    require_one_of(name, PRESETS, "preset")
    if fields:
        names = config_fields(_PRESETS[name])
        dotted = {(similar_fields(field, names) or [field])[0]: value for field, value in fields.items()}
        named = ", ".join(f'"{field}": {value!r}' for field, value in dotted.items())
        raise ConfigError(f'preset takes only a name: write preset("{name}").replace({{{named}}})')
    return _PRESETS[name]
