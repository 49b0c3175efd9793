"""Makes `imports`: small files in the forms in which others publish models. For the fuzzer; no network was trained.

python -m tests.faults.make_imports
"""

import json
from pathlib import Path

import torch
from torch import Tensor

P, D, HEADS, WIDTH, MLP = 5, 4, 2, 2, 6
PAIRS = [(a, b) for a in range(P) for b in range(P)]
HERE = Path(__file__).parent / "imports"
LENS = {
    **{"n_layers": 1, "d_model": D, "n_ctx": 3, "d_head": WIDTH, "n_heads": HEADS, "d_mlp": MLP, "act_fn": "relu"},
    **{"normalization_type": None, "attention_dir": "causal", "d_vocab": P + 1, "d_vocab_out": P},
}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def transformer() -> dict[str, Tensor]:
    attn, mlp = "blocks.0.attn.", "blocks.0.mlp."
    state = {"embed.W_E": draw(P + 1, D), "pos_embed.W_pos": draw(3, D), f"{attn}W_O": draw(HEADS, WIDTH, D)}
    state |= {f"{attn}W_{kind}": draw(HEADS, D, WIDTH) for kind in "QKV"}
    state |= {f"{mlp}W_in": draw(D, MLP), f"{mlp}b_in": draw(MLP), f"{mlp}W_out": draw(MLP, D), f"{mlp}b_out": draw(D)}
    return {**state, "unembed.W_U": draw(D, P)}


def transposed(vocabulary: int, positions: int) -> dict[str, Tensor]:
    """In the layout of Nanda et al. and Zhong et al."""
    attn, mlp = "blocks.0.attn.", "blocks.0.mlp."
    state = {"embed.W_E": draw(D, vocabulary), "pos_embed.W_pos": draw(positions, D), f"{attn}W_O": draw(D, D)}
    state |= {f"{attn}W_{kind}": draw(HEADS, WIDTH, D) for kind in "QKV"}
    state |= {f"{mlp}W_in": draw(4 * D, D), f"{mlp}b_in": draw(4 * D)}
    state |= {f"{mlp}W_out": draw(D, 4 * D), f"{mlp}b_out": draw(D)}
    return {**state, "unembed.W_U": draw(D, vocabulary)}


def place(*parts: str) -> Path:
    folder = HERE.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    he = place("he", "p_5_dmlp_6_ReLU_random_scale_0.1_decay_2.0_01020304")
    for epoch in (0, 200):
        state = {"mlp.W_in": draw(MLP, P), "mlp.W_out": draw(P, MLP)}
        torch.save({"model": state, "train_loss": 1.5, "test_loss": 2.5, "epoch": epoch}, he / f"{epoch}.pth")
    torch.save(PAIRS[::2], he / "train_data.pth")
    torch.save(PAIRS[1::2], he / "test_data.pth")

    chughtai = place("chughtai")
    torch.save({"W_x": draw(P, 3), "W_y": draw(P, 3), "W": draw(6, 4), "W_U": draw(4, P)}, chughtai / "model.pt")
    config = {"model": "OneLayerMLP", "group": "CyclicGroup", "group_parameter": P, "frac_train": 0.4, "seed": 1}
    (chughtai / "cfg.json").write_text(json.dumps({**config, "num_epochs": 100}))
    (chughtai / "summary_metrics.json").write_text(json.dumps({"train_loss": 1.5, "test_loss": 2.5}))

    pizza = place("pizza")
    torch.save(transposed(P, 2), pizza / "model_abc.pt")
    config = {"C": P, "n_layers": 1, "act_fn": "ReLU", "attn_coeff": 0.5, "epoch": 20000, "n_heads": HEADS}
    (pizza / "config_abc.json").write_text(json.dumps({**config, "d_model": D, "diff_vocab": 0, "eqn_sign": 0}))

    losses = {"train_losses": [1.5] * 11, "test_losses": [2.5] * 11}
    checkpoints = {"checkpoints": [transformer(), transformer()], "checkpoint_epochs": [-1, 10]}
    indices = {"train_indices": torch.arange(0, 25, 2), "test_indices": torch.arange(1, 25, 2)}
    torch.save({"model": transformer(), "config": LENS, **checkpoints, **losses, **indices}, place("demo") / "run.pth")

    torch.save({"model": transposed(P + 1, 3), **losses}, place("nanda") / "run.pth")
    config = {"fn_name": "add", "seed": 0, "frac_train": 0.4, "save_every": 10}
    torch.save({"state_dicts": [transposed(P + 1, 3)] * 2, **losses, "config": config}, place("nanda_run") / "run.pth")

    states = place("states")
    (states / "config.json").write_text(json.dumps({**LENS, "train_indices": list(range(0, 25, 2))}))
    for step in (0, 100):
        torch.save(transformer(), states / f"ep{step}.pth")


if __name__ == "__main__":
    main()
