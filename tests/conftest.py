from dataclasses import replace

import numba
import pytest
import torch
from compositions import permuted, silenced
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from gnnscale.core.data import GraphData, Task
from gnnscale.core.host import dgl
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.simple import simple
from gnnscale.graph.whole import whole_batch

SIX = ((1, 0), (2, 0), (4, 0), (0, 1), (0, 2), (1, 2), (3, 2), (4, 2), (2, 3), (3, 4))
"""Edges j -> i by hand: directed, in-degrees 3 1 4 1 1 0, node 5 alone."""


TORCH = torch.get_num_threads()
THREADS = min(TORCH, numba.config.NUMBA_NUM_THREADS)


@pytest.fixture(autouse=True)
def as_many_threads_as_torch():
    """With OMP_NUM_THREADS=1 compiled loops run, and are compiled, for one thread."""
    numba.set_num_threads(THREADS)
    torch.set_num_threads(TORCH)  # last: numba's pool, when it starts, sets OpenMP's own


@pytest.fixture
def threads():
    """threads(f): what f gives on one thread, and on two."""
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core")

    def each(f):
        found = []
        for count in (1, 2):
            numba.set_num_threads(count)
            found.append(f())
        return found

    return each


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests keep processed data of their own, also in the processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GNNSCALE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def six() -> Adjacency:
    src, dst = torch.tensor(SIX).T
    return Adjacency.from_edges(src, dst, 6)


@pytest.fixture
def sixty() -> GraphData:
    """A random symmetric graph in float64; nodes 58 and 59 have no neighbours."""
    draw = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 58, (2, 150), generator=draw)
    graph, facts = simple(src, dst, 60)
    order = torch.randperm(60, generator=draw)
    return GraphData(
        name="sixty",
        graph=graph,
        x=torch.randn(60, 7, generator=draw, dtype=torch.float64),
        y=torch.randint(0, 4, (60,), generator=draw),
        splits={"train": order[:20], "valid": order[20:40], "test": order[40:]},
        task=Task(classes=4),
        facts=facts,
    )


@pytest.fixture
def dense():
    """dense(adj, weight=None): the matrix [n_dst, n_src] of an adjacency, entry by entry."""

    def make(adj, weight=None):
        matrix = torch.zeros(adj.n_dst, adj.n_src, dtype=torch.float64)
        for i in range(adj.n_dst):
            for e in range(int(adj.indptr[i]), int(adj.indptr[i + 1])):
                matrix[i, int(adj.indices[e])] += 1.0 if weight is None else weight[e]
        return matrix

    return make


# -- layers and models ---------------------------------------------------------------------------


def alone(data: GraphData, node: int) -> GraphData:
    """A graph of one node and no edges."""
    nothing = torch.empty(0, dtype=torch.int64)
    here = torch.zeros(1, dtype=torch.int64)
    return data.with_(
        graph=Adjacency.from_edges(nothing, nothing, 1),
        x=data.x[node : node + 1],
        y=data.y[node : node + 1],
        splits={"train": here, "valid": nothing, "test": nothing},
    )


@pytest.fixture
def silence():
    """silence(model): every dropout rate becomes zero."""
    return silenced


@pytest.fixture
def features():
    """[6, 5] inputs of the six-node graph, float64."""
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


@pytest.fixture
def six_dgl(six):
    """The six-node graph as DGL sees it, to be compared with."""
    return dgl.graph((six.indices.long(), six.dst.long()), num_nodes=6)


@pytest.fixture
def layer(six):
    """layer(conv, need, h): one convolution over the six-node graph."""

    def run(conv, need, h):
        return conv(whole_hop(six, need, h.dtype), h, None)

    return run


@pytest.fixture
def check_gradient(six):
    """Numerical gradients of one layer in its input and every parameter."""

    def check(conv: nn.Module, need, h):
        hop = whole_hop(six, need, torch.float64)
        named = dict(conv.named_parameters())
        draw = torch.Generator().manual_seed(3)
        values = [
            torch.randn(p.shape, generator=draw, dtype=torch.float64).requires_grad_()
            for p in named.values()
        ]

        def run(h, *values):
            return functional_call(conv, dict(zip(named, values, strict=True)), (hop, h, None))

        assert gradcheck(run, (h.clone().requires_grad_(), *values), fast_mode=True)
        # and none of them is idle
        out = run(h, *values)
        g = torch.randn(out.shape, generator=draw, dtype=torch.float64)
        grads = torch.autograd.grad(out, values, g, allow_unused=True)
        for name, grad in zip(named, grads, strict=True):
            assert grad is not None, f"{name} has no part in the output"
            assert grad.abs().max() > 0, f"{name} has no part in the output"

    return check


@pytest.fixture
def check_model(sixty):
    """What every model must hold on the random graph, whatever its layers are."""

    def check(make):
        torch.manual_seed(0)
        model = make(sixty.shape).double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):  # statistics that eval mode can get wrong
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        whole = whole_batch(sixty, model.need)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
        other = whole_batch(permuted(sixty, order), model.need)
        silenced(model)
        for training in (True, False):  # batch statistics, then tracked ones
            model.train(training)
            logits = model(whole).logits
            assert logits.shape == (60, 4)
            # names of nodes mean nothing
            torch.testing.assert_close(model(other).logits, logits[order], rtol=1e-10, atol=1e-10)
        # seeds choose rows and change nothing else
        rows = torch.tensor([59, 3, 3, 17])
        torch.testing.assert_close(model(replace(whole, rows=rows)).logits, logits[rows])
        # a node without neighbours is what it would be in a graph of its own
        assert sixty.graph.in_degree[58] == 0
        single = model(whole_batch(alone(sixty, 58), model.need)).logits
        assert torch.isfinite(single).all()
        torch.testing.assert_close(logits[58:59], single, rtol=1e-10, atol=1e-10)
        # and gradients are finite everywhere, also with an isolated node
        model.train()
        model(whole).logits.square().sum().backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert p.grad is not None, name
                assert torch.isfinite(p.grad).all(), name

    return check


@pytest.fixture
def parameters():
    """parameters(model): how many there are."""
    return lambda model: sum(p.numel() for p in model.parameters())


@pytest.fixture(params=["openblas", "torch"])
def library(request, monkeypatch):
    """Either library of large float32 products, whatever the processor."""
    from gnnscale.core.ops import blas

    monkeypatch.setattr(blas, "amd", lambda: request.param == "openblas")
    blas.openblas.cache_clear()
    if request.param == "openblas" and blas.openblas() is None:
        pytest.skip("scipy is built on another BLAS")
    yield request.param
    blas.openblas.cache_clear()
