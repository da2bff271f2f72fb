import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from gnnscale.core import ops
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.fused import Factors
from gnnscale.core.ops.watch import watched

KERNELS = ["dgl", "native", "torch", "dense"]


@pytest.fixture(autouse=True)
def _leave_auto():
    yield
    ops.select("auto")


@pytest.fixture(params=KERNELS)
def kernel(request):
    ops.select(request.param)
    return request.param


def bipartite(seed=0, n_dst=9, n_src=14, most=5):
    """Rows of random length, some empty; duplicates allowed."""
    draw = torch.Generator().manual_seed(seed)
    degree = torch.randint(0, most, (n_dst,), generator=draw)
    degree[2] = degree[-1] = 0
    indptr = torch.zeros(n_dst + 1, dtype=torch.int64)
    indptr[1:] = degree.cumsum(0)
    indices = torch.randint(0, n_src, (int(indptr[-1]),), generator=draw).int()
    return Adjacency(indptr, indices, n_src)


GRAPHS = {
    "bipartite": bipartite,
    "square": lambda: bipartite(1, 11, 11),
    "edgeless": lambda: Adjacency(torch.zeros(5, dtype=torch.int64), torch.empty(0).int(), 6),
    "edgeless square": lambda: Adjacency(torch.zeros(5, dtype=torch.int64), torch.empty(0).int()),
}


@pytest.fixture(params=GRAPHS)
def adj(request):
    return GRAPHS[request.param]()


def randn(*size, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=draw, dtype=torch.float64).requires_grad_()


