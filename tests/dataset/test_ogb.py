import gzip
import http.server
import io
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gnnscale.core.data import Task
from gnnscale.core.errors import DataError, UsageError
from gnnscale.dataset import _ogb_tables, ogb
from gnnscale.dataset.ogb import SITE, SOURCES, SPLITS, Ogbn

EDGES = [[0, 1], [1, 0], [2, 1], [3, 3], [4, 2], [4, 2]]
"""Of five nodes: both directions of one, a loop, one twice."""
CITES = [[1, 0], [2, 0]]
RELATIONS = {
    "author___affiliated_with___institution": [[0, 0], [1, 0]],
    "author___writes___paper": [[0, 2], [1, 0], [1, 1]],
    "paper___cites___paper": CITES,
    "paper___has_topic___field_of_study": [[2, 1], [0, 0]],
}


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


def write(folder, tables, header=()):
    for name, rows in tables.items():
        path = folder / f"{name}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt") as file:
            pd.DataFrame(rows).to_csv(file, index=False, header=name in header)


def tiny(monkeypatch, tmp_path, name, **changes):
    """A folder as ogb makes it, and a table of sources that says it is the published set."""
    monkeypatch.setitem(ogb.SOURCES, name, SOURCES[name]._replace(**changes))
    folder = tmp_path / name.replace("100m", "100M")
    folder.mkdir()
    (folder / f"RELEASE_v{SOURCES[name].version}.txt").write_text("# released\n")
    return folder


def split(train, valid, test, at):
    return {f"{at}/{part}": ids for part, ids in zip(SPLITS, (train, valid, test), strict=True)}


@pytest.fixture
def arxiv(tmp_path, monkeypatch):
    folder = tiny(monkeypatch, tmp_path, "ogbn_arxiv", nodes=5, edges=6, features=2, classes=3,
                  sizes=(2, 1, 2))  # fmt: skip
    write(folder, {
        "raw/edge": EDGES, "raw/num-node-list": [5], "raw/num-edge-list": [6],
        "raw/node-feat": [[0.5, -1], [2, 3], [0, 1], [1e-3, 4], [5, 6]],
        "raw/node-label": [2, 0, 1, 0, 2], **split([4, 0], [2], [1, 3], "split/time"),
    })  # fmt: skip
    return folder


def load(folder, **options):
    name = folder.name.lower()
    return Ogbn(**{"name": name, "root": str(folder.parent), "download": False, **options}).load(0)


# -- arxiv and products -------------------------------------------------------------------------


def test_five_papers_by_hand(arxiv):
    data = load(arxiv)
    assert data.graph.indptr.tolist() == [0, 1, 3, 5, 5, 6]
    assert data.graph.indices.tolist() == [1, 0, 2, 1, 4, 2]
    want = np.array([[0.5, -1], [2, 3], [0, 1], [1e-3, 4], [5, 6]], np.float32)
    np.testing.assert_array_equal(data.x.numpy(), want)
    assert data.y.tolist() == [2, 0, 1, 0, 2]
    splits = {name: ids.tolist() for name, ids in data.splits.items()}
    assert splits == {"train": [0, 4], "valid": [2], "test": [1, 3]}
    assert (data.task.metric, data.task.classes, data.inductive) == ("accuracy", 3, False)
    assert data.facts["release"] == 1
    directed = load(arxiv, reverse_edges=False)  # the cited paper hears of the citing one
    pairs = zip(directed.graph.indices.tolist(), directed.graph.dst.tolist(), strict=True)
    assert set(pairs) == {(0, 1), (1, 0), (2, 1), (4, 2)}


def test_the_folder_itself_can_be_the_root(arxiv):
    assert load(arxiv, root=str(arxiv)).nodes == 5


