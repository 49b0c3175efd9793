"""The names and shapes of a model's parameters, from its configuration: known before anything of that size is made."""

from grokinterp.config import MLPConfig, ModelConfig, RegressionConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: ModelConfig, task: TaskConfig | RegressionConfig) -> Shapes:
    """What the named parameters of `build_model` have, by name.

    Args:
        config: the architecture.
        task: gives the number of operands, of their values, and of classes; or the sizes of inputs and outputs.

    Raises:
        ConfigError: a recorded model, whose architecture is not known.
    """
    if isinstance(task, RegressionConfig):
        p, n_outputs, operands = 0, task.d_out, task.d_in
    else:
        p, n_outputs, operands = task.p, task.p, task.operands
    if isinstance(config, TransformerConfig):
        return _transformer(config, p, n_outputs, operands)
    if isinstance(config, MLPConfig):
        return _mlp(config, p, n_outputs, operands)
    raise ConfigError("a recorded model's architecture is not known, and so are the shapes of its parameters")


def _transformer(config: TransformerConfig, p: int, n_classes: int, operands: int) -> Shapes:
    d, m, h, head = config.d_model, config.d_mlp, config.n_heads, config.head_width
    outputs = n_classes + config.equals_logit
    found: Shapes = {"embed.W_E": (p + config.equals_token, d), "pos_embed.W_pos": (operands + config.equals_token, d)}
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        for kind in "QKV":
            found |= {f"{block}.attn.W_{kind}": (h, d, head), f"{block}.attn.b_{kind}": (h, head)}
        found |= {f"{block}.attn.W_O": (h, head, d), f"{block}.attn.b_O": (d,)}
        found |= {f"{block}.mlp.W_in": (d, m), f"{block}.mlp.b_in": (m,)}
        found |= {f"{block}.mlp.W_out": (m, d), f"{block}.mlp.b_out": (d,)}
        if config.normalization != "none":
            found |= {f"{block}.{norm}.{part}": (d,) for norm in ("ln1", "ln2") for part in "wb"}
    if config.normalization == "layernorm" and config.final_norm:
        found |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    return found | {"unembed.W_U": (d, outputs), "unembed.b_U": (outputs,)}


def _mlp(config: MLPConfig, p: int, n_outputs: int, operands: int) -> Shapes:
    found: Shapes = {}
    fed, width = operands if config.input in ("signs", "vector") else operands * p, config.width
    if config.input in ("concat", "sum"):
        tables = ["embed"] if config.shared_embedding else ["embed_a", "embed_b"]
        found |= {f"{table}.W_E": (p, config.embedding_width) for table in tables}
        fed = config.embedding_width * (operands if config.input == "concat" else 1)
    for i in range(config.depth):
        n_in = fed if i == 0 else width
        found[f"layers.{i}.W"] = (n_in, width)
        if config.biases:
            found[f"layers.{i}.b"] = (width,)
        if config.architecture == "residual":
            found |= {f"layers.{i}.ln.w": (n_in,), f"layers.{i}.ln.b": (n_in,), f"layers.{i}.W_out": (width, n_in)}
            if config.biases:
                found[f"layers.{i}.b_out"] = (n_in,)
    found["unembed.W_U"] = (width, n_outputs)
    return found | ({"unembed.b_U": (n_outputs,)} if config.biases else {})
