"""The forms in which Nanda et al. save a run, written here by a training loop like theirs."""

import random
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

import grokinterp as gi

P, D, HEADS, WIDTH, MLP = 11, 8, 2, 4, 16
SEED, FRACTION, EPOCHS, SAVE_EVERY = 3, 0.4, 201, 50
PAIRS = [(a, b, P) for a in range(P) for b in range(P)]
SHAPES = {
    "embed.W_E": (D, P + 1),
    "pos_embed.W_pos": (3, D),
    **{f"blocks.0.attn.W_{kind}": (HEADS, WIDTH, D) for kind in "KQV"},
    "blocks.0.attn.W_O": (D, HEADS * WIDTH),
    "blocks.0.mlp.W_in": (MLP, D),
    "blocks.0.mlp.b_in": (MLP,),
    "blocks.0.mlp.W_out": (D, MLP),
    "blocks.0.mlp.b_out": (D,),
    "unembed.W_U": (D, P + 1),
}


def logits_of(state, inputs):
    """All logits at the last position, as their modules compute them."""
    x = state["embed.W_E"].T[torch.tensor(inputs)] + state["pos_embed.W_pos"]
    q, k, v = (torch.einsum("hwd,btd->bthw", state[f"blocks.0.attn.W_{kind}"], x) for kind in "QKV")
    scores = torch.einsum("bshw,bthw->bhts", k, q) / WIDTH**0.5
    scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), -1e10)
    z = torch.einsum("bhts,bshw->bthw", scores.softmax(-1), v).flatten(2)
    x = x + z @ state["blocks.0.attn.W_O"].T
    hidden = F.relu(x @ state["blocks.0.mlp.W_in"].T + state["blocks.0.mlp.b_in"])
    x = x + hidden @ state["blocks.0.mlp.W_out"].T + state["blocks.0.mlp.b_out"]
    return x[:, -1] @ state["unembed.W_U"]


def loss_of(state, inputs, function):
    labels = torch.tensor([function(a, b) % P for a, b, _ in inputs])
    return F.cross_entropy(logits_of(state, inputs).double(), labels)


