"""Products in bfloat16: their rounding, their gradients, and what a run records and demands of a resume."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_gradients import DEEPER, ONE_LAYER, copy_of, left_in, ours, run_of, training_set
from weights import randomized

from grokinterp.config import MLPConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.models import build_model, task_of
from grokinterp.models.products import has_bf16_products, multiplying_in, product
from grokinterp.runs.writer import RunWriter
from grokinterp.sweep import commands, plan, train_point, train_sweep
from grokinterp.training import preparation, train, train_many
from grokinterp.training.estimate import estimate

needs_bf16 = pytest.mark.skipif(not has_bf16_products(), reason="this processor has no bf16 products")
pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

MODEL = MLPConfig(input="sum", depth=2, width=64, activation="gelu")
CONFIG = RunConfig(
    task=TaskConfig(p=23, train_fraction=0.6),
    model=MODEL,
    schedule=ScheduleConfig(steps=6, evaluate_every=2, checkpoints=3),
)
HALF = CONFIG.replace({"schedule.steps": 3})
WIDE = {
    "flat": replace(MODEL, width=128),
    "residual": replace(MODEL, width=128, architecture="residual"),
    "one layer": replace(ONE_LAYER["demo"], d_model=64, d_mlp=128),
    "encoder": replace(DEEPER["encoder"], d_model=64, d_mlp=128),
}


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().double()


@needs_bf16
class TestProducts:
    @pytest.mark.parametrize("shape", [(256, 128, 192), (100, 64, 97)])
    def test_factors_are_rounded_and_their_products_summed_in_float32(self, shape, matrix_products):
        n, k, m = shape
        torch.manual_seed(0)
        x, w = torch.randn(n, k), torch.randn(k, m)
        with multiplying_in("bf16"):
            found = product(x, w)
        assert found.dtype == torch.float32
        scale = rounded(x).abs() @ rounded(w).abs()
        assert ((found - rounded(x) @ rounded(w)).abs() <= k * 2**-24 * scale).all()
        assert ((found - x.double() @ w.double()).abs() > 1e-4 * scale).any()

    def test_the_setting_is_restored_after_an_error(self):
        before = torch.get_float32_matmul_precision()
        with pytest.raises(ZeroDivisionError), multiplying_in("bf16"):
            _ = 1 / 0
        assert torch.get_float32_matmul_precision() == before
        x = torch.full((256, 256), 1 + 2**-10)
        assert (x @ x)[0, 0] != 256

    @pytest.mark.parametrize("name", WIDE)
    def test_gradients_are_those_of_float64_to_bf16s_digits(self, name):
        config = run_of(WIDE[name], 23)
        model = randomized(build_model(config.model, task_of(config)))
        tokens, labels = training_set(config)
        weights = {dtype: copy_of(model, dtype) for dtype in (torch.float32, torch.float64)}
        _, exact = ours(config, weights[torch.float64], tokens, labels)
        _, plain = ours(config, weights[torch.float32], tokens, labels)
        again = copy_of(model)
        with multiplying_in("bf16"):
            ours(config, again, tokens, labels)
        differs = False
        for parameter, gradient in left_in(again).items():
            size = exact[parameter].norm()
            if size < 1e-9:  # 0 but for rounding: scores do not depend on the biases of the keys
                continue
            assert (gradient - exact[parameter]).norm() <= 2**-4 * size, parameter
            differs |= bool((gradient - plain[parameter]).norm() > 1e-4 * size)
        assert differs, "the products were computed in float32"


@needs_bf16
class TestUpdates:
    def test_evaluation_stays_in_float32(self, tmp_path):
        run = train(CONFIG, tmp_path / "run", products="bf16")
        task, last = run.classification, run.steps[-1]

        def train_loss() -> float:
            logits = run.forward.logits_by_rows(run.weights(last), task.tokens).double()
            return F.cross_entropy(logits[task.train_mask], task.labels[task.train_mask]).item()

        measured = run.metrics["train_loss"][last]
        assert measured == pytest.approx(train_loss(), rel=1e-8)
        with multiplying_in("bf16"):
            assert measured != pytest.approx(train_loss(), rel=1e-8)

    def test_they_differ_from_those_in_float32(self, tmp_path):
        runs = [train(CONFIG, tmp_path / kind, products=kind) for kind in ("float32", "bf16")]
        assert runs[0].checksum(0) == runs[1].checksum(0)
        assert runs[0].checksum(6) != runs[1].checksum(6)

    def test_also_those_of_runs_together(self, tmp_path):
        configs = [replace(CONFIG, model_seed=seed) for seed in range(2)]
        runs = {
            kind: train_many(configs, [tmp_path / f"{kind}{i}" for i in range(2)], products=kind)
            for kind in ("float32", "bf16")
        }
        for exact, run in zip(runs["float32"], runs["bf16"], strict=True):
            assert exact.checksum(0) == run.checksum(0)
            assert exact.checksum(6) != run.checksum(6)

    def test_resuming_ends_in_the_same_bits(self, tmp_path):
        whole = train(CONFIG, tmp_path / "whole", products="bf16")
        train(HALF, tmp_path / "parts", products="bf16")
        parts = train(CONFIG, tmp_path / "parts", products="bf16", resume=True)
        assert parts.checksum(6) == whole.checksum(6)
        assert parts.environment["resumed"][0]["products"] == "bf16"

    def test_a_sweep(self, tmp_path):
        sweep = train_sweep(tmp_path / "sweep", CONFIG, grid={"model_seed": [0]}, workers=1, products="bf16")
        assert [run.environment["products"] for run in sweep.runs] == ["bf16"]

    def test_commands(self, tmp_path, monkeypatch, shell):
        monkeypatch.chdir(tmp_path)
        options = ["--preset", "manir", "--schedule.steps", "2", "--products", "bf16"]
        assert shell("train", "run", *options, "--dry-run").code == 0
        assert shell("train", "run", *options).code == 0
        refused = shell("train", "run", "--resume", "--schedule.steps", "3")
        assert refused.code == 2
        assert "resume it with --products bf16" in refused.err


class TestRecord:
    """What a run records and demands does not depend on the processor."""

    @pytest.fixture(autouse=True)
    def any_processor(self, monkeypatch):
        monkeypatch.setattr(preparation, "has_bf16_products", lambda: True)

    @pytest.mark.parametrize(("begun", "given"), [("bf16", "float32"), ("float32", "bf16")])
    def test_resuming_needs_the_same(self, begun, given, tmp_path):
        run = train(HALF, tmp_path / "run", products=begun)
        assert run.environment["products"] == begun
        before = run.checksum(3)
        for call in (
            lambda: train(CONFIG, run.path, products=given, resume=True),
            lambda: train_many([CONFIG], [run.path], products=given, resume=True),
        ):
            with pytest.raises(ConfigError, match=f"was trained with products in {begun}.*--products {begun}"):
                call()
        assert run.checksum(3) == before
        assert run.status["step"] == 3

    def test_runs_together_are_resumed_in_the_same(self, tmp_path):
        train_many([HALF], [tmp_path / "run"], products="bf16")
        (run,) = train_many([CONFIG], [tmp_path / "run"], products="bf16", resume=True)
        assert run.status["step"] == 6
        assert run.environment["resumed"][0]["products"] == "bf16"

    def test_a_run_that_has_ended_needs_nothing(self, tmp_path):
        train(CONFIG, tmp_path / "run", products="bf16")
        assert train(CONFIG, tmp_path / "run", resume=True).status["step"] == 6

    def test_an_older_run_was_trained_in_float32(self, tmp_path):
        run = train(HALF, tmp_path / "run")
        environment = run.environment
        assert environment.pop("products") == "float32"
        RunWriter(run.path, config=CONFIG).write_environment(environment)
        assert train(CONFIG, run.path, resume=True).status["step"] == 6

    @pytest.mark.parametrize(("begun", "given"), [("bf16", "float32"), ("float32", "bf16")])
    def test_a_sweep_has_one_format(self, begun, given, tmp_path):
        sweep = plan(tmp_path / "sweep", CONFIG, grid={"model_seed": [0, 1]})
        sweep.write()
        assert train_point(sweep, "model_seed=0", products=begun).failure is None
        for call in (
            lambda: train_sweep(sweep.path, products=given),
            lambda: train_point(sweep, "model_seed=1", products=given),
            lambda: commands(sweep, products=given),
        ):
            with pytest.raises(ConfigError, match=f"was trained with products in {begun}"):
                call()
        option = " --products bf16" if begun == "bf16" else ""
        assert commands(sweep, products=begun) == [f"grokinterp sweep {sweep.path} --only model_seed=1{option}"]

    def test_a_sweep_that_has_ended_needs_nothing(self, tmp_path):
        sweep = plan(tmp_path / "sweep", CONFIG, grid={"model_seed": [0]})
        sweep.write()
        assert train_point(sweep, "model_seed=0", products="bf16").failure is None
        assert len(train_sweep(sweep.path).runs) == 1


class TestRefusal:
    def test_unknown_products(self, tmp_path):
        with pytest.raises(ConfigError, match="unknown products 'int8'"):
            preparation.check_products("int8", "cpu")

    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
    def test_another_device(self, device):
        with pytest.raises(ConfigError, match=f"only on the CPU, but the device is {device}"):
            preparation.check_products("bf16", device)

    def test_a_processor_without_them(self, tmp_path, monkeypatch):
        monkeypatch.setattr(preparation, "has_bf16_products", lambda: False)
        for call in (
            lambda: train(CONFIG, tmp_path / "run", products="bf16"),
            lambda: train_sweep(tmp_path / "sweep", CONFIG, grid={"model_seed": [0]}, products="bf16", device="cpu"),
            lambda: estimate(CONFIG, products="bf16"),
        ):
            with pytest.raises(ConfigError, match="no bf16 products on this processor"):
                call()
        assert not (tmp_path / "run").exists()

    def test_compilation(self, tmp_path, monkeypatch):
        monkeypatch.setattr(preparation, "has_bf16_products", lambda: True)
        with pytest.raises(ConfigError, match="omit --compile"):
            train(CONFIG, tmp_path / "run", products="bf16", compile=True)
        assert not (tmp_path / "run").exists()
