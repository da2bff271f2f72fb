import importlib
import pkgutil
import tracemalloc

import pytest
import torch
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import gnnscale.sampler
from gnnscale.core import ops
from gnnscale.core.hop import AGGREGATORS, STD_EPS, TOGETHER, Hop
from gnnscale.core.ops import fused
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.mixing import mixed
from gnnscale.core.ops.watch import watched

D = 37
"""Columns: more than one task takes, and no multiple of it."""


@pytest.fixture(autouse=True)
def _leave_auto():
    yield
    ops.select("auto")


@pytest.fixture(params=[1, 3, 5])
def tasks(request, monkeypatch):
    """Among how many tasks gradients share the columns; of five, two have none."""
    monkeypatch.setattr(fused, "_tasks", lambda width: request.param)


def identity(h):
    return h


def drawn(*size, seed=0, dtype=torch.float64):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def graph(n_dst, n_src, edges, seed=0):
    """Edges at random, duplicates among them; destinations 0 and the last have none."""
    draw = torch.Generator().manual_seed(seed)
    dst = torch.randint(1, n_dst - 1, (edges,), generator=draw).sort().values
    indptr = torch.zeros(n_dst + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(dst, minlength=n_dst).cumsum(0)
    indices = torch.randint(0, n_src, (edges,), generator=draw).int()
    return Adjacency(indptr, indices, n_src)


GRAPHS = {
    "block": lambda: graph(9, 14, 40),
    "square": lambda: graph(11, 11, 90, 1),
    "edgeless": lambda: Adjacency(torch.zeros(5, dtype=torch.int64), torch.empty(0).int(), 6),
    "hub": lambda: graph(4, 30, 300, 2),
    "self-loops": lambda: Adjacency(torch.arange(8), torch.arange(7).int()),
}


def hops(adj):
    """The same edges under every kind of operator."""

    def some(n, seed):
        return drawn(n, seed=seed).abs() + 0.5

    src, dst, weight, diag = (
        some(n, k) for k, n in enumerate((adj.n_src, adj.n_dst, adj.n_edges, adj.n_dst))
    )
    return [
        Hop(adj), Hop(adj, src=src, dst=dst, diag=diag), Hop(adj, dst=dst, weight=weight),
        Hop(adj, src=src, weight=weight, diag=diag), Hop(adj, dst=dst, diag=diag),
    ]  # fmt: skip


ALONE = [(name,) for name in AGGREGATORS]
TOGETHER_WITH = [
    ("sum", "mean"), ("sum", "max"), ("max", "min"), ("add", "var"), ("mean", "std"),
    ("std", "var"), ("mean", "max", "min", "std"), ("sum", "std", "max"), AGGREGATORS[::-1],
]  # fmt: skip


@pytest.mark.parametrize("kind", GRAPHS)
def test_equals_the_separate_aggregators(kind, tasks):
    adj = GRAPHS[kind]()
    for hop in hops(adj):
        for names in (*ALONE, *TOGETHER_WITH):
            x = drawn(adj.n_src, D).requires_grad_()
            got = hop._several(x, names)
            want = torch.stack([hop._reduce(x, name, None) for name in names], 1)
            assert got.shape == (adj.n_dst, len(names), D)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            g = drawn(*got.shape, seed=9)
            (mine,), (theirs,) = (torch.autograd.grad(t, x, g) for t in (got, want))
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
            with torch.no_grad():  # what is not remembered changes nothing
                assert torch.equal(hop._several(x, names), got)


MIXED = [("sum", "max", "mean"), ("min", "std", "add"), AGGREGATORS[::-1]]


@pytest.mark.parametrize("long", [5, 16, 19, 75])
@pytest.mark.parametrize("kind", GRAPHS)
def test_mixed_in_the_same_pass(kind, long, tasks):
    """As the results mixed afterwards, bit for bit; gradients as torch's of that."""
    adj, heads, bases = GRAPHS[kind](), 2, 3
    for hop in hops(adj)[:2]:
        for names in MIXED:
            x = drawn(adj.n_src, bases * long).requires_grad_()
            w = drawn(adj.n_dst, heads, len(names) * bases, seed=1).requires_grad_()
            by = drawn(heads * long, seed=2).requires_grad_()
            got = hop.mixed(identity, x, names, w, by)
            u = hop.beside(identity, x, names)
            assert torch.equal(got, mixed(w, u.view(len(w), w.shape[2], long), by))
            want = (w @ u.view(len(w), w.shape[2], long)).flatten(1) + by
            g = drawn(*got.shape, seed=9)
            both = (torch.autograd.grad(t, (x, w, by), g) for t in (got, want))
            each = list(zip(*both, strict=True))
            for mine, theirs in each:
                torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
            with torch.no_grad():  # no result is kept
                assert torch.equal(hop.mixed(identity, x, names, w, by), got)
            alone = hop.mixed(identity, x.detach(), names, w, by)
            torch.testing.assert_close(torch.autograd.grad(alone, w, g)[0], each[1][0])
            apart = hop.mixed(identity, x, names, w, by, lambda u: 2 * u)
            torch.testing.assert_close(apart, 2 * got - by, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["square", "hub"])
def test_in_float32_as_in_float64(kind, tasks):
    """Twice as many columns to a register, half the bytes to a line; extremes choose the same."""
    adj, long = GRAPHS[kind](), 75
    for hop in hops(adj)[:2]:
        for names in MIXED:
            given = (
                drawn(adj.n_src, 3 * long), drawn(adj.n_dst, 2, 3 * len(names), seed=1),
                drawn(2 * long, seed=2),
            )  # fmt: skip
            found = {}
            for dtype in (torch.float64, torch.float32):
                x, w, by = (t.float().to(dtype).requires_grad_() for t in given)
                out = Hop(
                    adj,
                    **{n: f.float().to(dtype) for n in ("src", "dst", "weight", "diag")
                       if (f := getattr(hop, n)) is not None},
                ).mixed(identity, x, names, w, by)  # fmt: skip
                grads = torch.autograd.grad(out, (x, w, by), drawn(*out.shape, seed=9).to(dtype))
                found[dtype] = [out, *grads]
            for exact, rounded in zip(*found.values(), strict=True):
                assert rounded.dtype == torch.float32
                scale = exact.detach().abs().max().item()
                torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=1e-5 * scale)


