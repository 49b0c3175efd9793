"""The architectures: TransformerConfig, MLPConfig, and RecordedConfig where it is not known."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator

from grokinterp.config.checks import DEEPEST, STRICT, WIDEST, check_fields, require, require_finite, require_in
from grokinterp.config.regression import RegressionConfig
from grokinterp.config.task import TaskConfig


def _check_output(config: "TransformerConfig | MLPConfig") -> None:
    require_finite(config.output_scale, "output_scale", above=True)
    require(0 <= config.dropout < 1, f"dropout must lie in [0, 1), but is {config.dropout}")


@dataclass(frozen=True)
class TransformerConfig:
    """A TransformerLens HookedTransformer, read at its last position or averaged over all."""

    __pydantic_config__: ClassVar[Any] = STRICT

    kind: Literal["transformer"] = "transformer"
    n_layers: int = 1
    n_heads: int = 4
    d_model: int = 128
    d_head: int | None = None
    """width of a head; by default d_model / n_heads"""
    d_mlp: int = 512
    activation: Literal["relu", "gelu"] = "relu"
    normalization: Literal["none", "layernorm", "post_layernorm"] = "none"
    """`layernorm`: before attention, MLP and read-out; `post_layernorm`: after what attention and MLP give is added to
    the residual stream (Power et al. 2022), and none before the read-out"""
    biases: Literal["frozen", "mlp", "trained"] = "frozen"
    """`frozen`: all stay 0; `mlp`: only b_in and b_out are trained (Nanda et al.); `trained`: all are"""
    equals_token: bool = True
    """whether inputs end in `=`, at whose position the answer is read; without it, at the last operand's"""
    equals_logit: bool = False
    """whether the output has a class for `=` too (c = p + 1, as in Nanda et al.); measures drop it"""
    init: Literal["nanda", "transformer_lens", "torch", "torch_encoder"] = "transformer_lens"
    """`torch`: nn.Linear's and nn.Embedding's defaults; `torch_encoder`: nn.TransformerEncoderLayer's, with positions
    that start near 0; the others as in the codes of that name"""
    init_scale: float = 1.0
    """alpha: every initial weight is multiplied by it (Liu et al. 2022)"""
    output_scale: float = 1.0
    """alpha: the logits are multiplied by it (Kumar et al. 2023); scaling lr and loss with it is left to you"""
    dropout: float = 0.0
    """share of the hidden neurons that are set to 0 in an update, the others being scaled by 1 / (1 - dropout)"""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """`sinusoidal`: fixed (Vaswani et al. 2017), as in Power et al. 2022"""
    attention: Literal["causal", "bidirectional"] = "causal"
    """whether a position sees itself and those before it, or all"""
    readout: Literal["last", "mean"] = "last"
    """whether the last position is read, or the mean over all positions, which needs bidirectional attention"""
    final_norm: bool = True
    """with normalization `layernorm`: whether there is one before the read-out"""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("n_heads", "d_model", "d_mlp"):
            require_in(getattr(self, name), name, 1, WIDEST)
        require_in(self.n_layers, "n_layers", 1, DEEPEST)
        if self.d_head is None:
            require(
                self.d_model % self.n_heads == 0,
                f"d_model = {self.d_model} is not a multiple of n_heads = {self.n_heads}: change one, or give d_head",
            )
        else:
            require_in(self.d_head, "d_head", 1, WIDEST)
        require(self.equals_token or not self.equals_logit, "equals_logit needs equals_token")
        require(
            self.readout == "last" or self.attention == "bidirectional",
            "readout mean needs attention bidirectional: under a causal mask the first position never sees the others",
        )
        require(
            self.final_norm or self.normalization == "layernorm",
            f"final_norm false goes with normalization layernorm: {self.normalization} has no final norm to leave out",
        )
        require_finite(self.init_scale, "init_scale", above=True)
        _check_output(self)

    @property
    def head_width(self) -> int:
        return self.d_head if self.d_head is not None else self.d_model // self.n_heads

    @property
    def reads_linearly(self) -> bool:
        """Whether nothing but linear maps lies between the last layer's neurons and the logits."""
        return self.normalization == "none" or (self.normalization == "layernorm" and not self.final_norm)

    def trains(self, parameter: str) -> bool:
        """Whether the parameter of that name is trained; frozen biases and sinusoidal positions are not."""
        if parameter == "pos_embed.W_pos":
            return self.positions == "learned"
        is_bias = parameter.rsplit(".", 1)[-1].startswith("b_")
        return not is_bias or self.biases == "trained" or (self.biases == "mlp" and ".mlp." in parameter)


