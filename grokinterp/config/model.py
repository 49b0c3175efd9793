"""The architectures: TransformerConfig, MLPConfig, and RecordedConfig for a model of unknown architecture."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator

from grokinterp.config.checks import STRICT, Fields, check_fields, require, require_finite, require_sizes, require_unit
from grokinterp.config.regression import RegressionConfig
from grokinterp.config.task import TaskConfig


def _check_numbers(config: "TransformerConfig | MLPConfig") -> None:
    require_finite(config.init_scale, "init_scale", above=True)
    require_finite(config.output_scale, "output_scale", above=True)
    require_unit(config.dropout, "dropout")


@dataclass(frozen=True)
class TransformerConfig(Fields):
    """A TransformerLens HookedTransformer, read at its last position or from the mean over positions.

    Example:
        >>> model = TransformerConfig(n_layers=2, d_model=64)
        >>> model.n_heads, model.d_mlp
        (4, 512)
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    kind: Literal["transformer"] = "transformer"
    """kind of model"""
    n_layers: int = 1
    """number of blocks"""
    n_heads: int = 4
    """attention heads per block"""
    d_model: int = 128
    """width of the residual stream"""
    d_head: int | None = None
    """width of each head; None: d_model / n_heads"""
    d_mlp: int = 512
    """MLP neurons per block"""
    activation: Literal["relu", "gelu", "tanh"] = "relu"
    """activation function of the neurons"""
    normalization: Literal["none", "layernorm", "post_layernorm"] = "none"
    """`layernorm`: LayerNorm before attention, MLP, and unembedding; `post_layernorm`: LayerNorm after the outputs of
    attention and MLP are added to the residual stream, but none before the unembedding (Power et al. 2022)"""
    biases: Literal["frozen", "mlp", "trained"] = "frozen"
    """`frozen`: all biases stay 0; `mlp`: only b_in and b_out are trained (Nanda et al.); `trained`: all are trained"""
    equals_token: bool = True
    """`equals_token`: whether inputs end in `=`, at which the answer is read; otherwise, it is read at the last
    operand"""
    equals_logit: bool = False
    """add an output class for `=` (c = p + 1, as in Nanda et al.); measures ignore this class"""
    init: Literal["nanda", "transformer_lens", "torch", "torch_encoder"] = "transformer_lens"
    """`torch`: nn.Linear and nn.Embedding defaults; `torch_encoder`: nn.TransformerEncoderLayer defaults, with position
    embeddings that are initially near 0; `nanda`, `transformer_lens`: as in the code of that name"""
    init_scale: float = 1.0
    """alpha: factor by which every initial weight is multiplied (Liu et al. 2022)"""
    output_scale: float = 1.0
    """alpha: factor by which logits are multiplied (Kumar et al. 2023); lr and loss are not rescaled to match"""
    dropout: float = 0.0
    """fraction of hidden neurons set to 0 in each update; the others are multiplied by 1 / (1 - dropout)"""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """kind of position embeddings; `sinusoidal`: fixed (Vaswani et al. 2017), as in Power et al. 2022"""
    attention: Literal["causal", "bidirectional"] = "causal"
    """`causal`: each position attends to itself and earlier positions; `bidirectional`: it attends to all positions"""
    readout: Literal["last", "mean"] = "last"
    """whether the answer is read at the last position or from the mean over positions (`mean` needs bidirectional
    attention)"""
    attention_rate: float = 1.0
    """share of softmax attention; the rest is constant attention of 1 to every position (Zhong et al. 2023)"""
    shared_embedding: bool = True
    """`shared_embedding`: whether both operands share one embedding (`embed.W_E`); otherwise, each has its own
    (`embed_a.W_E`, and `embed_b.W_E`, whose last row embeds `=`)"""
    final_norm: bool = True
    """`final_norm`: for normalization `layernorm`, whether a LayerNorm precedes the unembedding"""

    def __post_init__(self) -> None:
        check_fields(self)
        require_sizes(self, ("n_heads", "d_model", "d_mlp", "d_head"), "n_layers")
        require(
            self.d_head is not None or self.d_model % self.n_heads == 0,
            f"d_model = {self.d_model} is not a multiple of n_heads = {self.n_heads}: change one, or set d_head",
        )
        require(self.equals_token or not self.equals_logit, "equals_logit needs equals_token")
        require(
            self.readout == "last" or self.attention == "bidirectional",
            "readout mean needs attention bidirectional: with causal attention the first position sees only itself",
        )
        require(0 <= self.attention_rate <= 1, f"attention_rate must lie in [0, 1], but is {self.attention_rate}")
        require(
            self.attention_rate == 1 or self.attention == "bidirectional",
            "attention_rate below 1 needs attention bidirectional: constant attention has no mask",
        )
        require(
            self.final_norm or self.normalization == "layernorm",
            f"final_norm false applies only to normalization layernorm: {self.normalization} has no final LayerNorm",
        )
        _check_numbers(self)

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.d_head if self.d_head is not None else self.d_model // self.n_heads

    @property
    def reads_linearly(self) -> bool:
        """Whether the logits are a linear function of the neurons of the last layer."""
        return self.normalization == "none" or (self.normalization == "layernorm" and not self.final_norm)

    def trains(self, parameter: str) -> bool:
        """Whether the named parameter is trained; frozen biases and sinusoidal positions are not."""
        if parameter == "pos_embed.W_pos":
            return self.positions == "learned"
        is_bias = parameter.rsplit(".", 1)[-1].startswith("b_")
        return not is_bias or self.biases == "trained" or (self.biases == "mlp" and ".mlp." in parameter)


