"""A 1-layer transformer without LayerNorm, folded: all that does not depend on the pair of operands, and its gradients.

Every tensor may have a leading dimension r, the runs of a stack.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.config import MLPConfig, TransformerConfig
from grokinterp.models.products import Matmul

Weights = Mapping[str, Tensor]
"""Parameters by name, as in a state dict."""

_ATTN, _MLP = "blocks.0.attn.", "blocks.0.mlp."


@dataclass(frozen=True)
class Folded:
    """A 1-layer transformer without LayerNorm, as tables over tokens and products of its matrices.

    With z the attended values of all heads: `neurons = act(z @ to_neurons + neuron_offset[last])` and
    `logits = z @ direct + neurons @ readout + logit_offset[last]`. The tables hold one row per position and token:
    those of position 0, those of position 1, and the single row of `=` if the model reads it.

    Attributes:
        scores: `[r, v u, h]`, the attention score of every (last token, position and token).
        values: `[r, u, z]`, the values of every (position and token).
        to_neurons: `[r, z, m]`, W_O W_in.
        readout: `[r, m, c]`, W_out W_U.
        direct: `[r, z, c]`, W_O W_U.
        neuron_offset: `[r, v, m]`, what the residual stream of the last token and the biases add to the neurons' input.
        logit_offset: `[r, v, c]`, what they add to the logits.
    """

    scores: Float[Tensor, "*r vu h"]
    values: Float[Tensor, "*r u z"]
    to_neurons: Float[Tensor, "*r z m"]
    readout: Float[Tensor, "*r m c"]
    direct: Float[Tensor, "*r z c"]
    neuron_offset: Float[Tensor, "*r v m"]
    logit_offset: Float[Tensor, "*r v c"]

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns all tensors, in the order of the constructor."""
        matrices = (self.to_neurons, self.readout, self.direct, self.neuron_offset, self.logit_offset)
        return self.scores, self.values, *matrices

    def map(self, function: Callable[[Tensor], Tensor]) -> "Folded":
        """Applies a function to each tensor."""
        return Folded(*map(function, self.tensors()))

    @property
    def reads_equals(self) -> bool:
        """Whether the last token is always `=`."""
        return self.neuron_offset.shape[-2] == 1


@dataclass(frozen=True)
class PairRows:
    """The rows of the tables that belong to each pair, counted over all runs of a stack.

    Attributes:
        scores: `[2, r, n]`, rows of `Folded.scores` for both operands.
        values: `[2, r, n]`, rows of `Folded.values`.
        last: `[r, n]`, rows of the offsets; None for the single row of `=`.
    """

    scores: Int[Tensor, "2 *r n"]
    values: Int[Tensor, "2 *r n"]
    last: Int[Tensor, "*r n"] | None

    def part(self, pairs: slice) -> "PairRows":
        """Selects some pairs."""
        last = None if self.last is None else self.last[..., pairs]
        return PairRows(self.scores[..., pairs], self.values[..., pairs], last)


