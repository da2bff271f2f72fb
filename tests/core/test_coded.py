"""Integer products and sums against 64 bits, and everything else against its float form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gnnscale.core import ops
from gnnscale.core.ops import coded, int_product
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.coded import Coded, Codes
from gnnscale.core.ops.codes import Grid, fake
from gnnscale.core.sparse import SparseRows

DRAW = torch.Generator()


def codes(*size, low=-128, high=127, scale=2.0**-4, zero=0, axis=1, channels=False):
    q = torch.randint(low, high + 1, size, generator=DRAW.manual_seed(sum(size))).to(torch.int8)
    n = size[axis]
    s = (
        scale * 2.0 ** torch.randint(-2, 3, (n,), generator=DRAW)
        if channels
        else torch.tensor(scale)
    )
    z = torch.full((n,), float(zero)) if channels else torch.tensor(float(zero))
    return Codes(q, s, z, axis)


def whole(x: Codes) -> torch.Tensor:
    zero = x.zero.unsqueeze(1 - x.axis) if x.zero.dim() else x.zero
    return x.q.long() - zero.long()


def real(x: Codes) -> torch.Tensor:
    scale = x.scale.unsqueeze(1 - x.axis) if x.scale.dim() else x.scale
    return whole(x).float() * scale


def random_graph(n, edges, seed=0):
    src, dst = torch.randint(0, n, (2, edges), generator=DRAW.manual_seed(seed))
    return Adjacency.from_edges(src, dst, n)


def grid(scale=2.0**-3, zero=37, last=255):
    return Grid(torch.tensor(scale), torch.tensor(float(zero)), 0, last)


@pytest.fixture(params=["torch", "own"])
def product(request, monkeypatch):
    monkeypatch.setattr(int_product, "torch_is_faster", lambda: request.param == "torch")


def accumulated(source):
    """All integers of a product or sum, of the columns that it has."""
    width = source.shape[1]
    parts = [block[:, :width].long() for _, block in source.blocks()]
    return torch.cat([*parts, torch.zeros(0, width, dtype=torch.long)])


# -- accumulators ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(5, 7, 3), (3000, 40, 16), (70, 1433, 33), (4, 9000, 2), (0, 5, 3)]
)
@pytest.mark.parametrize(("zero", "channels"), [(0, False), (-128, True), (55, False)])
def test_products_are_those_of_64_bits(product, size, zero, channels):
    n, k, d = size
    x = codes(n, k, zero=zero, high=100)
    w = codes(k, d, channels=channels)
    want = whole(x) @ whole(w)
    assert torch.equal(accumulated(coded.Product(x, w)), want)


def test_products_with_affine_weights_are_those_of_64_bits(product):
    x, w = codes(300, 600, zero=-128), codes(600, 20, zero=-100, channels=True)
    assert torch.equal(accumulated(coded.Product(x, w)), whole(x) @ whole(w))


@pytest.mark.parametrize("width", [1, 3, 16, 40, 64, 120])
@pytest.mark.parametrize("zero", [0, -128, 100])
def test_sums_are_those_of_64_bits(width, zero):
    graph = random_graph(50, 5000)  # more than 256 in-edges would overflow 16 bits
    hub = Adjacency.from_edges(torch.arange(3000) % 50, torch.zeros(3000).long(), 50)
    x = codes(50, width, zero=zero)
    for adj in (graph, hub, random_graph(50, 0)):
        want = torch.zeros(50, width).long().index_add_(0, adj.dst.long(), whole(x)[adj.indices])
        assert torch.equal(accumulated(coded.Sum(adj, x)), want)


def test_sums_of_the_largest_codes_do_not_overflow():
    adj = Adjacency.from_edges(torch.arange(1, 3001), torch.zeros(3000).long(), 3001)
    for q, zero in ((127, -128.0), (-128, 127.0)):
        x = Codes(torch.full((3001, 2), q, dtype=torch.int8), torch.ones(()), torch.tensor(zero))
        first = next(coded.Sum(adj, x).blocks())
        assert first[1][0, 0] == 3000 * (q - int(zero))


@pytest.mark.parametrize(("heads", "width"), [(1, 16), (8, 8), (3, 5)])
def test_sums_with_weights_read_codes_and_are_those_of_values(heads, width):
    x = codes(50, heads * width, zero=-30)
    for graph in (random_graph(50, 700), random_graph(50, 0)):
        table = Coded(x).view(50, heads, width)
        weight = torch.rand(graph.n_edges, heads, generator=DRAW)
        got = ops.total(graph, table, weight)
        assert "_values" not in vars(table)  # nothing was made float32
        want = ops.total(graph, real(x).double().view(50, heads, width), weight.double())
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)


def test_heads_are_the_values_elsewhere():
    x = codes(6, 10, zero=4)
    table, want = Coded(x).view(6, 2, 5), real(x).view(6, 2, 5)
    assert table.shape == want.shape
    assert len(table) == 6
    for f in (lambda h: (h * 2).sum(-1), lambda h: h[:3], lambda h: torch.cat([h, h]),
              lambda h: 1 + h, lambda h: h.flatten(1)):  # fmt: skip
        assert torch.equal(f(table), f(want))
    assert torch.equal(Coded(x).view(-1), want.flatten())


@pytest.mark.parametrize("width", [9, 64, 100, 144])
@pytest.mark.parametrize("zero_w", [0, -77])
def test_sparse_products_are_those_of_64_bits(zero_w, width):
    x = torch.randn(90, 50, generator=DRAW.manual_seed(1)) * (
        torch.rand(90, 50, generator=DRAW) < 0.2
    )
    rows, w = SparseRows.from_dense(x), codes(50, width, zero=zero_w)
    values = torch.randint(-255, 256, rows.values.shape, generator=DRAW).to(torch.int16)
    sparse = coded.SparseCodes(rows.rows, values, torch.tensor(0.5), SparseRows)
    got = accumulated(coded.Product(sparse, w))
    dense = SparseRows.of(rows.rows, values.double()).dense().long()
    assert torch.equal(got, dense @ whole(w))
    part = sparse[torch.tensor([3, 80, 3])] @ Coded(w)
    want = (dense @ whole(w)).float()[[3, 80, 3]] * 0.5 * w.scale
    assert torch.equal(part.values(), want)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_codes_are_those_of_the_largest_values(sign):
    adj, x = random_graph(50, 120), codes(50, 6, zero=3)
    got = ops.extreme(adj, Coded(x), sign)
    assert isinstance(got, Coded)
    assert torch.equal(got.values(), ops.extreme(adj, real(x), sign))


# -- what stands between ---------------------------------------------------------------------------


def steps(x, row, column, norm):
    """Everything that is noted, on codes or on floats."""
    y = (x * column + column) * row.unsqueeze(1)
    y = norm(y.relu())
    return (y / (1 + row.abs()).unsqueeze(1) + 3 * x) * 2.0 + 1.0


@pytest.mark.parametrize("kind", ["codes", "product", "sum", "floats"])
def test_steps_are_those_of_floats(kind, product):
    column = torch.randn(12, generator=DRAW.manual_seed(2))
    row = torch.randn(60, generator=DRAW)
    norm = nn.BatchNorm1d(12).eval()
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    x, w, adj = codes(60, 12, zero=5), codes(12, 12), random_graph(60, 300)
    made = {
        "codes": (Coded(x), real(x)),
        "product": (Coded(x) @ Coded(w), real(x) @ real(w)),
        "sum": (ops.total(adj, Coded(x)), ops.total(adj, real(x))),
        "floats": (Coded.of(real(x)), real(x)),
    }
    ours, theirs = made[kind]
    assert isinstance(ours, Coded)
    assert torch.equal(ours.values(), theirs)
    with torch.no_grad():
        got, want = steps(ours, row, column, norm), steps(theirs, row, column, norm)
    assert isinstance(got, Coded)
    torch.testing.assert_close(got.values(), want, rtol=1e-5, atol=1e-4)
    # its codes are those of its values, in one pass
    assert torch.equal(got.encode(grid()).values(), fake(got.values(), grid()))


@pytest.mark.parametrize(
    ("scale", "last"), [(2.0**-3, 255), (0.0713, 255), (0.9, 15), (2.0**-2, 3)]
)
def test_codes_of_a_linear_layer_are_those_of_fake_quantization(product, scale, last):
    x, w = codes(500, 64, zero=-128), codes(64, 32, channels=True)
    bias, to = torch.randn(32, generator=DRAW), grid(scale, last // 3, last)
    got = (Coded(x) @ Coded(w) + bias).relu().encode(to)
    want = fake((real(x) @ real(w) + bias).relu(), to)
    assert torch.equal(got.values(), want)


def test_an_operator_with_factors_and_own_entries_is_that_of_floats():
    adj, x = random_graph(80, 400), codes(80, 10, zero=9)
    dst, own = torch.rand(80, generator=DRAW), torch.rand(80, generator=DRAW)
    z = ops.total(adj, Coded(x)) * dst.unsqueeze(1)
    got = torch.addcmul(z, Coded(x)[:80], own.unsqueeze(1))
    assert isinstance(got, Coded)
    want = torch.addcmul(ops.total(adj, real(x)) * dst.unsqueeze(1), real(x), own.unsqueeze(1))
    assert torch.equal(got.values(), want)


def test_rows_can_be_chosen_before_anything_is_done():
    x, w = codes(60, 12, zero=5), codes(12, 12)
    row = torch.randn(60, generator=DRAW.manual_seed(3))
    y = (Coded(x) @ Coded(w)) * row.unsqueeze(1) + torch.ones(60, 12)
    for rows in (slice(0, 7), torch.tensor([3, 3, 50]), row > 0):
        assert isinstance(y[rows], Coded)
        assert torch.equal(y[rows].values(), y.values()[rows])


def test_whatever_has_no_integer_form_is_that_of_the_values():
    x, w = codes(20, 8, zero=5), codes(8, 8, channels=True, axis=0)
    c, f = Coded(x), real(x)
    dense = torch.randn(8, 4, generator=DRAW.manual_seed(4))
    assert torch.equal(c @ dense, f @ dense)
    assert torch.equal(F.elu(c), F.elu(f))
    assert torch.equal(c.view(20, 2, 4), f.view(20, 2, 4))
    assert torch.equal(torch.cat([c, c], 1), torch.cat([f, f], 1))
    assert torch.equal(c - 1.0, f - 1.0)
    assert torch.equal(dense.T @ Coded(codes(8, 3)), dense.T @ real(codes(8, 3)))
    assert torch.equal((c @ Coded(w).T).values(), f @ real(w).T)
    assert torch.equal(c @ Coded(w), f @ real(w))  # scales run along the wrong side: no integers
    assert torch.equal(c * c, f * f)
    assert (c.shape, len(c), c.dim(), c.dtype) == (f.shape, 20, 2, torch.float32)


def test_zero_stays_zero():
    x = Codes(torch.full((4, 3), 7, dtype=torch.int8), torch.tensor(0.3), torch.tensor(7.0))
    assert Coded(x).values().eq(0).all()
    assert Coded.of(torch.zeros(4, 3)).encode(grid(0.3, 11)).values().eq(0).all()


# -- codes of codes, and two parts that are added --------------------------------------------------


def chain(x, bias, norm, ask):
    """Four sites in a row; ``ask`` meets what is between."""
    y = ask(x.encode(grid(0.03, 100)) + bias)
    y = ask(y.encode(grid(0.02, 90)).relu().encode(grid(0.07, 11, last=15)))
    return norm(y).encode(grid(0.05, 60))


@pytest.mark.parametrize("asked", [False, True])
def test_codes_of_codes_are_looked_up_and_the_same(asked, monkeypatch):
    x, bias = codes(300, 20, zero=5, scale=0.011), torch.randn(20, generator=DRAW.manual_seed(1))
    norm = nn.BatchNorm1d(20).eval()
    norm.running_mean.uniform_(-1, 1)

    def ask(y):
        if asked:
            assert y.values().shape == (300, 20)
        return y

    with torch.no_grad():
        want = chain(Coded(x), bias, norm, ask)
        monkeypatch.setattr(coded, "MANY", 0)
        got = chain(Coded(x), bias, norm, ask)
    assert not isinstance(want.source, coded.Mapped)
    assert isinstance(got.source, coded.Mapped)
    assert isinstance(got.source.of, coded.Mapped) == asked
    assert not got.source.made  # nobody needs them yet
    rows = torch.tensor([7, 7, 299, 0])
    assert torch.equal(got[rows].plain.q, want.plain.q[rows])
    assert not got.source.made
    assert len(want.plain.q.unique()) > 20
    assert torch.equal(got.plain.q, want.plain.q)
    assert torch.equal(got.values(), want.values())
    assert torch.equal(got[2:9].plain.q, want.plain.q[2:9])


def test_codes_that_depend_on_their_row_are_not_looked_up(monkeypatch):
    monkeypatch.setattr(coded, "MANY", 0)
    x, row = Coded(codes(30, 8)), torch.rand(30, 1)
    wide = Coded(codes(30, 8, channels=True))  # a scale per column: weights
    for y in (x * row, x / (row + 1), x + torch.randn(30, 8), wide):
        assert not isinstance(y.encode(grid()).source, coded.Mapped)


@pytest.mark.parametrize("biased", [False, True])
def test_two_parts_that_are_added_stay_codes(biased):
    x, w = codes(60, 12, zero=5), codes(12, 10, channels=True)
    other, bias = codes(60, 10, zero=-3, scale=0.3), torch.randn(10, generator=DRAW.manual_seed(4))
    row = torch.rand(60, 1, generator=DRAW)
    mine, theirs = Coded(other), real(other)
    mine, theirs = (mine + bias, theirs + bias) if biased else (mine, theirs)
    got, want = Coded(x) @ Coded(w) + mine, real(x) @ real(w) + theirs
    assert [kind for kind, _ in got.steps] == [coded.JOIN]
    assert mine._values is None  # nothing was made float32
    assert torch.equal(got.values(), want)
    assert torch.equal((got * row)[10:20].values(), (want * row)[10:20])
    assert torch.equal((got + mine).values(), want + theirs)  # a second one is added as values
    third = Coded(other).relu()
    assert torch.equal((Coded(x) @ Coded(w) + third).values(), real(x) @ real(w) + third.values())


def test_sums_that_32_bits_might_not_hold_are_floats():
    k = int_product.LIMIT + 1
    x = Codes(torch.full((1, k), 127, dtype=torch.int8), torch.tensor(0.5), torch.tensor(-128.0))
    w = Codes(torch.full((k, 1), 127, dtype=torch.int8), torch.tensor(0.5), torch.tensor(-128.0))
    got = Coded(x) @ Coded(w)
    assert isinstance(got, torch.Tensor)
    want = torch.tensor([[k * 255.0**2 / 4]])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)  # sums of 33,026 terms in float32