def same(ours, theirs, *leaves):
    """Equal values, and equal gradients of a random linear form of them."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    g = randn(*ours.shape, seed=99).detach()
    mine = torch.autograd.grad(ours, leaves, g)
    want = torch.autograd.grad(theirs, leaves, g, materialize_grads=True)
    for a, b in zip(mine, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def per_head(adj, x, w):
    """[n_dst, H, D] by index arithmetic alone."""
    out = x.new_zeros(adj.n_dst, *x.shape[1:])
    return out.index_add(0, adj.dst.long(), w.unsqueeze(-1) * x[adj.indices.long()])


# -- products ------------------------------------------------------------------------------------


def test_total_is_the_matrix_product(kernel, adj, dense):
    x = randn(adj.n_src, 3)
    same(ops.total(adj, x), dense(adj) @ x, x)


def test_total_of_heads(kernel, adj, dense):
    x = randn(adj.n_src, 2, 3)
    same(ops.total(adj, x), torch.einsum("ij,jhd->ihd", dense(adj), x), x)


def test_total_weighted_by_edge(kernel, adj, dense):
    x, w = randn(adj.n_src, 3), randn(adj.n_edges, seed=1)
    same(ops.total(adj, x, w), dense(adj, w) @ x, x, w)


def test_total_weighted_by_edge_and_head(kernel, adj):
    x, w = randn(adj.n_src, 2, 3), randn(adj.n_edges, 2, seed=1)
    same(ops.total(adj, x, w), per_head(adj, x, w), x, w)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_rows_at_the_ends_of_edges(shape, kernel, adj):
    x, y = randn(adj.n_src, *shape), randn(adj.n_dst, *shape, seed=1)
    same(ops.at_sources(adj, x), x[adj.indices.long()], x)
    same(ops.at_targets(adj, y), y[adj.dst.long()], y)


def test_rows_at_the_ends_of_edges_have_second_derivatives(kernel, adj):
    x, y = randn(adj.n_src, 2), randn(adj.n_dst, 2, seed=1)
    if adj.n_edges:
        assert gradgradcheck(
            lambda x, y: ops.at_sources(adj, x) ** 3 + ops.at_targets(adj, y) ** 3, (x, y)
        )


def test_rows_at_the_ends_of_edges_keep_their_type(kernel, adj):
    x = randn(adj.n_src, 3).detach().bfloat16().requires_grad_()
    ops.at_sources(adj, x).sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert torch.equal(x.grad.float(), adj.out_degree.float().unsqueeze(1).expand(-1, 3))


def test_the_gradient_of_rows_at_edges_makes_no_matrix_of_edges(kernel, monkeypatch):
    monkeypatch.setattr(Adjacency, "dense", None)
    adj = bipartite()
    x, y = randn(adj.n_src, 3), randn(adj.n_dst, 3)
    (ops.at_sources(adj, x).sum() + ops.at_targets(adj, y).sum()).backward()


@pytest.mark.parametrize("given", ["", "s", "d", "w", "o", "sd", "sdo", "sdwo"])
def test_operator_is_the_matrix_with_its_factors(given, kernel, adj, dense):
    sizes = {"s": adj.n_src, "d": adj.n_dst, "w": adj.n_edges, "o": adj.n_dst}
    s, d, w, own = (
        randn(size, seed=k).detach() if name in given else None
        for k, (name, size) in enumerate(sizes.items())
    )
    matrix = dense(adj) if w is None else dense(adj, w)
    matrix = matrix if s is None else matrix * s
    matrix = matrix if d is None else matrix * d.unsqueeze(1)
    if own is not None:
        matrix = matrix + torch.eye(adj.n_dst, adj.n_src, dtype=torch.float64) * own.unsqueeze(1)
    x = randn(adj.n_src, 5)
    same(ops.operator(adj, x, Factors(s, d, w, own)), matrix @ x, x)


def test_gradients_of_an_operators_factors(kernel, adj, dense):
    factors = [randn(n, seed=k) for k, n in enumerate((adj.n_src, adj.n_dst, adj.n_edges))]
    s, d, w = factors
    x = randn(adj.n_src, 2)
    same(
        ops.operator(adj, x, Factors(*factors)), (dense(adj, w) * s * d.unsqueeze(1)) @ x, *factors
    )


def test_bfloat16_rows_are_summed_as_the_floats_they_are(kernel, adj):
    x = torch.randn(adj.n_src, 2, 9).bfloat16()
    w = torch.rand(adj.n_edges, 2)
    src, dst = torch.rand(adj.n_src), torch.rand(adj.n_dst)
    factors = Factors(src, dst, w[:, 0].contiguous(), dst)

    def everything(x):
        flat = x.flatten(1)
        return [
            ops.total(adj, flat), ops.total(adj, x, w), ops.operator(adj, flat, factors),
            ops.total(adj, flat, w[:, 0]),
        ]  # fmt: skip

    stored, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    learned = w.clone().requires_grad_()
    got, want = everything(stored), everything(wide)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
        (of_a,) = torch.autograd.grad(a.square().sum(), stored)
        (of_b,) = torch.autograd.grad(b.square().sum(), wide)
        assert torch.equal(of_a, of_b.bfloat16())
    (of_stored,) = torch.autograd.grad(ops.total(adj, x, learned).square().sum(), learned)
    (of_wide,) = torch.autograd.grad(ops.total(adj, x.float(), learned).square().sum(), learned)
    assert torch.equal(of_stored, of_wide)


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme(kernel, adj, sign):
    x = randn(adj.n_src, 3)
    rows = []
    for i in range(adj.n_dst):
        row = x[adj.indices[adj.indptr[i] : adj.indptr[i + 1]].long()]
        rows.append((sign * (sign * row).amax(0)) if len(row) else x.sum(0) * 0)
    same(ops.extreme(adj, x, sign), torch.stack(rows), x)


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_of_one_sign_only(kernel, adj, sign):
    # all values negative under max (positive under min): an initial 0 would win
    x = -sign * randn(adj.n_src, 3).detach().abs() - sign
    out = ops.extreme(adj, x, sign)
    full = adj.in_degree > 0
    assert (sign * out[full] < 0).all()
    assert (out[~full] == 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_gradient_of_a_tie_goes_to_one_edge(kernel, sign):
    graph = Adjacency(torch.tensor([0, 3, 4]), torch.tensor([0, 1, 2, 3]).int(), 4)
    x = sign * torch.tensor([[1.0], [1.0], [-5.0], [2.0]], dtype=torch.float64)
    x.requires_grad_()
    ops.extreme(graph, x, sign).sum().backward()
    got = x.grad.flatten()
    assert sorted(got[:2].tolist()) == [0.0, 1.0]
    assert got[2:].tolist() == [0.0, 1.0]


def test_softmax(kernel, adj):
    e = randn(adj.n_edges, 2)
    rows = [e[int(adj.indptr[i]) : int(adj.indptr[i + 1])].softmax(0) for i in range(adj.n_dst)]
    s = ops.softmax(adj, e)
    same(s, torch.cat(rows), e)
    sums = torch.zeros(adj.n_dst, 2, dtype=torch.float64).index_add(0, adj.dst.long(), s.detach())
    full = (adj.in_degree > 0).double().unsqueeze(1).expand(-1, 2)
    torch.testing.assert_close(sums, full)


def test_softmax_of_large_values_does_not_overflow(kernel):
    graph = Adjacency(torch.tensor([0, 2]), torch.tensor([0, 1]).int(), 2)
    e = torch.tensor([[1000.0, -1000.0], [999.0, -1001.0]])
    want = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).softmax(0)
    torch.testing.assert_close(ops.softmax(graph, e), want)


def by_pairs(adj, x, y, a, slope):
    """[E, H] with a value per edge and column in between."""
    s = x[adj.indices.long()] + y[adj.dst.long()]
    return (torch.nn.functional.leaky_relu(s, slope) * a).sum(-1)


def test_additive_scores(kernel, adj, monkeypatch):
    monkeypatch.setattr(ops.torch_kernels, "CHUNK", 3)  # more than one piece
    x, y, a = randn(adj.n_src, 2, 3), randn(adj.n_dst, 2, 3, seed=1), randn(2, 3, seed=2)
    same(ops.additive(adj, x, y, a, 0.2), by_pairs(adj, x, y, a, 0.2), x, y, a)


def test_additive_scores_of_one_tensor_at_both_ends(kernel):
    graph = bipartite(1, 11, 11)
    x, a = randn(11, 2, 3), randn(2, 3, seed=2)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)  # any memory layout
    same(ops.additive(graph, turned, x, a, 0.1), by_pairs(graph, x, x, a, 0.1), x, a)


def test_gradcheck(kernel):
    graph = bipartite(3, 5, 6, 6)
    assert graph.n_edges > 4
    x, heads = randn(6, 2), randn(6, 2, 2)
    w, ww = randn(graph.n_edges, seed=1), randn(graph.n_edges, 2, seed=2)
    assert gradcheck(lambda x: ops.total(graph, x), (x,), fast_mode=True)
    assert gradcheck(lambda x, w: ops.total(graph, x, w), (x, w), fast_mode=True)
    assert gradcheck(lambda x, w: ops.total(graph, x, w), (heads, ww), fast_mode=True)
    assert gradcheck(lambda x: ops.extreme(graph, x, 1), (x,), fast_mode=True)
    assert gradcheck(lambda x: ops.extreme(graph, x, -1), (x,), fast_mode=True)
    assert gradcheck(lambda e: ops.softmax(graph, e), (ww,), fast_mode=True)
    a = randn(2, 2, seed=3)
    ends = (heads, randn(5, 2, 2, seed=4), a)
    assert gradcheck(lambda x, y, a: ops.additive(graph, x, y, a, 0.2), ends, fast_mode=True)


def test_empty_rows_are_zero(kernel, adj):
    empty = adj.in_degree == 0
    assert empty.any()
    x, w = torch.ones(adj.n_src, 2), torch.ones(adj.n_edges)
    for out in (ops.total(adj, x), ops.total(adj, x, w), ops.extreme(adj, x, 1),
                ops.extreme(adj, x, -1)):  # fmt: skip
        assert torch.equal(out[empty], torch.zeros(int(empty.sum()), 2))
        assert (out[~empty] != 0).all()


def test_no_nodes_at_all(kernel):
    none = Adjacency(torch.zeros(1, dtype=torch.int64), torch.empty(0).int(), 0)
    assert ops.total(none, torch.empty(0, 3)).shape == (0, 3)
    assert ops.extreme(none, torch.empty(0, 3), 1).shape == (0, 3)


def test_any_memory_layout(kernel):
    graph = bipartite(4)
    x, w = randn(3, graph.n_src).T, randn(2, graph.n_edges, seed=1).T
    heads = randn(3, 2, graph.n_src).permute(2, 1, 0)
    assert not x.is_contiguous()
    assert not w.is_contiguous()
    assert torch.equal(ops.total(graph, x), ops.total(graph, x.contiguous()))
    assert torch.equal(ops.extreme(graph, x, 1), ops.extreme(graph, x.contiguous(), 1))
    assert torch.equal(ops.softmax(graph, w), ops.softmax(graph, w.contiguous()))
    want = ops.total(graph, heads.contiguous(), w.contiguous())
    assert torch.equal(ops.total(graph, heads, w), want)
    # .sum() sends back one number seen everywhere (stride 0)
    leaves = [t.detach().requires_grad_() for t in (heads, w)]
    got = torch.autograd.grad(ops.total(graph, *leaves).sum(), leaves)
    dense = torch.autograd.grad(per_head(graph, *leaves).sum(), leaves)
    for a, b in zip(got, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    e = w.detach().requires_grad_()
    (flat,) = torch.autograd.grad(ops.softmax(graph, e).sum(), e)
    torch.testing.assert_close(flat, torch.zeros_like(flat), atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree_on_a_larger_graph(dtype, sixty):
    x = sixty.x.to(dtype)
    w = randn(sixty.graph.n_edges, 1).detach().to(dtype)
    found = []
    for name in KERNELS:
        ops.select(name)
        found.append(
            [
                ops.total(sixty.graph, x),
                ops.total(sixty.graph, x.unsqueeze(1), w).squeeze(1),
                ops.extreme(sixty.graph, x, 1),
                ops.extreme(sixty.graph, x, -1),
                ops.softmax(sixty.graph, w),
            ]
        )
        assert all(t.dtype == dtype for t in found[-1])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.process
def test_numba_is_bitwise_the_same_under_one_and_two_threads(threads):
    ops.select("native")
    draw = torch.Generator().manual_seed(5)
    degree = torch.randint(0, 40, (500,), generator=draw)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)])
    graph = Adjacency(indptr, torch.randint(0, 600, (int(indptr[-1]),), generator=draw).int(), 600)

    def everything():
        x = torch.randn(600, 2, 9, generator=torch.Generator().manual_seed(6)).requires_grad_()
        w = torch.randn(graph.n_edges, 2, generator=torch.Generator().manual_seed(7))
        w.requires_grad_()
        flat = x.flatten(1)
        outs = [
            ops.total(graph, flat), ops.total(graph, x, w), ops.extreme(graph, flat, 1),
            ops.extreme(graph, flat, -1), ops.softmax(graph, w),
            ops.additive(graph, x, x[:500], x[0], 0.2),
            ops.operator(graph, flat, Factors(flat[:, 0].detach(), diag=flat[:500, 1].detach())),
        ]  # fmt: skip
        loss = sum((out * torch.randn(out.shape, generator=torch.Generator().manual_seed(8))).sum()
                   for out in outs)  # fmt: skip
        return [*outs, *torch.autograd.grad(loss, (x, w))]

    one, two = threads(everything)
    assert len(one) == 9
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


# -- choice of backend ---------------------------------------------------------------------------


def test_select_refuses_an_unknown_kernel():
    with pytest.raises(
        UsageError, match=r"hardware\.kernel 'nonsense' does not exist.*valid: auto"
    ):
        ops.select("nonsense")
    with pytest.raises(UsageError, match=r"'natvie' does not exist \(did you mean 'native'\?\)"):
        ops.select("natvie")
    assert ops.backend("softmax", torch.device("cpu")) is ops.native_kernels  # nothing was changed


def test_auto_takes_the_fastest_of_the_device():
    cpu = torch.device("cpu")
    assert ops.backend("total", cpu) is ops.native_kernels
    assert ops.backend("weighted_total", cpu) is ops.native_kernels
    ops.select("torch")
    assert ops.backend("total", cpu) is ops.torch_kernels


def test_auto_takes_dense_products_of_dense_graphs(dense):
    cpu, draw = torch.device("cpu"), torch.Generator().manual_seed(0)
    for share, module in ((0.1, ops.native_kernels), (0.5, ops.dense_kernels)):
        src, dst = (torch.rand(70, 70, generator=draw) < share).nonzero().T
        graph = Adjacency.from_edges(src, dst, 70)
        assert ops.backend("total", cpu, graph) is module
        x, factor = randn(70, 3), randn(70, seed=1).detach()
        matrix = dense(graph)
        same(ops.total(graph, x), matrix @ x, x)
        got = ops.operator(graph, x, Factors(factor, factor, None, factor))
        want = torch.diag(factor) @ matrix @ torch.diag(factor) + torch.diag(factor)
        same(got, want @ x, x)
        half = x.detach().bfloat16()
        assert torch.equal(ops.total(graph, half), ops.total(graph, half.float()))
    ops.select("native")
    assert ops.backend("total", cpu, graph) is ops.native_kernels


def test_a_dense_product_is_no_gather():
    told = []
    src, dst = torch.ones(70, 70).nonzero().T
    graph = Adjacency.from_edges(src, dst, 70)
    with watched(lambda *product: told.append(product[0])):
        ops.total(graph, randn(70, 3))
        ops.operator(graph, randn(70, 3), Factors(dst=torch.ones(70)))
        assert told == []
        ops.total(graph, randn(70, 3), randn(70 * 70))
    assert told == ["total"]


def test_no_matrix_that_is_too_large_or_too_small():
    every = torch.arange(10) * 9, torch.arange(81, dtype=torch.int32) % 9
    assert not ops.dense_kernels.pays(Adjacency(*every))
    graph = Adjacency(torch.arange(2) * 10**6, torch.zeros(10**6, dtype=torch.int32), 10**7)
    assert not ops.dense_kernels.pays(graph)


def test_a_cpu_kernel_is_refused_on_cuda():
    cuda = torch.device("cuda")
    ops.select("native")
    with pytest.raises(UsageError, match=r"hardware\.kernel=native: does not run on cuda; choose"):
        ops.backend("total", cuda)
    ops.select("auto")
    assert "cuda" in ops.backend("total", cuda).DEVICES


# -- adjacency -----------------------------------------------------------------------------------


def test_transpose(adj, dense):
    back = adj.T
    assert torch.equal(dense(back), dense(adj).T)
    assert (back.n_src, back.n_dst) == (adj.n_dst, adj.n_src)
    assert back.indices.dtype == torch.int32
    # edges: where each transposed edge stands here
    assert torch.equal(adj.indices[back.edges], back.dst)
    assert torch.equal(adj.dst[back.edges], back.indices)
    assert torch.equal(back.edges.sort().values, torch.arange(adj.n_edges))
    w = randn(adj.n_edges).detach()
    assert torch.equal(dense(back, w[back.edges]), dense(adj, w).T)
    assert adj.T is back


def test_degrees_and_destinations(adj, dense):
    matrix = dense(adj)
    assert adj.in_degree.tolist() == matrix.sum(1).tolist()
    assert adj.out_degree.tolist() == matrix.sum(0).tolist()
    rows = torch.zeros(adj.n_dst, adj.n_src, dtype=torch.float64)
    ones = torch.ones(adj.n_edges, dtype=torch.float64)
    rows.index_put_((adj.dst.long(), adj.indices.long()), ones, accumulate=True)
    assert torch.equal(rows, matrix)


def test_from_edges_keeps_loops_and_duplicates():
    src = torch.tensor([3, 0, 2, 2, 1, 0])
    dst = torch.tensor([0, 2, 2, 0, 0, 2])
    graph = Adjacency.from_edges(src, dst, 5)
    assert graph.indptr.tolist() == [0, 3, 3, 6, 6, 6]
    assert graph.indices.tolist() == [1, 2, 3, 0, 0, 2]
    assert (graph.n_src, graph.n_dst, graph.n_edges) == (5, 5, 6)
    assert graph.indptr.dtype == torch.int64
    assert graph.indices.dtype == torch.int32


def test_from_edges_of_nothing():
    nothing = torch.empty(0, dtype=torch.int64)
    graph = Adjacency.from_edges(nothing, nothing, 3)
    assert graph.indptr.tolist() == [0, 0, 0, 0]
    assert graph.n_edges == 0


def test_to_another_device_once():
    graph = bipartite().T
    assert graph.to("cpu") is graph
    moved = graph.to("meta")
    assert moved is graph.to(torch.device("meta"))
    assert moved.device.type == "meta"
    assert moved.edges.device.type == "meta"
    assert (moved.n_src, moved.n_dst, moved.n_edges) == (graph.n_src, graph.n_dst, graph.n_edges)


def test_repr_says_the_sizes():
    graph = bipartite()
    assert repr(graph) == f"Adjacency(14 -> 9, {graph.n_edges} edges, cpu)"
