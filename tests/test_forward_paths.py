"""Every forward pass, plain or compiled, gives the same weights as a training loop written by hand."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import processes
import pytest
import torch
import torch.nn.functional as F
from hooked import HookedTransformer, HookedTransformerConfig, needs_hooked_transformer
from trainings import CONFIGS, MORE_CONFIGS, PATHS, TRANSFORMER, P, result, shortened

from grokinterp.config import (
    TransformerConfig,
)
from grokinterp.runs.run import Run
from grokinterp.training import train


class TestForwardPaths:
    SMALL = TransformerConfig(d_model=16, n_heads=2, d_mlp=32)
    VARIANTS: ClassVar = {
        "frozen biases": ("last_position", SMALL, "cross_entropy"),
        "no =": ("last_position", replace(SMALL, equals_token=False, biases="trained", init="torch"), "cross_entropy"),
        "class of =": ("last_position", replace(SMALL, equals_logit=True, biases="mlp", init="nanda"), "cross_entropy"),
        "gelu": ("last_position", replace(SMALL, activation="gelu", biases="trained"), "cross_entropy"),
        "mse": ("last_position", SMALL, "mse"),
        "two layers": ("prefix", replace(SMALL, n_layers=2), "cross_entropy"),
        "layernorm, mse": ("prefix", replace(SMALL, normalization="layernorm"), "mse"),
    }

    @pytest.mark.parametrize(("path", "model", "loss"), VARIANTS.values(), ids=VARIANTS)
    def test_the_modules_own_forward_gives_the_same_losses(self, path, model, loss, tmp_path):
        config = replace(TRANSFORMER, model=model, loss=loss)
        config = shortened(config, steps=20, evaluate_every=1, checkpoints=20)
        fast = train(config, tmp_path / "fast")
        plain = train(config, tmp_path / "plain", plain_forward=True)
        assert fast.environment["forward_path"] == path
        assert plain.environment["forward_path"] == "module"
        for column in ("train_loss", "test_loss"):
            assert fast.metrics[column].to_numpy() == pytest.approx(plain.metrics[column].to_numpy(), rel=1e-5)

    def test_a_run_by_the_module_is_resumed_by_the_module(self, tmp_path):
        config = shortened(TRANSFORMER, steps=20, evaluate_every=1, checkpoints=20)
        undisturbed = train(config, tmp_path / "undisturbed", plain_forward=True)
        train(shortened(config, steps=10), tmp_path / "run", plain_forward=True)
        resumed = train(config, tmp_path / "run", resume=True)
        assert resumed.environment["forward_path"] == resumed.environment["resumed"][0]["forward_path"] == "module"
        for name, weight in resumed.weights(20).items():
            torch.testing.assert_close(weight, undisturbed.weights(20)[name], rtol=0, atol=0)

    @needs_hooked_transformer
    def test_five_steps_of_a_loop_written_by_hand(self, tmp_path):
        """A plain HookedTransformer, cross entropy in float64, torch.optim.AdamW, as in TransformerLens's demo."""
        config = shortened(TRANSFORMER, steps=5, evaluate_every=1, checkpoints=1)
        run = train(config, tmp_path / "run")
        settings = HookedTransformerConfig(
            n_layers=1,
            n_heads=2,
            d_model=16,
            d_head=8,
            d_mlp=32,
            act_fn="relu",
            normalization_type=None,
            d_vocab=P + 1,
            d_vocab_out=P,
            n_ctx=3,
            device="cpu",
        )
        with pytest.warns(DeprecationWarning, match="HookedTransformer"):
            model = HookedTransformer(settings)
        model.load_state_dict(run.weights(0), strict=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.rsplit(".", 1)[1].startswith("b_"))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.5, betas=(0.9, 0.98))
        inputs = torch.tensor([[a, b, P] for a in range(P) for b in range(P)])
        labels = (inputs[:, 0] + inputs[:, 1]) % P
        chosen = torch.randperm(P * P, generator=torch.Generator().manual_seed(0))[: int(0.5 * P * P)]
        for step in range(6):
            loss = F.cross_entropy(model(inputs[chosen])[:, -1].double(), labels[chosen])
            assert run.metrics["train_loss"][step] == pytest.approx(loss.item(), rel=1e-6)
            kept = run.weights(step)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(
                    kept[name], parameter.detach(), rtol=1e-5, atol=1e-6, msg=f"{name} at {step}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


COMPILED = """
import json, sys
from dataclasses import replace

import torch

from grokinterp.config import RunConfig
from grokinterp.training import train

torch.set_num_threads(1)
folder = sys.argv[1]
config = RunConfig.from_json(sys.stdin.read())
half = replace(config, schedule=replace(config.schedule, steps=config.schedule.steps // 2))
train(config, folder + "/plain")
train(config, folder + "/compiled", compile=True)
train(half, folder + "/resumed", compile=True)
train(config, folder + "/resumed", resume=True, compile=True)
"""


@pytest.fixture(scope="module", params=PATHS)
def compiled_folder(request, tmp_path_factory) -> Path:
    """The same run plain, compiled, and compiled and resumed halfway, in a process without shape checks."""
    folder = tmp_path_factory.mktemp(request.param)
    config = (CONFIGS | MORE_CONFIGS)[request.param]
    script = processes.run(
        [sys.executable, "-c", COMPILED, str(folder)],
        input=shortened(config, steps=40, evaluate_every=10, checkpoints=10, resume_every=10).to_json(),
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert script.returncode == 0, script.stderr
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
class TestCompiled:
    def test_trains_to_the_same_numbers_and_records_compilation(self, compiled_folder):
        plain, compiled = Run.open(compiled_folder / "plain"), Run.open(compiled_folder / "compiled")
        assert (plain.environment["compiled"], compiled.environment["compiled"]) == (False, True)
        pd.testing.assert_frame_equal(compiled.metrics, plain.metrics, rtol=1e-5)
        for step in plain.steps:
            expected = plain.weights(step)
            for name, weight in compiled.weights(step).items():
                if name.endswith("b_K"):  # b_K has no effect and thus no gradient: Adam follows its rounding errors
                    continue
                torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5, msg=f"{name} at {step}")

    def test_resumes_compiled_bit_for_bit(self, compiled_folder):
        compiled, resumed = Run.open(compiled_folder / "compiled"), Run.open(compiled_folder / "resumed")
        assert [again["compiled"] for again in resumed.environment["resumed"]] == [True]
        assert result(resumed.path) == result(compiled.path)
