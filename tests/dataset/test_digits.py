from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gnnscale.core.errors import UsageError
from gnnscale.dataset.digits import Digits, images, nearest


def test_edges_join_nearest_neighbours():
    data = Digits(neighbours=3).load(0)
    pixels = load_digits().data
    square = (pixels**2).sum(1)
    distance = square[:, None] + square - 2 * pixels @ pixels.T  # exact: whole numbers
    np.fill_diagonal(distance, np.inf)
    near = distance <= np.sort(distance, axis=1)[:, 2:3]  # ties included
    graph = data.graph
    has = np.zeros_like(near)
    has[graph.dst.numpy(), graph.indices.numpy()] = True
    assert (has == has.T).all()
    assert not has.diagonal().any()
    assert has.sum() == graph.n_edges
    assert (has <= (near | near.T)).all()
    assert graph.in_degree.min() >= 3
    assert data.facts["edges_given"] == 3 * 1797
    assert data.facts["edges"] * 2 == graph.n_edges


def test_of_equally_near_ones_the_lower_numbers_are_taken():
    points = np.array([[0], [2], [-2], [2], [7]])
    assert [sorted(row) for row in nearest(points, 1).tolist()] == [[1], [3], [0], [1], [1]]
    assert [sorted(row) for row in nearest(points, 2).tolist()] == [
        [1, 2], [0, 3], [0, 1], [0, 1], [1, 3]
    ]  # fmt: skip
    assert nearest(points, 4).shape == (5, 4)


def test_images_are_scikit_learns_also_where_its_file_is_not_found(monkeypatch):
    pixels, labels = load_digits(return_X_y=True)
    for found in (images(), monkeypatch.setattr(Path, "exists", lambda _: False) or images()):
        np.testing.assert_array_equal(found[0], pixels)
        np.testing.assert_array_equal(found[1], labels)
        assert {found[0].dtype, found[1].dtype} == {np.dtype(np.int64)}


def test_shapes_and_split():
    data = Digits().load(0)
    assert (data.x.shape, data.x.dtype, data.y.dtype) == ((1797, 64), torch.float32, torch.int64)
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.y.bincount().shape == (10,)
    assert data.y[data.splits["train"]].bincount().tolist() == [20] * 10
    assert data.y[data.splits["valid"]].bincount().tolist() == [30] * 10
    assert torch.cat(list(data.splits.values())).sort().values.equal(torch.arange(1797))


def test_split_follows_the_seed_and_the_graph_does_not():
    a, b, c = Digits().load(0), Digits().load(0), Digits().load(1)
    fixed = Digits(split_seed=1).load(7)
    assert a.splits["train"].equal(b.splits["train"])
    assert not a.splits["train"].equal(c.splits["train"])
    assert fixed.splits["train"].equal(c.splits["train"])
    assert a.graph.indices.equal(c.graph.indices)


def test_too_many_neighbours():
    with pytest.raises(UsageError, match=r"dataset\.neighbours=1797: .*choose 1 to 1796"):
        Digits(neighbours=1797)
