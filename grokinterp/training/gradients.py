"""Loss and gradients of an update: by autograd, or in one pass over chunks of rows for the folded transformer."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.config import PLAIN, RunConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.models import Forward
from grokinterp.models.folding import Folded, PairRows, attend, fold_with_gradients, pair_rows
from grokinterp.models.forward import Hook, no_hook
from grokinterp.models.products import columns, prepare_compiling, product, training_matmul
from grokinterp.models.rows import logits_of, neurons_before, row_chunks
from grokinterp.runs.files import make_folder
from grokinterp.training.losses import cross_entropy_and_gradient, loss_dtype, loss_function

# Maps tokens and labels to the loss, and adds its gradients to the weights' `grad`.
Gradients = Callable[[Tensor, Tensor], Tensor]
ExplicitGradients = Callable[[Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def gradients_function(
    config: RunConfig, forward: Forward, weights: Mapping[str, Tensor], *, compiled: bool = False, hook: Hook = no_hook
) -> Gradients:
    """Returns the function that computes the loss of some examples and adds its gradients to those of the weights.

    Args:
        config: of the run.
        forward: computes the logits. For cross entropy on the CPU with the path `last_position`, explicit formulas
            replace autograd for the part that depends on the pair of operands, chunk by chunk.
        weights: the parameters.
        compiled: use torch.compile, which takes most of a minute at the first update.
        hook: may replace neurons; gradients then come from autograd.
    """
    if hook is no_hook and has_explicit_form(config, forward, weights):
        return _accumulating(explicit_gradients(config, compiled=compiled), weights)

    loss = loss_function(config)

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        return loss(forward.logits(weights, tokens, training_matmul, hook), labels)

    differentiable = _compile(loss_of) if compiled else loss_of

    def by_autograd(tokens: Tensor, labels: Tensor) -> Tensor:
        value = differentiable(tokens, labels)
        value.backward()
        return value.detach()

    return by_autograd


def _compile(function: Any) -> Any:
    use_private_cache()
    prepare_compiling()
    return torch.compile(function, dynamic=False)


def use_private_cache() -> None:
    """Makes torch.compile use a cache that other users cannot write to: it unpickles and executes what it finds there.

    Its default is a folder in /tmp whose name anyone can predict.

    Raises:
        ConfigError: another user can write to the folder in TORCHINDUCTOR_CACHE_DIR.
    """
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not folder:
        folder = tempfile.mkdtemp(prefix="grokinterp-compile-")  # mode 0700
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    make_folder(Path(folder))
    status = os.stat(folder)
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise ConfigError(
            f"other users can write to the cache of torch.compile in {folder}: set TORCHINDUCTOR_CACHE_DIR to a folder "
            "of your own with mode 700, or unset it"
        )
    os.environ["TRITON_CACHE_DIR"] = os.path.join(folder, "triton")


def has_explicit_form(config: RunConfig, forward: Forward, weights: Mapping[str, Tensor]) -> bool:
    """Whether `explicit_gradients` can compute the updates of a run: cross entropy, `last_position`, on the CPU."""
    exact = config.loss == "cross_entropy" and config.loss_dtype != PLAIN
    on_cpu = all(weight.device.type == "cpu" for weight in weights.values())
    return forward.path == "last_position" and exact and on_cpu


def explicit_gradients(config: RunConfig, *, compiled: bool = False) -> ExplicitGradients:
    """Returns the function that computes the loss and its gradients by formulas, without autograd.

    The function maps the weights of a run or of a stack, tokens and labels to the losses and the gradients by name.

    Args:
        config: of the run; `has_explicit_form` must hold.
        compiled: use torch.compile for the part that depends on the pairs.
    """
    model, dtype = config.model, loss_dtype(config)
    assert isinstance(model, TransformerConfig)
    pairwise = _compile(folded_gradients) if compiled else folded_gradients
    of_tokens: tuple[Tensor, PairRows] | None = None

    def gradients(weights: Mapping[str, Tensor], tokens: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal of_tokens
        folded, pull_back = fold_with_gradients(weights, model)
        if of_tokens is None or of_tokens[0] is not tokens:  # without minibatches, the same at every step
            of_tokens = tokens, pair_rows(folded, tokens)
        loss, gradient = pairwise(folded, of_tokens[1], labels, model, dtype)
        return loss, pull_back(gradient)

    return gradients


def _accumulating(gradients: ExplicitGradients, weights: Mapping[str, Tensor]) -> Gradients:
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}

    def add_gradients(tokens: Tensor, labels: Tensor) -> Tensor:
        loss, found = gradients(weights, tokens, labels)
        for name, weight in trained.items():
            added = found[name].contiguous()  # fused optimizers expect the strides of the weight
            weight.grad = added if weight.grad is None else weight.grad + added
        return loss

    return add_gradients


@torch.no_grad()
def folded_gradients(
    folded: Folded, rows: PairRows, labels: Int[Tensor, "*r n"], config: TransformerConfig, dtype: torch.dtype
) -> tuple[Float[Tensor, "*r"], Folded]:
    """Computes the mean cross entropy of a folded transformer and its gradients with respect to each part of `folded`.

    Autograd would store the intermediate arrays of all rows; the arrays of one chunk at a time fit into the cache.

    Args:
        folded: from `grokinterp.models.folding.fold`.
        rows: the rows of the pairs in the tables of `folded`.
        labels: `[n]`, the correct classes; or `[r, n]`, of every run of a stack.
        config: the architecture.
        dtype: of the cross entropy.

    Returns:
        The loss, and the gradients in the form of `folded`.
    """
    n = labels.shape[-1]
    chunks = row_chunks(n, labels.numel() // n * config.d_mlp, labels.device)
    parts = [_chunk_gradients(folded, rows.part(pairs), labels[..., pairs], n, config, dtype) for pairs in chunks]
    loss, gradient = parts[0]
    for more_loss, more in parts[1:]:
        loss = loss + more_loss
        gradient = Folded(*(a.add_(b) for a, b in zip(gradient.tensors(), more.tensors(), strict=True)))
    return loss, gradient


def _chunk_gradients(
    folded: Folded, rows: PairRows, labels: Tensor, n: int, config: TransformerConfig, dtype: torch.dtype
) -> tuple[Tensor, Folded]:
    """The parts of the loss and of its gradients that come from some of n pairs."""
    heads, relu = config.n_heads, config.activation == "relu"
    attended = attend(folded, rows, heads)
    z = attended.z
    before = neurons_before(folded, z, rows, relu)
    neurons = before if relu else F.gelu(before)
    logits = logits_of(folded, z, neurons, rows)

    losses, flat = cross_entropy_and_gradient(logits.flatten(0, -2).to(dtype), labels.flatten(), n)
    d_logits = flat.to(z.dtype).view_as(logits)
    d_hidden = product(d_logits, folded.readout.mT)
    if relu:
        torch.ops.aten.threshold_backward.grad_input(d_hidden, before, 0, grad_input=d_hidden)
    else:
        d_hidden = torch.ops.aten.gelu_backward(d_hidden, before)
    d_z = product(d_hidden, folded.to_neurons.mT, plus=product(d_logits, folded.direct.mT)).unflatten(-1, (heads, -1))

    shares, of_equals = attended.attention, attended.value_of_equals
    d_shares = (attended.values * d_z).sum(dim=-1)
    if of_equals is not None:
        d_shares = torch.cat([d_shares, (d_z * of_equals).sum(dim=-1)[None]])
    d_values = _sums(folded.values, rows.values, (d_z * shares[:2, ..., None]).flatten(-2))
    d_score = shares * (d_shares - (shares * d_shares).sum(dim=0))
    d_scores = _sums(folded.scores, rows.scores, d_score[:2])
    if of_equals is not None:
        d_values[..., -1, :] = (d_z * shares[2][..., None]).flatten(-2).sum(dim=-2)
        d_scores[..., -1, :] = d_score[2].sum(dim=-2)
    z_columns = columns(z)
    return losses.view(labels.shape).sum(dim=-1), Folded(
        scores=d_scores,
        values=d_values,
        to_neurons=product(z_columns, d_hidden),
        readout=product(columns(d_logits), neurons).mT,
        direct=product(z_columns, d_logits),
        neuron_offset=_sums(folded.neuron_offset, rows.last, d_hidden),
        logit_offset=_sums(folded.logit_offset, rows.last, d_logits),
    )


def _sums(table: Tensor, rows: Tensor | None, added: Tensor) -> Tensor:
    """The sums of what belongs to each row of a table; without `rows`, to the single row of each run."""
    if rows is None:
        return added.sum(dim=-2, keepdim=True)
    sums = torch.zeros_like(table, memory_format=torch.contiguous_format)
    sums.flatten(0, -2).index_add_(0, rows.flatten(), added.flatten(0, -2))
    return sums
