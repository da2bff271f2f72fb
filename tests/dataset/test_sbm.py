from itertools import permutations

import numpy as np
import pytest
import torch
from compositions import plan, train

from gnnscale.core.data import Task
from gnnscale.core.errors import UsageError
from gnnscale.dataset.sbm import SBM
from gnnscale.graph.partition import partition


def test_communities_and_densities():
    n, p, q, graphs = 250, 6.0, 2.0, 100
    data = SBM(nodes=n, within=p, between=q).load(0)
    assert (data.nodes, len(data.splits["train"])) == (graphs * n, 60 * n)
    y = data.y.view(graphs, n)
    assert (y.sum(1) == n // 2).all()
    assert not torch.equal(y[0], y[1])
    src, dst = data.graph.indices.long(), data.graph.dst.long()
    assert torch.equal(src // n, dst // n)
    same = int((data.y[src] == data.y[dst]).sum()) // 2
    other = data.graph.n_edges // 2 - same
    half = n // 2
    for found, pairs, rate in ((same, half * (half - 1), p / n), (other, half**2, q / n)):
        mean = graphs * pairs * rate  # binomial: within four standard deviations
        assert abs(found - mean) < 4 * (mean * (1 - rate)) ** 0.5
    assert (data.x == 1).all()
    assert (data.task.metric, data.task.group) == ("overlap", n)


def test_no_edges_between_and_three_uneven_communities():
    data = SBM(nodes=31, communities=3, within=31, between=0, train=2, valid=1, test=1).load(0)
    sizes = [torch.bincount(y).tolist() for y in data.y.view(4, 31)]
    assert sizes == [[11, 10, 10]] * 4
    degree = torch.tensor([11, 10, 10])[data.y] - 1
    assert torch.equal(data.graph.in_degree, degree)


def test_the_data_is_a_function_of_its_seed():
    one, same, other = SBM().load(0), SBM().load(5), SBM(data_seed=None).load(5)
    assert torch.equal(one.graph.indices, same.graph.indices)
    assert not torch.equal(one.y, other.y)


def test_loss_and_score_are_those_of_the_best_names():
    task, runs, n, c = Task("node", "single", 3, "overlap", 7), 4, 7, 3
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, c, (runs * n,), generator=draw)
    logits = torch.randn(runs * n, c, generator=draw, dtype=torch.float64)
    losses, overlaps = [], []
    for k in range(runs):
        rows = slice(k * n, k * n + n)
        renamed = [torch.tensor(p)[y[rows]] for p in permutations(range(c))]
        losses.append(min(torch.nn.functional.cross_entropy(logits[rows], z) for z in renamed))
        best = max((logits[rows].argmax(1) == z).double().mean() for z in renamed)
        overlaps.append((best - 1 / 3) / (2 / 3))
    torch.testing.assert_close(task.losses(logits, y).view(runs, n).mean(1), torch.stack(losses))
    assert task.score(logits, y) == pytest.approx(float(np.mean(overlaps)))
    names = torch.tensor([2, 0, 1])
    assert task.score(torch.eye(c)[names[y]], y) == pytest.approx(1.0)
    assert torch.allclose(task.losses(logits, names[y]), task.losses(logits, y))
    with pytest.raises(ValueError, match="kind=single metric=overlap"):
        Task("node", "single", 3, "overlap")


def test_rows_are_put_in_order_and_parts_of_graphs_refused():
    task = Task("node", "single", 2, "overlap", 3)
    ids = torch.tensor([8, 3, 6, 5, 7, 4])
    assert ids[task.arranged(ids)].tolist() == [3, 4, 5, 6, 7, 8]
    for part in ([0, 1, 2, 3], [0, 1, 3]):
        with pytest.raises(UsageError, match=r"sampler\.method=order"):
            task.arranged(torch.tensor(part))


def test_parts_in_order_are_whole_graphs():
    data = SBM(nodes=20, train=5, valid=2, test=3).load(0)
    parts = partition(data.graph, 10, "order", None)
    assert parts.nodes(torch.tensor([3])).tolist() == list(range(60, 80))
    assert parts.cut(data.graph) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"communities": 1}, r"dataset\.communities=1: .*valid: 2 to 6"),
        ({"within": 300.0}, r"dataset\.within=300\.0: .*valid: 0 to 250"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UsageError, match=message):
        SBM(**options)


def trained(folder, **sampler):
    chosen = sampler.pop("sampler")
    checked = plan(
        {"dataset": {"nodes": 100, "within": 14.0, "between": 1.0, "train": 60, "valid": 5,
                     "test": 5},
         "sampler": sampler, "trainer": {"epochs": 2}, "optimizer": {"lr": 0.01},
         "architecture": {"depth": 12, "operator": "bethe", "norm": "batch", "hidden": 10}},
        dataset="sbm", architecture="ga_mlp", sampler=chosen,
    )  # fmt: skip
    checked.parts["recipe"][-1].arguments["seconds"] = 0.0
    return train(checked, folder)


def test_communities_far_apart_are_found(tmp_path):
    (record,) = trained(tmp_path, sampler="cluster", method="order", parts=70, batch_parts=1)
    assert record.metric["name"] == "overlap"
    assert record.metric["test"] > 0.5


def test_a_sampler_that_tears_graphs_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"parts of graphs .*sampler=full"):
        trained(tmp_path, sampler="cluster", method="random", parts=70, batch_parts=1)
