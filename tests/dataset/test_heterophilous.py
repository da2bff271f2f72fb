import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnscale.core.errors import DataError
from gnnscale.core.sparse import dense
from gnnscale.dataset import heterophilous
from gnnscale.dataset.heterophilous import SOURCES, Heterophilous, Source

SHARED = os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"


@pytest.mark.parametrize("name", SOURCES)
def test_published_counts_and_ten_disjoint_splits(name):
    if not Path(SHARED, "heterophilous", f"{name}.npz").is_file():
        pytest.skip(f"{name}.npz is not in {SHARED}")
    wanted, starts = SOURCES[name], set()
    for seed in range(11):
        data = Heterophilous(name, root=str(SHARED), download=False).load(seed)
        parts = list(data.splits.values())
        everyone = torch.cat(parts)
        assert len(everyone.unique()) == len(everyone) <= data.nodes
        assert min(map(len, parts)) > 0.1 * data.nodes
        starts.add(tuple(data.splits["train"].tolist()))
    assert len(starts) == 10, "seed 10 has the split of seed 0"
    found = (data.nodes, data.facts["edges_given"], data.x.shape[1], data.task.classes)
    assert found == wanted[:4]
    assert data.task.metric == ("roc_auc" if wanted.classes == 2 else "accuracy")
    assert (data.y >= 0).all()


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(heterophilous.SOURCES, "texas", Source(6, 4, 3, 2))
    masks = {m: np.zeros((10, 6), bool) for m in ("train_masks", "val_masks", "test_masks")}
    for k in range(10):
        masks["train_masks"][k, [k % 6, (k + 1) % 6]] = True
        masks["val_masks"][k, (k + 2) % 6] = True
        masks["test_masks"][k, (k + 3) % 6] = True
    return {
        "node_features": np.arange(18, dtype=np.float32).reshape(6, 3),
        "node_labels": np.array([0, 1, 0, 1, 0, 1]),
        "edges": np.array([[0, 1], [1, 2], [2, 2], [3, 1]]),
        **masks,
    }


def load(arrays, folder, seed=0):
    np.savez(folder / "texas.npz", **arrays)
    return Heterophilous("texas", root=str(folder), download=False).load(seed)


def test_six_nodes_by_hand(arrays, tmp_path):
    data = load(arrays, tmp_path)
    assert data.graph.indptr.tolist() == [0, 1, 4, 5, 6, 6, 6]
    assert data.graph.indices.tolist() == [1, 0, 2, 3, 1, 1]
    assert torch.equal(dense(data.x), torch.arange(18.0).reshape(6, 3))
    assert data.y.tolist() == [0, 1, 0, 1, 0, 1]
    for seed, k in ((0, 0), (7, 7), (10, 0), (23, 3)):
        splits = load(arrays, tmp_path, seed).splits
        assert splits["train"].tolist() == sorted([k % 6, (k + 1) % 6])
        assert splits["valid"].tolist() == [(k + 2) % 6]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("edges"), "lacks the array 'edges'"),
        (
            lambda a: a.update(node_labels=np.zeros(6, np.int64)),
            r"\(nodes, features, .* are \(6, 3",
        ),
        (lambda a: a.update(edges=a["edges"][:3]), "expected"),
        (lambda a: a.update(train_masks=a["train_masks"][:9]), "masks of each kind"),
        (lambda a: a.update(train_masks=a["test_masks"]), "one per node and split"),
        (lambda a: a.update(node_labels=np.array([{}] * 6, object)), "damaged or not an npz"),
    ],
)
def test_files_that_are_not_the_published_one(arrays, tmp_path, change, said):
    change(arrays)
    with pytest.raises(DataError, match=said):
        load(arrays, tmp_path)


def test_damaged_files(arrays, tmp_path):
    load(arrays, tmp_path)
    path = tmp_path / "texas.npz"
    whole = path.read_bytes()
    for raw in (b"", b"hello", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"texas\.npz: damaged or not an npz file"):
            Heterophilous("texas", root=str(tmp_path), download=False).load(0)