def test_mixed_by_every_kernel_and_in_every_kind():
    """Where no pass takes all, or weights are of another kind than rows, the parts are taken."""
    adj, names = GRAPHS["square"](), ("sum", "max")
    x, w, by = drawn(11, 6), drawn(11, 2, 6, seed=1), drawn(4, seed=2)
    want = Hop(adj).mixed(identity, x, names, w, by)
    for kernel in ("dgl", "torch"):
        ops.select(kernel)
        found = Hop(adj).mixed(identity, x, names, w, by)
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    ops.select("auto")
    with torch.autocast("cpu", torch.bfloat16):  # products widen what they are given
        half = Hop(adj).mixed(identity, x.bfloat16(), names, w.bfloat16(), by.bfloat16())
    torch.testing.assert_close(half.double(), want, rtol=0.05, atol=0.1)


def test_what_many_neighbours_send_is_added_chunk_by_chunk():
    """More edges than a chunk takes, and columns for full registers, half ones and none."""
    adj = graph(5, 40, 4 * fused.CHUNK + 3)
    for width in (1, 8, 16, 24, 43):
        x = drawn(40, width).requires_grad_()
        for names in (("sum", "max", "mean"), ("mean", "max", "min", "std")):
            hop = Hop(adj, src=drawn(40, seed=4).abs())
            got = hop._several(x, names)
            want = torch.stack([hop._reduce(x, name, None) for name in names], 1)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            g = drawn(*got.shape, seed=9)
            (mine,), (theirs,) = (torch.autograd.grad(t, x, g) for t in (got, want))
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_gradcheck(tasks):
    adj = GRAPHS["block"]()
    hop, x = hops(adj)[3], drawn(14, 3).requires_grad_()
    assert gradcheck(lambda x: hop._several(x, AGGREGATORS), (x,), fast_mode=True)


