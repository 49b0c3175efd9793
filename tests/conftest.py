"""Shared by all tests: shape checks on the package, published data, and devices."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pandas  # noqa: F401
import plotly.graph_objects  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch
import transformer_lens  # noqa: F401
from jaxtyping import install_import_hook
from typecheck import called

# Under the hook, what the package imports would be compiled anew: so the large libraries were imported before.
install_import_hook("grokinterp", "typecheck.check")

# One thread: the models are tiny, and bits depend on how sums are split among threads.
torch.set_num_threads(1)


def pytest_runtest_setup() -> None:
    """Each test checks the first call of every function again."""
    called.clear()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Turns off the type checker, for tests of how the package itself refuses arguments of a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of published models and curves. Tests that need it are skipped, with the reason, if it is not set."""
    folder = os.environ.get("GROKINTERP_PUBLIC_DATA")
    if not folder:
        pytest.skip(
            "GOLDEN TESTS NOT RUN: the published models and curves that they compare with are not part of this "
            "repository; set GROKINTERP_PUBLIC_DATA to a folder that holds them"
        )
    path = Path(folder)
    assert path.is_dir(), f"GROKINTERP_PUBLIC_DATA={folder} is not a folder"
    return path


@pytest.fixture(params=["torch", "onednn"])
def matrix_products(request, monkeypatch) -> Iterator[str]:
    """Each library that can compute float32 products, in turn. A missing library is skipped, with the reason."""
    from grokinterp.models.products import library

    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch was built without oneDNN")
    monkeypatch.setenv("GROKINTERP_PRODUCTS", request.param)
    library.cache_clear()
    assert library() == request.param
    yield request.param
    library.cache_clear()


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> str:
    """The CPU, then CUDA. Without a CUDA device the second is skipped, with the reason."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return request.param


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> dict:
    """Runs of the configurations in trainings.py that nothing interrupts, by name."""
    from trainings import CONFIGS, MORE_CONFIGS

    from grokinterp.training import train

    folder = tmp_path_factory.mktemp("undisturbed")
    return {kind: train(config, folder / kind) for kind, config in (CONFIGS | MORE_CONFIGS).items()}


@pytest.fixture(scope="session")
def ensemble_and_alone(tmp_path_factory) -> Callable[[str], tuple[list, list]]:
    """For a kind of run in ensembles.py: three variants trained together, and the same three one by one."""
    from ensembles import KINDS, places, variants

    from grokinterp.training import train, train_many

    @functools.cache
    def runs_of(kind: str) -> tuple[list, list]:
        folder = tmp_path_factory.mktemp("trained")
        configs = variants(KINDS[kind])
        together = train_many(configs, places(folder, 3))
        return together, [train(config, folder / f"alone{i}") for i, config in enumerate(configs)]

    return runs_of


@pytest.fixture(scope="session")
def shell() -> Iterator[Callable]:
    """Runs commands of grokinterp one after another, in one interpreter; see shells.py."""
    from shells import start_shell

    with start_shell() as run:
        yield run


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Any:
    """A small transformer's run, for tests of `analyze`; they analyze copies of it, see `run`."""
    from analyses import TRANSFORMER

    from grokinterp.training import train

    return train(TRANSFORMER, tmp_path_factory.mktemp("trained") / "transformer")


@pytest.fixture
def run(trained, tmp_path) -> Any:
    """A copy of the trained run without an analysis."""
    from analyses import unanalyzed_copy

    return unanalyzed_copy(trained, tmp_path / "run")
