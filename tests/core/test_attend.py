"""Attention in one pass is softmax, dropout and weighted sum one after another."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from gnnscale.core import ops
from gnnscale.core.hop import Hop
from gnnscale.core.ops.adjacency import Adjacency

SLOPE = 0.2


def randn(*size, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=draw, dtype=dtype).requires_grad_()


def block(n_dst=7, n_src=11):
    draw = torch.Generator().manual_seed(3)
    degree = torch.randint(0, 6, (n_dst,), generator=draw)
    degree[2] = 0
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)])
    return Adjacency(
        indptr, torch.randint(0, n_src, (int(indptr[-1]),), generator=draw).int(), n_src
    )


def given(adj, heads=3, width=5, dtype=torch.float64):
    ends = (randn(heads, width, seed=k, dtype=dtype) for k in (1, 2))
    return randn(adj.n_src, heads, width, dtype=dtype), *ends


def step_by_step(adj, z, source, target):
    """By a dense matrix with -inf where there is no edge; repeated edges count as often."""
    n, heads = adj.n_dst, z.shape[1]
    e = torch.einsum("jhd,hd->jh", z, source)[adj.indices.long()]
    e = e + torch.einsum("ihd,hd->ih", z[:n], target)[adj.dst.long()]
    e = F.leaky_relu(e, SLOPE)
    wide = torch.full((n, adj.n_edges, heads), -torch.inf, dtype=z.dtype)
    edge = torch.arange(adj.n_edges)
    wide[adj.dst.long(), edge] = e
    share = wide.softmax(1).nan_to_num(0.0)
    return torch.einsum("ieh,ehd->ihd", share, z[adj.indices.long()])


@pytest.mark.parametrize("shape", [(3, 5), (1, 16), (8, 1)])
def test_it_is_the_dense_masked_softmax_with_its_gradients(shape):
    adj = block()
    leaves = given(adj, *shape)
    out, want = ops.attention(adj, *leaves, SLOPE, 0.0), step_by_step(adj, *leaves)
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(out[2], torch.zeros_like(out[2]))  # no in-edges
    by = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    for mine, theirs in zip(
        torch.autograd.grad(out, leaves, by), torch.autograd.grad(want, leaves, by), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_gradcheck_with_dropout():
    adj = block()

    def attention(*leaves):
        torch.manual_seed(5)
        return ops.attention(adj, *leaves, SLOPE, 0.5)

    assert gradcheck(attention, given(adj, 2, 3))


def test_it_drops_what_dropout_drops():
    hop, leaves = Hop(block()), given(block())
    found = []
    for scores in (None, nn.Identity()):
        torch.manual_seed(4)
        out = hop.attend(*leaves, SLOPE, 0.5, scores=scores)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_what_is_kept_is_scaled_and_the_rate_is_right():
    n, degree = 400, 50
    adj = Adjacency(torch.arange(n + 1) * degree, torch.arange(n).repeat(degree).int(), n)
    z = torch.ones(n, 4, 1)
    zero = torch.zeros(4, 1)
    torch.manual_seed(0)
    out = ops.attention(adj, z, zero, zero, SLOPE, 0.3)  # every share is 1 / 50
    kept = out * degree * 0.7
    torch.testing.assert_close(kept, kept.round(), atol=1e-3, rtol=0)
    draws = n * degree * 4
    assert abs(float(kept.sum()) / draws - 0.7) < 5 * (0.3 * 0.7 / draws) ** 0.5
    for head in kept.sum(0).flatten() / (n * degree):
        assert abs(float(head) - 0.7) < 5 * (0.3 * 0.7 * 4 / draws) ** 0.5
    again = ops.attention(adj, z, zero, zero, SLOPE, 0.3)
    assert not torch.equal(out, again)
    torch.manual_seed(0)
    assert torch.equal(out, ops.attention(adj, z, zero, zero, SLOPE, 0.3))


def test_bfloat16_rows_are_those_floats():
    adj = block()
    z, source, target = given(adj, dtype=torch.float32)
    stored = z.detach().bfloat16().requires_grad_()
    wide = stored.detach().float().requires_grad_()
    out, want = (ops.attention(adj, x, source, target, SLOPE, 0.0) for x in (stored, wide))
    assert out.dtype == torch.float32
    assert torch.equal(out, want)
    grads = [torch.autograd.grad(o.square().sum(), [x, source, target])
             for o, x in ((out, stored), (want, wide))]  # fmt: skip
    assert grads[0][0].dtype == torch.bfloat16
    assert torch.equal(grads[0][0], grads[1][0].bfloat16())
    assert torch.equal(grads[0][1], grads[1][1])


@pytest.mark.process
def test_the_same_bits_under_one_and_two_threads(threads):
    adj = block(500, 600)
    leaves = given(adj, 4, 33, torch.float32)

    def everything():
        torch.manual_seed(1)
        out = ops.attention(adj, *leaves, SLOPE, 0.4)
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    for a, b in zip(*threads(everything), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kernel", ["dgl", "torch"])
def test_a_hop_gives_the_same_without_the_one_pass(kernel):
    hop, leaves = Hop(block()), given(block())
    one = hop.attend(*leaves, SLOPE)
    through = hop.attend(*leaves, SLOPE, scores=nn.Identity())
    ops.select(kernel)
    try:
        other = hop.attend(*leaves, SLOPE)
    finally:
        ops.select("auto")
    for found in (through, other):
        torch.testing.assert_close(one, found, rtol=1e-12, atol=1e-12)


def test_scores_are_passed_through_what_is_given():
    hop, leaves = Hop(block()), given(block())
    scaled = hop.attend(*leaves, SLOPE, scores=lambda e: 2 * e)
    z, source, target = leaves
    torch.testing.assert_close(scaled, hop.attend(z, 2 * source, 2 * target, SLOPE))


def test_a_graph_without_edges_gives_zeros():
    adj = Adjacency(torch.zeros(8, dtype=torch.int64), torch.empty(0).int(), 11)
    leaves = given(adj)
    out = ops.attention(adj, *leaves, SLOPE, 0.0)
    assert torch.equal(out, torch.zeros_like(out))
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), leaves))
