import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset import npz
from gnnscale.dataset.npz import SOURCES, Npz, Source

SHARED = os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"
EDGES = {  # undirected, self-loops and duplicates aside
    "amazon_computers": 245_861, "amazon_photo": 119_081, "coauthor_cs": 81_894,
    "cora_ml": 8_158, "dblp": 52_867,
}  # fmt: skip


def real(name, **options):
    if not Path(SHARED, SOURCES[name].folder, SOURCES[name].file).is_file():
        pytest.skip(f"{SOURCES[name].file} is not in {SHARED}")
    return Npz(name, root=str(SHARED), split="per_class", **options)


@pytest.mark.parametrize("name", EDGES)
def test_published_sizes(name):
    data, source = real(name).load(0), SOURCES[name]
    assert (data.nodes, data.x.shape[1], data.task.classes) == source[2:5]
    assert data.graph.n_edges == 2 * EDGES[name]
    assert torch.equal(data.graph.T.indices, data.graph.indices)
    assert len(data.splits["train"]) == 20 * source.classes
    assert len(data.splits["valid"]) == 30 * source.classes
    assert sum(map(len, data.splits.values())) == source.nodes


@pytest.mark.parametrize(
    ("name", "nodes", "edges"), [("cora_linqs", 2485, 5069), ("citeseer_linqs", 2110, 3668)]
)
def test_largest_component_is_that_of_cpf(name, nodes, edges):
    data = real(name, largest_component=True, normalize="binary").load(0)
    assert (data.nodes, data.graph.n_edges) == (nodes, 2 * edges)
    assert set(data.x.dense().unique().tolist()) == {0.0, 1.0}
    assert data.facts["nodes_outside_largest_component"] == SOURCES[name].nodes - nodes


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Six nodes: a path 0-1-2-3 given in one direction, twice at 0-1, a loop at 2, and a pair."""
    row, col = [0, 0, 1, 2, 2, 4], [1, 1, 2, 3, 2, 5]
    adj = sp.coo_matrix((np.ones(6, np.float32), (row, col)), (6, 6)).tocsr()
    x = sp.csr_matrix(np.array([[2, 0], [0, 4], [1, 3], [0, 0], [5, 0], [0, 1]], np.float32))
    arrays = {f"{part}_{n}": getattr(m, n) for part, m in (("adj", adj), ("attr", x))
              for n in ("data", "indices", "indptr", "shape")}  # fmt: skip
    arrays["labels"] = np.array([0, 1, 0, 1, 0, 1])
    np.savez(tmp_path / "tiny.npz", **arrays)
    monkeypatch.setitem(npz.SOURCES, "cora_ml", Source("any", "tiny.npz", 6, 2, 2))
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    options = {"root": str(tmp_path), "train_per_class": 1, "valid_per_class": 1,
               "split": "per_class", "download": False}  # fmt: skip
    return lambda **more: Npz("cora_ml", **{**options, **more})


def test_six_nodes_by_hand(tiny):
    data = tiny().load(0)
    assert data.graph.indptr.tolist() == [0, 1, 3, 5, 6, 7, 8]
    assert data.graph.indices.tolist() == [1, 0, 2, 1, 3, 2, 5, 4]
    assert data.x[2].tolist() == [1, 3]
    assert tiny(normalize="row").load(0).x[2].tolist() == [0.25, 0.75]
    assert tiny(normalize="row").load(0).x[3].tolist() == [0, 0]
    assert tiny(normalize="binary").load(0).x[2].tolist() == [1, 1]
    part = tiny(largest_component=True, train_per_class=1, valid_per_class=1)
    with pytest.raises(ValueError, match="no node is left to test"):
        part.load(0)


def test_splits_follow_the_seed(tiny):
    a, b = tiny().load(0).splits, tiny().load(0).splits
    assert all(torch.equal(a[k], b[k]) for k in a)
    drawn = {tuple(tiny().load(s).splits["train"].tolist()) for s in range(20)}
    assert len(drawn) > 1
    fixed = {tuple(tiny(split_seed=3).load(s).splits["train"].tolist()) for s in range(5)}
    assert len(fixed) == 1


def test_damaged_missing_and_other_files_are_refused(tiny, tmp_path):
    path = tmp_path / "tiny.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or not in the npz layout"):
        tiny().load(0)
    np.savez(path, labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="damaged or not in the npz layout"):
        tiny().load(0)
    path.unlink()
    with pytest.raises(DataError, match=r"tiny.npz.*dataset.root=DIR"):
        tiny().load(0)


def test_a_set_of_other_sizes_is_refused(tiny, monkeypatch):
    assert tiny().load(0).nodes == 6
    monkeypatch.setenv("GNNSCALE_CACHE", "/dev/null/none")
    monkeypatch.setitem(npz.SOURCES, "cora_ml", Source("any", "tiny.npz", 6, 2, 3))
    with pytest.raises(DataError, match="not the published cora_ml"):
        tiny().load(0)
