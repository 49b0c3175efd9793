"""Matrix products of both libraries against float64, and the choice of the library."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grokinterp.errors import ConfigError
from grokinterp.models import products
from grokinterp.models.products import library, product, training_matmul

# n, i, o: rows, what is summed over, columns
SHAPES = [(1, 1, 1), (1, 5, 1), (2, 1, 3), (3, 5, 7), (5, 113, 1), (64, 16, 17), (17, 33, 113), (131, 128, 67)]

# The same numbers, laid out in memory in other ways.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows in order": lambda x: x.contiguous(),
    "a transposed view": lambda x: x.T.contiguous().T,
    "every other column": lambda x: torch.stack([x, x + 1], dim=2).flatten(1)[:, ::2],
    "some columns of a wider one": lambda x: torch.cat([x, x + 1], dim=1)[:, : x.shape[1]],
}
EPILOGUES = ["nothing", "bias", "relu", "bias, relu", "plus", "plus, relu", "plus, a transposed view"]
EPILOGUES += ["plus, one row for all"]
UNIT = 2.0**-24  # of rounding


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_rounded(found: Tensor, exact: Tensor, size: Tensor, terms: int) -> None:
    """Within the textbook bound for sums of `terms` products in any order; `size` is the sum of their magnitudes."""
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    assert bool(((found.double() - exact).abs() <= (terms + 2) * UNIT * size).all())


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("of_w", LAYOUTS)
@pytest.mark.parametrize("of_x", LAYOUTS)
def test_products_are_exact_to_rounding_whatever_the_layout(of_x, of_w, epilogue, matrix_products):
    for n, i, o in SHAPES:
        x, w = LAYOUTS[of_x](drawn(n, i, seed=1)), LAYOUTS[of_w](drawn(i, o, seed=2))
        bias = drawn(o, seed=3) if "bias" in epilogue else None
        plus = drawn(n, o, seed=4) if "plus" in epilogue else None
        if plus is not None and "view" in epilogue:
            plus = plus.T.contiguous().T
        elif plus is not None and "one row" in epilogue:
            plus = plus[:1].expand(n, o)
        given = [tensor.clone() for tensor in (x, w, bias, plus) if tensor is not None]

        found = product(x, w, bias if plus is None else plus, relu="relu" in epilogue)

        added = torch.zeros(n, o) if bias is None and plus is None else plus if bias is None else bias.expand(n, o)
        exact = x.double() @ w.double() + added.double()
        exact = exact.relu() if "relu" in epilogue else exact
        size = x.double().abs() @ w.double().abs() + added.double().abs()
        assert_rounded(found, exact, size, i)
        for before, after in zip(given, [t for t in (x, w, bias, plus) if t is not None], strict=True):
            assert torch.equal(before, after), "an argument was written to"


@pytest.mark.parametrize("of_w", LAYOUTS)
@pytest.mark.parametrize("of_x", LAYOUTS)
def test_first_derivatives_are_exact_to_rounding(of_x, of_w, matrix_products):
    for n, i, o in SHAPES:
        x, w = LAYOUTS[of_x](drawn(n, i, seed=1)), LAYOUTS[of_w](drawn(i, o, seed=2))
        upstream = LAYOUTS[of_x](drawn(n, o, seed=5))
        x, w = x.requires_grad_(), w.requires_grad_()
        out = training_matmul(x, w)
        d_x, d_w = torch.autograd.grad(out, (x, w), upstream)
        a, b, g = x.detach().double(), w.detach().double(), upstream.double()
        assert_rounded(out.detach(), a @ b, a.abs() @ b.abs(), i)
        assert_rounded(d_x, g @ b.T, g.abs() @ b.abs().T, o)
        assert_rounded(d_w, a.T @ g, a.abs().T @ g.abs(), n)


@pytest.mark.parametrize("trained", ["x", "w"])
def test_only_trained_factors_have_a_gradient(trained, matrix_products):
    x, w = drawn(5, 7, seed=1).requires_grad_(trained == "x"), drawn(7, 3, seed=2).requires_grad_(trained == "w")
    training_matmul(x, w).sum().backward()
    ones = torch.ones(5, 3)
    if trained == "x":
        assert w.grad is None
        torch.testing.assert_close(x.grad, ones @ w.T)
    else:
        assert x.grad is None
        torch.testing.assert_close(w.grad, x.T @ ones)


TWICE: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "a curved function of the product": lambda matmul, x, w: matmul(x, w).square().sum(),
    "the product and something else": lambda matmul, x, w: matmul(x, w).square().sum() + x.pow(3).sum(),
    "a linear function of the product": lambda matmul, x, w: matmul(x, w).sum() + x.pow(3).sum() + w.pow(3).sum(),
}


@pytest.mark.parametrize("of", TWICE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_are_right_or_refused(dtype, of, matrix_products):
    def curvature(matmul: Any) -> Tensor:
        x, w = drawn(5, 7, seed=1).to(dtype).requires_grad_(), drawn(7, 3, seed=2).to(dtype).requires_grad_()
        gradients = torch.autograd.grad(TWICE[of](matmul, x, w), (x, w), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), x)[0]

    if dtype == torch.float32 and matrix_products == "onednn":
        with pytest.raises(RuntimeError):
            curvature(training_matmul)
    else:
        torch.testing.assert_close(curvature(training_matmul), curvature(torch.matmul))


# --- NaN and infinity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["x", "w"])
@pytest.mark.parametrize("epilogue", ["nothing", "plus"])
def test_nonfinite_values_propagate(epilogue, where, bad, matrix_products):
    x, w = drawn(4, 5, seed=1), drawn(5, 3, seed=2)
    {"x": x, "w": w}[where][1, 2] = bad
    found = product(x, w, plus=torch.zeros(4, 3) if epilogue == "plus" else None)
    affected = torch.zeros(4, 3, dtype=torch.bool)
    affected[(1, slice(None)) if where == "x" else (slice(None), 2)] = True
    assert torch.equal(~torch.isfinite(found), affected)


def test_relu_of_nan_is_nan(matrix_products):
    """As PyTorch's own is: otherwise a network with a NaN among its weights looks well."""
    x, w = drawn(4, 5, seed=1), drawn(5, 3, seed=2)
    w[2, 1] = float("nan")
    assert product(x, w, relu=True)[:, 1].isnan().all()


