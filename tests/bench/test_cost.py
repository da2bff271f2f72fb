import pytest
import torch

from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.sage import SAGE
from gnnscale.bench import cost
from gnnscale.bench.machine import Machine
from gnnscale.bench.roofline import roofline
from gnnscale.core import ops
from gnnscale.core.data import GraphData, Shape, Task
from gnnscale.core.ops import pool
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.whole import whole_batch

CPU = torch.device("cpu")
N, E, F, C = 6, 10, 3, 2  # tests/conftest.py's six: 6 nodes, 10 edges


@pytest.fixture
def data(six):
    rows = torch.arange(6)
    return GraphData("six", six, torch.ones(N, F), torch.zeros(N, dtype=torch.int64),
                     {"train": rows, "valid": rows, "test": rows}, Task(classes=C))  # fmt: skip


def counted(model, data):
    batch = whole_batch(data, model.eval().need)
    with torch.no_grad():
        return cost.count(model, lambda: model(batch))


def macs(layers):
    return {n: (v.dense_macs, v.message_macs) for n, v in layers.items() if n != cost.ELSEWHERE}


def test_gcn(data):
    layers = counted(GCN(Shape(F, C), hidden=4), data)
    assert macs(layers) == {
        "layers.0": (N * F * 4, E * F),  # 3 -> 4 widens, so the sum runs on 3
        "layers.1": (N * 4 * C, E * C),  # 4 -> 2 narrows, so it runs on 2
    }
    assert {v.kind for n, v in layers.items() if n != cost.ELSEWHERE} == {"GCNConv"}
    table = cost.table(GCN(Shape(F, C), hidden=4), layers, 100)
    assert table["macs"] == N * F * 4 + E * F + N * 4 * C + E * C
    assert table["parameters"] == F * 4 + 4 + 4 * C + C
    assert [row["name"] for row in table["layers"]] == ["layers.0", "layers.1"]


def test_large_products_count_whatever_library_takes_them(data, library, monkeypatch):
    monkeypatch.setattr(pool, "LEAST", 1)
    layers = counted(SAGE(Shape(F, C), hidden=4), data)
    assert {n: dense for n, (dense, _) in macs(layers).items()} == {
        "layers.0": 2 * N * F * 4, "layers.1": 2 * N * 4 * C,
    }  # fmt: skip


def test_mlp(data):
    layers = counted(MLP(Shape(F, C), hidden=5, depth=3), data)
    assert macs(layers) == {
        "hidden.0": (N * F * 5, 0), "hidden.1": (N * 5 * 5, 0), "head": (N * 5 * C, 0),
    }  # fmt: skip
    assert {layers[n].kind for n in ("hidden.0", "head")} == {"Dense"}


def test_gat(data):
    layers = counted(GAT(Shape(F, C), hidden=4, heads=2, out_heads=3), data)
    edges = E + N  # attention adds a loop per node
    assert macs(layers) == {
        "layers.0": (N * F * 4, edges * 4),
        "layers.1": (N * 4 * 3 * C, edges * 3 * C),
    }
    products = [(name, width, weighted) for name, _, width, weighted in layers["layers.0"].products]
    assert products == [("softmax", 2, False), ("total", 4, True)]


def test_sage_pooling_counts_comparisons_like_sums(data):
    layers = counted(SAGE(Shape(F, C), hidden=4, depth=1, aggr="max"), data)
    assert macs(layers) == {"layers.0": (N * F * F + 2 * N * F * C, E * F)}


def test_least_bytes_of_gcn(data):
    first = counted(GCN(Shape(F, C), hidden=4), data)["layers.0"]
    index = 4 * E + 8 * (N + 1)
    assert first.least_bytes == 4 * N * F + 4 * N * 4 + 4 * (F * 4 + 4) + index


@pytest.mark.parametrize("kernel", ["torch", "native", "dgl"])
def test_the_count_does_not_depend_on_the_kernel(data, kernel):
    ops.select(kernel)
    try:
        assert macs(counted(GCN(Shape(F, C), hidden=4), data))["layers.0"] == (N * F * 4, E * F)
    finally:
        ops.select("auto")


def test_sparse_features_cost_their_entries(data):
    x = torch.zeros(N, F)
    x[0, 0] = x[3, 2] = 1.0
    sparse = data.with_(x=SparseRows.from_dense(x))
    layers = counted(GCN(Shape(F, C), hidden=4), sparse)
    assert macs(layers)["layers.0"] == (0, 2 * 4 + E * 4)  # two entries times W, then the sum


def test_counting_leaves_nothing_behind(data):
    model = GCN(Shape(F, C), hidden=4)
    counted(model, data)
    from gnnscale.core.ops import watch

    assert not watch._watchers
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_roofline_takes_the_slowest_resource(data):
    model = GCN(Shape(F, C), hidden=4)
    layers = counted(model, data)
    batch = whole_batch(data, model.need)
    cost.clock(model, lambda: model(batch), layers, CPU, passes=3)
    assert len(layers["layers.0"].seconds) == 3
    machine = Machine(CPU, repeats=1)
    machine.gemm = lambda *shape: 2.0  # one product per layer
    machine.gather = lambda adj, width: 5.0
    machine.bandwidth = 1e-9 * 1e12
    for layer in layers.values():
        layer.seconds = [20.0]
    found = roofline(layers, machine)
    kinds = found["kinds"]["GCNConv"]
    assert kinds["resource"] == "gather"
    assert kinds["bound_ms"] == 10_000  # two layers
    assert kinds["measured_ms"] == 40_000
    assert kinds["distance"] == 4.0
    assert found["layers"][0]["demands_ms"]["gemm"] == 2000
    machine.bandwidth = 1.0
    assert roofline(layers, machine)["layers"][0]["resource"] == "bandwidth"


def test_the_machine_is_measured_once_per_size(data):
    machine = Machine(CPU, repeats=2)
    assert machine.bandwidth > 0
    assert machine.gemm(1, 8, 4, 2, torch.float32) == machine.gemm(1, 8, 4, 2, torch.float32)
    assert machine.gemm(3, 8, 4, 2, torch.float32) > 0
    assert machine.gather(data.graph, 4) == machine.gather(data.graph, 4)
    rates = machine.rates()
    assert [g["shape"] for g in rates["gemm"]] == [[8, 4, 2], [8, 4, 2]]


def test_the_gather_reads_every_row_that_is_named(six):
    import numpy as np

    from gnnscale.bench.machine import _visit

    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    for pieces in (1, 3, 10):
        out = np.zeros((pieces, 5), np.float32)
        _visit(six.indices.numpy(), x, out)
        np.testing.assert_allclose(out.sum(0), x[six.indices.numpy()].sum(0), rtol=1e-5)
