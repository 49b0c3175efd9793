"""Variants of public models that are not among the samples: files written here, and their logits by plain formulas.

The formulas are those of the authors' code, written out again for one input at a time or with PyTorch's own layers.
"""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import grokinterp as gi

P = 7
PAIRS = [(a, b) for a in range(P) for b in range(P)]
ACTS = {"ReLU": F.relu, "GeLU": F.gelu, "Tanh": torch.tanh, "Quad": torch.square}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 31 * len(shape) + sum(shape))
    return torch.randn(*shape, generator=generator)


def logits_of(run) -> Tensor:
    return run.snapshot("last").logits


# --- Zhong et al. ----------------------------------------------------------------------------------------------------


def pizza_transformer(layers: int, vocabulary: int, positions: int, heads: int, d: int) -> dict[str, Tensor]:
    width = d // heads
    state = {
        "embed.W_E": draw(d, vocabulary),
        "pos_embed.W_pos": draw(positions, d),
        "unembed.W_U": draw(d, vocabulary),
    }
    for i in range(layers):
        for kind in "KQV":
            state[f"blocks.{i}.attn.W_{kind}"] = draw(heads, width, d, seed=ord(kind) + i)
        state[f"blocks.{i}.attn.W_O"] = draw(d, heads * width, seed=i)
        state[f"blocks.{i}.attn.mask"] = torch.ones(positions, positions).tril()
        state |= {f"blocks.{i}.mlp.W_in": draw(4 * d, d, seed=i), f"blocks.{i}.mlp.b_in": draw(4 * d, seed=i)}
        state |= {f"blocks.{i}.mlp.W_out": draw(d, 4 * d, seed=i), f"blocks.{i}.mlp.b_out": draw(d, seed=i)}
    return {name: 0.3 * tensor for name, tensor in state.items()}


def pizza_logits(state: dict[str, Tensor], tokens: list[int], layers: int, rate: float, act: str) -> Tensor:
    """Of one input, position by position and head by head."""
    s = {name: tensor.double() for name, tensor in state.items()}
    x = torch.stack([s["embed.W_E"][:, token] + s["pos_embed.W_pos"][t] for t, token in enumerate(tokens)])
    for i in range(layers):
        W_Q, W_K, W_V, W_O = (s[f"blocks.{i}.attn.W_{kind}"] for kind in "QKVO")
        heads, width, _ = W_Q.shape
        parts = []
        for h in range(heads):
            q, k, v = x @ W_Q[h].T, x @ W_K[h].T, x @ W_V[h].T
            attention = torch.softmax(q @ k.T / math.sqrt(width), dim=1) * rate + (1 - rate)
            parts.append(attention @ v)
        x = x + torch.cat(parts, dim=1) @ W_O.T
        hidden = ACTS[act](x @ s[f"blocks.{i}.mlp.W_in"].T + s[f"blocks.{i}.mlp.b_in"])
        x = x + hidden @ s[f"blocks.{i}.mlp.W_out"].T + s[f"blocks.{i}.mlp.b_out"]
    return (x @ s["unembed.W_U"])[-1, :P]


@pytest.mark.parametrize(
    ("layers", "rate", "act", "separate", "equals"),
    [
        (1, 0.0, "ReLU", 0, 0),
        (1, 1.0, "ReLU", 0, 0),
        (1, 0.4, "GeLU", 0, 0),
        (2, 0.7, "Tanh", 0, 0),
        (3, 1.0, "ReLU", 0, 0),
        (1, 0.0, "ReLU", 1, 0),
        (1, 0.5, "ReLU", 0, 1),
        (2, 0.5, "ReLU", 1, 1),
    ],
)
def test_pizza_transformers(tmp_path, layers, rate, act, separate, equals):
    vocabulary = P * (2 if separate else 1) + equals
    state = pizza_transformer(layers, vocabulary, 2 + equals, heads=2, d=8)
    torch.save(state, tmp_path / "model_abc.pt")
    config = {"C": P, "n_layers": layers, "act_fn": act, "attn_coeff": rate, "epoch": 20000, "diff_vocab": separate}
    config |= {"eqn_sign": equals, "funcs": "lambda x: (x[0]+x[1])%7", "n_heads": 2, "d_model": 8}
    (tmp_path / "config_abc.json").write_text(json.dumps(config))
    run = gi.import_run(tmp_path, tmp_path / "run")
    for row, (a, b) in enumerate(PAIRS):
        tokens = [a, b + P * separate, *([vocabulary - 1] if equals else [])]
        expected = pizza_logits(state, tokens, layers, rate, act)
        torch.testing.assert_close(logits_of(run)[row], expected, rtol=1e-4, atol=1e-4)
    model = run.model("last")
    with torch.no_grad():
        theirs = model(run.task.tokens)[:, -1]
    torch.testing.assert_close(theirs.double(), logits_of(run), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["A", "B", "C", "D", "X"])
