import io
import json
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset import graphsaint
from gnnscale.dataset.graphsaint import COUNTS, FILES, Counts, GraphSaint

EDGES = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 2))
"""Undirected, of six nodes; 0, 1, 2, 4 train, 3 validates, 5 tests."""
ROLE = {"tr": [4, 0, 2, 1], "va": [3], "te": [5]}
FEATS = np.array([[1, 7, 0.1], [3, 7, 0], [5, 7, 0], [100, 7, 1], [7, 7, 0], [9, 8, 2]])


def matrix(edges, loops=()):
    row = [a for a, b in edges] + [b for a, b in edges] + list(loops)
    column = [b for a, b in edges] + [a for a, b in edges] + list(loops)
    return sp.csr_matrix((np.ones(len(row), bool), (row, column)), shape=(6, 6))


@pytest.fixture(autouse=True)
def deaf(monkeypatch, tmp_path):
    """Reading stdin is an error; nothing is found outside the test's folder."""

    class Stdin(io.RawIOBase):
        def read(self, *_):
            raise AssertionError("stdin was read")

        readline = readinto = __next__ = read

    monkeypatch.setattr(sys, "stdin", Stdin())
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GNNSCALE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def flickr(tmp_path, monkeypatch):
    """The six nodes in GraphSAINT's files, one class each; adj_full has a loop at 2."""
    monkeypatch.setitem(graphsaint.COUNTS, "flickr", Counts(6, 13, 3, 3, False))
    monkeypatch.setitem(graphsaint.COUNTS, "yelp", Counts(6, 13, 3, 2, True))
    folder = tmp_path / "flickr"
    folder.mkdir()
    sp.save_npz(folder / "adj_full.npz", matrix(EDGES, loops=[2]))
    sp.save_npz(folder / "adj_train.npz", matrix([(0, 1), (1, 2), (0, 2)]))
    classes = {"5": 0, "0": 2, "1": 1, "2": 0, "3": 1, "4": 2}
    (folder / "class_map.json").write_text(json.dumps(classes))
    np.save(folder / "feats.npy", FEATS)
    (folder / "role.json").write_text(json.dumps(ROLE))
    return folder


def load(folder, name="flickr", **options):
    return GraphSaint(**{"name": name, "root": str(folder), **options}).load(0)


def test_six_nodes_by_hand(flickr, monkeypatch):
    monkeypatch.setattr(graphsaint, "BLOCK", 4)  # two blocks of features
    data = load(flickr.parent)
    assert data.graph.indptr.tolist() == [0, 2, 4, 7, 9, 11, 12]
    assert data.graph.indices.tolist() == [1, 2, 0, 2, 0, 1, 3, 2, 4, 3, 5, 4]
    assert data.x.dtype == torch.float32
    np.testing.assert_array_equal(data.x.numpy(), FEATS.astype(np.float32))
    assert data.y.tolist() == [2, 1, 0, 1, 2, 0]
    splits = {name: ids.tolist() for name, ids in data.splits.items()}
    assert splits == {"train": [0, 1, 2, 4], "valid": [3], "test": [5]}
    assert data.inductive
    assert (data.task.kind, data.task.metric, data.task.classes) == ("single", "accuracy", 3)
    facts = {"loops_given": 1, "entries_given": 13, "loops_removed": 1, "edges": 6}
    assert facts.items() <= data.facts.items()


def test_zscore_is_fitted_on_training_nodes(flickr):
    x = load(flickr.parent, normalize="zscore").x.double().numpy()
    seen = FEATS[[0, 1, 2, 4]]
    spread = seen.std(0)
    assert spread[1] == 0  # a constant column is only shifted
    want = (FEATS - seen.mean(0)) / np.where(spread > 0, spread, 1)
    np.testing.assert_allclose(x, want, rtol=1e-6, atol=1e-6)
    assert abs(x[3, 0]) > 10  # the validation node's 100 had no part in it


def test_classes_count_from_the_smallest(flickr):
    classes = {str(i): c for i, c in enumerate([3, 2, 1, 2, 3, 1])}
    (flickr / "class_map.json").write_text(json.dumps(classes))
    assert load(flickr.parent).y.tolist() == [2, 1, 0, 1, 2, 0]


