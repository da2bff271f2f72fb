"""The TU collection in both text forms, from the real files and from damaged ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnscale.core.errors import DataError, UsageError
from gnnscale.core.random import Key
from gnnscale.dataset._files import roots
from gnnscale.dataset._graphs import degrees
from gnnscale.dataset._splits import fold_split
from gnnscale.dataset.tu import TU
from gnnscale.graph.simple import simple

A = "1, 2\n2, 1\n2, 3\n3, 2\n4, 5\n5, 4\n"
OWNER = "1\n1\n1\n2\n2\n3\n"


def real(folder: str) -> str:
    found = next((str(r) for r in roots() if (r / folder).is_dir()), None)
    if found is None:
        pytest.skip(f"{folder} is not here")
    return found


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Three graphs of 3, 2 and 1 nodes in TU's form; the third has no edge."""
    folder = tmp_path / "tu" / "TINY"
    folder.mkdir(parents=True)
    files = {"A": A, "graph_indicator": OWNER, "graph_labels": "-1\n1\n-1\n",
             "node_labels": "7\n3\n7\n3\n3\n5\n", "edge_labels": "0\n0\n1\n1\n2\n2\n",
             "node_attributes": "".join(f"{i}.5, 1\n" for i in range(6))}  # fmt: skip
    for name, text in files.items():
        (folder / f"TINY_{name}.txt").write_text(text)
    return tmp_path


def load(root, seed=0, **options):
    return TU(root=str(root), download=False, name="TINY", **options).load(seed)


def test_by_hand(tiny):
    data = load(tiny, split="none")
    assert data.offsets.tolist() == [0, 3, 5, 6]
    assert data.y.tolist() == [0, 1, 0]  # labels in their order: -1, 1
    assert data.facts["classes"] == [-1, 1]
    assert data.x.argmax(1).tolist() == [2, 0, 2, 0, 0, 1]  # 3, 5, 7
    pairs = list(zip(data.graph.indices.tolist(), data.graph.dst.tolist(), strict=True))
    assert pairs == [(1, 0), (0, 1), (2, 1), (1, 2), (4, 3), (3, 4)]
    assert data.edge.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert (data.items, data.nodes, data.task.level) == (3, 6, "graph")


def test_attributes_beside_the_labels(tiny):
    data = load(tiny, split="none", attributes=True)
    assert data.x.shape == (6, 5)
    assert data.x[:, 3].tolist() == [i + 0.5 for i in range(6)]


def test_a_reverse_that_was_not_given_has_its_edges_features(tiny):
    at = tiny / "tu/TINY"
    (at / "TINY_A.txt").write_text("1, 2\n2, 3\n5, 4\n")
    (at / "TINY_edge_labels.txt").write_text("0\n1\n2\n")
    assert load(tiny, split="none").edge.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("table", "text", "match"), [
    ("A", "1, 2\n2, x\n", "TINY_A.txt: damaged or not in the TU"),
    ("A", "1, 2, 3\n", "3 columns, 2 were expected"),
    ("A", "1, 9\n9, 1\n", "node numbers from 1 to 9, valid: 1 to 6"),
    ("A", "3, 4\n", "an edge joins two graphs"),
    ("graph_indicator", "1\n2\n1\n2\n2\n3\n", "in ascending order"),
    ("graph_indicator", "1\n1\n1\n2\n2\n4\n", "names graph 4, 3 have labels"),
    ("graph_labels", "", "damaged"),
    ("node_labels", "1\n2\n", "2 rows of node features for 6 nodes"),
    ("edge_labels", "1\n2\n", "2 edge labels for 6 edges"),
])  # fmt: skip
def test_damaged(tiny, table, text, match):
    (tiny / f"tu/TINY/TINY_{table}.txt").write_text(text)
    with pytest.raises(DataError, match=match):
        load(tiny)


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"ABSENT_A\.txt.*chrsmrrs\.com.*dataset\.root=DIR"):
        TU(root=str(tmp_path), download=False, name="ABSENT").load(0)


def test_no_public_split(tiny):
    with pytest.raises(UsageError, match=r"no public split.*dataset\.split=folds"):
        load(tiny, split="public")


def test_not_the_published_set(tiny):
    at = tiny / "tu/MUTAG"
    shutil.copytree(tiny / "tu/TINY", at)
    for path in at.iterdir():
        path.rename(at / path.name.replace("TINY", "MUTAG"))
    with pytest.raises(DataError, match=r"not the published MUTAG: 3 graphs .* expected 188"):
        TU(root=str(tiny), download=False, name="MUTAG").load(0)


# -- folds ----------------------------------------------------------------------------------------


