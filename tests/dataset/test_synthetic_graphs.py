import pytest
import torch

from gnnscale.core.errors import UsageError
from gnnscale.dataset.synthetic_graphs import SyntheticGraphs


def test_sizes_classes_and_densities():
    data = SyntheticGraphs(graphs=2000, classes=3, degree=4.0, nodes_min=15, nodes_max=25).load(0)
    sizes = data.offsets.diff()
    assert (data.items, int(sizes.min()), int(sizes.max())) == (2000, 15, 25)
    assert torch.bincount(data.y).min() > 600
    degree = data.graph.indptr[data.offsets].diff() / sizes
    means = [degree[data.y == c].mean().item() for c in range(3)]
    # of n d / 2 pairs drawn, loops and repeats are lost: a sixth at most here
    for c, mean in enumerate(means):
        assert 0.75 * 4 * (1 + c / 2) < mean < 4 * (1 + c / 2)
    owner = torch.repeat_interleave(torch.arange(2000), sizes)
    assert torch.equal(owner[data.graph.indices.long()], owner[data.graph.dst.long()])


def test_density_is_edges_per_node():
    data = SyntheticGraphs(graphs=20, target="density", edge_features=2).load(0)
    g = 7
    low, high = data.offsets[g : g + 2].tolist()
    inside = (data.graph.dst >= low) & (data.graph.dst < high)
    assert data.y[g].item() == pytest.approx(int(inside.sum()) / 2 / (high - low))
    assert (data.task.kind, data.task.metric) == ("regression", "mae")
    assert data.edge.shape == (data.graph.n_edges, 2)


def test_the_run_seed_draws_the_split_and_the_data_seed_the_rest():
    one, two = (SyntheticGraphs(graphs=50).load(s) for s in (0, 1))
    assert torch.equal(one.graph.indices, two.graph.indices)
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.splits["test"], two.splits["test"])
    other = SyntheticGraphs(graphs=50, data_seed=1).load(0)
    assert not torch.equal(one.x[:50], other.x[:50])


def test_sizes_that_contradict():
    with pytest.raises(UsageError, match=r"dataset\.nodes_min=9: above dataset\.nodes_max=4"):
        SyntheticGraphs(nodes_min=9, nodes_max=4)
