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
from grokinterp.models.forward import Folded, Hook, fold, no_hook
from grokinterp.models.products import prepare_compiling, product, training_matmul
from grokinterp.models.rows import attend_rows, logits_of, neurons_before, pick, row_chunks
from grokinterp.runs.files import make_folder
from grokinterp.training.losses import cross_entropy_and_gradient, loss_dtype, loss_function

# Maps tokens and labels to the loss, and adds its gradients to the weights' `grad`.
Gradients = Callable[[Tensor, Tensor], Tensor]


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
    model = config.model
    on_cpu = all(weight.device.type == "cpu" for weight in weights.values())
    exact = config.loss == "cross_entropy" and config.loss_dtype != PLAIN
    written_out = forward.path == "last_position" and exact and on_cpu and hook is no_hook
    if written_out and isinstance(model, TransformerConfig):
        return _folded(config, model, weights, _compile(folded_gradients) if compiled else folded_gradients)

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


def _folded(
    config: RunConfig, model: TransformerConfig, weights: Mapping[str, Tensor], pairwise: Callable[..., Any]
) -> Gradients:
    dtype = loss_dtype(config)

    def gradients(tokens: Tensor, labels: Tensor) -> Tensor:
        folded = fold(weights, model, training_matmul)
        loss, gradient = pairwise(folded.map(Tensor.detach), tokens, labels, model, dtype)
        torch.autograd.backward(folded.tensors(), gradient.tensors())
        return loss

    return gradients


@torch.no_grad()
def folded_gradients(
    folded: Folded, tokens: Int[Tensor, "n t"], labels: Int[Tensor, " n"], config: TransformerConfig, dtype: torch.dtype
) -> tuple[Float[Tensor, ""], Folded]:
    """Computes the mean cross entropy of a folded transformer and its gradients with respect to each part of `folded`.

    Autograd would store the intermediate arrays of all rows; the arrays of one chunk at a time fit into the cache.

    Args:
        folded: from `grokinterp.models.forward.fold`.
        tokens: `[n, t]`, the operands, then `=` if the model reads it.
        labels: `[n]`, the correct classes.
        config: the architecture.
        dtype: of the cross entropy.

    Returns:
        The loss, and the gradients in the form of `folded`.
    """
    h, relu = config.n_heads, config.activation == "relu"
    gradient = folded.map(torch.zeros_like)
    loss = torch.zeros((), dtype=dtype)
    score_rows, value_rows, last_rows = folded.rows(tokens)
    for rows in row_chunks(len(tokens), config.d_mlp, tokens.device):
        of_score, of_value = pick(score_rows, rows), pick(value_rows, rows)
        last = None if last_rows is None else last_rows[rows]
        attended = attend_rows(folded, of_score, of_value, h)
        z, attention, values = attended.z, attended.attention, attended.values
        before = neurons_before(folded, z, last, relu)
        neurons = before if relu else F.gelu(before)
        logits = logits_of(folded, z, neurons, last)

        part, d_logits = cross_entropy_and_gradient(logits.to(dtype), labels[rows], len(labels))
        loss += part.sum()
        d_logits = d_logits.to(z.dtype)
        d_hidden = product(d_logits, folded.readout.T)
        if relu:
            torch.ops.aten.threshold_backward.grad_input(d_hidden, before, 0, grad_input=d_hidden)
        else:
            d_hidden = torch.ops.aten.gelu_backward(d_hidden, before)
        d_z3 = product(d_hidden, folded.to_neurons.T, plus=product(d_logits, folded.direct.T)).unflatten(1, (h, -1))

        z_columns, d_logits_columns = z.T.contiguous(), d_logits.T.contiguous()
        gradient.to_neurons.add_(product(z_columns, d_hidden))
        gradient.direct.add_(product(z_columns, d_logits))
        gradient.readout.add_(product(d_logits_columns, neurons).T)
        _add_rows(gradient.neuron_offset, last, d_hidden)
        _add_rows(gradient.logit_offset, last, d_logits)
        d_attention = [(d_z3 * value).sum(dim=2, keepdim=True) for value in values]
        mean = sum(share * d_share for share, d_share in zip(attention, d_attention, strict=True))
        for i, (share, d_share) in enumerate(zip(attention, d_attention, strict=True)):
            _add_rows(gradient.values[i], of_value[i], (d_z3 * share).flatten(1))
            _add_rows(gradient.scores[i], of_score[i], (share * (d_share - mean)).squeeze(2))
    return loss, gradient


def _add_rows(table: Tensor, row: Tensor | None, added: Tensor) -> None:
    """Adds rows to a table, at the indices `row`; without indices, adds their sum to the table's only row."""
    if row is None:
        table.add_(added.sum(dim=0))
    else:
        table.index_add_(0, row, added)