@dataclass(frozen=True)
class MLPConfig(Fields):
    """A multi-layer perceptron that takes the operands as input, implemented as a HookedRootModule.

    Example:
        >>> MLPConfig(input="sum", depth=1, width=256, activation="quadratic").kind
        'mlp'
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    kind: Literal["mlp"] = "mlp"
    """kind of model"""
    input: Literal["one_hot", "one_hot_sum", "concat", "sum", "signs", "vector"] = "one_hot"
    """input of the first layer; `one_hot`: concatenated one-hot vectors; `one_hot_sum`: the sum of the one-hot vectors
    (symmetric in the operands); `concat`: concatenated embeddings; `sum`: the sum of the embeddings (symmetric);
    `signs`: bits encoded as -1 and 1; `vector`: the input vectors of a regression task"""
    shared_embedding: bool = True
    """`shared_embedding`: whether all operands share one embedding (`embed.W_E`); otherwise, each of the two operands
    has its own (`embed_a.W_E`, `embed_b.W_E`)"""
    d_embed: int | None = None
    """width of each embedding; None: width"""
    depth: int = 2
    """number of hidden layers or residual blocks"""
    width: int = 128
    """neurons per hidden layer"""
    architecture: Literal["flat", "residual"] = "flat"
    """`flat`: ordinary layers; `residual`: h + W_out act(W LayerNorm(h)) / 2 in every block (Manir and Rupa 2026)"""
    activation: Literal["relu", "gelu", "tanh", "quadratic"] = "relu"
    """activation function of the neurons"""
    biases: bool = True
    """`biases`: whether every layer has a bias"""
    init: Literal["torch", "normal", "unit"] = "torch"
    """`torch`: nn.Linear and nn.Embedding defaults; `normal`: N(0, 1/fan_in), biases 0; `unit`: N(0, 1), biases 0"""
    init_scale: float = 1.0
    """alpha: factor by which every initial weight is multiplied (Liu et al. 2022)"""
    output_scale: float = 1.0
    """alpha: factor by which logits are multiplied (Kumar et al. 2023); lr and loss are not rescaled to match"""
    dropout: float = 0.0
    """fraction of hidden neurons set to 0 in each update; the others are multiplied by 1 / (1 - dropout)"""

    def __post_init__(self) -> None:
        check_fields(self)
        require_sizes(self, ("width", "d_embed"), "depth")
        embedded = self.input in ("sum", "concat")
        require(embedded or self.d_embed is None, f"d_embed has no effect with model.input {self.input}")
        if self.architecture == "residual":
            width = self.embedding_width if self.input == "sum" else 2 * self.embedding_width
            require(
                embedded and width == self.width,
                f"a residual MLP adds its blocks to its input, so the input must be embedded and as wide as the "
                f"layers ({self.width}), but it is {width if embedded else self.input}",
            )
        _check_numbers(self)

    @property
    def embedding_width(self) -> int:
        """Width of an embedding."""
        return self.d_embed if self.d_embed is not None else self.width

    @property
    def has_hidden_matrices(self) -> bool:
        """Whether there is a weight matrix between the input layer (or the embeddings) and the unembedding."""
        return self.depth > 1 or self.input in ("concat", "sum")


@dataclass(frozen=True)
class RecordedConfig(Fields):
    """A model of unknown architecture, trained outside grokinterp; its logits were recorded."""

    __pydantic_config__: ClassVar[Any] = STRICT

    kind: Literal["recorded"] = "recorded"
    """kind of model"""
    description: str = ""
    """description of the model for human readers"""
    equals_token: bool = False
    """whether the token `=` follows the operands in what the model was called with"""

    def __post_init__(self) -> None:
        check_fields(self)
        readable = self.description.encode(errors="replace").decode() == self.description
        require(readable, f"description must be text that can be encoded as UTF-8, but is {self.description!r}")


ModelConfig = Annotated[TransformerConfig | MLPConfig | RecordedConfig, Discriminator("kind")]


def require_fit(model: TransformerConfig | MLPConfig | RecordedConfig, task: TaskConfig | RegressionConfig) -> None:
    """Raises a ConfigError if the model cannot read the inputs of the task."""
    if isinstance(task, RegressionConfig):
        reads_vectors = isinstance(model, MLPConfig) and model.input == "vector"
        require(reads_vectors, f"{task.title} is a regression: it needs model.kind mlp with model.input vector")
        return
    if isinstance(model, TransformerConfig):
        require(
            model.shared_embedding or task.operands == 2,
            f"model.shared_embedding false works only for 2 operands, and {task.title} has {task.operands}",
        )
    if not isinstance(model, MLPConfig):
        return
    require(model.input != "vector", f"model.input vector works only for regressions, and {task.title} is not one")
    require(model.input != "signs" or task.p == 2, f"model.input signs works only for bits, and {task.title} has none")
    if task.operands != 2:
        embedded = model.input in ("concat", "sum")
        require(
            model.shared_embedding or not embedded,
            f"model.shared_embedding false works only for 2 operands, and {task.title} has {task.operands}",
        )
        require(
            model.architecture == "flat" or model.input != "concat",
            f"a residual MLP with model.input concat works only for 2 operands, and {task.title} has {task.operands}: "
            "choose model.input sum or model.architecture flat",
        )
