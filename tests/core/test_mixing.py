"""Small products of every node are ``torch.bmm``'s."""

import pytest
import torch

from gnnscale.core.ops import pool
from gnnscale.core.ops.mixing import mixed


@pytest.mark.parametrize("shape", [(7, 4, 12, 16), (5, 1, 3, 1), (0, 2, 3, 4), (3, 2, 1, 5)])
@pytest.mark.parametrize("strided", [False, True])
def test_values_and_gradients(monkeypatch, shape, strided):
    monkeypatch.setattr(pool, "LEAST", 1)
    n, heads, k, width = shape
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(n, heads, k, generator=draw, dtype=torch.float64)
    u = torch.randn(n, width, k, generator=draw, dtype=torch.float64).transpose(1, 2)
    u = (u if strided else u.contiguous()).requires_grad_()
    by = torch.randn(heads * width, generator=draw, dtype=torch.float64).requires_grad_()
    w.requires_grad_()
    got, want = mixed(w, u, by), torch.bmm(w, u).flatten(1) + by
    torch.testing.assert_close(got, want)
    g = torch.randn(n, heads * width, generator=draw, dtype=torch.float64)
    for a, b in zip(
        *(torch.autograd.grad((t * g).sum(), (w, u, by)) for t in (got, want)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_half_precision_is_left_to_torch():
    w, u = torch.randn(3, 2, 4).bfloat16(), torch.randn(3, 4, 5).bfloat16()
    by = torch.randn(10).bfloat16()
    assert torch.equal(mixed(w, u, by), torch.bmm(w, u).flatten(1) + by)
