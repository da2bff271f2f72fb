import subprocess
import sys
from itertools import pairwise

import numba
import numpy as np
import pytest
import torch

from gnnscale.core.errors import UsageError
from gnnscale.dataset import synthetic
from gnnscale.dataset.synthetic import Synthetic


@pytest.fixture(scope="module")
def data():
    return Synthetic(nodes=50_000).load(0)


def same(a, b):
    tensors = [(d.graph.indptr, d.graph.indices, d.x, d.y, *d.splits.values()) for d in (a, b)]
    return all(torch.equal(p, q) for p, q in zip(*tensors, strict=True))


def test_splitmix64_is_the_published_sequence():
    # the reference program's output for seed 1234567
    want = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(synthetic._hash(np.uint64(1234567), k)) for k in range(3)] == want


def test_alias_tables_carry_the_weights():
    weight, starts = np.array([1.0, 2, 3, 4, 5, 1, 7, 0.5]), np.array([0, 4, 6, 8])
    keep, other = np.empty(8), np.empty(8, np.int32)
    synthetic._alias(weight, starts, keep, other)
    for a, b in pairwise(starts):
        grid = (np.arange(60_000) + 0.5) / 60_000
        picked = np.bincount([synthetic._pick(u, a, b, keep, other) for u in grid], minlength=8)
        assert picked[a:b] / 60_000 == pytest.approx(weight[a:b] / weight[a:b].sum(), abs=1e-4)


def test_graph_is_simple_and_symmetric(data):
    graph = data.graph
    dst, src = graph.dst.long(), graph.indices.long()
    assert not (dst == src).any()
    code = dst * data.nodes + src
    assert (code.diff() > 0).all()  # rows ascend, nothing twice
    assert torch.equal((src * data.nodes + dst).sort().values, code)


@pytest.mark.parametrize(
    "asked",
    [
        {"nodes": 50_000},
        {"nodes": 2000, "homophily": 0.1, "classes": 3},
        {"nodes": 60, "degree": 6.0, "classes": 3},
        {"nodes": 3000, "exponent": 2.1, "degree": 4.0},
        {"nodes": 500, "homophily": 1.0, "classes": 1},
        {"nodes": 500, "homophily": 0.0, "classes": 2},
    ],
)
def test_degree_and_homophily_are_those_asked(asked):
    made = Synthetic(**asked).load(0)
    want = Synthetic(**asked)
    graph, few = made.graph, 3 / len(made.y)
    assert graph.n_edges / made.nodes == pytest.approx(want.degree, rel=0.01, abs=few)
    alike = (made.y[graph.dst] == made.y[graph.indices]).double().mean().item()
    assert alike == pytest.approx(want.homophily, abs=0.01)
    assert made.facts["homophily"] == pytest.approx(alike)
    assert made.facts["degree"] == graph.n_edges / made.nodes
    assert made.facts["max_degree"] == graph.in_degree.max()
    sizes = made.y.bincount()
    assert (len(sizes), sizes.max() - sizes.min() <= 1) == (want.classes, True)


@pytest.mark.parametrize("exponent", [2.3, 2.5, 3.0])
def test_degrees_have_the_tail_asked(exponent):
    graph = Synthetic(nodes=50_000, exponent=exponent, features=1).load(0).graph
    top = graph.in_degree.double().sort(descending=True).values[:501]
    hill = 1 + 1 / (top[:-1] / top[-1]).log().mean().item()  # Hill 1975
    assert hill == pytest.approx(exponent, abs=0.3)  # standard error: (exponent - 1) / sqrt(500)


def test_features_are_class_means_of_norm_snr_plus_unit_noise():
    made = Synthetic(nodes=40_000, features=5, classes=4, snr=2.0).load(0)
    for c in range(4):
        x = made.x[made.y == c].double()
        assert x.mean(0).norm().item() == pytest.approx(2, abs=5 * (5 / 10_000) ** 0.5)
        covariance = torch.cov(x.T)
        assert torch.allclose(covariance, torch.eye(5).double(), atol=0.06)


def test_ids_say_nothing_of_class_or_degree(data):
    ids = torch.arange(data.nodes).double()
    for value in (data.y.double(), data.graph.in_degree.double().log1p()):
        r = torch.corrcoef(torch.stack([ids, value]))[0, 1].item()
        assert abs(r) < 4 / data.nodes**0.5


def test_threads_do_not_matter(data):
    before = numba.get_num_threads()
    if before < 2:
        pytest.skip("one core: nothing to compare")
    try:
        numba.set_num_threads(1)
        assert same(Synthetic(nodes=50_000).load(0), data)
    finally:
        numba.set_num_threads(before)


def test_seeds():
    small = {"nodes": 1000, "features": 4}
    a, b = (Synthetic(**small).load(seed) for seed in (0, 1))
    assert torch.equal(a.x, b.x)  # graph_seed is 0, whatever the run's
    assert torch.equal(a.graph.indices, b.graph.indices)
    assert not torch.equal(a.splits["train"], b.splits["train"])
    assert same(a, Synthetic(**small, split_seed=0).load(1))
    c = Synthetic(**small, graph_seed=None).load(1)
    assert not torch.equal(c.x, a.x)
    assert same(c, Synthetic(**small, graph_seed=1).load(1))


def test_splits_cover_all_nodes_once(data):
    sizes = {name: len(ids) for name, ids in data.splits.items()}
    assert sizes == {"train": 5000, "valid": 5000, "test": 40_000}
    assert torch.cat(list(data.splits.values())).sort().values.equal(torch.arange(50_000))


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"nodes": 10}, r"dataset\.classes=10: .*choose 1 to 5"),
        ({"classes": 1}, r"dataset\.homophily=0.8: with one class"),
        ({"nodes": 60}, r"dataset\.degree=10.0: too dense.*type dataset\.degree=3.12"),
        ({"train": 0.5, "valid": 0.5}, r"dataset\.train=0.5: .*sum to less than 1"),
        ({"train": 0.0}, r"dataset\.train=0.0: "),
    ],
)
def test_contradictions_are_refused(asked, match):
    with pytest.raises(UsageError, match=match):
        Synthetic(**asked)


LARGE = """
import time
from gnnscale.dataset.synthetic import Synthetic
start = time.perf_counter()
edges = Synthetic(nodes=1_000_000).load(0).graph.n_edges
seconds = time.perf_counter() - start
peak_kib = next(row for row in open("/proc/self/status") if row.startswith("VmHWM")).split()[1]
print(edges, seconds, peak_kib)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_million_nodes_in_a_minute_and_four_gib():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    edges, seconds, peak_kib = map(float, done.stdout.split())
    assert edges == pytest.approx(1e7, rel=0.005)
    assert seconds < 60
    assert peak_kib < 4 * 2**20
