import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset import arxiv_2023
from gnnscale.dataset.arxiv_2023 import Arxiv2023

SHARED = Path(
    os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"
)


@pytest.fixture
def there():
    if not (SHARED / "arxiv_2023" / arxiv_2023.FILE).is_file():
        pytest.skip(f"{arxiv_2023.FILE} is not in {SHARED}")


def test_counts_split_and_direction(there):
    data = Arxiv2023(root=str(SHARED)).load(3)
    assert (data.nodes, data.x.shape[1], data.task.classes) == (33868, 2817, 40)
    assert {n: len(ids) for n, ids in data.splits.items()} == arxiv_2023.SPLITS
    assert len(torch.cat(list(data.splits.values())).unique()) == 19461 + 4682 + 668
    assert data.facts["loops_removed"] == 17
    assert len(data.y.unique()) == 39
    assert len(data.facts["classes"]) == 40
    given = Arxiv2023(root=str(SHARED), reverse_edges=False, self_loops="keep").load(0)
    assert given.graph.n_edges + given.facts["duplicates_removed"] == 305672
    assert data.graph.n_edges > given.graph.n_edges


def test_ids_of_the_split_tables_are_those_of_the_arrays(there):
    import pandas as pd

    tables = SHARED / "arxiv_2023" / "split"
    if not tables.is_dir():
        pytest.skip(f"{tables} is not there")
    data = Arxiv2023(root=str(SHARED)).load(0)
    for split in ("train", "valid", "test"):
        ids = pd.read_csv(tables / f"{split}.csv.gz").iloc[:, 0].to_numpy()
        assert np.array_equal(np.sort(ids), data.splits[split].numpy())


def test_damaged_and_other_files(there, tmp_path):
    path = tmp_path / arxiv_2023.FILE
    shutil.copy(SHARED / "arxiv_2023" / arxiv_2023.FILE, path)
    with np.load(path) as file:
        a = {n: file[n] for n in file.files}
    for change, said in (
        ({"edge_index": a["edge_index"][:, :9]}, "not the published arxiv_2023"),
        ({"train_idx": a["train_idx"][:9]}, "parts of the split"),
        ({"test_idx": a["train_idx"][:668]}, "overlap"),
        ({"x_indices": a["x_indices"] + 9000}, "no compressed rows"),
    ):
        np.savez(path, **{**a, **change})
        with pytest.raises(DataError, match=said):
            Arxiv2023(root=str(tmp_path)).load(0)
    path.write_bytes(b"PK\x03\x04rubbish")
    with pytest.raises(DataError, match="damaged"):
        Arxiv2023(root=str(tmp_path)).load(0)