def test_folds_are_a_stratified_partition():
    y = torch.cat([torch.zeros(63), torch.ones(125)]).long()
    rounds = [fold_split(y, 10, k, Key(0, "x")) for k in range(10)]
    tests = torch.cat([r["test"] for r in rounds])
    assert sorted(tests.tolist()) == list(range(188))
    for k, r in enumerate(rounds):
        assert torch.equal(r["valid"], rounds[(k + 1) % 10]["test"])
        assert sum(map(len, r.values())) == 188
        assert len(set(torch.cat(list(r.values())).tolist())) == 188
        ones = y[r["test"]].sum().item()
        assert ones in (12, 13)
        assert len(r["test"]) in (18, 19)
    assert torch.equal(fold_split(y, 10, 13, Key(0, "x"))["test"], rounds[3]["test"])
    assert not torch.equal(fold_split(y, 10, 3, Key(1, "x"))["test"], rounds[3]["test"])


@pytest.mark.parametrize("folds", [1, 2, 6])
def test_folds_that_leave_nothing(folds):
    with pytest.raises(UsageError, match=rf"dataset\.folds={folds}: .*choose 3 to 5"):
        fold_split(torch.tensor([0, 1, 0, 1, 1]), folds, 0, Key(0, "x"))


def test_subset_keeps_every_part_in_proportion():
    root = real("tu/NCI1")
    whole = TU(root=root, name="NCI1").load(0)
    part = TU(root=root, name="NCI1", subset=500).load(0)
    for name, ids in part.splits.items():
        assert set(part.names[ids].tolist()) <= set(whole.splits[name].tolist())
        assert len(ids) == pytest.approx(500 * len(whole.splits[name]) / 4110, abs=1)
    total = sum(map(len, part.splits.values()))
    assert part.facts["subset"] == part.facts["graphs"] == part.items == total


def test_graphs_of_a_subset_are_those_of_the_whole():
    root = real("tu/NCI1")
    whole, part = TU(root=root, name="NCI1").load(0), TU(root=root, name="NCI1", subset=50).load(0)
    assert part.facts["edges"] == part.graph.n_edges // 2 < whole.graph.n_edges // 2

    def graph(data, g):
        first, last = data.offsets[g].item(), data.offsets[g + 1].item()
        low, high = data.graph.indptr[first].item(), data.graph.indptr[last].item()
        edges = data.graph.indices[low:high] - first, data.graph.dst[low:high] - first
        return [data.x[first:last], data.y[g], *edges]

    for g, source in enumerate(part.names):
        for ours, theirs in zip(graph(part, g), graph(whole, int(source)), strict=True):
            assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match=r"dataset\.subset=2: .*choose 3 to 4110"):
        TU(root=root, name="NCI1", subset=2).load(0)


# -- the real files -------------------------------------------------------------------------------

REAL = {  # graphs, classes, node labels, mean nodes, mean edges, as the collection's page has them
    "MUTAG": (188, 2, 7, 17.93, 19.79),
    "PROTEINS": (1113, 2, 3, 39.06, 72.82),
    "ENZYMES": (600, 6, 3, 32.63, 62.14),
    "NCI1": (4110, 2, 37, 29.87, 32.30),
}


@pytest.mark.parametrize("name", REAL)
def test_published_sizes(name):
    data = TU(root=real(f"tu/{name}"), name=name).load(0)
    graphs, classes, labels, nodes, edges = REAL[name]
    assert (data.items, data.task.classes, data.x.shape[1]) == (graphs, classes, labels)
    assert data.nodes / graphs == pytest.approx(nodes, abs=0.005)
    assert data.facts["edges"] / graphs == pytest.approx(edges, abs=0.005)


@pytest.mark.parametrize(("name", "graphs", "nodes", "edges"), [
    ("IMDB-BINARY", 1000, 19.77, 96.53), ("IMDB-MULTI", 1500, 13.00, 65.94),
    ("PTC", 344, 25.56, None),
])  # fmt: skip
def test_published_sizes_of_the_other_form(name, graphs, nodes, edges):
    short = name.replace("-", "")
    data = TU(root=real(f"gin_dataset/{short}"), name=name, form="gin").load(0)
    assert data.items == graphs
    assert data.nodes / graphs == pytest.approx(nodes, abs=0.005)
    if edges is not None:
        assert data.facts["edges"] / graphs == pytest.approx(edges, abs=0.005)
        assert torch.equal(data.x.argmax(1), data.graph.in_degree.long())


@pytest.mark.parametrize("name", ["MUTAG", "PROTEINS", "NCI1"])
def test_both_forms_hold_the_same_graphs(name):
    real(f"gin_dataset/{name}")
    root = real(f"tu/{name}")
    one, other = (TU(root=root, name=name, form=f).load(0) for f in ("tu", "gin"))
    assert one.items == other.items
    sizes = [d.offsets.diff().sort().values for d in (one, other)]
    assert torch.equal(*sizes)
    assert one.x.shape[1] == other.x.shape[1]
    assert abs(one.graph.n_edges - other.graph.n_edges) <= 2


def test_one_hot_degrees():
    graph, _ = simple(np.array([0, 0]), np.array([1, 2]), 4)
    assert degrees(graph).tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 0], [1, 0, 0]]
