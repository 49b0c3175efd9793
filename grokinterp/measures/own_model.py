"""Reads anyone's model: its logits, and its embedding, neurons and unembedding by the names that its author gave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokinterp.errors import ConfigError, nearest
from grokinterp.measures.checks import as_tensor, checked_logits, require_weights
from grokinterp.tasks import Task

Names = str | Sequence[str]
NOT_LINEAR = "the path from the neurons to the logits is not linear in this model"
NOT_NAMED = "the unembedding of the model is not known: name it with unembedding="


@dataclass(frozen=True)
class Activity:
    """The activations behind a model's logits, for all n inputs.

    >>> import torch
    >>> from grokinterp.measures import Activity
    >>> Activity(neurons=torch.zeros(25, 8), neuron_logit_map=torch.zeros(8, 5)).attention is None
    True

    Attributes:
        neurons: `[n, m]`, activations of the last layer's m neurons.
        neuron_logit_map: `[m, c]`, how much one unit of each neuron adds to each logit; None if the path from the
            neurons to the logits is not linear.
        attention: `[n, h, t]`, attention patterns of the last layer's h heads from the last position; None if the
            model has no attention.
        why_no_map: the reason if there is no `neuron_logit_map`.
    """

    neurons: Float[Tensor, "n m"]
    neuron_logit_map: Float[Tensor, "m c"] | None = None
    attention: Float[Tensor, "n h t"] | None = None
    why_no_map: str = NOT_LINEAR

    @staticmethod
    def of(activations: "Activations") -> "Activity":
        """Takes the activations from those that come with logits."""
        return Activity(activations.neurons, activations.neuron_logit_map, activations.attention)


@dataclass(frozen=True)
class PreActivity:
    """What the neurons' activation function is applied to, for all n inputs.

    Attributes:
        values: `[n, m]`, of the last layer's m neurons.
        function: the activation function.
        one_hot: whether the neurons read one-hot numbers, so that every row of their weights belongs to a number.
    """

    values: Float[Tensor, "n m"]
    function: Callable[[Tensor], Tensor]
    one_hot: bool = False


@dataclass(frozen=True)
class Embedded:
    """A model as a function of the embeddings of its two operands, before positions are added.

    Attributes:
        tables: the embedding of each number as a, `[p, d]`, and as b; for one-hot inputs, the identity.
        logits: function of embeddings of a and of b, `[n, d]` each, that returns logits `[n, c]`; differentiable.
        is_sum: whether only the sum of the two embeddings enters.
    """

    tables: tuple[Tensor, Tensor]
    logits: Callable[[Tensor, Tensor], Tensor]
    is_sum: bool


class Activations(Protocol):
    """What the function that `Snapshot.from_activations` takes must return."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def neurons(self) -> Tensor: ...
    @property
    def neuron_logit_map(self) -> Tensor | None: ...
    @property
    def attention(self) -> Tensor | None: ...


@dataclass(frozen=True)
class Parts:
    """The names of the parts of a model that measures of weights and neurons need.

    Attributes:
        embedding: of the table with a row for each number, or of the two tables of a and b: a parameter or a module.
        neurons: of the module that returns the activations of the last hidden layer, after the activation function; by
            default, the input of the unembedding is taken.
        unembedding: of the matrix or matrices that map the neurons to the logits, in this order: parameters or modules.
    """

    embedding: Names | None = None
    neurons: str | None = None
    unembedding: Names | None = None


@dataclass(frozen=True)
class Reading:
    """What `read_model` found; tensors are on the CPU.

    Attributes:
        logits: `[n, c]`.
        embedding: one table `[>=p, d]`, or one for each operand.
        activity: the neurons and their map to the logits.
        weights: the parameters by name, as given or those of the module.
        trained: names of the parameters that require gradients; None if the weights were given.
    """

    logits: Float[Tensor, "n c"]
    embedding: tuple[Tensor, ...] | None
    activity: Activity | None
    weights: dict[str, Tensor] | None
    trained: tuple[str, ...] | None


@torch.no_grad()
def read_model(
    task: Task, model: Callable[[Tensor], Tensor], weights: Mapping[str, Tensor] | None = None, parts: Parts = Parts()
) -> Reading:
    """Calls a model on all inputs, without gradients; a module is put into evaluation mode for the call.

    Args:
        task: the task.
        model: takes `task.tokens` and returns logits; see `Snapshot.from_model`.
        weights: parameters by name; by default those of a module.
        parts: names of parts of the model.

    Raises:
        ConfigError: the model cannot read the tokens, its logits have another shape, or it has no part of a given name.
    """
    if isinstance(model, Mapping):
        raise ConfigError("model is a dict of weights: give the module, after module.load_state_dict(weights)")
    require_weights(weights)
    finder = _Finder(model, weights)
    names = _as_tuple(parts.unembedding)
    source, by_input = parts.neurons, False
    if source is None and names:  # the neurons are what the unembedding reads
        source, by_input = names[0], True
    with _observing(finder, source, by_input) as observed, evaluating(model):
        logits = _call(task, model)
    trained = None
    if weights is None and isinstance(model, nn.Module):
        weights = dict(model.named_parameters()) or None
        trained = tuple(name for name, w in (weights or {}).items() if w.requires_grad) or None
    return Reading(
        checked_logits(task, logits[:, -1] if logits.ndim == 3 else logits, "logits").detach().cpu(),
        _embedding(task, finder, _as_tuple(parts.embedding)),
        _activity(task, finder, observed, names),
        None if weights is None else {name: w.detach().cpu() for name, w in weights.items()},
        trained,
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Puts a module into evaluation mode, and restores the mode of each of its submodules afterwards."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _call(task: Task, model: Callable[[Tensor], Tensor]) -> Tensor:
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    try:
        logits = model(task.tokens.to(device))
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError) as error:
        reads = f"task.tokens of shape {list(task.tokens.shape)}, with values 0 .. {int(task.tokens.max())}"
        if task.equals_token:
            hint = f"Their last column is the token `=` ({task.p}); if the model does not read it, make the task with"
            hint += " equals_token=False"
        else:
            hint = f"If the model also reads the token `=` ({task.p}), make the task with equals_token=True"
        raise ConfigError(f"the model fails on {reads} ({type(error).__name__}: {error}). {hint}") from error
    logits = as_tensor(logits, "the value that the model returns")
    return logits


