import shutil

import numpy as np
import pytest
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset._files import roots
from gnnscale.dataset.zinc import FILE, Zinc


@pytest.fixture(scope="module")
def root():
    found = next((r for r in roots() if (r / "zinc_jtnn" / FILE).is_file()), None)
    if found is None:
        pytest.skip("zinc_jtnn is not here")
    return found


def test_the_real_file(root):
    data = Zinc(root=str(root)).load(0)
    assert (data.items, data.nodes, data.facts["edges"]) == (29445, 680935, 732306)
    assert {n: len(ids) for n, ids in data.splits.items()} == {
        "train": 23445, "valid": 1000, "test": 1000,
    }  # fmt: skip
    every = torch.cat(list(data.splits.values()))
    assert len(every.unique()) == len(every), "no molecule is in two parts"
    assert (data.categories, data.edge_categories) == ((21,), (4,))
    assert (data.task.kind, data.task.metric, data.task.sign) == ("regression", "mae", -1)
    with np.load(root / "zinc_jtnn" / FILE) as a:
        assert data.y[:, 0].tolist() == a["y"].tolist()
        g = 1000
        low, e = a["num_nodes"][:g].sum(dtype=int), a["num_bonds"][:g].sum(dtype=int)
        n, m = int(a["num_nodes"][g]), int(a["num_bonds"][g])
        pairs = {tuple(p) for p in a["bond_index"][:, e : e + m].T.tolist()}
    assert data.offsets[g : g + 2].tolist() == [low, low + n]
    first, last = data.graph.indptr[data.offsets[g : g + 2]].tolist()
    mine = zip((data.graph.indices[first:last] - low).tolist(),
               (data.graph.dst[first:last] - low).tolist(), strict=True)  # fmt: skip
    assert set(mine) == pairs | {(j, i) for i, j in pairs}


def test_another_file_is_refused(root, tmp_path):
    shutil.copytree(root / "zinc_jtnn", tmp_path / "zinc_jtnn", copy_function=shutil.copyfile)
    path = tmp_path / "zinc_jtnn" / FILE
    with np.load(path) as a:
        arrays = dict(a)
    path.unlink()
    np.savez(path, **{**arrays, "y": arrays["y"][:-1]})
    with pytest.raises(DataError, match="not the published file"):
        Zinc(root=str(tmp_path), download=False).load(0)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="damaged or not in its own layout"):
        Zinc(root=str(tmp_path), download=False).load(0)
