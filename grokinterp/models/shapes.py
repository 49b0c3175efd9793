"""Names and shapes of the parameters of a model, computed from its configuration without allocating anything."""

import math
from collections.abc import Iterable

from grokinterp.config import MLPConfig, ModelConfig, RegressionConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: ModelConfig, task: TaskConfig | RegressionConfig) -> Shapes:
    """Returns the shape of each parameter by name, in the order of the model's `named_parameters`.

    Args:
        config: the architecture.
        task: gives the number of operands, of their values, and of classes; or the sizes of inputs and outputs.

    Raises:
        ConfigError: the model is recorded: its architecture is not known.
    """
    if isinstance(config, TransformerConfig):
        return _transformer(config, *sizes(task))
    if isinstance(config, MLPConfig):
        return _mlp(config, *sizes(task))
    raise ConfigError("a recorded model has no known parameter shapes: its architecture is not known")


def sizes(task: TaskConfig | RegressionConfig) -> tuple[int, int, int]:
    """Returns the number of values of an operand, of outputs without `=`, and of operands; vectors have 0 values."""
    if isinstance(task, RegressionConfig):
        return 0, task.d_out, task.d_in
    return task.p, task.p, task.operands


def parameter_count(config: ModelConfig, task: TaskConfig | RegressionConfig) -> int:
    """Counts the weights of a model without building it.

    >>> parameter_count(MLPConfig(width=10, depth=1), TaskConfig(p=5))
    165

    Raises:
        ConfigError: the model is recorded: its architecture is not known.
    """
    return sum(math.prod(shape) for shape in parameter_shapes(config, task).values())


def hidden_matrices(names: Iterable[str]) -> tuple[str, ...]:
    """Selects the weight matrices between the first and the last layer: those of attention and of hidden layers.

    Embeddings, the unembedding, biases, and LayerNorms are not among them. Without embeddings, the first layer of an
    MLP is its input layer, and its weights are the embedding of one-hot inputs.

    >>> hidden_matrices(["layers.0.W", "layers.0.b", "layers.1.W", "unembed.W_U"])
    ('layers.1.W',)
    >>> hidden_matrices(["embed.W_E", "blocks.0.attn.W_Q", "blocks.0.attn.b_Q", "blocks.0.mlp.W_in", "unembed.W_U"])
    ('blocks.0.attn.W_Q', 'blocks.0.mlp.W_in')

    Args:
        names: of all parameters of the model, frozen ones included.
    """
    names = list(names)
    embedded = any(name.startswith("embed") for name in names)
    return tuple(
        name
        for name in names
        if name.startswith(("blocks.", "layers."))
        and name.rsplit(".", 1)[-1].startswith("W")
        and (embedded or name != "layers.0.W")
    )


def _transformer(config: TransformerConfig, p: int, n_classes: int, operands: int) -> Shapes:
    d, m, h, head = config.d_model, config.d_mlp, config.n_heads, config.head_width
    outputs = n_classes + config.equals_logit
    tokens = p + config.equals_token
    tables = {"embed": tokens} if config.shared_embedding else {"embed_a": p, "embed_b": tokens}
    shapes: Shapes = {f"{table}.W_E": (rows, d) for table, rows in tables.items()}
    shapes["pos_embed.W_pos"] = (operands + config.equals_token, d)
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        if config.normalization != "none":
            shapes |= {f"{block}.{norm}.{part}": (d,) for norm in ("ln1", "ln2") for part in "wb"}
        shapes |= {f"{block}.attn.W_Q": (h, d, head), f"{block}.attn.W_O": (h, head, d)}
        shapes |= {f"{block}.attn.b_Q": (h, head), f"{block}.attn.b_O": (d,)}
        shapes |= {f"{block}.attn.W_K": (h, d, head), f"{block}.attn.W_V": (h, d, head)}
        shapes |= {f"{block}.attn.b_K": (h, head), f"{block}.attn.b_V": (h, head)}
        shapes |= {f"{block}.mlp.W_in": (d, m), f"{block}.mlp.b_in": (m,)}
        shapes |= {f"{block}.mlp.W_out": (m, d), f"{block}.mlp.b_out": (d,)}
    if config.normalization == "layernorm" and config.final_norm:
        shapes |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    return shapes | {"unembed.W_U": (d, outputs), "unembed.b_U": (outputs,)}


def _mlp(config: MLPConfig, p: int, n_outputs: int, operands: int) -> Shapes:
    shapes: Shapes = {}
    inputs = {"signs": operands, "vector": operands, "one_hot_sum": p}
    n_input, width = inputs.get(config.input, operands * p), config.width
    if config.input in ("concat", "sum"):
        tables = ["embed"] if config.shared_embedding else ["embed_a", "embed_b"]
        shapes |= {f"{table}.W_E": (p, config.embedding_width) for table in tables}
        n_input = config.embedding_width * (operands if config.input == "concat" else 1)
    for i in range(config.depth):
        n_in = n_input if i == 0 else width
        shapes |= {f"layers.{i}.W": (n_in, width), f"layers.{i}.b": (width,)}
        if config.architecture == "residual":
            shapes |= {f"layers.{i}.W_out": (width, n_in), f"layers.{i}.b_out": (n_in,)}
            shapes |= {f"layers.{i}.ln.w": (n_in,), f"layers.{i}.ln.b": (n_in,)}
    shapes |= {"unembed.W_U": (width, n_outputs), "unembed.b_U": (n_outputs,)}
    biases = [name for name in shapes if name.rsplit(".", 1)[1].startswith("b") and ".ln." not in name]
    return shapes if config.biases else {name: shapes[name] for name in shapes if name not in biases}