def pair_rows(folded: Folded, tokens: Int[Tensor, "*r n t"]) -> PairRows:
    """Finds the rows of the tables that belong to each pair."""
    a, b = tokens[..., 0], tokens[..., 1]
    count, last_count = folded.values.shape[-2], folded.neuron_offset.shape[-2]
    values = torch.stack([a, b + count // 2])
    scores, last = (values, None) if folded.reads_equals else (values + b * count, b)
    if tokens.dim() == 3:
        run = torch.arange(len(tokens), device=tokens.device)[:, None]
        values, scores = values + run * count, scores + run * (count * last_count)
        last = None if last is None else last + run * last_count
    return PairRows(scores, values, last)


@dataclass(frozen=True)
class Attended:
    """Attention from the last position of some pairs.

    Attributes:
        attention: `[t, r, n, h]`, the attention to each position.
        values: `[2, r, n, h, e]`, the values of both operands.
        value_of_equals: `[r, 1, h, e]`, the values of `=`; None if the model does not read it.
        z: `[r, n, z]`, the sum of the values weighted by attention.
    """

    attention: Float[Tensor, "t *r n h"]
    values: Float[Tensor, "2 *r n h e"]
    value_of_equals: Float[Tensor, "*r 1 h e"] | None
    z: Float[Tensor, "*r n z"]


def attend(folded: Folded, rows: PairRows, heads: int) -> Attended:
    """Computes the attention of some pairs, and the values that they attend to."""
    scores = gather(folded.scores, rows.scores)
    equals = None
    if folded.reads_equals:
        scores = torch.cat([scores, folded.scores[..., -1:, :].expand(1, *scores.shape[1:])])
        equals = folded.values[..., -1:, :].unflatten(-1, (heads, -1))
    # PyTorch's softmax is slow over so few positions.
    powers = (scores - scores.detach().amax(dim=0)).exp()
    attention = powers / powers.sum(dim=0)
    values = gather(folded.values, rows.values).unflatten(-1, (heads, -1))
    shares = attention[..., None]
    z = (shares[0] * values[0]).addcmul_(shares[1], values[1])
    if equals is not None:
        z.addcmul_(shares[2], equals)
    return Attended(attention, values, equals, z.flatten(-2))


def gather(table: Float[Tensor, "*r u x"], rows: Int[Tensor, "..."]) -> Float[Tensor, "... x"]:
    """Looks up rows of a table, counted over all runs of a stack. The gradient of indexing would run on one core."""
    return F.embedding(rows, table.flatten(0, -2))


def offset_of(offset: Float[Tensor, "*r v x"], rows: PairRows) -> Float[Tensor, "*r _ x"]:
    """Looks up the offset of each pair; that of `=` is one row."""
    return offset if rows.last is None else gather(offset, rows.last)


def with_output_scale(weights: Weights, config: TransformerConfig | MLPConfig) -> Weights:
    """Multiplies the unembedding by `output_scale`, if it is not 1."""
    if config.output_scale == 1:
        return weights
    return {name: config.output_scale * w if name.startswith("unembed.") else w for name, w in weights.items()}


def fold(weights: Weights, config: TransformerConfig, matmul: Matmul = torch.matmul) -> Folded:
    """Computes everything about a 1-layer transformer that does not depend on the pair, once for all rows.

    The values are computed in float64 and rounded once: a rounding error here would be the same in every row, so sums
    of gradients over rows would not average it out. The derivatives are computed in the dtype of the weights.

    Args:
        weights: the weights by their TransformerLens names.
        config: the architecture; `has_last_position_form` must hold.
        matmul: multiplies two matrices.
    """
    dtype = weights["embed.W_E"].dtype
    if not _is_computed_in_float64(weights):
        return _Fold.of(with_output_scale(weights, config), config).folded(matmul)
    with torch.no_grad():
        exact = _Fold.of(with_output_scale(_in_float64(weights), config), config).folded().map(lambda t: t.to(dtype))
    if not torch.is_grad_enabled():
        return exact
    rounded = _Fold.of(with_output_scale(weights, config), config).folded(matmul)
    return Folded(*(a + (b - a).detach() for a, b in zip(rounded.tensors(), exact.tensors(), strict=True)))


def _is_computed_in_float64(weights: Weights) -> bool:
    W_E = weights["embed.W_E"]
    return W_E.dtype != torch.float64 and W_E.device.type != "mps"  # mps has no float64


def _in_float64(weights: Weights) -> Weights:
    wide = [torch.empty_like(w, dtype=torch.float64) for w in weights.values()]
    torch._foreach_copy_(wide, list(weights.values()))
    return dict(zip(weights, wide, strict=True))


@torch.no_grad()
def fold_with_gradients(
    weights: Weights, config: TransformerConfig
) -> tuple[Folded, Callable[[Folded], dict[str, Tensor]]]:
    """Computes the same as `fold`, by formulas instead of autograd, with classes added up to a multiple of 8.

    The logits of the added classes are -inf. Without them, products with few classes take up to twice as long.

    Args:
        weights: the weights by their TransformerLens names.
        config: the architecture; `has_last_position_form` must hold.

    Returns:
        The folded transformer, and the function that maps the gradients with respect to it to those of the weights.
    """
    dtype = weights["embed.W_E"].dtype
    used = dict(with_output_scale(weights, config))
    classes = used["unembed.W_U"].shape[-1]
    added = (0, -classes % 8)
    used["unembed.W_U"] = F.pad(used["unembed.W_U"], added)
    used["unembed.b_U"] = F.pad(used["unembed.b_U"], added, value=-math.inf)
    wide = _in_float64(used) if _is_computed_in_float64(weights) else used
    exact = _Fold.of(wide, config)
    folded = exact.folded().map(lambda t: t.to(dtype))

    def pull_back(gradient: Folded) -> dict[str, Tensor]:
        found = exact.rounded(used).gradients(gradient)
        return found | {name: found[name][..., :classes] for name in found if name.startswith("unembed.")}

    return folded, pull_back


@dataclass(frozen=True)
class _Fold:
    """The quantities between the weights and a `Folded`.

    Attributes:
        weights: by their TransformerLens names, with the output scale.
        config: the architecture.
        last: `[r, v, d]`, the residual stream of the last token.
        x: `[r, u, d]`, the residual stream of every position and token.
        queries: `[r, h, v, e]`, of the last token.
        score_map: `[r, v, d, h]`, which maps the residual stream to scores, without the biases of the keys.
    """

    weights: Weights
    config: TransformerConfig
    last: Float[Tensor, "*r v d"]
    x: Float[Tensor, "*r u d"]
    queries: Float[Tensor, "*r h v e"]
    score_map: Float[Tensor, "*r v d h"]

    @staticmethod
    def of(weights: Weights, config: TransformerConfig) -> "_Fold":
        W_E, W_pos = weights["embed.W_E"], weights["pos_embed.W_pos"]
        # `=` is a single token (the last row of W_E), so everything about it is computed once and broadcast.
        last = (W_E[..., -1:, :] if config.equals_token else W_E) + W_pos[..., -1:, :]
        operands = [W_E + W_pos[..., i : i + 1, :] for i in range(2)]
        x = torch.cat([*operands, *([last] if config.equals_token else [])], dim=-2)
        queries = last[..., None, :, :] @ weights[f"{_ATTN}W_Q"] + weights[f"{_ATTN}b_Q"][..., None, :]
        score_map = (queries @ weights[f"{_ATTN}W_K"].mT).movedim(-3, -1) / math.sqrt(config.head_width)
        return _Fold(weights, config, last, x, queries, score_map)

    def rounded(self, weights: Weights) -> "_Fold":
        """The same in the dtype of some weights, which replace the weights."""
        dtype = weights["embed.W_E"].dtype
        parts = (self.last, self.x, self.queries, self.score_map)
        return _Fold(weights, self.config, *(part.to(dtype) for part in parts))

    def attn(self, name: str) -> Tensor:
        """A weight of the attention layer; W_V and W_O as matrices to and from the values of all heads."""
        weight = self.weights[_ATTN + name]
        if name == "W_V":
            return weight.transpose(-3, -2).flatten(-2)
        return weight.flatten(-3, -2) if name == "W_O" else weight

    def folded(self, matmul: Matmul = torch.matmul) -> Folded:
        weights, W_U, W_O = self.weights, self.weights["unembed.W_U"], self.attn("W_O")
        W_in, W_out = weights[f"{_MLP}W_in"], weights[f"{_MLP}W_out"]
        of_bias = (self.queries * self.attn("b_K")[..., None, :]).sum(dim=-1).mT / math.sqrt(self.config.head_width)
        stream = self.last + self.attn("b_O")[..., None, :]
        scores = self.x[..., None, :, :] @ self.score_map + of_bias[..., None, :]
        return Folded(
            scores=scores.flatten(-3, -2),
            values=matmul(self.x, self.attn("W_V")) + self.attn("b_V").flatten(-2)[..., None, :],
            to_neurons=matmul(W_O, W_in),
            readout=matmul(W_out, W_U),
            direct=matmul(W_O, W_U),
            neuron_offset=stream @ W_in + weights[f"{_MLP}b_in"][..., None, :],
            logit_offset=(stream + weights[f"{_MLP}b_out"][..., None, :]) @ W_U + weights["unembed.b_U"][..., None, :],
        )

    def gradients(self, of: Folded) -> dict[str, Tensor]:
        """The gradients of the weights, from those of `folded`."""
        weights, W_U, W_O = self.weights, self.weights["unembed.W_U"], self.attn("W_O")
        W_in, W_out, W_K = weights[f"{_MLP}W_in"], weights[f"{_MLP}W_out"], self.attn("W_K")
        heads, scale = (self.config.n_heads, self.config.head_width), 1 / math.sqrt(self.config.head_width)
        stream = self.last + self.attn("b_O")[..., None, :]

        d_scores = of.scores.unflatten(-2, (self.last.shape[-2], -1))
        d_score_map = (self.x.mT[..., None, :, :] @ d_scores).movedim(-1, -3) * scale
        d_of_bias = d_scores.sum(dim=-2).mT[..., None] * scale
        d_queries = d_score_map @ W_K + d_of_bias * self.attn("b_K")[..., None, :]
        d_x = (d_scores @ self.score_map.mT).sum(dim=-3) + of.values @ self.attn("W_V").mT
        d_out = of.logit_offset @ W_U.mT
        d_stream = of.neuron_offset @ W_in.mT + d_out
        d_last = (d_queries @ self.attn("W_Q").mT).sum(dim=-3) + d_stream

        tokens = weights["embed.W_E"].shape[-2]
        first, second = d_x[..., :tokens, :], d_x[..., tokens : 2 * tokens, :]
        d_W_E, at_positions = first + second, [first.sum(dim=-2), second.sum(dim=-2)]
        if self.config.equals_token:
            d_last = d_last + d_x[..., -1:, :]
            d_W_E[..., -1:, :] += d_last
            at_positions.append(d_last.sum(dim=-2))
        else:
            d_W_E += d_last
            at_positions[-1] = at_positions[-1] + d_last.sum(dim=-2)
        d_W_U = W_O.mT @ of.direct + W_out.mT @ of.readout
        d_W_U += (stream + weights[f"{_MLP}b_out"][..., None, :]).mT @ of.logit_offset
        d_W_V = (self.x.mT @ of.values).unflatten(-1, heads).transpose(-3, -2)
        d_W_O = of.to_neurons @ W_in.mT + of.direct @ W_U.mT
        found = {
            "embed.W_E": d_W_E,
            "pos_embed.W_pos": torch.stack(at_positions, dim=-2),
            f"{_ATTN}W_Q": self.last[..., None, :, :].mT @ d_queries,
            f"{_ATTN}W_K": d_score_map.mT @ self.queries,
            f"{_ATTN}W_V": d_W_V,
            f"{_ATTN}W_O": d_W_O.unflatten(-2, heads),
            f"{_MLP}W_in": W_O.mT @ of.to_neurons + stream.mT @ of.neuron_offset,
            f"{_MLP}W_out": of.readout @ W_U.mT,
            "unembed.W_U": d_W_U,
        }
        if self.config.biases != "frozen":
            found |= {
                f"{_ATTN}b_Q": d_queries.sum(dim=-2),
                f"{_ATTN}b_K": (d_of_bias * self.queries).sum(dim=-2),
                f"{_ATTN}b_V": of.values.sum(dim=-2).unflatten(-1, heads),
                f"{_ATTN}b_O": d_stream.sum(dim=-2),
                f"{_MLP}b_in": of.neuron_offset.sum(dim=-2),
                f"{_MLP}b_out": d_out.sum(dim=-2),
                "unembed.b_U": of.logit_offset.sum(dim=-2),
            }
        if self.config.output_scale != 1:
            found |= {name: self.config.output_scale * found[name] for name in found if name.startswith("unembed.")}
        return found
