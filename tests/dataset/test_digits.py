import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gnnscale.core.errors import DataError, UsageError
from gnnscale.core.random import Key
from gnnscale.dataset._base import find, per_class_split, roots
from gnnscale.dataset.digits import Digits


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


def test_per_class_split_skips_unlabelled_and_refuses_small_classes():
    y = torch.tensor([0, 0, 0, -1, 2, 2, 2, 2])
    splits = per_class_split(y, 1, 1, Key(0, "test"))
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 2, "valid": 2, "test": 3}
    assert 3 not in torch.cat(list(splits.values()))
    with pytest.raises(
        UsageError, match=r"dataset\.train_per_class=3: class 0 has 3 .*type dataset"
    ):
        per_class_split(y, 3, 1, Key(0, "test"))
    with pytest.raises(UsageError, match="no node is left to test"):
        per_class_split(torch.tensor([0, 0]), 1, 1, Key(0, "test"))


def test_roots_in_order(monkeypatch):
    monkeypatch.setenv("GNNSCALE_DATA", "c")
    given = os.pathsep.join(["a", "b"])
    assert roots(given) == [Path("a"), Path("b"), Path("c"), Path("data")]
    monkeypatch.delenv("GNNSCALE_DATA")
    assert roots(None) == [Path("data")]


def test_find_wants_all_files_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "set").mkdir(parents=True)
    second.mkdir()
    (first / "set" / "a").touch()
    monkeypatch.setenv("GNNSCALE_DATA", str(second))
    with pytest.raises(DataError) as caught:
        find(str(first), "set", ["a", "b"])
    message = str(caught.value)
    assert message.startswith(f"dataset.root={first}: files of {first / 'set'} are missing: b;")
    for place in (first, first / "set", second, second / "set", tmp_path / "data"):
        assert str(place) in message
    assert "type dataset.root=DIR or GNNSCALE_DATA=DIR" in message
    for name in "ab":
        (second / name).touch()
    assert find(str(first), "set", ["a", "b"]) == second
