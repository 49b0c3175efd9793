"""The plain side: straightforward code from TransformerLens, PyTorch and the papers, without regard to speed."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokinterp.runs.run import Run
from grokinterp.training.preparation import load_from


def pairs(p: int, fraction: float, seed: int = 598) -> tuple[Tensor, Tensor, Tensor]:
    """All inputs `a b =`, their labels, and the indices of the training set."""
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    inputs = torch.stack([a, b, torch.full_like(a, p)], dim=1)
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(seed))
    return inputs, (a + b) % p, order[: int(p * p * fraction)]


def transformer(p: int, d_model: int, d_mlp: int, n_layers: int = 1) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=n_layers,
        n_heads=4,
        d_model=d_model,
        d_head=d_model // 4,
        d_mlp=d_mlp,
        act_fn="relu",
        normalization_type=None,
        d_vocab=p + 1,
        d_vocab_out=p,
        n_ctx=3,
        device="cpu",
        seed=999,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HookedTransformer(config)
    for name, parameter in model.named_parameters():
        if "b_" in name:
            parameter.requires_grad = False
    return model


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy in float64 at the last position, as in the grokking demo of TransformerLens."""
    log_probabilities = logits[:, -1].to(torch.float64).log_softmax(dim=-1)
    return -log_probabilities.gather(dim=-1, index=labels[:, None])[:, 0].mean()


def training_step(
    p: int = 113,
    d_model: int = 128,
    d_mlp: int = 512,
    n_layers: int = 1,
    fraction: float = 0.3,
    weights_from: str | None = None,
    evaluate: bool = False,
) -> Callable[[], Any]:
    """One full-batch AdamW step; with `evaluate` the test loss after it too, as the demo's loop has it."""
    inputs, labels, train = pairs(p, fraction)
    test = torch.ones(len(inputs), dtype=torch.bool)
    test[train] = False
    x, y, x_test, y_test = inputs[train], labels[train], inputs[test], labels[test]
    model = transformer(p, d_model, d_mlp, n_layers)
    if weights_from is not None:
        load_from(weights_from, dict(model.named_parameters()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))

    def step() -> None:
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if evaluate:
            with torch.inference_mode():
                cross_entropy(model(x_test), y_test).item()

    return step


def mlp_step(p: int = 97, width: int = 128, fraction: float = 0.5) -> Callable[[], Any]:
    """One full-batch AdamW step of a multi-layer perceptron on one-hot vectors."""
    inputs, labels, train = pairs(p, fraction)
    one_hot = torch.cat([F.one_hot(inputs[:, 0], p), F.one_hot(inputs[:, 1], p)], dim=1).float()
    x, y = one_hot[train], labels[train]
    model = nn.Sequential(nn.Linear(2 * p, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, p))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0)

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def analysis(
    run_path: str,
    step: int,
    frequencies: list[int],
    neurons: bool,
    excluded_for_all: bool = True,
    share_by_share: bool = True,
) -> Callable[[], Any]:
    """The procedure of Nanda et al. 2023 for one checkpoint, quantity by quantity.

    Args:
        run_path: the run.
        step: the checkpoint.
        frequencies: the key frequencies.
        neurons: also compute the frequency of each neuron.
        excluded_for_all: compute the excluded loss of every frequency, as ours does, or only of the key frequencies.
        share_by_share: recompute a neuron's total power for each frequency, as the published code does, or only once.
    """
    run = Run.open(run_path)
    p, train = run.config.task.p, run.task.train_mask
    assert train is not None
    inputs, labels, _ = pairs(p, 0.5)
    model = transformer(p, 128, 512)
    rows = [torch.ones(p) / math.sqrt(p)]
    for k in range(1, p // 2 + 1):
        angle = 2 * math.pi * k * torch.arange(p) / p
        rows += [angle.cos() / angle.cos().norm(), angle.sin() / angle.sin().norm()]
    basis = torch.stack(rows)
    a, b = torch.arange(p)[:, None], torch.arange(p)[None, :]

    def waves(k: int) -> list[Tensor]:
        angle = 2 * math.pi * k * (a + b) / p
        return [(wave / wave.norm()).flatten()[:, None].double() for wave in (angle.cos(), angle.sin())]

    def loss(logits: Tensor, subset: Tensor | slice = slice(None)) -> float:
        return F.cross_entropy(logits[subset].double(), labels[subset]).item()

    def analyze() -> dict[str, Any]:
        model.load_state_dict(run.weights(step), strict=False)
        with torch.inference_mode():
            all_logits, cache = model.run_with_cache(inputs)
        logits = all_logits[:, -1].double()
        results: dict[str, Any] = {"loss": loss(logits), "train": loss(logits, train), "test": loss(logits, ~train)}
        results["embedding"] = (basis @ model.embed.W_E.detach()[:-1]).norm(dim=1)
        if neurons:
            results["neurons"] = neuron_frequencies(cache["post", 0, "mlp"][:, -1], basis, share_by_share)
        restricted = logits.mean(dim=0, keepdim=True)
        for k in frequencies:
            for wave in waves(k):
                restricted = restricted + wave @ (wave.T @ logits)
        results["restricted"] = [loss(restricted, subset) for subset in (slice(None), train, ~train)]
        results["excluded"] = []
        for k in range(1, p // 2 + 1) if excluded_for_all else frequencies:
            excluded = logits
            for wave in waves(k):
                excluded = excluded - wave @ (wave.T @ logits)
            results["excluded"].append(loss(excluded, train))
        cube, c = logits.view(p, p, p), torch.arange(p)[None, None, :]
        results["coefficients"] = []
        for k in range(1, p // 2 + 1):
            cosine = torch.cos(2 * math.pi * k * (a[:, :, None] + b[:, :, None] - c) / p).double()
            results["coefficients"].append(((cube * cosine).sum() / cosine.square().sum()).item())
        return results

    return analyze


def neuron_frequencies(neurons: Tensor, basis: Tensor, share_by_share: bool) -> list[tuple[int, float]]:
    """For each neuron, the frequency whose wave products explain most of its variance, and that share."""
    p = len(basis)
    grids = neurons.view(p, p, -1)
    components = torch.einsum("fa,abm,gb->fgm", basis, grids - grids.mean(dim=(0, 1)), basis)
    frequencies = []
    for i in range(components.shape[2]):
        power = components[:, :, i].square().sum()
        best = (0, 0.0)
        for k in range(1, p // 2 + 1):
            rows = torch.tensor([0, 2 * k - 1, 2 * k])
            if share_by_share:
                power = components[:, :, i].square().sum()
            share = components[rows[:, None], rows[None, :], i].square().sum() / power
            best = max(best, (k, share.item()), key=lambda pair: pair[1])
        frequencies.append(best)
    return frequencies