@dataclass(frozen=True)
class MLPConfig:
    """A multi-layer perceptron on the operands, as a HookedRootModule."""

    __pydantic_config__: ClassVar[Any] = STRICT

    kind: Literal["mlp"] = "mlp"
    input: Literal["one_hot", "concat", "sum", "signs", "vector"] = "one_hot"
    """one-hot vectors side by side; embeddings side by side; embeddings added (symmetric in the operands); of bits, the
    numbers -1 and 1; of a regression, its numbers"""
    shared_embedding: bool = True
    """one table for all operands (`embed.W_E`) or, of two, one each (`embed_a.W_E`, `embed_b.W_E`)"""
    d_embed: int | None = None
    """width of an embedding; by default the layers' width"""
    depth: int = 2
    """number of hidden layers, or of residual blocks"""
    width: int = 128
    architecture: Literal["flat", "residual"] = "flat"
    """`residual`: h + W_out act(W LayerNorm(h)) / 2 in every block (Manir and Rupa 2026)"""
    activation: Literal["relu", "gelu", "tanh", "quadratic"] = "relu"
    biases: bool = True
    init: Literal["torch", "normal", "unit"] = "torch"
    """`torch`: nn.Linear's and nn.Embedding's defaults; `normal`: N(0, 1/fan_in), and `unit`: N(0, 1),
    both with biases 0"""
    init_scale: float = 1.0
    """alpha: every initial weight is multiplied by it (Liu et al. 2022)"""
    output_scale: float = 1.0
    """alpha: the logits are multiplied by it (Kumar et al. 2023); scaling lr and loss with it is left to you"""
    dropout: float = 0.0
    """share of the hidden neurons that are set to 0 in an update, the others being scaled by 1 / (1 - dropout)"""

    def __post_init__(self) -> None:
        check_fields(self)
        require_in(self.width, "width", 1, WIDEST)
        require_in(self.depth, "depth", 1, DEEPEST)
        if self.d_embed is not None:
            require_in(self.d_embed, "d_embed", 1, WIDEST)
        plain = {"one_hot": "one-hot", "signs": "-1 and 1", "vector": "vector"}.get(self.input)
        require(plain is None or self.d_embed is None, f"d_embed has no meaning for {plain} inputs")
        if self.architecture == "residual":
            fed = {"sum": self.embedding_width, "concat": 2 * self.embedding_width}.get(self.input)
            require(
                fed == self.width,
                f"a residual MLP adds its blocks to its input, so the input must be embedded and as wide as the "
                f"layers ({self.width}); it is {plain if fed is None else fed}",
            )
        require_finite(self.init_scale, "init_scale", above=True)
        _check_output(self)

    @property
    def embedding_width(self) -> int:
        return self.d_embed if self.d_embed is not None else self.width


@dataclass(frozen=True)
class RecordedConfig:
    """A model whose training loop was somebody else's: its logits were recorded, its architecture is not known."""

    __pydantic_config__: ClassVar[Any] = STRICT

    kind: Literal["recorded"] = "recorded"
    description: str = ""


ModelConfig = Annotated[TransformerConfig | MLPConfig | RecordedConfig, Discriminator("kind")]


def require_fit(model: TransformerConfig | MLPConfig | RecordedConfig, task: TaskConfig | RegressionConfig) -> None:
    """Raises a ConfigError where a model cannot read the inputs of a task."""
    if isinstance(task, RegressionConfig):
        reads = isinstance(model, MLPConfig) and model.input == "vector"
        require(reads, f"{task.title} is a regression: it needs model.kind mlp with model.input vector")
        return
    if not isinstance(model, MLPConfig):
        return
    require(model.input != "vector", f"model.input 'vector' is for regressions, and {task.title} is none")
    require(model.input != "signs" or task.p == 2, f"model.input 'signs' is for bits, and {task.title} has none")
    if task.operands != 2:
        embedded = model.input in ("concat", "sum")
        require(
            model.shared_embedding or not embedded,
            f"embeddings that are not shared are for 2 operands, and {task.title} has {task.operands}",
        )
        require(
            model.architecture == "flat" or model.input != "concat",
            f"a residual MLP on embeddings side by side is for 2 operands, and {task.title} has {task.operands}: "
            "choose model.input sum, or model.architecture flat",
        )
