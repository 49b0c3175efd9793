"""Compares the first updates on a device that may compute wrong results with the same updates on the CPU."""

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, logger
from grokinterp.models import forward_for, initial_parameters
from grokinterp.training.gradients import gradients_function
from grokinterp.training.interventions import draws_in_updates
from grokinterp.training.optimizers import Updater
from grokinterp.training.preparation import task_to_train

log = logger(__name__)

_STEPS = 20
# Errors of 1e-6 in the initial weights change these losses by less than 1e-5 in the presets.
_TOLERANCE = 0.01


def check_device(config: RunConfig, device: str) -> None:
    """Warns that a device may compute wrong results, unless the losses of 20 updates show that it does.

    Args:
        config: of the run, of which nothing is written.
        device: to compare with the CPU.

    Raises:
        ConfigError: a loss differs from that on the CPU by more than 1 %.
    """
    advice = "check the result with --device cpu"
    if draws_in_updates(config):
        log.warning(
            "%s may compute wrong results without an error, and cannot be compared with the CPU here, because updates "
            "draw random numbers, which differ between devices: %s",
            device,
            advice,
        )
        return
    expected, losses = first_losses(config, "cpu"), first_losses(config, device)
    differences = [abs(loss - right) / max(abs(right), 1e-6) for loss, right in zip(losses, expected, strict=True)]
    wrong = [step for step, difference in enumerate(differences) if not difference <= _TOLERANCE]
    if wrong:
        step = wrong[0]
        raise ConfigError(
            f"{device} computes wrong results with this version of PyTorch: after {step} updates, the training loss is "
            f"{losses[step]:.6g} instead of {expected[step]:.6g} on the CPU. Use --device cpu, or update PyTorch"
        )
    log.warning(
        "%s may compute wrong results without an error in some versions of PyTorch. The losses of the first %d updates "
        "agree with those on the CPU (largest difference: %.1g of the loss); still, %s",
        device,
        _STEPS,
        max(differences),
        advice,
    )


def first_losses(config: RunConfig, device: str, steps: int = _STEPS) -> list[float]:
    """The training losses before each of the first updates, on the same examples in each update.

    Args:
        config: of the run.
        device: on which to compute.
        steps: number of updates.
    """
    task, optimizer = task_to_train(config, None, device), config.training().optimizer
    train_mask, size = task.require_split(), optimizer.batch_size
    weights = initial_parameters(config, task, device=device)
    gradients = gradients_function(config, forward_for(config.model, task), weights)
    updater = Updater(weights.items(), optimizer, config.model_seed)
    tokens, labels = (values[train_mask][:size].to(device) for values in (task.tokens, task.labels))
    losses = []
    for step in range(steps):
        losses.append(float(gradients(tokens, labels)))
        updater.apply(step)
    return losses