@pytest.mark.parametrize("name", ["raw/edge", "raw/node-feat", "raw/node-label", "split/time/test"])
def test_truncated(arxiv, name):
    path = arxiv / f"{name}.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{path.name}: damaged or not in OGB's layout"):
        load(arxiv)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("raw/edge", EDGES[:5], r"edge.csv.gz: \(5, 2\) entries, 6 pairs were expected"),
        ("raw/edge", [[0, 5], *EDGES[1:]], "edge.csv.gz: node ids from 0 to 5, valid: 0 to 4"),
        ("raw/edge", [[0, "x"], *EDGES[1:]], "edge.csv.gz: damaged"),
        ("raw/num-node-list", [5, 5], "num-node-list.csv.gz: one number was expected, not 2 rows"),
        ("raw/node-feat", [[1, 2]] * 4, "node-feat.csv.gz: 4 rows, 5 finite ones"),
        ("raw/node-feat", [[1, np.nan]] * 5, "node-feat.csv.gz: 5 rows, 5 finite ones"),
        ("raw/node-feat", [[1, 2, 3]] * 5, r"not the published ogbn_arxiv.*\(5, 6, 3, 2, 1, 2\)"),
        ("raw/node-label", [0, 1, 2, 3, 0], "5 labels from 0.0 to 3.0, 5 whole numbers from 0 to"),
        ("raw/node-label", [0, 1, 2, 0.5, 0], "whole numbers from 0 to 2 were expected"),
        ("raw/node-label", [0, 1, 2, 0, None], "1 of its nodes have no label"),
        ("split/time/test", [1, 5], "distinct node ids from 0 to 4 were expected"),
        ("split/time/test", [1, 4], "distinct node ids from 0 to 4 were expected"),
        ("split/time/test", [1], r"not the published ogbn_arxiv.*\(5, 6, 2, 2, 1, 1\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(arxiv, name, rows, said):
    write(arxiv, {name: rows})
    with pytest.raises(DataError, match=said):
        load(arxiv)


def test_missing_files_name_the_archive(arxiv):
    (arxiv / "raw/edge.csv.gz").unlink()
    with pytest.raises(DataError, match=rf"raw/edge\.csv\.gz.*{SITE}/arxiv\.zip"):
        load(arxiv)


def test_another_release_is_not_mixed_with_the_current_one(arxiv, tmp_path):
    arxiv.rename(tmp_path / "ogbn_mag")  # RELEASE_v1.txt, where ogbn-mag is at 2
    for root in (tmp_path, tmp_path / "ogbn_mag"):
        with pytest.raises(DataError, match=r"ogbn_mag: holds RELEASE_v1.txt, .* RELEASE_v2.txt"):
            Ogbn("ogbn_mag", root=str(root)).load(0)


def test_an_archive_is_fetched_and_unpacked_without_a_question(arxiv, monkeypatch, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "arxiv.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in arxiv.rglob("*.*"):
            packed.write(path, f"arxiv/{path.relative_to(arxiv)}")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(site))

        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setattr(ogb, "SITE", f"http://127.0.0.1:{server.server_port}")
        fresh = tmp_path / "fresh/ogbn_arxiv"
        data = load(fresh, download=True)
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["/arxiv.zip"]
    assert torch.equal(data.x, load(arxiv).x)
    assert (fresh / "RELEASE_v1.txt").is_file()
    assert not list(fresh.glob("*.zip"))


# -- proteins -----------------------------------------------------------------------------------


@pytest.fixture
def proteins(tmp_path, monkeypatch):
    folder = tiny(monkeypatch, tmp_path, "ogbn_proteins", nodes=4, edges=3, features=2, classes=3,
                  sizes=(2, 1, 1))  # fmt: skip
    write(folder, {
        "raw/edge": [[0, 1], [1, 2], [0, 2]], "raw/num-node-list": [4], "raw/num-edge-list": [3],
        "raw/edge-feat": [[0.5, 1], [0.25, 3], [1, 8]],
        "raw/node-label": [[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]],
        **split([0, 1], [2], [3], "split/species"),
    })  # fmt: skip
    return folder


@pytest.mark.parametrize("block", [1, 2, 100])
def test_a_protein_has_the_mean_of_its_edges(proteins, block, monkeypatch):
    monkeypatch.setattr(_ogb_tables, "BLOCK", block)
    data = load(proteins)
    assert data.x.tolist() == [[0.75, 4.5], [0.375, 2], [0.625, 5.5], [0, 0]]
    assert data.y.tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert data.task == Task("node", "multi", 3, "roc_auc")
    assert data.facts["features_from"] == "mean over a node's edges"
    again = load(proteins)  # from the cache
    assert again.task == data.task
    assert torch.equal(again.x, data.x)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("raw/edge-feat", [[0.5, 1], [0.25, 3]], "edge-feat.csv.gz: 2 rows, 3 finite ones"),
        ("raw/edge-feat", [[0.5, 1]] * 4, "edge-feat.csv.gz: damaged|edge-feat.csv.gz: 4 rows"),
        ("raw/edge-feat", [[0.5, None]] * 3, "edge-feat.csv.gz: 3 rows, 3 finite ones"),
        ("raw/node-label", [[0, 1, 2]] * 4, "3 labels of 0 or 1 per node were expected"),
        ("raw/node-label", [[0, 1]] * 4, "3 labels of 0 or 1 per node were expected"),
    ],
)
def test_proteins_that_do_not_fit_are_refused(proteins, name, rows, said):
    write(proteins, {name: rows})
    with pytest.raises(DataError, match=said):
        load(proteins)


