import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset import nell
from gnnscale.dataset.nell import Nell

SHARED = Path(
    os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"
)


@pytest.fixture
def there():
    if not (SHARED / "nell" / nell.FILE).is_file():
        pytest.skip(f"{nell.FILE} is not in {SHARED}")


def test_counts_labels_and_split(there):
    data = Nell(root=str(SHARED)).load(0)
    assert (data.nodes, data.x.shape[1], data.task.classes) == (65755, 5414, 105)
    assert (data.x.rows.in_degree > 0).sum() == 9891
    assert (data.y >= 0).sum() == 3577
    assert data.y[data.splits["train"]].sort().values.equal(torch.arange(105)), "one per class"
    assert {n: len(i) for n, i in data.splits.items()} == {"train": 105, "valid": 128, "test": 969}
    assert all((data.y[ids] >= 0).all() for ids in data.splits.values())
    wide = Nell(root=str(SHARED), features=["raw", "one_hot"]).load(0)
    assert wide.x.shape[1] == 5414 + 65755


def test_the_planetoid_files_agree(there):
    """The recovered arrays against the original files, read by the safe unpickler."""
    from gnnscale.dataset.planetoid import _ids, _unpickle

    folder = SHARED / "nell"
    lists = _unpickle(folder / "ind.nell.0.001.graph")
    pairs = {(min(i, j), max(i, j)) for i, row in lists.items() for j in row if i != j}
    data = Nell(root=str(SHARED)).load(0)
    src, dst = data.graph.indices.tolist(), data.graph.dst.tolist()
    assert {(i, j) for i, j in zip(src, dst, strict=True) if i < j} == pairs
    test = _ids(folder / "ind.nell.0.001.test.index")
    assert np.array_equal(np.sort(test), data.splits["test"].numpy())


def test_other_files(there, tmp_path):
    with np.load(SHARED / "nell" / nell.FILE) as file:
        a = {n: file[n] for n in file.files}
    for change, said in (
        ({"edge_index_undirected": a["edge_index_undirected"][:, :5]}, "not the published nell"),
        (
            {"y": np.where(a["y"] == a["y"].max(), -1, a["y"])},
            "overlap or hold nodes without a label",
        ),
        ({"test_idx": a["test_idx"][:5]}, "parts of the split"),
        ({"x_shape": np.array([5, 5])}, "no compressed rows"),
    ):
        np.savez(tmp_path / nell.FILE, **{**a, **change})
        with pytest.raises(DataError, match=said):
            Nell(root=str(tmp_path)).load(0)