def test_pizza_linear_models(tmp_path, kind):
    d = 4 if kind == "D" else 8
    tables = ["embed1", "embed2"] if kind == "X" else ["embed"]
    state = {f"{name}.weight": draw(P, d, seed=i) for i, name in enumerate(tables)}
    state |= {"l1.weight": draw(8, 8), "l1.bias": draw(8), "unembed.weight": draw(P, 8, seed=5)}
    state |= {"l2.weight": draw(8, 8, seed=3), "l2.bias": draw(8, seed=3)} if kind in "BC" else {}
    torch.save(state, tmp_path / "model_abc.pt")
    config = {"C": P, "model_type": kind, "n_vocab": P, "d_model": 8, "d_hidden": 8, "epoch": 20000}
    (tmp_path / "config_abc.json").write_text(json.dumps(config))
    run = gi.import_run(tmp_path / "config_abc.json", tmp_path / "run")
    s = {name: tensor.double() for name, tensor in state.items()}

    def l1(x):
        return x @ s["l1.weight"].T + s["l1.bias"]

    for row, (a, b) in enumerate(PAIRS):
        first, second = s[f"{tables[0]}.weight"][a], s[f"{tables[-1]}.weight"][b]
        if kind == "D":
            h = F.relu(l1(torch.cat([first, second])))
        elif kind == "C":
            h = F.relu(l1(first) + l1(second))
        else:
            h = F.relu(l1(first + second))
        if kind in "BC":
            h = F.relu(h @ s["l2.weight"].T + s["l2.bias"])
        torch.testing.assert_close(logits_of(run)[row], h @ s["unembed.weight"].T, rtol=1e-4, atol=1e-4)
    assert bool(run.environment["imported"]["notes"]) == (kind == "C")


# --- He et al. -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["ReLU", "GeLU", "Quad"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("data", ["lists", "tensors", "all pairs"])
def test_he(tmp_path, act, learned, data):
    folder = tmp_path / f"p_7_dmlp_6_{act}_random_scale_0.1_decay_2.0_01020304"
    folder.mkdir()
    state = {"mlp.W_in": draw(6, 5 if learned else P), "mlp.W_out": draw(P, 6), "mlp.basis": draw(P, P)}
    state |= {"embed.W_E": draw(5, P)} if learned else {}
    for epoch in (0, 200):
        content = {"model": state, "train_loss": 1.5, "test_loss": 2.5, "epoch": epoch}
        torch.save(content, folder / f"{epoch}.pth")
    torch.save({"model": state, "train_losses": [1.0], "epoch": 400}, folder / "final.pth")
    train, test = PAIRS[::2], PAIRS[1::2]
    if data == "all pairs":
        train = test = PAIRS
    for name, pairs in (("train", train), ("test", test)):
        labels = torch.tensor([(a + b) % P for a, b in pairs])
        torch.save(pairs if data == "lists" else (torch.tensor(pairs), labels), folder / f"{name}_data.pth")
    run = gi.import_run(folder, tmp_path / "run")
    assert run.steps == [0, 200, 400]
    s = {name: tensor.double() for name, tensor in state.items()}
    for row, (a, b) in enumerate(PAIRS):
        x = torch.zeros(P).double()
        x[a] += 1
        x[b] += 1  # 2 where a = b
        x = s["embed.W_E"] @ x if learned else x
        torch.testing.assert_close(
            logits_of(run)[row], s["mlp.W_out"] @ ACTS[act](s["mlp.W_in"] @ x), rtol=1e-4, atol=1e-4
        )
    if data == "all pairs":
        assert run.config.task.split == "all"
        assert "train_loss" not in run.metrics
    else:
        assert [PAIRS[i] for i in run.task.train_mask.nonzero().flatten().tolist()] == train
        assert run.metrics.loc[200, "recorded_test_loss"] == 2.5


# --- Chughtai et al. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
def test_chughtai_seeds(tmp_path, seed):
    """Their code does not shuffle for seed 0."""
    state = {"W_x": draw(P, 4), "W_y": draw(P, 4, seed=1), "W": draw(8, 6), "W_U": draw(6, P)}
    torch.save(state, tmp_path / "model.pt")
    config = {"model": "OneLayerMLP", "group": "CyclicGroup", "group_parameter": P, "frac_train": 0.4, "seed": seed}
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "num_epochs": 100}))
    run = gi.import_run(tmp_path / "model.pt", tmp_path / "run")
    count = int(0.4 * P * P)
    expected = (
        torch.arange(count) if seed == 0 else torch.randperm(P * P, generator=torch.Generator().manual_seed(seed))
    )
    assert sorted(expected[:count].tolist()) == run.task.train_mask.nonzero().flatten().tolist()
    for row, (a, b) in enumerate(PAIRS):
        hidden = F.relu(torch.cat([state["W_x"][a], state["W_y"][b]]) @ state["W"])
        torch.testing.assert_close(logits_of(run)[row], (hidden @ state["W_U"]).double(), rtol=1e-4, atol=1e-4)


def test_a_group_that_is_not_cyclic_is_refused(tmp_path):
    torch.save({"W": draw(3, 3)}, tmp_path / "model.pt")
    config = {"model": "OneLayerMLP", "group": "SymmetricGroup", "group_parameter": 5, "frac_train": 0.4, "seed": 1}
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "num_epochs": 100}))
    with pytest.raises(gi.RunError, match="SymmetricGroup is no cyclic group"):
        gi.import_run(tmp_path, tmp_path / "run")