def test_several_labels_per_node(flickr):
    flickr.rename(flickr.with_name("yelp"))
    many = {str(i): [int(i > 2), i % 2] for i in range(6)}
    (flickr.with_name("yelp") / "class_map.json").write_text(json.dumps(many))
    data = load(flickr.parent, "yelp")
    assert data.y.tolist() == [[float(i > 2), float(i % 2)] for i in range(6)]
    assert data.y.dtype == torch.float32
    assert (data.task.kind, data.task.metric, data.task.classes) == ("multi", "micro_f1", 2)
    many["4"] = [2, 0]
    (flickr.with_name("yelp") / "class_map.json").write_text(json.dumps(many))
    with pytest.raises(DataError, match=r"labels run from 0\.0 to 2\.0; labels of 0 and 1"):
        load(flickr.parent, "yelp")


def test_loops_do_not_make_training_graphs_differ(flickr):
    sp.save_npz(flickr / "adj_train.npz", matrix([(0, 1), (1, 2), (0, 2)], loops=[0, 2]))
    assert load(flickr.parent).graph.n_edges == 12


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([(0, 1), (1, 2)], "adj_train has 4 entries and adj_full 6 .* 4 of them the same"),
        ([(0, 1), (1, 2), (0, 4)], "adj_train has 6 entries and adj_full 6 .* 4 of them the same"),
        (EDGES, "adj_train has 12 entries and adj_full 6 .* 6 of them the same"),
    ],
)
def test_a_training_graph_that_is_not_induced_is_refused(flickr, train, said):
    sp.save_npz(flickr / "adj_train.npz", matrix(train))
    with pytest.raises(DataError, match=said):
        load(flickr.parent)


@pytest.mark.parametrize("name", FILES)
def test_truncated(flickr, name):
    path = flickr / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{name}: damaged or not in GraphSAINT's layout"):
        load(flickr.parent)


def test_nothing_pickled_is_read(flickr):
    np.save(flickr / "feats.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"feats\.npy: damaged"):
        load(flickr.parent)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("role.json", {**ROLE, "te": [5, 6]}, "1 node ids do not exist, 6 among them; valid: 0 to"),
        ("role.json", {**ROLE, "te": [-1]}, "1 node ids do not exist, -1 among them"),
        ("role.json", {**ROLE, "te": [5, 0]}, "1 nodes are listed twice"),
        ("role.json", {**ROLE, "te": []}, "te: a list of node ids was expected"),
        ("role.json", {**ROLE, "te": [5.0]}, "te: a list of node ids was expected"),
        ("role.json", {"tr": [0], "va": [1]}, r"has roles \['tr', 'va'\]; valid: te, tr, va"),
        ("role.json", [1], "a list, names and values were expected"),
        ("class_map.json", {str(i): 0 for i in range(6) if i != 3}, "lacks node 3; 5 nodes"),
        ("class_map.json", {str(i): 0 for i in range(7)}, "names nodes that do not exist; 7 nodes"),
        ("class_map.json", {str(i): i for i in range(6)}, "labels run from 0 to 5; 3 classes"),
        ("class_map.json", {str(i): [0, 1] for i in range(6)}, r"node 0 has \[0, 1\]"),
        ("class_map.json", {str(i): i / 4 for i in range(6)}, "not whole numbers"),
    ],
)
def test_json_that_does_not_fit_is_refused(flickr, name, content, said):
    (flickr / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=said) as caught:
        load(flickr.parent)
    assert str(flickr / name) in str(caught.value)


def test_features_that_do_not_fit_are_refused(flickr):
    np.save(flickr / "feats.npy", np.where(FEATS == 100, np.nan, FEATS))
    with pytest.raises(DataError, match=r"feats\.npy.*entries that are not finite"):
        load(flickr.parent)
    np.save(flickr / "feats.npy", FEATS[:5])
    with pytest.raises(DataError, match=r"not the published flickr: .*5, 3\), expected Counts"):
        load(flickr.parent)


def test_another_graph_is_refused(flickr):
    sp.save_npz(flickr / "adj_full.npz", matrix(EDGES))
    with pytest.raises(DataError, match=r"flickr: entries of adj_full are 12, expected .*13"):
        load(flickr.parent)


def test_missing_files_name_where_they_can_be_had(tmp_path):
    with pytest.raises(DataError, match=r"Google Drive with the folder 'reddit'") as caught:
        GraphSaint("reddit", root=str(tmp_path)).load(0)
    for said in ("adj_full.npz", "github.com/GraphSAINT/GraphSAINT", str(tmp_path / "reddit")):
        assert said in str(caught.value)


def test_published_entries_count_both_directions():
    # the paper counts undirected edges; Yelp's are odd: a loop, or an edge in one direction
    assert COUNTS["reddit"].entries == 2 * 11_606_919
    assert COUNTS["flickr"].entries == 2 * 449_878
    assert COUNTS["yelp"].entries == 2 * 6_977_410 - 1