class _Finder:
    """Finds parameters and modules by name, in a module or among given weights."""

    def __init__(self, model: Any, weights: Mapping[str, Tensor] | None):
        is_module = isinstance(model, nn.Module)
        self.modules: dict[str, nn.Module] = dict(model.named_modules()) if is_module else {}
        self.parameters: dict[str, Tensor] = dict(model.named_parameters()) if is_module else {}
        self.weights = dict(weights or {})

    def module(self, name: str, argument: str) -> nn.Module:
        """The module of that name, or the one to which the parameter of that name belongs."""
        if name in self.modules:
            return self.modules[name]
        if name in self.parameters:
            return self.modules[name.rpartition(".")[0]]
        raise self._unknown(name, argument, self.modules)

    def table(self, name: str, argument: str) -> Tensor:
        """A parameter as [in, out], so that the weight of an nn.Linear is transposed."""
        full = name if name in self.parameters or f"{name}.weight" not in self.parameters else f"{name}.weight"
        if full in self.parameters:
            tensor = self.parameters[full].detach().cpu()
            return tensor.T if isinstance(self.modules[full.rpartition(".")[0]], nn.Linear) else tensor
        if name in self.weights:
            return self.weights[name].detach().cpu()
        owners = {full.rpartition(".")[0]: None for full in self.parameters}
        raise self._unknown(name, argument, {**owners, **self.parameters, **self.weights})

    def _unknown(self, name: str, argument: str, names: Mapping[str, Any]) -> ConfigError:
        known = [known for known in names if known]
        what = nearest(name, known) if known else "it is not a torch.nn.Module"
        return ConfigError(f"{argument}: the model has no part named {name!r}: {what}")


@contextmanager
def _observing(finder: _Finder, name: str | None, by_input: bool) -> Iterator[list[Tensor]]:
    """Collects what a module returns, or what it is called with."""
    observed: list[Tensor] = []
    if name is None:
        yield observed
        return

    def observe(module: nn.Module, inputs: Any, output: Any) -> None:
        value = inputs if by_input else output
        value = value[0] if isinstance(value, tuple) else value
        observed[:] = [value.detach().cpu()]

    module = finder.module(name, "unembedding" if by_input else "neurons")
    handle = module.register_forward_hook(observe)
    try:
        yield observed
    finally:
        handle.remove()
    if not observed:
        raise ConfigError(
            f"neurons: {name!r} is not called while the model computes its logits; name the module that returns the "
            "activations of the last hidden layer"
        )


def _embedding(task: Task, finder: _Finder, names: tuple[str, ...]) -> tuple[Tensor, ...] | None:
    tables = tuple(finder.table(name, "embedding") for name in names)
    for name, table in zip(names, tables, strict=True):
        if table.ndim != 2 or len(table) < task.p:
            shape = f"must have at least {task.p} rows, one for each number, but has shape {list(table.shape)}"
            raise ConfigError(f"embedding: {name!r} {shape}")
    if len(tables) > 2:
        raise ConfigError(f"embedding: give the name of one table or of two, one for each operand, not {len(tables)}")
    if len(tables) == 1 and len(tables[0]) == 2 * task.p:  # one-hot pairs
        tables = tuple(tables[0].split(task.p))
    return tables or None


def _activity(task: Task, finder: _Finder, observed: list[Tensor], names: tuple[str, ...]) -> Activity | None:
    if not observed:
        return None
    neurons, n = observed[0], len(task.inputs)
    neurons = neurons[:, -1] if neurons.ndim == 3 else neurons
    if neurons.ndim != 2 or len(neurons) != n or not neurons.is_floating_point():
        came = f"{observed[0].dtype} of shape {list(observed[0].shape)}"
        raise ConfigError(f"neurons must be floating point, of shape [{n}, m] or [{n}, position, m], but are {came}")
    if not names:
        return Activity(neurons, why_no_map=NOT_NAMED)
    readout = torch.eye(neurons.shape[1], dtype=torch.float64)
    for name in names:
        table = finder.table(name, "unembedding").double()
        if table.ndim != 2 or len(table) != readout.shape[1]:
            raise ConfigError(
                f"unembedding: {name!r} maps from {len(table)} numbers, but there are {readout.shape[1]} "
                f"{'neurons' if name == names[0] else 'outputs of ' + repr(names[names.index(name) - 1])}: name all "
                "matrices from the neurons to the logits, in this order"
            )
        readout = readout @ table
    if readout.shape[1] < task.n_classes:
        raise ConfigError(f"unembedding: it maps to {readout.shape[1]} numbers, but there are {task.n_classes} classes")
    return Activity(neurons, readout[:, : task.n_classes].to(neurons.dtype))


def _as_tuple(names: Names | None) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)
