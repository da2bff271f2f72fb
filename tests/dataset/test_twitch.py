import json
import os
from pathlib import Path

import pytest
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset import twitch
from gnnscale.dataset.twitch import Twitch

SHARED = Path(
    os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"
)


def test_published_counts():
    if not (SHARED / "twitch/DE/musae_DE_edges.csv").is_file():
        pytest.skip(f"twitch/DE is not in {SHARED}")
    data = Twitch(root=str(SHARED), split="shares", train=0.5, valid=0.25).load(0)
    assert (data.nodes, data.x.shape[1], data.task.metric) == (9498, 3170, "roc_auc")
    assert data.facts["edges_given"] == 153138
    assert 0.5 < data.y.float().mean() < 0.7
    assert [len(i) for i in data.splits.values()] == [4749, 2374, 2375]
    assert (data.x.values == 1).all()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(twitch.COUNTS, "DE", (4, 3))
    monkeypatch.setattr(twitch, "FEATURES", 5)
    return {
        "edges.csv": "from,to\n0,1\n1,2\n3,0\n",
        "features.json": json.dumps({"0": [1, 4, 4], "2": [0], "3": [], "1": [2]}),
        "target.csv": "days,mature,new_id\n1,True,2\n2,False,0\n3,True,3\n4,False,1\n",
    }


def load(files, folder):
    for name, text in files.items():
        (folder / f"musae_DE_{name}").write_text(text)
    return Twitch(root=str(folder), split="shares", train=0.5, valid=0.25, download=False).load(0)


def test_four_nodes_by_hand(files, tmp_path):
    data = load(files, tmp_path)
    assert data.y.tolist() == [0, 0, 1, 1]
    x = data.x if isinstance(data.x, torch.Tensor) else data.x.dense()
    assert x.tolist() == [[0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0] * 5]
    assert data.graph.indices.tolist() == [1, 3, 0, 2, 1, 0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("edges.csv", "from,to\n0,1\n1,9\n3,0\n", r"edges\.csv: column to, row 3: '9' .* 0 to 3"),
        ("edges.csv", "from,to\n0,1\n1,x\n3,0\n", r"column to, row 3: 'x'"),
        ("edges.csv", "from,to\n0,1\n1,1.5\n3,0\n", r"column to, row 3: '1\.5'"),
        ("edges.csv", "from,to\n0,1\n", r"\(nodes, edges\) are \(4, 1\)"),
        ("edges.csv", "a,b\n0,1\n", "lacks the column 'from'; it has a, b"),
        ("edges.csv", "", "damaged or no table"),
        ("target.csv", "mature,new_id\nTrue,0\nTrue,0\n", "must number the nodes 0 to 1"),
        ("target.csv", "mature,new_id\nTrue,0\nmaybe,1\n", "column mature, row 3: 'maybe'"),
        ("features.json", "{", "lists of features by node"),
        ("features.json", "[1]", "lists of features by node"),
        ("features.json", '{"0": [7]}', "node 0, feature 7: valid are"),
        ("features.json", '{"9": [1]}', "node 9, feature 1"),
        ("features.json", '{"x": [1]}', "lists of features by node"),
    ],
)
def test_defects_are_told_by_place(files, tmp_path, name, text, said):
    with pytest.raises(DataError, match=said):
        load({**files, name: text}, tmp_path)
