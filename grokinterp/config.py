"""What determines a run, as frozen dataclasses that check themselves and go to JSON and back. No torch here."""

import json
import math
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import Discriminator, TypeAdapter, ValidationError

from grokinterp.errors import ConfigError, nearest
from grokinterp.schedules import schedule_terms

FORMAT_VERSION = 1

Operation = Literal[
    "add",
    "subtract",
    "multiply",
    "multiply_nonzero",
    "divide",
    "x^2+y^2",
    "x^2+xy+y^2",
    "x^2+xy+y^2+x",
    "x^3+xy",
    "x^3+xy^2+y",
]
OPERATIONS: tuple[str, ...] = get_args(Operation)

_STRICT: dict[str, Any] = {"extra": "forbid"}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_one_of(value: Any, names: tuple[str, ...], what: str) -> None:
    if value not in names:
        raise ConfigError(f"{what} {value!r} is not known: {nearest(str(value), names)}")


def _finite(value: float, what: str, *, at_least: float = 0.0, above: bool = False) -> None:
    good = math.isfinite(value) and (value > at_least if above else value >= at_least)
    _require(good, f"{what} must be a finite number {'>' if above else '>='} {at_least:g}, but is {value!r}")


def _require_known_choices(config: Any) -> None:
    """Refuses a value that its field's Literal does not list: dataclasses do not look at their annotations."""
    for item in fields(config):
        hints = (item.type,) if get_origin(item.type) is Literal else get_args(item.type)
        choices = [choice for hint in hints if get_origin(hint) is Literal for choice in get_args(hint)]
        value = getattr(config, item.name)
        if choices and not (value is None and NoneType in hints):
            require_one_of(value, tuple(choices), item.name)


def is_prime(n: int) -> bool:
    """Whether n is a prime, by trial division: moduli are small."""
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


@dataclass(frozen=True)
class TaskConfig:
    """The problem: every input of an operation mod p, and which of them are trained on."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    operation: Operation = "add"
    """what is computed mod p; `multiply` keeps zeros, `multiply_nonzero` and `divide` (by b != 0) do not"""
    p: int = 113
    """the modulus, odd or even; division needs a prime"""
    train_fraction: float | None = 0.3
    """share of all inputs that is trained on, strictly between 0 and 1; null where the split is unknown"""
    split: Literal["torch", "python", "numpy", "given", "unknown"] = "torch"
    """whose shuffle made the split; `given`: stored with the run; `unknown`: an imported model's"""
    data_seed: int = 0
    """seed of the split, of random labels and of label noise"""
    label_noise: float = 0.0
    """share of the training labels that are replaced by another class"""
    random_labels: bool = False
    """labels drawn at random for every input: a control that can only be memorized"""

    def __post_init__(self) -> None:
        _require_known_choices(self)
        _require(self.p >= 3, f"p must be at least 3, but is {self.p}")
        _require(self.p <= 1000, f"p must be at most 1000, since all p^2 inputs are evaluated, but is {self.p}")
        if self.operation == "divide":
            _require(
                is_prime(self.p),
                f"division mod {self.p} is not defined for every pair, because {self.p} is not a prime: "
                "choose a prime p, or another operation",
            )
        if self.split == "unknown":
            _require(self.train_fraction is None, "split 'unknown' goes with train_fraction null")
            _require(
                self.label_noise == 0, "label_noise is of training labels, and with split 'unknown' none are known"
            )
        else:
            given = self.train_fraction
            _require(
                given is not None and 0.0 < given < 1.0,
                f"train_fraction must lie strictly between 0 and 1, so that there are both training and test pairs, "
                f"but is {given}",
            )
        _require(0 <= self.data_seed < 2**32, f"data_seed must lie in [0, 2^32), but is {self.data_seed}")
        _require(0.0 <= self.label_noise < 1.0, f"label_noise must lie in [0, 1), but is {self.label_noise}")
        _require(not (self.random_labels and self.label_noise), "random_labels and label_noise exclude each other")


