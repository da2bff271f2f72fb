"""OGB's molecules: files made in their layout, damaged ones, and the real ogbg-molhiv."""

import gzip
from pathlib import Path

import pytest
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset import ogbg
from gnnscale.dataset._files import roots
from gnnscale.dataset.ogbg import ATOMS, BONDS, Ogbg, Source

TABLES = {
    "raw/num-node-list": "3\n1\n2\n",
    "raw/num-edge-list": "2\n0\n1\n",
    "raw/edge": "0,1\n1,2\n1,0\n",
    "raw/node-feat": "".join(f"{i},0,1,5,0,0,2,0,1\n" for i in range(6)),
    "raw/edge-feat": "0,0,0\n1,0,1\n3,5,0\n",
    "raw/graph-label": "1\nnan\n0\n",
    "split/scaffold/train": "2\n",
    "split/scaffold/valid": "0\n",
    "split/scaffold/test": "1\n",
}


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """Three molecules of 3, 1 and 2 atoms."""
    monkeypatch.setitem(ogbg.SOURCES, "ogbg_molbace", Source(3, 1))
    for name, text in TABLES.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / f"ogbg_molbace/{name}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def load(root, **options):
    return Ogbg(root=str(root), download=False, name="ogbg_molbace", **options).load(0)


def test_by_hand(tiny):
    data = load(tiny)
    assert data.offsets.tolist() == [0, 3, 4, 6]
    pairs = list(zip(data.graph.indices.tolist(), data.graph.dst.tolist(), strict=True))
    assert pairs == [(1, 0), (0, 1), (2, 1), (1, 2), (5, 4), (4, 5)]  # given once, both ways here
    assert data.edge.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 1], [1, 0, 1], [3, 5, 0], [3, 5, 0]]
    assert data.x[:, 0].tolist() == list(range(6))
    assert data.x.dtype == data.edge.dtype == torch.int64
    assert (data.shape.categories, data.shape.edge_categories) == (ATOMS, BONDS)
    assert data.y.shape == (3, 1)
    assert data.y[1].isnan().all()
    assert {n: ids.tolist() for n, ids in data.splits.items()} == {
        "train": [2], "valid": [0], "test": [1],
    }  # fmt: skip
    assert (data.task.kind, data.task.metric, data.task.level) == ("multi", "roc_auc", "graph")


@pytest.mark.parametrize(("name", "text", "match"), [
    ("raw/num-node-list", "3\n1\n", "not the published ogbg_molbace: 2 graphs"),
    ("raw/graph-label", "1\n2\n0\n", "labels of 0, 1 or none were expected"),
    ("raw/node-feat", "0,0\n", r"node-feat\.csv\.gz: .* codes, \(6, 9\) were expected"),
    ("raw/node-feat", "".join(f"{i},9,1,5,0,0,2,0,1\n" for i in range(6)), "valid: below"),
    ("raw/edge", "0,1\n1,3\n1,0\n", "an edge leaves its graph"),
    ("raw/num-edge-list", "2\n0\n2\n", r"edge\.csv\.gz: .* 4 pairs of 3 graphs were expected"),
    ("split/scaffold/test", "1\n1\n", "every graph from 0 to 2 once"),
    ("raw/edge", "0,1\n1,x\n1,0\n", "damaged or not in OGB's layout"),
])  # fmt: skip
def test_damaged(tiny, name, text, match):
    write(tiny, name, text)
    with pytest.raises(DataError, match=match):
        load(tiny)


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"raw/edge\.csv\.gz.*csv_mol_download/bace\.zip"):
        load(tmp_path)


@pytest.fixture(scope="module")
def molhiv():
    root = next((r for r in roots() if (r / "ogbg_molhiv/raw").is_dir()), None)
    if root is None:
        pytest.skip("ogbg_molhiv is not here")
    return Ogbg(root=str(root), download=False).load(0)


def test_molhiv_is_the_published_set(molhiv):
    assert molhiv.items == 41127
    assert molhiv.nodes / 41127 == pytest.approx(25.5, abs=0.05)
    assert molhiv.facts["edges"] / 41127 == pytest.approx(27.5, abs=0.05)
    assert {n: len(ids) for n, ids in molhiv.splits.items()} == {
        "train": 32901, "valid": 4113, "test": 4113,
    }  # fmt: skip
    assert int(molhiv.y.sum()) == 1443
    assert molhiv.facts["duplicates_removed"] == molhiv.facts["loops_removed"] == 0


def test_a_subset_is_the_same_for_every_seed(molhiv):
    root = next(str(r) for r in roots() if (r / "ogbg_molhiv/raw").is_dir())
    parts = [Ogbg(root=root, download=False, subset=5000).load(s) for s in (0, 1)]
    kept = [part.names[torch.cat(list(part.splits.values()))] for part in parts]
    assert kept[0].tolist() == kept[1].tolist()
    assert len(set(kept[0].tolist())) == parts[0].items == 5000
    train = parts[0].splits["train"]
    assert set(parts[0].names[train].tolist()) <= set(molhiv.splits["train"].tolist())
    assert int(parts[0].y[train].sum()) > 100
