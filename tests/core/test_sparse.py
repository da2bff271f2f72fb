import pytest
import torch
from compositions import CATALOG

from gnnscale.binding import bind
from gnnscale.core import ops, sparse
from gnnscale.core.data import Shape
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.sparse import SparseRows, cat, dense
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch


@pytest.fixture
def pair():
    """The same [6, 5] matrix dense and sparse; row 3 and column 2 are empty."""
    x = torch.zeros(6, 5, dtype=torch.float64)
    x[[0, 0, 1, 2, 4, 5, 5], [1, 4, 0, 3, 3, 0, 4]] = torch.arange(1.0, 8.0, dtype=torch.float64)
    return x, SparseRows.from_dense(x)


def test_it_is_the_matrix_it_was_made_of(pair):
    x, s = pair
    assert s.shape == x.shape
    assert len(s) == 6
    assert s.dtype == x.dtype
    assert s.dim() == 2
    assert s.rows.indptr.tolist() == [0, 2, 3, 4, 4, 5, 7]
    assert torch.equal(s.dense(), x)
    assert torch.equal(s.to(torch.float32).dense(), x.float())
    assert dense(x) is x


@pytest.mark.parametrize("ids", [[4, 0, 0, 3], [], [5]])
def test_rows_are_selected_in_the_order_asked_for(pair, ids):
    x, s = pair
    ids = torch.tensor(ids, dtype=torch.int64)
    assert torch.equal(s[ids].dense(), x[ids])


def test_slices_masks_pieces(pair):
    x, s = pair
    mask = torch.tensor([True, False, True, True, False, True])
    assert torch.equal(s[mask].dense(), x[mask])
    for part in (slice(0, 6), slice(2, 5), slice(3, 4), slice(4, None), slice(5, 2)):
        assert torch.equal(s[part].dense(), x[part])
    for size in (1, 2, 4, 6, 9):
        pieces = s.split(size)
        assert [len(p) for p in pieces] == [len(p) for p in x.split(size)]
        assert torch.equal(cat(pieces).dense(), x)
    with pytest.raises(ValueError, match="step 1"):
        s[::2]


@pytest.mark.parametrize("kernel", ["auto", "dgl", "native", "torch"])
@pytest.mark.parametrize("few", [0, 16])
def test_product_and_gradient_are_those_of_the_dense_matrix(pair, kernel, few, monkeypatch):
    monkeypatch.setattr(sparse, "FEW", few)
    x, s = pair
    w = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = w.clone().requires_grad_(), w.clone().requires_grad_()
    ops.select(kernel)
    try:
        out = s @ a
        torch.testing.assert_close(out, x @ b)
        g = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        out.backward(g)
    finally:
        ops.select("auto")
    (x @ b).backward(g)
    torch.testing.assert_close(a.grad, b.grad)
    # a transposed weight, as a linear layer multiplies by
    torch.testing.assert_close(s @ w.T.contiguous().T, x @ w)


LONG = (500, 300, 0.6)  # more entries than have the words of one hash row


@pytest.fixture(params=[LONG, (40, 9, 0.2), (0, 4, 0.5)])
def made(request):
    """Sparse rows of random numbers, some rows empty."""
    n, width, share = request.param
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, dtype=torch.float64, generator=draw)
    x[torch.rand(n, width, generator=draw) > share] = 0
    x[1::7] = 0
    return SparseRows.from_dense(x)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.8, 1 - 1e-9])
@pytest.mark.parametrize("columns", [1, 7, 8, 40, 64, 111])
def test_dropout_within_a_product_is_dropout_before_it(columns, p, made):
    """Masks are the same entry by entry; values and gradients are those of the dense matrix."""
    w = torch.randn(made.shape[1], columns, dtype=torch.float64).requires_grad_()
    torch.manual_seed(5)
    dropped = made.dropout(p)
    out = dropped @ w
    torch.manual_seed(5)
    want = made.values if p == 0 else dropout(made.values, p)
    assert torch.equal(dropped.values, want)
    x = SparseRows.of(made.rows, want).dense()
    torch.testing.assert_close(out, x @ w, rtol=1e-12, atol=1e-12 / (1 - p))
    g = torch.randn_like(out)
    (mine,) = torch.autograd.grad(out, w, g)
    torch.testing.assert_close(mine, x.T @ g, rtol=1e-12, atol=1e-12 / (1 - p))