# -- mag ----------------------------------------------------------------------------------------


@pytest.fixture
def mag(tmp_path, monkeypatch):
    """3 papers, 2 authors, 1 institution, 2 fields of study."""
    folder = tiny(monkeypatch, tmp_path, "ogbn_mag", nodes=8, edges=9, features=2, classes=4,
                  sizes=(1, 1, 1))  # fmt: skip
    kinds = {"author": [2], "field_of_study": [2], "institution": [1], "paper": [3]}
    write(folder, {
        "raw/num-node-dict": kinds,
        "raw/triplet-type-list": [name.split("___") for name in RELATIONS],
        "raw/node-feat/paper/node-feat": [[1, 2], [3, 4], [5, 6]],
        "raw/node-label/paper/node-label": [3, 0, 1],
        **{f"raw/relations/{r}/edge": pairs for r, pairs in RELATIONS.items()},
        **{f"raw/relations/{r}/num-edge-list": [len(pairs)] for r, pairs in RELATIONS.items()},
        **split([1], [2], [0], "split/time/paper"),
    }, header=["raw/num-node-dict"])  # fmt: skip
    return folder


def test_kinds_of_nodes_follow_each_other(mag):
    data = load(mag, reverse_edges=False)
    # papers 0 1 2, authors 3 4, institution 5, fields of study 6 7
    assert data.facts["first_node"] == {
        "paper": 0, "author": 3, "institution": 5, "field_of_study": 6
    }  # fmt: skip
    pairs = zip(data.graph.indices.tolist(), data.graph.dst.tolist(), strict=True)
    affiliated, writes = {(3, 5), (4, 5)}, {(3, 2), (4, 0), (4, 1)}
    assert set(pairs) == affiliated | writes | {(1, 0), (2, 0)} | {(2, 7), (0, 6)}
    assert load(mag).graph.n_edges == 18
    assert data.x.tolist() == [[1, 2], [3, 4], [5, 6]] + [[0, 0]] * 5
    assert data.y.tolist() == [3, 0, 1] + [-1] * 5
    assert {name: ids.tolist() for name, ids in data.splits.items()} == {
        "train": [1], "valid": [2], "test": [0]
    }  # fmt: skip
    assert data.facts["without_features"] == 5


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("raw/num-node-dict", {"author": [2], "paper": [3]}, "one row of numbers of paper, author"),
        ("raw/triplet-type-list", [["a", "b", "c"]], r"lists \[\('a', 'b', 'c'\)\], expected"),
        ("raw/relations/author___writes___paper/edge", [[0, 2], [2, 0], [1, 1]],
         "writes.*edge.csv.gz: node ids from 0 to 2, valid: 0 to 1"),
        ("raw/relations/author___writes___paper/edge", [[0, 2], [1, 3], [1, 1]],
         "writes.*edge.csv.gz: node ids from 1 to 3, valid: 0 to 2"),
        ("split/time/paper/test", [3], "1 of its nodes have no label"),
    ],
)  # fmt: skip
def test_relations_that_do_not_fit_are_refused(mag, name, rows, said):
    write(mag, {name: rows}, header=["raw/num-node-dict"])
    with pytest.raises(DataError, match=said):
        load(mag)


