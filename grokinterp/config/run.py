"""RunConfig: everything that determines a run, and its conversion to and from JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from grokinterp.config.checks import STRICT, Fields, check_fields, require, require_seed
from grokinterp.config.model import MLPConfig, ModelConfig, RecordedConfig, TransformerConfig, require_fit
from grokinterp.config.optimizer import OptimizerConfig
from grokinterp.config.regression import AnyTaskConfig, RegressionConfig
from grokinterp.config.schedule import ScheduleConfig
from grokinterp.config.task import TaskConfig
from grokinterp.display import Card, Displayed
from grokinterp.errors import ConfigError, nearest, nearest_field, similar_fields

FORMAT_VERSION = 1
PLAIN = "float32_plain"  # the loss_dtype that uses the cross entropy of PyTorch


@dataclass(frozen=True)
class TrainingSettings:
    """The optimizer and the schedule of a run that grokinterp trains; see `RunConfig.training`."""

    optimizer: OptimizerConfig
    schedule: ScheduleConfig


@dataclass(frozen=True)
class RunConfig(Fields, Displayed):
    """Everything that determines a run.

    >>> config = RunConfig(task=TaskConfig(p=59), optimizer=OptimizerConfig(weight_decay=0.5))
    >>> config.model.kind
    'transformer'

    `optimizer` and `schedule` are None if the run was recorded or imported; otherwise `training()` returns both.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    format_version: ClassVar[int] = FORMAT_VERSION  # written to config.json; not an option, because there is no choice

    task: AnyTaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=TransformerConfig)
    optimizer: OptimizerConfig | None = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig | None = field(default_factory=ScheduleConfig)
    model_seed: int = 0
    """seed for the initial weights and the order of minibatches"""
    loss: Literal["cross_entropy", "mse", "stablemax"] = "cross_entropy"
    """`mse`: squared error relative to the one-hot label or the regression label (regression needs mse), averaged over
    examples and outputs; `stablemax`: cross entropy with x + 1 (for x < 0: 1 / (1 - x)) instead of exp x (Prieto et al.
    2025)"""
    loss_dtype: Literal["float64", "float32", "float32_plain"] = "float64"
    """dtype of the loss, which is computed from float32 logits; `float32` uses a form that remains accurate for small
    losses; `float32_plain` uses PyTorch's cross entropy, whose gradient suffers from rounding when the loss is small
    (a cause of slingshots and softmax collapse)"""

    @classmethod
    def _nearest(cls, name: str, names: list[str]) -> str:
        similar = similar_fields(name, config_fields(RunConfig()))
        return f'write RunConfig().replace({{"{similar[0]}": ...}})' if similar else nearest(name, names)

    def __post_init__(self) -> None:
        check_fields(self)
        require_seed(self.model_seed, "model_seed")
        require_fit(self.model, self.task)
        require(
            self.loss == "mse" or not isinstance(self.task, RegressionConfig),
            f"{self.task.title} is a regression: it needs loss mse",
        )
        single_layer = isinstance(self.model, MLPConfig) and not self.model.has_hidden_matrices
        require(
            self.optimizer is None or self.optimizer.name != "muon" or not single_layer,
            "muon updates matrices between hidden layers, and this MLP has none: choose model.depth 2 or another "
            "optimizer.name",
        )
        require(
            self.loss == "cross_entropy" or self.loss_dtype != PLAIN,
            f"loss_dtype float32_plain applies only to loss cross_entropy: with loss {self.loss} choose float32",
        )
        require(
            self.loss != "mse" or self.schedule is None or not self.schedule.stop_when_dead,
            "schedule.stop_when_dead compares the train loss with ln p: it needs loss cross_entropy or stablemax",
        )

    def replace(self, values: Mapping[str, Any], source: str = "replace") -> "RunConfig":
        """A configuration with other values of some fields.

        >>> config = RunConfig().replace({"task.p": 59, "optimizer.weight_decay": 0.5})
        >>> config.task.p, config.optimizer.weight_decay
        (59, 0.5)

        Args:
            values: by dotted field, as in `grokinterp train --task.p 59` and in sweeps.
            source: beginning of an error message.

        Raises:
            ConfigError: a field is unknown, or a value makes no sense.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f'{source}: values must be a dict by dotted field, such as {{"task.p": 59}}')
        raw = json.loads(_as_json(self))
        for name, value in values.items():
            *sections, last = str(name).split(".")
            inner = raw
            for section in sections:
                inner = inner.get(section) if isinstance(inner, dict) else None
            is_field = isinstance(inner, dict) and last in inner and not isinstance(inner[last], dict)
            if inner is None or not is_field or name == "model.kind":
                hint = nearest_field(str(name), config_fields(self))
                raise ConfigError(f"{source}: {name} is not a field of this configuration: {hint}")
            inner[last] = json_value(value)
        return RunConfig.from_json(json.dumps(raw), source)

    def _card(self) -> Card:
        sections = {name: getattr(self, name) for name in ("task", "model", "optimizer", "schedule")}
        facts = {name: _changed(section) for name, section in sections.items() if section is not None}
        facts |= {"seed and loss": f"model_seed={self.model_seed}, loss={self.loss} in {self.loss_dtype}"}
        calls = ['config.replace({"task.p": 59})', "gi.train(config, path)", "config.to_json()"]
        return Card(f"Configuration of {self.task.title}", facts, calls)

    def training(self) -> TrainingSettings:
        """Returns the optimizer and the schedule of this run, neither of them None.

        Raises:
            ConfigError: the run was recorded or imported, so it has none.
        """
        if self.optimizer is None or self.schedule is None:
            raise ConfigError("this configuration was recorded or imported, without optimizer and schedule: give both")
        return TrainingSettings(self.optimizer, self.schedule)

    def to_json(self) -> str:
        """This configuration as indented JSON."""
        content = {**_adapter().dump_python(self, mode="json"), "format_version": FORMAT_VERSION}
        return json.dumps(content, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "config") -> "RunConfig":
        """Reads a configuration from JSON; keys that are missing take their defaults.

        >>> RunConfig.from_json('{"task": {"p": 97}}').task.p
        97

        Args:
            text: a JSON object.
            source: name of the text in error messages, for example its path.

        Raises:
            ConfigError: the text is not JSON, has another format version or an unknown key, or a value makes no sense.
        """
        try:
            raw = json.loads(text)
            json.dumps(raw, ensure_ascii=False).encode()  # fails for half of a surrogate pair
        except (ValueError, RecursionError) as error:  # ValueError also for integers of more than 4,300 digits
            raise ConfigError(f"{source} is not JSON: {error}") from None
        version = raw.pop("format_version", FORMAT_VERSION) if isinstance(raw, dict) else FORMAT_VERSION
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"{source} has format version {version!r}, but this grokinterp reads version {FORMAT_VERSION}: "
                "install the release that wrote it"
            )
        try:
            config = _adapter().validate_python(raw)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_first_problem(error)}") from None
        _refuse_booleans(raw, config, source)
        return config


def _changed(section: Any) -> str:
    """The fields of a section that differ from their defaults, and its class."""
    changed = [(item.name, getattr(section, item.name)) for item in fields(section)]
    shown = [f"{name}={value}" for name, value in changed if value != getattr(type(section), name, None)]
    return f"{type(section).__name__}({', '.join(shown)})"


@lru_cache(maxsize=8)
def _as_json(config: RunConfig) -> str:
    """The configuration as JSON, cached because every point of a sweep starts from the same one."""
    return config.to_json()


def flat_config(config: RunConfig) -> dict[str, Any]:
    """The values of a configuration by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(_as_json(config)).items():
        flat |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def config_fields(config: RunConfig) -> list[str]:
    """Dotted names of the fields of a configuration that `replace` and sweeps may set."""
    return [name for name in flat_config(config) if name not in ("format_version", "model.kind")]


