"""Matrix products with the faster of PyTorch's two CPU libraries.

On x86, PyTorch multiplies float32 matrices with MKL, which does not use AVX-512 on AMD processors and so reaches less
than half of their speed; oneDNN, which the same wheel contains, reaches it. Elsewhere MKL is as fast or faster, above
all for small matrices. Both compute in float32. The environment variable `GROKINTERP_PRODUCTS=torch` (or `onednn`)
overrides the choice; environment.json records it.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError

Library = Literal["onednn", "torch"]
Products = Literal["float32", "bf16"]
Matmul = Callable[[Tensor, Tensor], Tensor]


@cache
def library() -> Library:
    """The library that computes float32 products on the CPU.

    Raises:
        ConfigError: GROKINTERP_PRODUCTS is not the name of a library, or names one that this PyTorch does not have.
    """
    name = os.environ.get("GROKINTERP_PRODUCTS", "")
    if name == "torch":
        return "torch"
    if name not in ("", "onednn"):
        raise ConfigError(f"GROKINTERP_PRODUCTS={name!r} is not a library: set it to onednn or torch")
    usable = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if name == "onednn" and not usable:
        raise ConfigError("GROKINTERP_PRODUCTS=onednn, but this PyTorch was built without oneDNN: unset it")
    return "onednn" if usable and (name == "onednn" or _is_amd_with_avx512()) else "torch"


def float32_precision() -> str:
    """PyTorch's setting for float32 products, `highest` by default, and what the environment tells oneDNN, if anything.

    oneDNN may compute in bfloat16 or TF32 if an environment variable permits it, which PyTorch's setting does not show.
    """
    setting = torch.get_float32_matmul_precision()
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):  # oneDNN reads the first that is set
        mode = os.environ.get(name, "")
        if mode:
            return setting if mode.lower() == "strict" else f"{setting}; {name}={mode}"
    return setting


@contextmanager
def multiplying_in(products: Products) -> Iterator[None]:
    """Context manager within which the CPU multiplies float32 matrices in float32, or in bfloat16 (`bf16`).

    With `bf16`, the factors of a product are rounded to 8 significant bits; their products are summed in float32. On
    processors with AMX that takes a quarter of the time. Small products may still be computed in float32. The format is
    that of the whole process: do not use `bf16` while another thread trains.

    >>> import torch
    >>> x = torch.full((256, 256), 1 + 2**-10)
    >>> with multiplying_in("float32"):
    ...     round((x @ x)[0, 0].item(), 3)
    256.5
    """
    if products == "float32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def has_bf16_products() -> bool:
    """Whether PyTorch computes products in bfloat16 on this processor if it is permitted to; it does not say so."""
    x = torch.full((256, 256), 1 + 2**-10)  # rounds to 1
    with multiplying_in("bf16"):
        found = torch.stack([x @ x, product(x, x), torch.bmm(x[None], x[None])[0]])
    return bool((found == 256).all())


def _is_amd_with_avx512() -> bool:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return "AuthenticAMD" in platform.processor()


def product(
    x: Float[Tensor, "*r n i"],
    w: Float[Tensor, "*r i o"],
    plus: Float[Tensor, "*r _ o"] | Float[Tensor, " o"] | None = None,
    *,
    relu: bool = False,
) -> Float[Tensor, "*r n o"]:
    """Computes x @ w + plus, optionally followed by ReLU, without gradient; transposed views cost nothing.

    Args:
        x: `[n, i]`, with any strides; or `[r, n, i]`, the runs of a stack.
        w: `[i, o]`, with any strides; or `[r, i, o]`.
        plus: `[n, o]`, added to the product, or `[o]` or `[1, o]`, added to each of its rows; or the same of each run.
        relu: set negative entries to 0.
    """
    if torch.compiler.is_compiling():
        return torch.ops.grokinterp.product(x, w, plus, relu)
    return _product(x, w, plus, relu)


def _product(x: Tensor, w: Tensor, plus: Tensor | None, relu: bool) -> Tensor:
    if x.dim() == 3:
        out = torch.bmm(x, w) if plus is None else torch.baddbmm(plus, x, w)
    elif _by_onednn(x):
        onednn: Any = torch.ops.mkldnn._linear_pointwise
        if plus is not None and plus.dim() == 2 and len(plus) == len(x):
            out = onednn.binary(x, plus, w.T, None, "add")
        else:
            out = onednn(x, w.T, None if plus is None else plus.flatten(), "none", [], "")
    else:
        out = torch.mm(x, w) if plus is None else torch.addmm(plus, x, w)
    return out.relu_() if relu else out  # the relu of oneDNN would turn NaN into 0


def columns(x: Float[Tensor, "*r n i"]) -> Float[Tensor, "*r i n"]:
    """The transpose of x as a left factor; contiguous for oneDNN, which would copy it at each product."""
    return x.mT.contiguous() if _by_onednn(x) else x.mT


# torch.compile would rewrite the operator of oneDNN for constant weights, which these are not: hide it.
_OPERATORS = torch.library.Library("grokinterp", "DEF")
_OPERATORS.define("product(Tensor x, Tensor w, Tensor? plus, bool relu) -> Tensor")
_OPERATORS.impl("product", _product, "CPU")
_OPERATORS.impl("product", lambda x, w, *_: x.new_empty(*x.shape[:-1], w.shape[-1]), "Meta")


def _onednn_is_chosen() -> bool:
    return library() == "onednn"


def prepare_compiling() -> None:
    """Tells torch.compile to treat the choice of library as constant; call it first (its import alone takes 70 MB)."""
    torch.compiler.assume_constant_result(_onednn_is_chosen)


def _by_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and _onednn_is_chosen()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return product(x, w)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():  # once_differentiable would drop this part from a second derivative
            raise RuntimeError("training_matmul has only a first derivative: use torch.matmul")
        (gradient,), (x, w) = grad_outputs, ctx.saved_tensors
        d_x = product(gradient, w.T) if ctx.needs_input_grad[0] else None
        # oneDNN copies a transposed left factor, so the narrower factor goes on the left.
        if not ctx.needs_input_grad[1]:
            return d_x, None
        d_w = product(x.T, gradient) if x.shape[1] <= gradient.shape[1] else product(gradient.T, x).T
        return d_x, d_w


def training_matmul(x: Float[Tensor, "n i"], w: Float[Tensor, "i o"]) -> Float[Tensor, "n o"]:
    """Computes x @ w with the faster library; it has only a first derivative, unlike `torch.matmul`."""
    return _Product.apply(x, w) if _by_onednn(x) else x @ w  # pyright: ignore[reportReturnType]