# -- papers100M ---------------------------------------------------------------------------------

X = np.arange(20, dtype=np.float32).reshape(5, 4) / 4 + 1


def save_papers(folder, save=np.savez, x=X, edges=EDGES, order="C", **more):
    arrays = {"edge_index": np.array(edges, np.int64).T.copy(order), "node_feat": x,
              "num_nodes_list": [5], "num_edges_list": [6], "node_year": np.full((5, 1), 2012),
              **more}  # fmt: skip
    (folder / "raw").mkdir(exist_ok=True)
    save(folder / "raw/data.npz", **arrays)
    label = np.array([2, 0, 1, np.nan, 2], np.float32).reshape(5, 1)
    np.savez(folder / "raw/node-label.npz", node_label=label)


@pytest.fixture
def papers(tmp_path, monkeypatch):
    folder = tiny(monkeypatch, tmp_path, "ogbn_papers100m", nodes=5, edges=6, features=4,
                  classes=3, sizes=(2, 1, 1))  # fmt: skip
    write(folder, split([0, 1], [2], [4], "split/time"))
    save_papers(folder)
    return folder


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("block", [3, 1 << 20])
def test_features_stay_on_disk(papers, monkeypatch, save, dtype, order, block):
    monkeypatch.setattr(_ogb_tables, "BLOCK", block)
    save_papers(papers, save, X.astype(dtype).copy(order), order=order)
    raw = Ogbn("ogbn_papers100m").read(papers)
    for array in (raw.x, raw.src, raw.dst):
        assert isinstance(array, np.memmap)
        assert array.dtype.itemsize == 4
    np.testing.assert_array_equal(raw.x, X)
    assert list(zip(raw.src.tolist(), raw.dst.tolist(), strict=True)) == [(a, b) for a, b in EDGES]
    del raw, array
    made, saved = {}, []
    whole, save = Ogbn._prepare, np.save

    def prepare(self, raw):
        arrays = whole(self, raw)
        made["x"] = Path(arrays["x"].filename).stat().st_ino
        assert isinstance(arrays["x"], np.memmap)
        assert not any(n.startswith("x_") for n in arrays)
        return arrays

    monkeypatch.setattr(Ogbn, "_prepare", prepare)
    monkeypatch.setattr(np, "save", lambda p, a, **m: saved.append(p.stem) or save(p, a, **m))
    data = load(papers)
    kept = next((papers.parent / "cache").glob("ogbn_papers100m-*/x.npy"))
    assert kept.stat().st_ino == made["x"], "the file was moved: it is on disk once"
    assert "indptr" in saved
    assert "x" not in saved
    assert not list((papers.parent / "cache").glob(".build-*"))
    assert str(kept) in Path("/proc/self/maps").read_text()  # what the graph's features are
    np.testing.assert_array_equal(data.x.numpy(), X)
    assert data.graph.indices.tolist() == [1, 0, 2, 1, 4, 2]
    assert data.y.tolist() == [2, 0, 1, -1, 2]
    assert {name: ids.tolist() for name, ids in data.splits.items()} == {
        "train": [0, 1], "valid": [2], "test": [4]
    }  # fmt: skip
    assert data.facts["unlabelled"] == 1


