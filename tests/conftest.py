"""Shared by all tests: shape checks on the package, the public data, no network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("grokinterp", "typecheck.check")

# One thread: the models are tiny, and bits depend on how sums are split among threads.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of published models and curves; the test is skipped, visibly, where there is none."""
    folder = os.environ.get("GROKINTERP_PUBLIC_DATA")
    if not folder:
        pytest.skip("GROKINTERP_PUBLIC_DATA is not set: published models and curves are not there to test against")
    path = Path(folder)
    assert path.is_dir(), f"GROKINTERP_PUBLIC_DATA={folder} is not a folder"
    return path


@pytest.fixture(params=["torch", "onednn"])
def matrix_products(request, monkeypatch) -> Iterator[str]:
    """Each library that float32 products may be made by, in turn; a library that is not there is skipped, visibly."""
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
    """The CPU, and CUDA where there is one; skipped, visibly, where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return request.param
