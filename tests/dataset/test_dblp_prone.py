import os
from pathlib import Path

import pytest

from gnnscale.core.errors import DataError
from gnnscale.dataset import dblp_prone
from gnnscale.dataset.dblp_prone import DblpProne

SHARED = Path(
    os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"
)


def test_published_counts():
    if not (SHARED / "dblp_prone/dblp.cmty").is_file():
        pytest.skip(f"dblp_prone is not in {SHARED}")
    data = DblpProne(root=str(SHARED), features=["degree"], split="shares").load(0)
    assert (data.nodes, data.graph.n_edges, data.task.classes) == (51264, 255936, 60)
    assert (data.y.bincount() > 0).all()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    for name, value in (("NODES", 5), ("EDGES", 3), ("CLASSES", 2)):
        monkeypatch.setattr(dblp_prone, name, value)
    return {"dblp.ungraph": "0\t1\n1\t2\n4\t3\n", "dblp.cmty": "1\t4\n0\t2\t3\n"}


def load(files, folder):
    for name, text in files.items():
        (folder / name).write_text(text)
    options = {"features": ["degree"], "split": "shares", "train": 0.4, "valid": 0.2}
    return DblpProne(root=str(folder), **options).load(0)


def test_five_nodes_by_hand(files, tmp_path):
    data = load(files, tmp_path)
    assert data.y.tolist() == [1, 0, 1, 1, 0]
    assert data.graph.indices.tolist() == [1, 0, 2, 1, 4, 3]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("dblp.ungraph", "0 1\n1 2 3\n4 3\n", r"\(lines, ends\)"),
        ("dblp.ungraph", "0 1\n1 x\n4 3\n", "line 2: whole numbers expected"),
        ("dblp.ungraph", "0 1\n1 2\n4 5\n", "node ids must run from 0 to 4"),
        ("dblp.cmty", "1 4\n0 2 2\n", "distinct"),
        ("dblp.cmty", "1 4 0 2 3\n", "communities"),
        ("dblp.cmty", "1 4\n0 2 é\n", "not a text of numbers"),
    ],
)
def test_defects_are_told_by_place(files, tmp_path, name, text, said):
    with pytest.raises(DataError, match=said):
        load({**files, name: text}, tmp_path)