def test_more_features_than_memory_are_read(papers, monkeypatch):
    import tracemalloc

    many = 200_000
    monkeypatch.setitem(ogb.SOURCES, "ogbn_papers100m",
                        ogb.SOURCES["ogbn_papers100m"]._replace(nodes=many))  # fmt: skip
    monkeypatch.setattr(_ogb_tables, "BLOCK", 1 << 14)
    x = np.arange(many * 64, dtype=np.float32).reshape(many, 64)
    save_papers(papers, x=x, num_nodes_list=[many])
    label = np.zeros((many, 1), np.float32)
    np.savez(papers / "raw/node-label.npz", node_label=label)
    monkeypatch.setitem(ogb.SOURCES, "ogbn_papers100m",
                        ogb.SOURCES["ogbn_papers100m"]._replace(features=64))  # fmt: skip
    total = x.nbytes
    del x
    tracemalloc.start()
    try:
        raw = Ogbn("ogbn_papers100m").read(papers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < total / 4  # labels and split take 8 bytes a node, features 256
    assert raw.x[many - 1].tolist() == [float(64 * (many - 1) + f) for f in range(64)]


def test_what_would_fill_the_memory_is_refused(papers):
    for options in ({"features": ["raw", "degree"]}, {"normalize": "zscore"},
                    {"largest_component": True}):  # fmt: skip
        with pytest.raises(UsageError, match="do not fit into memory and are used as they are"):
            load(papers, **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": X[:4]}, r"node_feat \(4, 4\) where 6 edges and 5 nodes are declared"),
        ({"x": np.where(X == 1, np.inf, X)}, "node_feat has entries that are not finite"),
        ({"x": X.astype(str)}, "node_feat holds <U32, numbers were expected"),
        ({"edges": EDGES[:5]}, r"edge_index \(2, 5\) .* where 6 edges"),
        ({"edges": [[2**32, 1], *EDGES[1:]]}, "edge_index runs from 0 to 4294967296"),
        ({"num_nodes_list": [6]}, "where 6 edges and 6 nodes are declared"),
    ],
)
def test_npz_that_does_not_fit_is_refused(papers, change, said):
    save_papers(papers, **change)
    with pytest.raises(DataError, match=said):
        load(papers)


def test_a_missing_or_damaged_member_is_refused(papers):
    np.savez(papers / "raw/data.npz", edge_index=np.array(EDGES).T, num_nodes_list=[5],
             num_edges_list=[6])  # fmt: skip
    with pytest.raises(DataError, match=r"data\.npz: damaged .*node_feat\.npy"):
        load(papers)
    save_papers(papers)
    content = bytearray((papers / "raw/data.npz").read_bytes())
    at = content.index(X[2].tobytes())
    content[at] ^= 1
    (papers / "raw/data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: damaged .*CRC"):
        load(papers)