@pytest.mark.parametrize("op", ["max", "min"])
def test_an_extreme_sends_its_gradient_to_one_source_once(op, tasks):
    indices = torch.tensor([0, 0, 1, 2, 3]).int()  # 0 -> 0 twice, as large as 1 -> 0
    adj = Adjacency(torch.tensor([0, 4, 5, 5, 5]), indices)
    sign = 1 if op == "max" else -1
    x = sign * torch.tensor([[2.0], [2.0], [-9.0], [-7.0]])
    x.requires_grad_()
    out = Hop(adj)._several(x, (op, "mean"))
    assert out[:, 0].flatten().tolist() == [sign * 2, sign * -7, 0, 0]
    out[:, 0].sum().backward()
    assert x.grad.flatten().tolist() == [1, 0, 0, 1]


def test_std_of_equal_rows_and_of_a_negative_variance_has_a_finite_gradient():
    adj = GRAPHS["square"]()
    equal = torch.full((11, 2), 0.3, dtype=torch.float64, requires_grad=True)
    large = torch.linspace(1e4, 2e4, 64).repeat(11, 1).requires_grad_()
    for x in (equal, large):
        out = Hop(adj)._several(x, ("std", "var", "max"))
        want = torch.full_like(out[:, 0], STD_EPS**0.5)
        torch.testing.assert_close(out[:, 0], torch.maximum(out[:, 0], want))
        out.sum().backward()
        assert torch.isfinite(x.grad).all()
    assert out[:, 1].min() < -STD_EPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_taken_up_as_by_every_product(dtype):
    hop = Hop(GRAPHS["block"](), src=torch.rand(14), dst=torch.rand(9), diag=torch.rand(9))
    x = drawn(14, D, dtype=torch.float32).to(dtype)
    leaf = x.clone().requires_grad_()
    found = hop.reduce(identity, leaf, AGGREGATORS)
    for name, got in zip(AGGREGATORS, found, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, hop._reduce(x.float(), name, None), rtol=1e-5, atol=1e-5)
    torch.stack(found).sum().backward()
    assert leaf.grad.dtype == dtype


@pytest.mark.parametrize("kernel", ["auto", "native", "dgl", "torch"])
def test_one_pass_or_many_by_the_kernel(kernel, monkeypatch):
    ops.select(kernel)
    passes = []
    real = Hop._several
    monkeypatch.setattr(
        Hop, "_several", lambda hop, m, names: passes.append(names) or real(hop, m, names)
    )
    hop, x = hops(GRAPHS["block"]())[1], drawn(14, D).t().contiguous().t()  # any memory layout
    want = [hop._reduce(x, name, None) for name in AGGREGATORS]
    for got, true in zip(hop.reduce(identity, x, AGGREGATORS), want, strict=True):
        torch.testing.assert_close(got, true, rtol=1e-12, atol=1e-12)
    wide = hop.beside(identity, x, AGGREGATORS)
    torch.testing.assert_close(wide, torch.cat(want, 1), rtol=1e-12, atol=1e-12)
    std = hop.reduce(identity, x, "std")
    torch.testing.assert_close(std, want[-1], rtol=1e-12, atol=1e-12)
    both = [AGGREGATORS, AGGREGATORS, ("std",)]
    assert passes == (both if kernel in ("auto", "native") else [])
    # sums alone are left to the fastest sparse product
    hop.reduce(identity, x, ("sum", "add", "mean"))
    assert len(passes) <= len(both)
    assert {"sum", "add", "mean"} == set(AGGREGATORS) - TOGETHER


def test_learned_factors_keep_their_gradients():
    adj = GRAPHS["square"]()
    weight = drawn(90).abs().requires_grad_()
    total, _ = Hop(adj, weight=weight).reduce(identity, drawn(11, D), ("sum", "max"))
    total.sum().backward()
    assert weight.grad.abs().min() > 0


