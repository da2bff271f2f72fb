import json
import os
from pathlib import Path

import pytest

from gnnscale.core.errors import DataError
from gnnscale.dataset import deezer
from gnnscale.dataset.deezer import Deezer

SHARED = Path(
    os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"
)


def test_published_counts():
    if not (SHARED / "deezer_hu_ro/HU_edges.csv").is_file():
        pytest.skip(f"deezer_hu_ro is not in {SHARED}")
    options = {"root": str(SHARED), "features": ["one_hot"], "split": "shares"}
    for country, nodes, edges, genres in (
        ("hu", 47538, 222887, 84), ("ro", 41773, 125826, 84), ("both", 89311, 348713, 86),
    ):  # fmt: skip
        data = Deezer(country, **options).load(0)
        assert (data.nodes, data.graph.n_edges) == (nodes, 2 * edges)
        assert data.y.shape == (nodes, genres)
        assert (data.task.kind, data.task.metric) == ("multi", "micro_f1")
        assert data.x.shape == (nodes, nodes)
        assert len(data.x.values) == nodes


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(deezer, "COUNTS", {"HU": (3, 2), "RO": (2, 1)})
    monkeypatch.setattr(deezer, "GENRES", {"both": 3, "hu": 2, "ro": 2})
    return {
        "HU_edges.csv": "node_1,node_2\n0,1\n2,1\n",
        "HU_genres.json": json.dumps({"0": ["Rock"], "2": ["Pop", "Rock"], "1": ["Pop"]}),
        "RO_edges.csv": "node_1,node_2\n1,0\n",
        "RO_genres.json": json.dumps({"0": ["Folk", "Rock"], "1": ["Rock"]}),
    }


def load(files, folder, country="both"):
    for name, text in files.items():
        (folder / name).write_text(text)
    options = {"features": ["degree"], "split": "shares", "train": 0.4, "valid": 0.2}
    return Deezer(country, root=str(folder), **options).load(0)


def test_two_countries_by_hand(files, tmp_path):
    data = load(files, tmp_path)
    assert data.facts["classes"] == ["Folk", "Pop", "Rock"]
    assert data.y.tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]]
    assert data.graph.indices.tolist() == [1, 0, 2, 1, 4, 3]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("HU_edges.csv", "node_1,node_2\n0,1\n2,3\n", "column node_2, row 3: '3'"),
        ("HU_edges.csv", "node_1,node_2\n0,1\n", r"\(nodes, edges\) are \(3, 1\)"),
        ("HU_genres.json", '{"0": ["Pop"], "2": []}', "node 1 is missing"),
        ("HU_genres.json", '{"0": [3]}', "a genre is not text"),
        ("HU_genres.json", "nothing", "damaged"),
        ("RO_genres.json", '{"0": ["Jazz", "Folk"], "1": []}', "genres are 4, expected 3"),
    ],
)
def test_defects_are_told_by_place(files, tmp_path, name, text, said):
    with pytest.raises(DataError, match=said):
        load({**files, name: text}, tmp_path)