@pytest.mark.process
def test_products_of_sparse_rows_do_not_depend_on_threads(threads):
    made = SparseRows.from_dense(torch.randn(3000, 50) * (torch.rand(3000, 50) > 0.7))
    w = torch.randn(50, 70)

    def product():
        mine = w.clone().requires_grad_()
        torch.manual_seed(0)
        out = made.dropout(0.5) @ mine
        out.backward(torch.ones_like(out))
        return out.detach(), mine.grad

    assert all(torch.equal(a, b) for a, b in zip(*threads(product), strict=True))


@pytest.mark.parametrize("kernel", ["torch", "dgl", "native"])
def test_whoever_asks_for_the_values_gets_the_dropped_ones(kernel):
    made = SparseRows.from_dense(torch.rand(60, 30) + 1)
    torch.manual_seed(1)
    dropped = made.dropout(0.5)
    x = dropped.dense()
    assert 0.4 < (x == 0).float().mean() < 0.6
    assert torch.equal(dropped[torch.tensor([3, 1])].dense(), x[[3, 1]])
    assert torch.equal(dropped.to(torch.float64).dense(), x.double())
    assert torch.equal(cat([dropped, made]).dense(), torch.cat([x, made.dense()]))
    ops.select(kernel)
    try:
        torch.testing.assert_close(dropped @ torch.eye(30), x)
        torch.testing.assert_close(dropped.dropout(0.0) @ torch.eye(30), x)
    finally:
        ops.select("auto")
    again = dropped.dropout(0.5).dense()  # of what is left
    assert torch.equal(again[again != 0], 2 * x[again != 0])


def test_dropout_on_the_entries_is_dropout_of_the_matrix():
    """Zeros stay zeros, so only the entries' law matters: same rate, same scale, independent."""
    x = torch.ones(400, 50)
    x[:, ::2] = 0
    s = SparseRows.from_dense(x)
    torch.manual_seed(0)
    p, dropped = 0.3, s.dropout(0.3)
    assert dropped.rows is s.rows, "the pattern, and with it the transpose, is kept"
    values = dropped.dense()[:, 1::2]
    kept = values != 0
    torch.testing.assert_close(values[kept], torch.full_like(values[kept], 1 / (1 - p)))
    n = values.numel()
    assert abs(kept.double().mean() - (1 - p)) < 4 * (p * (1 - p) / n) ** 0.5
    # no row or column is favoured: each keeps a share within five standard errors
    for axis in (0, 1):
        share = kept.double().mean(axis)
        error = (p * (1 - p) / values.shape[axis]) ** 0.5
        assert (share - (1 - p)).abs().max() < 5 * error
    assert s.dropout(0) is s
    assert not torch.equal(s.dropout(p).values, dropped.values)


@pytest.mark.parametrize("name", sorted(CATALOG.options("architecture")))
def test_every_architecture_computes_the_same_from_sparse_rows(sixty, name):
    content = dict(CATALOG.options("architecture")[name].content)
    if "keep_activations" in content:  # rows of zeros lie on the kink of ReLU, and what is
        content["keep_activations"] = True  # recomputed may come out on either side of it
    bound, problems = bind("architecture", "architecture", name, content, frozenset())
    assert not problems
    if not any(Trait.HOPS in need for need in bound.cls.needs) and bound.cls.needs:
        pytest.skip("reads no features as they are")
    if bound.cls.labels:
        pytest.skip("reads labels beside them, which its own tests give it")
    x = torch.where(sixty.x > 0.8, sixty.x, 0.0)
    assert 0.05 < (x != 0).double().mean() < 0.4
    found = {}
    for kind, features in (("dense", x), ("sparse", SparseRows.from_dense(x))):
        torch.manual_seed(0)
        model = bound.make(Shape(7, 4)).double()
        model.eval()  # dropout's masks differ by design
        data = sixty.with_(x=features)
        logits = model(whole_batch(data, model.need)).logits
        logits.square().sum().backward()
        found[kind] = logits, {n: p.grad for n, p in model.named_parameters()}
    torch.testing.assert_close(found["sparse"][0], found["dense"][0])
    for n, grad in found["dense"][1].items():
        torch.testing.assert_close(found["sparse"][1][n], grad, msg=n)