# --- which library ---------------------------------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """Notes the name of every operator that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def by_onednn(dtype: torch.dtype = torch.float32, device: str = "cpu") -> set[bool]:
    """Whether a product, and the one with derivatives, is made by oneDNN."""
    found = set()
    for multiply in (product, training_matmul):
        x, w = torch.ones(2, 3, dtype=dtype, device=device), torch.ones(3, 4, dtype=dtype, device=device)
        with Operators() as operators:
            out = multiply(x, w)
        assert (out.shape, out.dtype, out.device.type) == ((2, 4), dtype, device)
        assert operators.names, "nothing was seen"
        found.add(any(name.startswith("mkldnn.") for name in operators.names))
    return found


def test_the_chosen_library_computes_float32_products(matrix_products):
    assert by_onednn() == {matrix_products == "onednn"}


@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.float64, "cpu"), (torch.float32, "meta"), (torch.float64, "meta")]
)
def test_float64_and_other_devices_use_pytorch(dtype, device, matrix_products):
    """`meta` stands in for a GPU."""
    assert by_onednn(dtype, device) == {False}


def test_float64_products_are_exact_to_float64(matrix_products):
    x, w, bias = drawn(7, 11, seed=1).double(), drawn(11, 5, seed=2).double(), drawn(5, seed=3).double()
    torch.testing.assert_close(product(x, w, bias), x @ w + bias, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(product(x, w, relu=True), (x @ w).relu(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(product(x, w, plus=x @ w), 2 * (x @ w), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(training_matmul(x, w), x @ w, rtol=1e-14, atol=1e-14)


@pytest.fixture
def choosing(monkeypatch):
    """Lets a test choose anew, and forgets what it chose."""
    library.cache_clear()
    yield monkeypatch
    library.cache_clear()


@pytest.mark.parametrize("given", [None, ""])
@pytest.mark.parametrize(
    ("amd", "built_with_onednn", "expected"),
    [(True, True, "onednn"), (True, False, "torch"), (False, True, "torch"), (False, False, "torch")],
)
def test_the_default_is_onednn_only_on_amd(amd, built_with_onednn, expected, given, choosing):
    choosing.delenv("GROKINTERP_PRODUCTS", raising=False)
    if given is not None:
        choosing.setenv("GROKINTERP_PRODUCTS", given)
    choosing.setattr(products, "_is_amd_with_avx512", lambda: amd)
    choosing.setattr(torch.backends.mkldnn, "is_available", lambda: built_with_onednn)
    assert library() == expected


@pytest.mark.parametrize("name", ["mkl", "OneDNN", "onednn ", "0"])
def test_an_unknown_library_is_refused_in_one_line(name, choosing):
    choosing.setenv("GROKINTERP_PRODUCTS", name)
    with pytest.raises(
        ConfigError, match=r"^GROKINTERP_PRODUCTS='.*' is not a library: set it to onednn or torch$"
    ) as refusal:
        library()
    assert name in str(refusal.value)
    with pytest.raises(ConfigError):
        product(torch.ones(2, 2), torch.ones(2, 2))


def test_a_missing_library_is_refused_in_one_line(choosing):
    choosing.setenv("GROKINTERP_PRODUCTS", "onednn")
    choosing.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^GROKINTERP_PRODUCTS=onednn, but .* without oneDNN: unset it$"):
        library()


def test_torch_works_without_onednn(choosing):
    choosing.setenv("GROKINTERP_PRODUCTS", "torch")
    choosing.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert library() == "torch"


# --- what torch.compile sees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("epilogue", ["nothing", "bias", "bias, relu", "plus"])
def test_the_operator_for_torch_compile_equals_the_product(epilogue, matrix_products):
    x, w = drawn(6, 5, seed=1), drawn(3, 5, seed=2).T
    added = {"b": drawn(3, seed=3), "p": drawn(6, 3, seed=4)}.get(epilogue[0])
    relu = "relu" in epilogue
    operator = torch.ops.grokinterp.product
    assert torch.equal(operator(x, w, added, relu), product(x, w, added, relu=relu))
    there = [None if tensor is None else tensor.to("meta") for tensor in (x, w, added)]
    shape = operator(*there, relu)
    assert (shape.shape, shape.dtype, shape.device.type) == ((6, 3), torch.float32, "meta")
    checked = torch.library.opcheck(operator.default, (x, w, added, relu))
    assert set(checked.values()) == {"SUCCESS"}