def test_values_of_edges_take_the_same_pass():
    adj = GRAPHS["square"]()
    names, values = AGGREGATORS[1:], drawn(90, D).requires_grad_()
    found = Hop(adj).collect(values, names)
    for name, got in zip(names, found, strict=True):
        want = Hop(adj.edgewise)._reduce(values, name, None)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        grads = (torch.autograd.grad(t.square().sum(), values, retain_graph=True)[0]
                 for t in (got, want))  # fmt: skip
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_a_hop_that_computes_an_aggregator_itself_says_so():
    for module in pkgutil.iter_modules(gnnscale.sampler.__path__):
        importlib.import_module(f"gnnscale.sampler.{module.name}")

    importlib.import_module("gnnscale.architecture.revgat")

    def below(cls):
        return [cls, *(deeper for sub in cls.__subclasses__() for deeper in below(sub))]

    changed = [c for c in below(Hop)[1:] if {"_reduce", "_operator"} & set(vars(c))]
    assert len(changed) >= 4
    for cls in changed:
        assert {"own", "_several"} & set(vars(cls)), cls
        assert {"own", "_attention"} & set(vars(cls)), cls
    for cls in below(Hop)[1:]:
        assert ("reduce" in vars(cls)) == ("beside" in vars(cls)), cls
        if {"reduce", "softmax", "edges"} & set(vars(cls)):
            assert not cls.attends, cls
        if {"drop", "lift"} & set(vars(cls)):
            assert not cls.drops, cls


class Sizes(TorchDispatchMode):
    """Elements of every tensor that is made but views of the graph's indices."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor) and (t.dim() > 1 or t.is_floating_point()):
                self.seen.append(t.numel())
        return out


def test_nothing_grows_with_the_edges(tasks):
    """Of N nodes with E and with 8 E edges tensors of the same sizes are made, and kept."""
    found = []
    for edges in (3_000, 24_000):
        adj = graph(200, 200, edges)
        adj.T.edges  # noqa: B018 - made once for every product of a graph
        hop = Hop(adj, src=torch.rand(200), dst=torch.rand(200), diag=torch.rand(200))
        x = torch.randn(200, 8, requires_grad=True)
        for again in (False, True):  # what is loaded and compiled once is there the second time
            kept, sizes = [], Sizes()

            def pack(tensor, kept=kept):
                kept.append(tensor.numel() * tensor.element_size())
                return tensor

            if again:
                tracemalloc.start()
            with sizes:
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                    out = hop.reduce(identity, x, AGGREGATORS)
                torch.stack(out).sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * 3_000 * 8  # numpy's arrays are counted there
        found.append((kept, sizes.seen))
    assert found[0] == found[1]
    kept, seen = found[0]
    block = 4 * 200 * 8
    assert sum(kept) == block * (1 + 7 + 2)  # x, the results, two arguments
    assert 0 < max(seen) < 3_000 * 8


def test_passes_are_counted():
    seen, adj = [], GRAPHS["block"]()
    hop = Hop(adj, src=drawn(14))
    with watched(lambda *product: seen.append((product[0], *product[2:]))):
        hop.reduce(identity, drawn(14, D), ("mean", "std", "var", "add", "max"))
        assert seen == [("total", D, False)] * 2 + [("extreme", D, False)]
        seen.clear()
        hop.reduce(identity, drawn(14, D), ("sum", "max", "min"))
        assert seen == [("total", D, False)] + [("extreme", D, False)] * 2


@pytest.mark.process
def test_bitwise_the_same_under_one_and_two_threads(threads):
    adj = graph(300, 400, 6_000)
    hop = Hop(adj, src=torch.rand(400), diag=torch.rand(300))
    x, g = (drawn(n, *more, D, dtype=torch.float32) for n, *more in ((400,), (300, 7)))
    x.requires_grad_()

    def everything():
        out = hop._several(x, AGGREGATORS)
        return out, *torch.autograd.grad(out, x, g)

    assert all(torch.equal(a, b) for a, b in zip(*threads(everything), strict=True))
