import pytest
import torch

from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.sparse import SparseRows
from gnnscale.graph import propagate
from gnnscale.graph.propagate import Chain, bethe, columns, diffusion, one_step, triangle, two_steps
from gnnscale.graph.simple import simple

F64 = torch.float64


def normal(a):
    d = a.sum(1)
    root = torch.where(d > 0, d.clamp(min=1e-300).rsqrt(), 0)
    return root[:, None] * a * root


def filled(x, chains, keep=slice(None), **more):
    width = len(range(1 + sum(c.powers for c in chains))[keep])
    out = torch.zeros(len(x), width, x.shape[1], dtype=F64).numpy()
    propagate.fill(out, x, chains, keep, **more)
    return torch.from_numpy(out)


@pytest.mark.parametrize("operator", ["sym", "row", "none"])
@pytest.mark.parametrize("loops", ["none", "diag"])
def test_powers_are_dense_powers(operator, loops, sixty, dense):
    a = dense(sixty.graph) + (loops == "diag") * torch.eye(60, dtype=F64)
    d = a.sum(1, keepdim=True).clamp(min=1)
    s = {"sym": normal(a), "row": a / d, "none": a}[operator]
    step = one_step(sixty.graph, Need(1, operator, loops), F64)
    got = filled(sixty.x, [Chain(step, 4)])
    want = torch.stack([torch.matrix_power(s, k) @ sixty.x for k in range(5)], 1)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [1, 480, 1500, 1 << 28])
def test_blocks_of_columns_change_nothing(block, sixty):
    step = one_step(sixty.graph, Need(1, "sym", "diag"), F64)
    chains = [Chain(step, 2), Chain(diffusion(step, 0.3, 1e-6), 1)]
    want = filled(sixty.x, chains)
    assert torch.equal(filled(sixty.x, chains, block=block), want)
    rows = sixty.x.masked_fill(sixty.x.abs() < 1, 0)
    sparse = filled(SparseRows.from_dense(rows), chains, block=block)
    assert torch.equal(sparse, filled(rows, chains))


def test_only_the_kept_columns_are_written(sixty):
    step = one_step(sixty.graph, Need(1, "sym", "diag"), F64)
    every = filled(sixty.x, [Chain(step, 3)])
    assert torch.equal(filled(sixty.x, [Chain(step, 3)], slice(-1, None)), every[:, 3:])
    assert torch.equal(filled(sixty.x, [Chain(step, 0)], slice(-1, None)), every[:, :1])


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.7])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-12])
def test_diffusion_is_the_dense_inverse_within_its_bound(alpha, tolerance, sixty, dense):
    a = dense(sixty.graph) + torch.eye(60, dtype=F64)
    want = alpha * torch.linalg.inv(torch.eye(60, dtype=F64) - (1 - alpha) * normal(a)) @ sixty.x
    step, steps = one_step(sixty.graph, Need(1, "sym", "diag"), F64), []

    def counted(h):
        steps.append(h)
        return step(h)

    error = (diffusion(counted, alpha, tolerance)(sixty.x) - want).norm() / sixty.x.norm()
    assert error <= 2 * tolerance
    k = len(steps)
    assert (1 - alpha) ** k <= tolerance * (1 + 1e-9)
    assert (1 - alpha) ** (k - 1) > tolerance, "no more steps than asked for"


def brute(a):
    """A o A^2 without loops, by three loops."""
    n, out = len(a), torch.zeros_like(a)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if len({i, j, k}) == 3 and a[i, k] and a[k, j] and a[i, j]:
                    out[i, j] += 1
    return out


def pairs(text):
    return torch.tensor([[int(c) for c in p] for p in text.split()]).T


GRAPHS = {
    "K4": simple(*pairs("01 02 03 12 13 23"), 4)[0],
    "tree": simple(*pairs("01 02 13 14"), 5)[0],
    "hub": simple(torch.tensor([0] * 40 + [1]), torch.tensor([*range(1, 41), 2]), 41)[0],
    "loops": Adjacency.from_edges(*pairs("00 01 10 12 21 20 02 22 33"), 4),
}


@pytest.mark.parametrize("name", [*GRAPHS, "sixty", "six"])
def test_triangles_by_brute_force(name, sixty, six, dense):
    adj = {**GRAPHS, "sixty": sixty.graph, "six": six}[name]
    a = dense(adj)
    counts = dense(adj, propagate.triangle_counts(adj).double())
    assert torch.equal(counts, brute(a))
    if name != "tree":
        assert counts.sum() > 0
    x = torch.randn(adj.n_dst, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    total = counts.sum(1, keepdim=True)
    want = torch.where(total > 0, counts / total.clamp(min=1), 0) @ x
    torch.testing.assert_close(triangle(adj, F64)(x), want, rtol=1e-13, atol=1e-13)


def test_triangles_by_hand():
    """K4: every edge is in two triangles, so T is the mean over the others; a tree has none."""
    x = torch.eye(4, dtype=F64)
    assert propagate.triangle_counts(GRAPHS["K4"]).tolist() == [2] * 12
    torch.testing.assert_close(triangle(GRAPHS["K4"], F64)(x), (1 - x) / 3)
    assert triangle(GRAPHS["tree"], F64)(torch.ones(5, 1, dtype=F64)).abs().sum() == 0


def test_bethe_is_the_shifted_hessian(sixty, dense):
    a = dense(sixty.graph)
    c = a.sum() / 60
    eye, d = torch.eye(60, dtype=F64), torch.diag(a.sum(1))
    want = 8 * eye - ((c - 1) * eye - c.sqrt() * a + d)
    torch.testing.assert_close(bethe(sixty.graph, F64)(sixty.x), want @ sixty.x)


@pytest.mark.parametrize("name", [*GRAPHS, "sixty", "six"])
def test_two_steps_are_the_pairs_they_join(name, sixty, six, dense):
    adj = {**GRAPHS, "sixty": sixty.graph, "six": six}[name]
    a = dense(adj)
    x = torch.randn(adj.n_dst, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(two_steps(adj, F64)(x), (a @ a > 0).double() @ x)


def test_columns_of_sparse_features(sixty):
    x = sixty.x.masked_fill(sixty.x.abs() < 1, 0)
    x[:, 3] = 0
    for width in (1, 2, 7, 100):
        blocks = list(columns(SparseRows.from_dense(x), width))
        assert [at for at, _ in blocks] == list(range(0, 7, width))
        assert torch.equal(torch.cat([b for _, b in blocks], 1), x)


def test_values_that_do_not_fit_are_told(sixty):
    step = one_step(sixty.graph, Need(1, "none", "diag"), F64)
    out = torch.zeros(60, 9, 7, dtype=torch.float16).numpy()
    with pytest.raises(OverflowError):
        propagate.fill(out, sixty.x * 1000, [Chain(step, 8)])
    hidden = sixty.x.clone()
    hidden[3] = torch.nan  # is not a value that does not fit
    propagate.fill(out[:, :2], hidden, [Chain(step, 1)])
