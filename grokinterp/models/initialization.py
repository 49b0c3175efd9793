"""Initial weights, drawn from a separate generator for each run. Nothing here imports transformer_lens.

TransformerLens reseeds the global generator when its configuration has a seed, and its versions 3 and 4 draw W_O and
W_out differently, so the weights are drawn here.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokinterp.config import MLPConfig, ModelConfig, RecordedConfig, RunConfig, TransformerConfig, require_fit
from grokinterp.errors import ConfigError
from grokinterp.models.memory import require_memory
from grokinterp.models.shapes import Shapes, parameter_count, parameter_shapes
from grokinterp.tasks import AnyTask

_COPIES_OF_WEIGHTS = 2  # while they are drawn
_POSITION_STD = 0.02  # of the initial positions of `torch_encoder`, as usual in encoders


def initial_parameters(
    config: RunConfig | ModelConfig, task: AnyTask, seed: int | None = None, device: str = "cpu"
) -> dict[str, nn.Parameter]:
    """The parameters of a freshly initialized model by name, in the order of the model's `named_parameters`.

    >>> import grokinterp as gi
    >>> task = gi.Task.modular_addition(p=7, equals_token=False)
    >>> sorted(initial_parameters(gi.MLPConfig(width=16), task, seed=0))
    ['layers.0.W', 'layers.0.b', 'layers.1.W', 'layers.1.b', 'unembed.W_U', 'unembed.b_U']

    Training needs no more than these, and saves the seconds that importing TransformerLens takes.

    Args:
        config: configuration of a run (whose `model_seed` is the default seed) or of a model.
        task: gives the number of operands, of their values, and of classes; or the sizes of inputs and outputs.
        seed: seed of the initialization, which is drawn on the CPU for every device.
        device: device of the parameters.

    Raises:
        ConfigError: the model is recorded (its architecture is not known), cannot read the inputs of the task, or does
            not fit into memory.
    """
    if isinstance(config, RunConfig):
        seed = config.model_seed if seed is None else seed
        config = config.model
    require_fit(config, task.config)
    if isinstance(config, RecordedConfig):
        raise ConfigError(
            "a recorded model cannot be built: only its logits and weights are known, not its architecture; "
            "run.with_model(model) says which model it is"
        )
    count = parameter_count(config, task.config)
    require_memory(4 * _COPIES_OF_WEIGHTS * count, f"a model of {count:,} parameters")
    generator = torch.Generator().manual_seed(seed or 0)
    shapes = parameter_shapes(config, task.config)
    if isinstance(config, TransformerConfig):
        weights = _transformer_weights(config, shapes, generator)
        return {name: nn.Parameter(w.to(device), config.trains(name)) for name, w in weights.items()}
    return {name: nn.Parameter(w.to(device)) for name, w in _mlp_weights(config, shapes, generator).items()}


def _transformer_weights(config: TransformerConfig, shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws each matrix in order; biases are 0 unless the scheme draws the trained ones.

    `transformer_lens`: N(0, 0.64 / d_model), what its version 3 draws for the same seed. `nanda`: N(0, 1 / d_model),
    W_U N(0, 1 / d_vocab) (Nanda et al. 2023, code). `torch`: embeddings N(0, 1), the rest uniform within
    1 / sqrt(fan_in), including trained biases, as in nn.Embedding and nn.Linear. `torch_encoder`: the same, except that
    W_Q, W_K, W_V are uniform within sqrt(6 / (d_model + 3 n_heads d_head)) and the biases of attention are 0, as in
    nn.MultiheadAttention, and positions are N(0, 0.02^2); this gives the RMS that Manir and Rupa 2026 print. Sinusoidal
    positions are not scaled.
    """
    encoder = config.init == "torch_encoder"
    d_vocab = sum(shape[0] for name, shape in shapes.items() if name.endswith(".W_E"))
    attention_width = config.n_heads * config.head_width
    fan_in = {"W_O": attention_width, "b_O": attention_width, "W_out": config.d_mlp, "b_out": config.d_mlp}
    xavier = math.sqrt(6 / (config.d_model + 3 * attention_width))
    weights: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        kind = name.rsplit(".", 1)[1]
        weight = weights[name] = torch.zeros(shape)
        bound = 1 / math.sqrt(fan_in.get(kind, config.d_model))
        if kind in ("w", "b"):  # LayerNorm
            weight.fill_(1.0 if kind == "w" else 0.0)
            continue
        if kind == "W_pos" and config.positions == "sinusoidal":
            weight.copy_(_sinusoids(*shape))
            continue
        if kind.startswith("b_"):
            random = config.init == "torch" or (encoder and ".attn." not in name)
            if random and config.trains(name):
                weight.uniform_(-bound, bound, generator=generator)
        elif config.init == "transformer_lens":
            weight.normal_(std=0.8 / math.sqrt(config.d_model), generator=generator)
        elif config.init == "nanda":
            weight.normal_(std=1 / math.sqrt(d_vocab if kind == "W_U" else config.d_model), generator=generator)
        elif kind in ("W_E", "W_pos"):
            weight.normal_(std=_POSITION_STD if encoder and kind == "W_pos" else 1.0, generator=generator)
        elif encoder and kind in ("W_Q", "W_K", "W_V"):
            weight.uniform_(-xavier, xavier, generator=generator)
        else:
            weight.uniform_(-bound, bound, generator=generator)
        weight.mul_(config.init_scale)
    return weights


def _sinusoids(n_positions: int, width: int) -> Float[Tensor, "t d"]:
    """sin(t / 10000^(i / d)) in each even column i, and its cosine in the next column (Vaswani et al. 2017)."""
    column = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(n_positions)[:, None] / 10000 ** ((column - column % 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def _mlp_weights(config: MLPConfig, shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws each parameter in order.

    `torch` draws what `nn.Linear` and `nn.Embedding` draw, in their order and layout, so a generator seeded with s
    gives the weights of a plain PyTorch MLP built after `torch.manual_seed(s)`.
    """
    weights: dict[str, Tensor] = {}
    bound = 1.0
    for name, shape in shapes.items():
        kind = name.rsplit(".", 1)[1]
        weight = weights[name] = torch.zeros(shape)
        if ".ln." in name:
            weight.fill_(1.0 if kind == "w" else 0.0)
            continue
        if kind == "W_E":
            weight.normal_(generator=generator)
        elif "W" in kind:
            bound = 1 / math.sqrt(len(weight))
            if config.init == "torch":
                weight.copy_(torch.empty(weight.T.shape).uniform_(-bound, bound, generator=generator).T)
            else:
                weight.normal_(std=1.0 if config.init == "unit" else bound, generator=generator)
        elif config.init == "torch":  # a bias, right after its matrix
            weight.uniform_(-bound, bound, generator=generator)
        weight.mul_(config.init_scale)
    return weights