def test_a_place_that_cannot_be_written_is_named(papers, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", "/dev/null/none")
    with pytest.raises(DataError, match=r"/dev/null/none: can't be written .*GNNSCALE_CACHE=DIR"):
        load(papers)


# -- ogb as the referee -------------------------------------------------------------------------


def test_the_table_is_that_of_ogb():
    nodeproppred = pytest.importorskip("ogb.nodeproppred")
    table = pd.read_csv(Path(nodeproppred.__file__).parent / "master.csv", index_col=0,
                        keep_default_na=False)  # fmt: skip
    for name, source in SOURCES.items():
        theirs = table[name.replace("_", "-", 1).replace("100m", "100M")]
        assert theirs["url"] == f"{SITE}/{source.archive}.zip"
        assert theirs["download_name"] == source.archive
        assert (int(theirs["version"]), theirs["split"]) == (source.version, source.split)
        several = int(theirs["num tasks"]) > 1
        assert int(theirs["num tasks" if several else "num classes"]) == source.classes
        assert theirs["eval metric"] == ("rocauc" if several else "acc")
        assert Ogbn(name).folder == name.replace("100m", "100M")


@pytest.mark.parametrize("make", ["arxiv", "proteins"])
def test_ogb_reads_the_same_from_the_same_files(make, request, monkeypatch):
    reader = pytest.importorskip("ogb.io.read_graph_raw")
    folder = request.getfixturevalue(make)
    theirs = reader.read_csv_graph_raw(str(folder / "raw"), add_inverse_edge=make == "proteins")[0]
    data = load(folder, reverse_edges=make == "proteins", self_loops="keep")
    mine = set(zip(data.graph.indices.tolist(), data.graph.dst.tolist(), strict=True))
    assert mine == set(map(tuple, theirs["edge_index"].T.tolist()))
    if make == "arxiv":
        np.testing.assert_array_equal(data.x.numpy(), theirs["node_feat"])
    else:  # their baseline's adj_t.mean(1)
        for i in range(4):
            at = theirs["edge_index"][1] == i
            want = theirs["edge_feat"][at].mean(0) if at.any() else np.zeros(2)
            np.testing.assert_allclose(data.x[i].numpy(), want, rtol=1e-6)


def test_ogb_reads_the_same_relations(mag):
    reader = pytest.importorskip("ogb.io.read_graph_raw")
    theirs = reader.read_csv_heterograph_raw(str(mag / "raw"))[0]
    data = load(mag, reverse_edges=False)
    start, want = data.facts["first_node"], set()
    for (head, _, tail), edges in theirs["edge_index_dict"].items():
        want |= {(a + start[head], b + start[tail]) for a, b in edges.T.tolist()}
    assert set(zip(data.graph.indices.tolist(), data.graph.dst.tolist(), strict=True)) == want
    assert data.nodes == sum(theirs["num_nodes_dict"].values())


def test_roc_auc_is_that_of_ogb():
    nodeproppred = pytest.importorskip("ogb.nodeproppred")
    draw = torch.Generator().manual_seed(0)
    y = (torch.rand(300, 112, generator=draw) > 0.7).float()
    logits = torch.randn(300, 112, generator=draw) + y
    logits[:, :40] = logits[:, :40].round()  # ties
    y[:, 3], y[:, 4] = 0, 1  # classes without one kind of row are left out
    y[:100, 5] = torch.nan  # and rows without a label
    want = nodeproppred.Evaluator("ogbn-proteins").eval({"y_true": y, "y_pred": logits})["rocauc"]
    task = Task("node", "multi", 112, "roc_auc")
    assert task.score(logits, y) == pytest.approx(want, abs=1e-12)
    assert task.score(torch.cat([logits, logits]), torch.cat([y, y])) == pytest.approx(want)
    assert task.score(logits.new_zeros(300, 112), y) == 0.5
    assert np.isnan(task.score(logits[:, 3:5], y[:, 3:5]))
    assert np.isnan(task.score(logits * torch.nan, y))


@pytest.mark.parametrize("name", ["ogbn-arxiv", "ogbn-products", "ogbn-mag", "ogbn-papers100M"])
def test_accuracy_is_that_of_ogb(name):
    nodeproppred = pytest.importorskip("ogb.nodeproppred")
    draw = torch.Generator().manual_seed(1)
    logits, y = torch.randn(200, 4, generator=draw), torch.randint(0, 4, (200,), generator=draw)
    said = {"y_true": y[:, None], "y_pred": logits.argmax(-1, keepdim=True)}
    want = nodeproppred.Evaluator(name).eval(said)["acc"]
    assert Task(classes=4).score(logits, y) == pytest.approx(want, abs=1e-12)
    assert 0.1 < want < 0.5


def test_metrics_belong_to_kinds():
    assert Task(kind="multi").metric == "micro_f1"
    for kind, metric in (("single", "roc_auc"), ("multi", "accuracy"), ("other", "")):
        with pytest.raises(ValueError, match=f"kind={kind} metric={metric}: valid"):
            Task("node", kind, 3, metric)
