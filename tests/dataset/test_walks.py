from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from compositions import plan, train

from gnnscale.core.errors import UsageError
from gnnscale.dataset.walks import Walks, regular, walk_counts


def dense_matrix(graph):
    a = np.zeros((graph.n_dst, graph.n_src))
    a[graph.dst.numpy(), graph.indices.numpy()] = 1
    return a


@pytest.mark.parametrize(("nodes", "degree"), [(1000, 6), (24, 6), (10, 1), (9, 2)])
def test_the_graph_is_regular_and_simple(nodes, degree):
    ends = regular(nodes, degree, np.random.default_rng(3))
    assert ends.shape == (2, nodes * degree // 2)
    assert np.bincount(ends.ravel(), minlength=nodes).tolist() == [degree] * nodes
    assert (ends[0] != ends[1]).all()
    assert len({(min(p), max(p)) for p in ends.T.tolist()}) == ends.shape[1]


def by_enumeration(a, types, pattern, i):
    if not pattern:
        return 1
    near = [j for j in np.flatnonzero(a[i]) if types[j] == pattern[0]]
    return sum(by_enumeration(a, types, pattern[1:], j) for j in near)


@pytest.mark.parametrize("pattern", [[0], [1, 0], [0, 0, 0], [1, 1, 0]])
def test_counts_are_those_of_an_enumeration(pattern):
    rng = np.random.default_rng(0)
    a = (rng.random((12, 12)) < 0.4).astype(float)
    types = rng.integers(0, 2, 12)
    want = [by_enumeration(a, types, pattern, i) for i in range(12)]
    assert walk_counts(sp.csr_matrix(a), types, pattern).tolist() == want


@pytest.mark.parametrize("length", [1, 2, 3])
def test_counts_of_all_patterns_sum_to_a_power_of_the_matrix(length):
    rng = np.random.default_rng(1)
    a = (rng.random((15, 15)) < 0.3).astype(float)
    types = np.arange(15) % 2
    each = [walk_counts(sp.csr_matrix(a), types, list(p)) for p in product((0, 1), repeat=length)]
    assert sum(each).tolist() == np.linalg.matrix_power(a, length).sum(1).tolist()
    assert all(np.ptp(count) for count in each), "no pattern is constant"


def test_targets_are_standardised_counts_over_training_nodes():
    data = Walks(nodes=60, degree=4, pattern=[0, 1], train=30, valid=10).load(0)
    a = dense_matrix(data.graph)
    even, odd = (np.diag((np.arange(60) % 2 == c).astype(float)) for c in (0, 1))
    count = a @ even @ a @ odd @ np.ones(60)
    mean, std = data.facts["mean"], data.facts["std"]
    np.testing.assert_allclose(data.y.squeeze(1) * std + mean, count, rtol=1e-5, atol=1e-4)
    seen = count[data.splits["train"].numpy()]
    assert (mean, std) == pytest.approx((seen.mean(), seen.std()))
    assert data.x.argmax(1).tolist() == [0, 1] * 30
    assert {name: len(ids) for name, ids in data.splits.items()} == {
        "train": 30, "valid": 10, "test": 20
    }  # fmt: skip
    assert (data.task.kind, data.task.metric) == ("regression", "rmse")


def test_the_graph_is_one_for_every_run_and_the_split_is_not():
    one, two = (Walks().load(s) for s in (0, 1))
    assert one.graph.in_degree.tolist() == [6] * 1000
    assert torch.equal(one.graph.indices, two.graph.indices)
    assert not torch.equal(one.splits["test"], two.splits["test"])
    other = Walks(graph_seed=None).load(1)
    assert not torch.equal(one.graph.indices, other.graph.indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 9, "degree": 3}, r"dataset\.degree=3: 9 nodes .*type dataset\.degree=2"),
        ({"nodes": 20, "degree": 7}, r"a quarter of the nodes .*dataset\.degree=5"),
        ({"pattern": [0, 2]}, r"dataset\.pattern=\[0, 2\]: types are 0 and 1"),
        ({"pattern": []}, r"dataset\.pattern=\[\]"),
        ({"train": 900}, r"dataset\.train=900: .*none of 1000 nodes is left"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UsageError, match=message):
        Walks(**options)


def test_most_of_the_variance_is_learned_in_a_few_steps(tmp_path):
    changes = {
        "dataset": {"nodes": 200, "pattern": [0, 0], "train": 120, "valid": 40},
        "sampler": {"powers": 2, "operator": "none", "self_loops": False, "batch_size": None},
        "trainer": {"epochs": 60},
    }
    checked = plan(changes, dataset="walks", architecture="ga_mlp", sampler="precompute")
    checked.parts["recipe"][-1].arguments["seconds"] = 0.0
    (record,) = train(checked, tmp_path)
    assert record.metric["name"] == "rmse"
    assert record.metric["test"] < 0.7