def trained(function=lambda a, b: a + b):
    """The pairs of both sets, the losses of each epoch, and copies of the state: at first, after epochs, at last."""
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    state = {name: tensor.requires_grad_() for name, tensor in state.items()}
    optimizer = torch.optim.AdamW(state.values(), lr=3e-3, weight_decay=1.0, betas=(0.9, 0.98))
    pairs = list(PAIRS)
    random.Random(SEED).shuffle(pairs)
    train, test = pairs[: int(FRACTION * len(pairs))], pairs[int(FRACTION * len(pairs)) :]

    def copy():
        mask = {"blocks.0.attn.mask": torch.ones(3, 3).tril()}
        return {name: tensor.detach().clone() for name, tensor in state.items()} | mask

    initial, states, losses = copy(), {}, ([], [])
    for epoch in range(EPOCHS):
        loss = loss_of(state, train, function)
        losses[0].append(loss.item())
        losses[1].append(loss_of(state, test, function).item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch % SAVE_EVERY == 0:
            states[epoch] = copy()
    return train, test, losses, initial, states, copy()


def split_of(run):
    return {PAIRS[i] for i in run.task.train_mask.nonzero().flatten().tolist()}


def test_a_whole_run_in_one_file(tmp_path):
    """With every tenth test loss only; the weights are one update younger than the losses beside them."""
    train, test, (train_losses, test_losses), _, states, _ = trained()
    content = {"state_dicts": list(states.values()), "train_losses": train_losses, "test_losses": test_losses[::10]}
    content["config"] = {"p": P, "fn_name": "add", "save_every": SAVE_EVERY, "seed": SEED, "frac_train": FRACTION}
    torch.save(content, tmp_path / "full_run_data.pth")
    run = gi.import_run(tmp_path / "full_run_data.pth", tmp_path / "run")
    assert run.steps == [1, 51, 101, 151, 201]
    assert split_of(run) == set(train)
    for epoch, state in states.items():
        row = run.metrics.loc[epoch + 1]
        assert row["train_loss"] == pytest.approx(loss_of(state, train, lambda a, b: a + b).item(), rel=1e-3)
        assert row["test_loss"] == pytest.approx(loss_of(state, test, lambda a, b: a + b).item(), rel=1e-3)
        assert row["recorded_train_loss"] == train_losses[epoch]
        assert row["recorded_test_loss"] == test_losses[epoch]
    torch.testing.assert_close(
        run.snapshot("last").logits.float(), logits_of(states[200], PAIRS)[:, :P], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("epochs", [[0, 50, 100, 150, 200], list(range(EPOCHS))])
def test_epochs_beside_the_states(tmp_path, epochs):
    """Some files list the epochs of the state dicts, others all epochs; the split is found without a seed."""
    train, _, (train_losses, test_losses), _, states, _ = trained()
    content = {"state_dicts": list(states.values()), "train_losses": train_losses, "test_losses": test_losses}
    torch.save({**content, "epochs": epochs, "config": {"save_every": SAVE_EVERY}}, tmp_path / "run.pth")
    run = gi.import_run(tmp_path / "run.pth", tmp_path / "run")
    assert run.steps == [1, 51, 101, 151, 201]
    assert split_of(run) == set(train)


def test_the_folder_that_their_code_writes(tmp_path):
    train, test, (train_losses, test_losses), initial, states, final = trained()
    folder = tmp_path / "grok_1"
    folder.mkdir()
    torch.save({"model": initial, "train_data": train, "test_data": test}, folder / "init.pth")
    for epoch, state in states.items():
        torch.save({"model": state, "train_loss": 1.0, "test_loss": 1.0, "epoch": epoch}, folder / f"{epoch}.pth")
    content = {"model": final, "train_losses": train_losses, "test_losses": test_losses, "epoch": EPOCHS}
    torch.save(content, folder / "final.pth")
    run = gi.import_run(folder, tmp_path / "run")
    assert run.steps == [0, 1, 51, 101, 151, 201]
    assert split_of(run) == set(train)
    assert run.metrics.loc[0, "train_loss"] == pytest.approx(train_losses[0], rel=1e-3)
    assert run.metrics.loc[51, "recorded_train_loss"] == train_losses[50]
    (folder / "final.pth").unlink()  # of a run that was stopped
    assert gi.import_run(folder, tmp_path / "stopped").steps == [0, 1, 51, 101, 151, 201]


@pytest.mark.parametrize(
    ("name", "function", "operation"),
    [("subtract", lambda a, b: a - b, "subtract"), ("x2xyy2", lambda a, b: a * a + a * b + b * b, "x^2+xy+y^2")],
)
def test_other_operations_with_a_pickled_configuration(tmp_path, monkeypatch, name, function, operation):
    """Their configuration is a data class that only their package has; it holds a torch.device."""
    module = ModuleType("progress_measures_paper.transformers")

    class Config:
        def __init__(self):
            self.fn_name, self.seed, self.frac_train = (
                name,
                0,
                0.9,
            )  # in some of their files, these are not the true ones
            self.act_type, self.device = "ReLU", torch.device("cuda")

    Config.__module__, Config.__qualname__ = module.__name__, "Config"
    module.Config = Config
    monkeypatch.setitem(sys.modules, "progress_measures_paper", ModuleType("progress_measures_paper"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    train, _, (train_losses, test_losses), _, _, final = trained(function)
    content = {"model": final, "train_losses": train_losses, "test_losses": test_losses, "config": Config()}
    torch.save(content, tmp_path / "final.pth")
    monkeypatch.delitem(sys.modules, module.__name__)
    run = gi.import_run(tmp_path / "final.pth", tmp_path / "run")
    assert (run.config.task.operation, run.steps) == (operation, [EPOCHS])
    assert split_of(run) == set(train)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"config": {"fn_name": "rand"}}, "the operation 'rand' is none of add, subtract, x2xyy2"),
        ({"config": {"act_type": "Swish"}}, "activation function 'Swish' is not read"),
        ({"config": 3}, "its config is no configuration"),
        ({"train_losses": ["much"]}, "'train_losses' is no list of finite numbers"),
        ({"state_dicts": []}, "'state_dicts' is no list of state dicts"),
        ({"state_dicts": [{"embed.W_E": 1}]}, "holds no state dict"),
    ],
)
def test_what_cannot_be_read(tmp_path, changes, match):
    _, _, (train_losses, test_losses), _, _, final = trained()
    content = {"model": final, "train_losses": train_losses, "test_losses": test_losses, **changes}
    torch.save(content, tmp_path / "run.pth")
    with pytest.raises(gi.RunError, match=match):
        gi.import_run(tmp_path / "run.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()
