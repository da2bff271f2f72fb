import pytest
import torch

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.ends import ends
from gnnscale.graph.simple import simple


def plain(adj, h, base):
    own, far = h[adj.dst.long()], h[adj.indices.long()]
    gap = own - far
    return {"dot": own * far, "l1": gap.abs(), "square": gap * gap}[base].sum(1)


@pytest.fixture
def adj():
    """60 nodes, some without edges, one with a loop and many neighbours; not symmetric."""
    draw = torch.Generator().manual_seed(0)
    src, dst = (torch.randint(0, 50, (300,), generator=draw) for _ in range(2))
    graph = simple(src.numpy(), dst.numpy(), 60)[0]
    keep = torch.rand(graph.n_edges, generator=draw) < 0.6
    ends_ = torch.cat([graph.dst[keep].long(), torch.tensor([7])])
    order = ends_.argsort(stable=True)
    indices = torch.cat([graph.indices[keep], torch.tensor([7], dtype=torch.int32)])[order]
    indptr = torch.cat([torch.zeros(1), torch.bincount(ends_, minlength=60).cumsum(0)]).long()
    return Adjacency(indptr, indices, 60)


@pytest.mark.parametrize("base", ["dot", "l1", "square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_values_and_gradients_are_those_of_rows_taken_by_index(adj, base, dtype, width):
    torch.manual_seed(width)
    h = torch.randn(60, width, dtype=dtype)
    h[3] = h[4]  # where l1 has a kink
    weight = torch.randn(adj.n_edges, dtype=dtype)
    found = []
    for function in (ends, plain):
        x = h.clone().requires_grad_()
        value = function(adj, x, base)
        (gradient,) = torch.autograd.grad((value * weight).sum(), x)
        found.append((value, gradient))
    exact = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **exact)


@pytest.mark.parametrize("base", ["dot", "l1", "square"])
def test_half_precision_goes_through_torch(adj, base):
    h = torch.randn(60, 5, dtype=torch.bfloat16)
    torch.testing.assert_close(ends(adj, h, base), plain(adj, h, base))


def test_without_edges_there_is_nothing():
    empty = Adjacency(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), 3)
    h = torch.randn(3, 2, requires_grad=True)
    value = ends(empty, h, "square")
    assert value.shape == (0,)
    value.sum().backward()
    assert not h.grad.any()


def test_threads_change_nothing(adj, threads):
    h = torch.randn(60, 9)

    def run():
        x = h.clone().requires_grad_()
        value = ends(adj, x, "square")
        return value, *torch.autograd.grad(value.square().sum(), x)

    assert all(torch.equal(a, b) for a, b in zip(*threads(run), strict=True))
