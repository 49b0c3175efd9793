"""Before it trains on mps, `train` compares the first updates with the CPU; here, a fake device stands for mps."""

from dataclasses import replace

import pytest
from trainings import MINIBATCH_MLP, briefly, shortened

from grokinterp.config import OptimizerConfig
from grokinterp.errors import ConfigError
from grokinterp.runs.run import Run
from grokinterp.training import device_check, train, trainer
from grokinterp.training.device_check import check_device, first_losses

LOSSES = [4.0, 3.0, 2.0]


@pytest.fixture
def fake(monkeypatch):
    """Sets the losses on a device named mps."""

    def losses_on_mps(*losses: float) -> None:
        def first_losses(config, device):
            return list(losses) if device == "mps" else LOSSES

        monkeypatch.setattr(device_check, "first_losses", first_losses)

    return losses_on_mps


def test_the_losses_are_those_of_the_training(tmp_path):
    config = replace(shortened(briefly(), evaluate_every=1, steps=8), optimizer=OptimizerConfig())
    run = train(config, tmp_path / "run")
    assert first_losses(config, "cpu", 8) == pytest.approx(run.metrics["train_loss"].tolist()[:8], rel=1e-6)


def test_a_device_that_agrees_gets_a_warning(fake, caplog):
    fake(4.0, 3.001, 2.0)
    check_device(briefly(), "mps")
    assert "mps may compute wrong results without an error" in caplog.text
    assert "largest difference: 0.0003 of the loss" in caplog.text


@pytest.mark.parametrize("wrong", [2.1, float("nan"), float("inf")])
def test_a_device_that_does_not_is_refused_before_anything_is_written(wrong, fake, tmp_path, monkeypatch):
    fake(4.0, 3.0, wrong)
    monkeypatch.setattr(trainer, "choose_device", lambda name: name)
    with pytest.raises(ConfigError, match=r"mps computes wrong .*: after 2 updates, .* instead of 2 on the CPU"):
        train(replace(briefly(), loss_dtype="float32"), tmp_path / "run", device="mps")
    assert not (tmp_path / "run").exists()


def test_random_numbers_differ_between_devices(fake, caplog):
    fake(float("nan"))
    check_device(replace(MINIBATCH_MLP, optimizer=OptimizerConfig(gradient_noise=0.1)), "mps")
    assert "cannot be compared with the CPU here" in caplog.text


def test_the_cpu_is_not_compared_with_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "check_device", None)
    assert isinstance(train(briefly(), tmp_path / "run"), Run)