def json_value(value: Any) -> Any:
    """A value of a field as JSON represents it: NumPy and PyTorch numbers become Python numbers.

    Raises:
        ConfigError: JSON has no such value.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, default=lambda item: item.tolist())
        text.encode()  # refuses half of a surrogate pair
        return json.loads(text)
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise ConfigError(f"{value!r} cannot be the value of a field: give a number, a string or a list") from None


def _refuse_booleans(raw: dict[str, Any], config: Any, place: str) -> None:
    """Raises a ConfigError if pydantic has converted true or false to a number."""
    for name, value in raw.items():
        converted = getattr(config, name)
        if isinstance(value, dict):
            _refuse_booleans(value, converted, f"{place}: {name}")
        elif isinstance(value, bool) and not isinstance(converted, bool):
            raise ConfigError(f"{place}: {name} must be a number, but is {json.dumps(value)}")


@cache
def _adapter() -> Any:
    return TypeAdapter(RunConfig)  # takes 20 ms, which --help does not need to spend


_KINDS: dict[str, dict[str, type]] = {
    "model": {"transformer": TransformerConfig, "mlp": MLPConfig, "recorded": RecordedConfig},
    "task": {"classification": TaskConfig, "regression": RegressionConfig},
}
_SECTIONS: dict[str, type] = {"optimizer": OptimizerConfig, "schedule": ScheduleConfig}


def _first_problem(error: ValidationError) -> str:
    first, *others = error.errors()
    # Inside a model or a task, pydantic adds the tag it chose to the path; the file has no such level.
    parts = [str(part) for part in first["loc"]]
    kind = _KINDS.get(parts[0], {}).get(parts[1]) if len(parts) > 1 else None
    if kind is not None:
        del parts[1]
    place = ".".join(parts) or "the top level"
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        valid_keys = [item.name for item in fields(kind or _SECTIONS.get(parts[0], RunConfig))]
        return f"{place} is not a key of this configuration: {nearest(parts[-1], valid_keys)}{more}"
    if first["type"] == "union_tag_not_found":
        return f"{place}.kind is missing: set it to transformer or mlp{more}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{more}"