@dataclass(frozen=True)
class TransformerConfig:
    """A TransformerLens HookedTransformer, read at its last position."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    kind: Literal["transformer"] = "transformer"
    n_layers: int = 1
    n_heads: int = 4
    d_model: int = 128
    d_head: int | None = None
    """width of a head; by default d_model / n_heads"""
    d_mlp: int = 512
    activation: Literal["relu", "gelu"] = "relu"
    normalization: Literal["none", "layernorm"] = "none"
    biases: Literal["frozen", "mlp", "trained"] = "frozen"
    """`frozen`: all stay 0; `mlp`: only b_in and b_out are trained (Nanda et al.); `trained`: all are"""
    equals_token: bool = True
    """whether inputs end in `=`, at whose position the answer is read; without it, at the second operand's"""
    equals_logit: bool = False
    """whether the output has a class for `=` too (c = p + 1, as in Nanda et al.); measures drop it"""
    init: Literal["nanda", "transformer_lens", "torch"] = "transformer_lens"
    init_scale: float = 1.0
    """alpha: every initial weight is multiplied by it (Liu et al. 2022)"""

    def __post_init__(self) -> None:
        _require_known_choices(self)
        for name in ("n_layers", "n_heads", "d_model", "d_mlp"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.d_head is None:
            _require(
                self.d_model % self.n_heads == 0,
                f"d_model = {self.d_model} is not a multiple of n_heads = {self.n_heads}: change one, or give d_head",
            )
        else:
            _require(self.d_head >= 1, f"d_head must be at least 1, but is {self.d_head}")
        _require(self.equals_token or not self.equals_logit, "equals_logit needs equals_token")
        _finite(self.init_scale, "init_scale", above=True)

    @property
    def head_width(self) -> int:
        return self.d_head if self.d_head is not None else self.d_model // self.n_heads

    def trains(self, parameter: str) -> bool:
        """Whether the parameter of that name is trained; a frozen bias is not."""
        is_bias = parameter.rsplit(".", 1)[-1].startswith("b_")
        return not is_bias or self.biases == "trained" or (self.biases == "mlp" and ".mlp." in parameter)


@dataclass(frozen=True)
class MLPConfig:
    """A multi-layer perceptron on the two operands, as a HookedRootModule."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    kind: Literal["mlp"] = "mlp"
    input: Literal["one_hot", "concat", "sum"] = "one_hot"
    """one-hot vectors side by side; embeddings side by side; embeddings added (symmetric in a and b)"""
    shared_embedding: bool = True
    """one table for both operands (`embed.W_E`) or one each (`embed_a.W_E`, `embed_b.W_E`)"""
    d_embed: int | None = None
    """width of an embedding; by default the layers' width"""
    depth: int = 2
    """number of hidden layers, or of residual blocks"""
    width: int = 128
    architecture: Literal["flat", "residual"] = "flat"
    """`residual`: h + W_out act(W LayerNorm(h)) / 2 in every block (Manir and Rupa 2026)"""
    activation: Literal["relu", "gelu", "tanh", "quadratic"] = "relu"
    biases: bool = True
    init: Literal["torch", "normal"] = "torch"
    """`torch`: nn.Linear's and nn.Embedding's defaults; `normal`: N(0, 1/fan_in), biases 0"""
    init_scale: float = 1.0
    """alpha: every initial weight is multiplied by it (Liu et al. 2022)"""

    def __post_init__(self) -> None:
        _require_known_choices(self)
        for name in ("depth", "width"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, but is {getattr(self, name)}")
        _require(self.d_embed is None or self.d_embed >= 1, f"d_embed must be at least 1, but is {self.d_embed}")
        _require(self.input != "one_hot" or self.d_embed is None, "d_embed has no meaning for one-hot inputs")
        if self.architecture == "residual":
            fed = {"one_hot": None, "sum": self.embedding_width, "concat": 2 * self.embedding_width}[self.input]
            _require(
                fed == self.width,
                f"a residual MLP adds its blocks to its input, so the input must be embedded and as wide as the "
                f"layers ({self.width}); it is {'one-hot' if fed is None else fed}",
            )
        _finite(self.init_scale, "init_scale", above=True)

    @property
    def embedding_width(self) -> int:
        return self.d_embed if self.d_embed is not None else self.width


@dataclass(frozen=True)
class RecordedConfig:
    """A model whose training loop was somebody else's: its logits were recorded, its architecture is not known."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    kind: Literal["recorded"] = "recorded"
    description: str = ""


ModelConfig = Annotated[TransformerConfig | MLPConfig | RecordedConfig, Discriminator("kind")]


@dataclass(frozen=True)
class OptimizerConfig:
    """How an update is made."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1.0
    decay: Literal["decoupled", "coupled"] | None = None
    """decoupled from the gradient (AdamW) or added to it; by default what the optimizer's name means in PyTorch"""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    momentum: float = 0.0
    """of sgd"""
    batch_size: int | None = None
    """training examples an update; by default all of them"""
    warmup_steps: int = 0
    """update t (from 0) has the learning rate lr min(t / warmup_steps, 1); the first has 0, as in Nanda et al."""
    clip: float | None = None
    """largest norm of the whole gradient"""

    def __post_init__(self) -> None:
        _require_known_choices(self)
        _finite(self.lr, "lr", above=True)
        _finite(self.weight_decay, "weight_decay")
        _finite(self.eps, "eps")
        _require(all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), but are {self.betas}")
        _require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), but is {self.momentum}")
        _require(self.momentum == 0 or self.name == "sgd", f"momentum is sgd's; {self.name} has betas")
        _require(self.batch_size is None or self.batch_size >= 1, f"batch_size must be >= 1, but is {self.batch_size}")
        _require(self.warmup_steps >= 0, f"warmup_steps must be >= 0, but is {self.warmup_steps}")
        if self.clip is not None:
            _finite(self.clip, "clip", above=True)
        if self.name == "adamw":
            _require(self.decay != "coupled", "adamw is decoupled by definition; coupled decay with Adam is name=adam")
        if self.name == "adam":
            _require(
                self.decay != "decoupled", "adam is coupled by definition; decoupled decay with Adam is name=adamw"
            )

    @property
    def decoupled(self) -> bool:
        return self.decay == "decoupled" if self.decay is not None else self.name == "adamw"


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and what is looked at and kept on the way."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    steps: int = 25_000
    """number of updates"""
    evaluate_every: int | str = 100
    """when all inputs are evaluated: K, every:K, log:N, log:N:UNTIL, dense:FROM:TO:K, joined by +"""
    checkpoints: int | str = 100
    """when the weights are kept; the same forms"""
    resume_every: int = 1000
    """steps between two resume points"""
    stop_when_grokked: bool = False
    """end at stop_factor times the first evaluated step with 99 % test accuracy"""
    stop_factor: float = 1.5
    memorization_budget: int | None = None
    """steps within which train accuracy must reach 0.99, else the outcome is DNF_train; by default all"""

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"steps must be at least 1, but is {self.steps}")
        _require(self.resume_every >= 1, f"resume_every must be at least 1, but is {self.resume_every}")
        _finite(self.stop_factor, "stop_factor", at_least=1.0)
        budget = self.memorization_budget
        _require(budget is None or budget >= 1, f"memorization_budget must be at least 1, but is {budget}")
        schedule_terms(self.evaluate_every)
        schedule_terms(self.checkpoints)


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run. `optimizer` and `schedule` are null for a run recorded or imported."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=TransformerConfig)
    optimizer: OptimizerConfig | None = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig | None = field(default_factory=ScheduleConfig)
    model_seed: int = 0
    """seed of the initialization and of the order of minibatches"""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """mse: mean over examples and classes of the squared distance to the one-hot label"""
    loss_dtype: Literal["float64", "float32"] = "float64"
    """dtype of the loss given float32 logits; float32 uses a form that stays exact at small losses"""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _require(0 <= self.model_seed < 2**32, f"model_seed must lie in [0, 2^32), but is {self.model_seed}")
        _require(self.format_version == FORMAT_VERSION, f"format_version is {FORMAT_VERSION} here and cannot be chosen")
        _require_known_choices(self)

    def to_json(self) -> str:
        """This configuration as indented JSON."""
        return json.dumps(_adapter().dump_python(self, mode="json"), indent=2) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "config") -> "RunConfig":
        """The configuration that `text` holds; keys left out take their defaults.

        Args:
            text: a JSON object.
            source: what to call the text in a message, for instance its path.

        Raises:
            ConfigError: not JSON, written by a newer version, an unknown key, or a value that makes no sense.
        """
        try:
            raw = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{source} is not JSON: {error}") from None
        version = raw.get("format_version", FORMAT_VERSION) if isinstance(raw, dict) else FORMAT_VERSION
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"{source} has format version {version!r}, and this grokinterp reads version {FORMAT_VERSION}: "
                "install the release that wrote it"
            )
        try:
            return _adapter().validate_python(raw)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_first_problem(error)}") from None


@cache
def _adapter() -> Any:
    return TypeAdapter(RunConfig)  # building it costs 20 ms, and --help has no use for it


_MODELS: dict[str, type] = {"transformer": TransformerConfig, "mlp": MLPConfig, "recorded": RecordedConfig}
_SECTIONS: dict[str, type] = {"task": TaskConfig, "optimizer": OptimizerConfig, "schedule": ScheduleConfig}


def _first_problem(error: ValidationError) -> str:
    first, *others = error.errors()
    # Within a model, pydantic names the kind that it chose; the file has no such level.
    parts = [str(part) for part in first["loc"]]
    parts = [part for i, part in enumerate(parts) if not (i == 1 and parts[0] == "model" and part in _MODELS)]
    place = ".".join(parts) or "the whole"
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = _MODELS.get(str(first["loc"][1])) if parts[0] == "model" else _SECTIONS.get(parts[0], RunConfig)
        known = [item.name for item in fields(owner or RunConfig)]
        return f"{place} is not a key of this configuration: {nearest(parts[-1], known)}{more}"
    if first["type"] == "union_tag_not_found":
        return f"{place}.kind is missing: it says which model this is, transformer or mlp{more}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{more}"
