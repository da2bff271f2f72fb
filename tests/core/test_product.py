import pytest
import torch

from gnnscale.core.ops import product as products
from gnnscale.core.ops.product import product


@pytest.fixture
def emulated(monkeypatch):
    """A processor without instructions for bfloat16."""
    monkeypatch.setattr(products, "_native", lambda: False)


def given(kind, n=50, d=30, out=20):
    """x, w and rows to add, whole numbers if asked for, as leaves."""
    draw = torch.Generator().manual_seed(0)
    sizes = {"none": None, "row": (out,), "rows": (n, out)}
    x, w = (torch.randint(-8, 9, s, generator=draw).float() for s in ((n, d), (d, out)))
    onto = (
        None if sizes[kind] is None else torch.randint(-8, 9, sizes[kind], generator=draw).float()
    )
    return [t if t is None else t.requires_grad_() for t in (x, w, onto)]


@pytest.mark.parametrize("kind", ["none", "row", "rows"])
def test_whole_numbers_multiply_as_torch_does_under_autocast(kind, emulated):
    """Products of small whole numbers are exact, and so are their sums below 2^24."""
    x, w, onto = given(kind)
    with torch.autocast("cpu", torch.bfloat16):
        out = product(x, w, onto)
    assert out.dtype == torch.bfloat16
    exact = x @ w if onto is None else torch.addmm(onto, x, w)
    assert torch.equal(out, exact.bfloat16())
    g = torch.randint(-8, 9, out.shape).bfloat16()
    leaves = [t for t in (x, w, onto) if t is not None]
    found = torch.autograd.grad(out, leaves, g)
    wanted = torch.autograd.grad(exact, leaves, g.float())
    for a, b, leaf in zip(found, wanted, leaves, strict=True):
        assert a.dtype == leaf.dtype
        assert torch.equal(a, b)


def test_both_sides_are_rounded_first(emulated):
    x, w = torch.full((3, 1), 1 + 2**-10), torch.full((1, 2), 3.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x, w).float().eq(3).all()


def test_no_backward_pass_is_autocast(emulated):
    """Gradients are added up in float32 also where backward runs inside of autocast."""
    x, w = torch.ones(4096, 2), torch.zeros(2, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = product(x, w)
        out.backward(torch.full_like(out, 1 + 2**-7))
    assert torch.equal(w.grad, torch.full((2, 3), 4096 + 32.0))


def test_what_autocast_leaves_alone_is_left_alone(emulated, monkeypatch):
    x, w = torch.randn(5, 4).double(), torch.randn(4, 3).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(x, w), x @ w)
    x, w = x.float(), w.float()
    assert torch.equal(product(x, w), x @ w)
    monkeypatch.setattr(products, "_native", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(x, w), x @ w)
