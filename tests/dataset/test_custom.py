# ruff: noqa: E501 - tables of cases, one per line
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnnscale.core.errors import DataError, UsageError
from gnnscale.core.sparse import dense
from gnnscale.dataset.custom import Custom

EDGES = "src,dst,weight\na,b,1\nb,c,2.5\nc,a,1\nd,e,0.5\n"
NODES = (
    "id,label,split,age,score\na,cat,train,1,0.5\nb,dog,valid,2,0\nc,cat,test,3,1\n"
    "d,dog,train,4,-2\ne,,,5,0\nf,dog,test,6,1e2\n"
)
FEATURES = [[1, 0.5], [2, 0], [3, 1], [4, -2], [5, 0], [6, 100]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "graph"
    made.mkdir()
    return made


def write(folder, **tables):
    for name, text in tables.items():
        raw = text if isinstance(text, bytes) else text.encode()
        (folder / f"{name}.csv").write_bytes(raw)
    return folder


def load(place, seed=0, **options):
    return Custom(path=str(place), **options).load(seed)


def is_the_graph(data, weighted=True):
    assert data.graph.indptr.tolist() == [0, 2, 4, 6, 7, 8, 8]
    assert data.graph.indices.tolist() == [1, 2, 0, 2, 0, 1, 4, 3]
    if weighted:
        assert data.weight.tolist() == [1, 1, 1, 2.5, 1, 2.5, 0.5, 0.5]
    assert dense(data.x).tolist() == FEATURES
    assert data.y.tolist() == [0, 1, 0, 1, -1, 1]
    splits = {n: ids.tolist() for n, ids in data.splits.items()}
    assert splits == {"train": [0, 3], "valid": [1], "test": [2, 5]}


# -- every format says the same -----------------------------------------------------------------


def test_tables(folder):
    data = load(write(folder, edges=EDGES, nodes=NODES))
    is_the_graph(data)
    assert data.names.tolist() == list("abcdef")
    assert data.facts["classes"] == ["cat", "dog"]
    assert data.facts["columns"] == ["age", "score"]
    assert data.name == "graph"


def test_separate_tables(folder):
    lines = [line.split(",") for line in NODES.splitlines()]
    pick = lambda *at: "\n".join(",".join(line[k] for k in at) for line in lines) + "\n"  # noqa: E731
    write(folder, edges=EDGES, features=pick(0, 3, 4), labels=pick(0, 1), split=pick(0, 2))
    is_the_graph(load(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.rstrip("\n"),
        lambda t: t + "\n\n",
        lambda t: "\n".join(",".join(f'"{w}"' for w in s.split(",")) for s in t.splitlines()),
        lambda t: t.replace(",", " , "),
    ],
    ids=["bom", "crlf", "no newline", "blank lines", "quotes", "blanks"],
)
def test_spellings_of_csv(folder, change):
    is_the_graph(load(write(folder, edges=change(EDGES), nodes=change(NODES))))


def test_tsv_gzip_and_parquet(folder, tmp_path):
    for kind in ("tsv", "csv.gz", "parquet"):
        place = tmp_path / kind
        place.mkdir()
        for name, text in (("edges", EDGES), ("nodes", NODES)):
            path = place / f"{name}.{kind}"
            if kind == "tsv":
                path.write_text(text.replace(",", "\t"))
            elif kind == "csv.gz":
                path.write_bytes(gzip.compress(text.encode()))
            else:
                source = tmp_path / "x.csv"
                source.write_text(text)
                pd.read_csv(source).to_parquet(path)
        is_the_graph(load(place))


def arrays():
    masks = np.zeros((3, 6), bool)
    for k, ids in enumerate(([0, 3], [1], [2, 5])):
        masks[k, ids] = True
    return {
        "edges": np.array([[0, 1], [1, 2], [2, 0], [3, 4]]),
        "edge_weight": np.array([1, 2.5, 1, 0.5]),
        "x": np.array(FEATURES),
        "y": np.array([0, 1, 0, 1, -1, 1]),
        "train_mask": masks[0],
        "valid_mask": masks[1],
        "test_mask": masks[2],
    }


def test_npz(tmp_path):
    a = arrays()
    np.savez(tmp_path / "a.npz", **a)
    is_the_graph(load("a.npz"))
    np.savez(tmp_path / "b.npz", **{**a, "edges": a["edges"].T})
    is_the_graph(load(tmp_path / "b.npz"))
    x = sp.csr_matrix(a.pop("x"))
    links = sp.coo_matrix((a.pop("edge_weight"), a.pop("edges").T), (6, 6)).tocsr()
    for part, m in (("adj", links), ("attr", x)):
        a |= {f"{part}_{n}": getattr(m, n) for n in ("data", "indices", "indptr", "shape")}
    np.savez(tmp_path / "c.npz", **a)
    is_the_graph(load("c.npz"))


def test_several_splits_in_an_npz(tmp_path):
    a = arrays()
    old = {s: a.pop(f"{s}_mask") for s in ("train", "valid", "test")}
    turned = {f"{s}_mask": np.stack([m, np.roll(m, 1)], 1) for s, m in old.items()}
    np.savez(tmp_path / "a.npz", **a, **turned)
    assert load("a.npz", seed=0).splits["train"].tolist() == [0, 3]
    assert load("a.npz", seed=1).splits["train"].tolist() == [1, 4]
    assert load("a.npz", seed=5, split_seed=0).splits["train"].tolist() == [0, 3]


# -- what may be left out -----------------------------------------------------------------------


def test_edges_alone_are_a_graph_to_predict_on(folder):
    data = load(write(folder, edges="src,dst\n10,9\n9,2\n"), features=["degree"], split="none")
    assert data.names.tolist() == ["2", "9", "10"], "whole numbers sort as numbers"
    assert data.y.tolist() == [-1, -1, -1]
    assert all(len(ids) == 0 for ids in data.splits.values())
    assert data.weight is None


def test_without_a_split_one_is_drawn(folder):
    nodes = "id,label\n" + "".join(f"{k},{k % 2}\n" for k in range(20))
    write(folder, edges="src,dst\n0,1\n", nodes=nodes)
    data = load(
        folder, features=["degree"], split="per_class", train_per_class=2, valid_per_class=3
    )
    assert [len(i) for i in data.splits.values()] == [4, 6, 10]
    with pytest.raises(
        UsageError, match=r"graph has no public split; type dataset\.split=per_class"
    ):
        load(folder, features=["degree"])


def test_a_graph_without_training_nodes_is_for_predicting_only(folder):
    write(folder, edges=EDGES, nodes=NODES.replace("train", "test"))
    assert [len(i) for i in load(folder, split="none").splits.values()] == [0, 0, 0]
    with pytest.raises(DataError, match="graph: no node is in train"):  # also from the cache
        load(folder)
    masks = {f"{s}_mask": np.zeros(6, bool) for s in ("train", "valid", "test")}
    np.savez("a.npz", **{**arrays(), **masks})
    with pytest.raises(DataError, match=r"a\.npz: no node is in train.* dataset\.split=none"):
        load("a.npz")


def test_several_labels_per_node(folder):
    labels = "id,label\na,red;blue\nb,blue\nc,\nd,green;red\n"
    write(folder, edges="src,dst\na,b\nc,d\n", labels=labels)
    data = load(folder, features=["degree"], split="none")
    assert data.facts["classes"] == ["blue", "green", "red"]
    assert data.task.kind == "multi"
    y = data.y.tolist()
    assert (y[0], y[1], y[3]) == ([1, 0, 1], [1, 0, 0], [0, 1, 1])
    assert data.y[2].isnan().all()
    (folder / "labels.csv").write_text(
        "id,label_blue,label_green,label_red\na,1,0,1\nb,1,0,0\nc,,,\nd,0,1,1\n"
    )
    again = load(folder, features=["degree"], split="none")
    torch.testing.assert_close(again.y, data.y, equal_nan=True)
    assert again.facts["classes"] == data.facts["classes"]


def test_classes_can_be_given_in_order(folder):
    write(folder, edges=EDGES, nodes=NODES)
    data = load(folder, classes=["dog", "fish", "cat"])
    assert data.y.tolist() == [2, 0, 2, 0, -1, 0]
    assert data.task.classes == 3
    with pytest.raises(DataError, match=r"nodes\.csv: column label, row 3: 'dog'; row 5: 'dog'"):
        load(folder, classes=["cat"])


def test_a_changed_table_is_read_again(folder):
    write(folder, edges=EDGES, nodes=NODES)
    is_the_graph(load(folder))
    write(folder, nodes=NODES.replace("a,cat", "a,dog"))
    assert load(folder).y.tolist()[0] == 1
    write(folder, labels="id,label\na,cat\n")  # a table of its own wins over the nodes' column
    assert load(folder).y.tolist() == [0, -1, -1, -1, -1, -1]


def test_paths_are_found_here_or_under_a_data_root(folder, tmp_path, monkeypatch):
    write(folder, edges=EDGES, nodes=NODES)
    is_the_graph(load("graph"))
    monkeypatch.chdir("/")
    is_the_graph(load("graph", root=str(tmp_path)))
    with pytest.raises(DataError, match=r"dataset\.path=not-there: neither a file nor a folder"):
        load("not-there")
    with pytest.raises(DataError, match=r"dataset\.path=null: which graph\?"):
        Custom().load(0)


# -- what is wrong is said with its place -------------------------------------------------------

E, N = EDGES, NODES
MALFORMED = {
    # name: (tables, what the message must hold)
    "no edges": ({"nodes": N}, ["table of edges is missing", "edges.csv"]),
    "empty edges": ({"edges": ""}, ["edges.csv: empty"]),
    "header only": ({"edges": "src,dst\n"}, ["edges.csv: empty"]),
    "blank": ({"edges": "\n\n\n"}, ["edges.csv: empty"]),
    "column missing": ({"edges": "src,to\na,b\n"}, ["edges.csv: column 'dst' is missing", "src, to"]),
    "column misspelt": ({"edges": "src,dts\na,b\n"}, ["column 'dst'", "did you mean 'dts'"]),
    "column twice": ({"edges": "src,src,dst\na,b,c\n"}, ["row 1", "'src' occurs twice"]),
    "column unnamed": ({"edges": "src,dst,\na,b,c\n"}, ["row 1: a column has no name"]),
    "too many fields": ({"edges": "src,dst\na,b\na,b,c\n"}, ["edges.csv: row 3: 3 fields"]),
    "too few fields": ({"edges": "src,dst\na,b\na\n"}, ["edges.csv: row 3: 1 fields where the header has 2"]),
    "short header": ({"edges": "src\na,b\n"}, ["edges.csv"]),
    "blank row inside": ({"edges": "src,dst\na,b\n\nb,a\n"}, ["edges.csv: row 3: 1 fields"]),
    "missing source": ({"edges": "src,dst\na,b\n,b\n"}, ["column src, row 3", "node id"]),
    "missing target": ({"edges": "src,dst\na,\n"}, ["column dst, row 2"]),
    "weight text": ({"edges": "src,dst,weight\na,b,x\n"}, ["column weight, row 2: 'x'", "0 or more"]),
    "weight empty": ({"edges": "src,dst,weight\na,b,\n"}, ["column weight, row 2: ''"]),
    "weight nan": ({"edges": "src,dst,weight\na,b,nan\n"}, ["column weight, row 2: 'nan'"]),
    "weight inf": ({"edges": "src,dst,weight\na,b,inf\n"}, ["column weight, row 2"]),
    "weight negative": ({"edges": "src,dst,weight\na,b,-1\n"}, ["column weight, row 2: '-1'"]),
    "six defects": ({"edges": "src,dst,weight\n" + "a,b,-1\n" * 6}, ["row 2", "row 6", "1 more rows"]),
    "unclosed quote": ({"edges": 'src,dst\n"a,b\n'}, ["edges.csv"]),
    "latin-1": ({"edges": "src,dst\na,é\n".encode("latin-1")}, ["edges.csv", "UTF-8"]),
    "utf-16": ({"edges": "src,dst\na,b\n".encode("utf-16")}, ["edges.csv", "UTF-8"]),
    "nul bytes": ({"edges": b"\x00\x01\x02\x03"}, ["edges.csv"]),
    "unknown node": ({"edges": "src,dst\na,b\nz,a\n", "nodes": N}, ["edges.csv: column src, row 3: 'z'",
                                                                     "nodes.csv has no such node"]),
    "unknown target": ({"edges": "src,dst\na,q\n", "nodes": N}, ["column dst, row 2: 'q'"]),
    "id missing": ({"edges": E, "nodes": "name,x\na,1\n"}, ["nodes.csv: column 'id' is missing"]),
    "id empty": ({"edges": E, "nodes": N + ",cat,train,1,1\n"}, ["nodes.csv: column id, row 8"]),
    "id twice": ({"edges": E, "nodes": N + "a,cat,train,1,1\n"}, ["column id, row 8: 'a'", "already"]),
    "feature text": ({"edges": E, "nodes": N.replace("a,cat,train,1,", "a,cat,train,old,")},
                     ["column age, row 2: 'old'", "encode"]),
    "feature empty": ({"edges": E, "nodes": N.replace("a,cat,train,1,", "a,cat,train,,")},
                      ["column age, row 2: ''"]),
    "feature nan": ({"edges": E, "nodes": N.replace("1e2", "NaN")}, ["column score, row 7: 'NaN'"]),
    "feature inf": ({"edges": E, "nodes": N.replace("1e2", "-inf")}, ["column score, row 7"]),
    "split word": ({"edges": E, "nodes": N.replace("a,cat,train", "a,cat,trian")},
                   ["column split, row 2: 'trian'", "did you mean 'train'"]),
    "no training node": ({"edges": E, "nodes": N.replace("train", "test")}, ["no node is in train"]),
    "features of some": ({"edges": E, "nodes": N, "features": "id,x\na,1\n"},
                         ["features.csv: 5 nodes have no row, the first is 'b'"]),
    "features of others": ({"edges": E, "nodes": N, "features": "id,x\nz,1\n"},
                           ["features.csv: column id, row 2: 'z'"]),
    "features twice": ({"edges": E, "nodes": N, "features": "id,x\na,1\na,2\n"},
                       ["features.csv: column id, row 3: 'a'"]),
    "features without id": ({"edges": E, "features": "x\n1\n"}, ["features.csv: column 'id'"]),
    "feature column text": ({"edges": "src,dst\na,b\n", "features": "id,x\na,1\nb,tall\n"},
                            ["features.csv: column x, row 3: 'tall'"]),
    "labels of others": ({"edges": E, "labels": "id,label\nz,1\n"}, ["labels.csv: column id, row 2: 'z'"]),
    "labels twice": ({"edges": E, "labels": "id,label\na,1\na,2\n"}, ["labels.csv: column id, row 3"]),
    "labels without label": ({"edges": E, "labels": "id,class\na,1\n"},
                             ["labels.csv: column 'label' is missing"]),
    "labels without id": ({"edges": E, "labels": "node,label\na,1\n"}, ["labels.csv: column 'id'"]),
    "flag of two": ({"edges": E, "labels": "id,label_x\na,2\n"}, ["column label_x, row 2: '2'", "0 or 1"]),
    "flag text": ({"edges": E, "labels": "id,label_x\na,yes\n"}, ["column label_x, row 2: 'yes'"]),
    "split of others": ({"edges": E, "split": "id,split\nz,train\n"}, ["split.csv: column id, row 2"]),
    "in two parts": ({"edges": E, "split": "id,split\na,train\na,test\n"},
                     ["split.csv: column id, row 3: 'a'"]),
    "split without split": ({"edges": E, "split": "id,part\na,train\n"}, ["split.csv: column 'split'"]),
    "split word alone": ({"edges": E, "split": "id,split\na,TRAINING\n"}, ["column split, row 2"]),
    "ids differ in case": ({"edges": "src,dst\nA,b\n", "nodes": N}, ["column src, row 2: 'A'"]),
    "semicolons": ({"edges": "src;dst\na;b\n"}, ["column 'src' is missing"]),
    "json": ({"edges": '{"src": ["a"], "dst": ["b"]}'}, ["edges.csv"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_defects_of_tables_are_told_by_file_column_and_row(folder, name):
    tables, said = MALFORMED[name]
    write(folder, **tables)
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(UsageError) as caught:
        load(folder, features=["degree"] if "nodes" not in tables else ["raw"])
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert str(folder) in message
    assert "\n" not in message
    assert sorted(p.name for p in folder.iterdir()) == before


FILES = {
    "broken gzip": ("edges.csv.gz", b"\x1f\x8b\x08rubbish", "edges.csv.gz: can't be read"),
    "no gzip": ("edges.csv.gz", EDGES.encode(), "edges.csv.gz: can't be read"),
    "short gzip": (
        "edges.csv.gz",
        gzip.compress(EDGES.encode())[:-9],
        "edges.csv.gz: can't be read",
    ),
    "broken parquet": ("edges.parquet", b"PAR1rubbishPAR1", "edges.parquet: can't be read as Par"),
    "empty parquet": ("edges.parquet", b"", "edges.parquet: can't be read as Parquet"),
    "csv as parquet": ("edges.parquet", EDGES.encode(), "edges.parquet: can't be read as Parquet"),
    "two of one": ("edges.tsv", EDGES.encode(), "both edges.csv and edges.tsv are there"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read(folder, name):
    file, raw, said = FILES[name]
    if name == "two of one":
        write(folder, edges=EDGES)
    (folder / file).write_bytes(raw)
    with pytest.raises(DataError, match=said.replace(".", r"\.")):
        load(folder, features=["degree"])


def test_gaps_in_a_parquet_table_are_told_too(folder):
    frame = pd.DataFrame({"src": [1, 2, 3], "dst": [2, None, 1], "weight": [1.0, 1.0, None]})
    frame.to_parquet(folder / "edges.parquet")
    with pytest.raises(DataError, match=r"edges\.parquet: column dst, row 2"):
        load(folder, features=["degree"])
    frame["dst"] = [2, 3, 1]
    frame.to_parquet(folder / "edges.parquet")
    with pytest.raises(DataError, match=r"column weight, row 3"):
        load(folder, features=["degree"])


def without(name):
    return lambda a: a.pop(name)


def put(**more):
    return lambda a: a.update(more)


MALFORMED_NPZ = {
    "no edges": (without("edges"), "lacks the array 'edges'"),
    "edges of three": (put(edges=np.zeros((4, 3), int)), r"edges: whole numbers .* not int64 \[4, 3\]"),
    "edges real": (put(edges=np.zeros((4, 2))), "edges: whole numbers"),
    "edges flat": (put(edges=np.arange(4)), "edges: whole numbers"),
    "edges negative": (put(edges=np.array([[0, 1], [-1, 2], [0, 2], [1, 1]])), r"edges, row 1: \[-1, 2\]"),
    "edges beyond": (put(edges=np.array([[0, 1], [0, 6], [0, 2], [1, 1]])), "edges, row 1: .*ids are 0 to 5"),
    "weights short": (put(edge_weight=np.ones(3)), "edge_weight"),
    "weight negative": (put(edge_weight=np.array([1, -1, 1, 1])), "edge_weight, row 1: -1"),
    "weight nan": (put(edge_weight=np.array([1, 1, np.nan, 1])), "edge_weight, row 2: nan"),
    "weight text": (put(edge_weight=np.array(list("abcd"))), "edge_weight: numbers"),
    "x flat": (put(x=np.ones(6)), "x: "),
    "x short": (put(x=np.ones((5, 2)), edges=np.array([[0, 1]]), edge_weight=np.ones(1)), "x: "),
    "x nan": (put(x=np.array([*FEATURES[:5], [np.nan, 1]])), "x, row 5, column 0: not a finite"),
    "x text": (put(x=np.full((6, 2), "a")), "x: numbers are expected"),
    "y short": (put(y=np.zeros(4, int)), "valid ids|y: "),
    "y real": (put(y=np.zeros(6)), "y: .*whole numbers or"),
    "y below": (put(y=np.array([0, -2, 0, 0, 0, 0])), "y, row 1: -2"),
    "y of two": (put(y=np.full((6, 2), 2)), "y: several labels per node"),
    "y cube": (put(y=np.zeros((6, 2, 2))), "y: "),
    "y text": (put(y=np.array(list("abcdef"))), "y: "),
    "mask missing": (without("valid_mask"), "lacks the array 'valid_mask'"),
    "mask short": (put(train_mask=np.zeros(5, bool)), "train_mask: true or false"),
    "mask of ids": (put(train_mask=np.array([0, 3])), "train_mask: true or false"),
    "masks overlap": (put(train_mask=np.ones(6, bool)), "node 1 is in two parts"),
    "masks of two": (put(train_mask=np.zeros((6, 2), bool)), "different numbers of splits"),
    "objects": (put(x=np.array([{}] * 6, object)), "damaged or not an npz|Object arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED_NPZ)
def test_defects_of_an_npz_are_told_by_array_and_row(tmp_path, name):
    change, said = MALFORMED_NPZ[name]
    a = arrays()
    change(a)
    np.savez(tmp_path / "a.npz", **a)
    with pytest.raises(UsageError, match=said) as caught:
        load("a.npz")
    assert "a.npz" in str(caught.value)


def test_how_many_malformed_inputs_there_are():
    assert len(MALFORMED) + len(FILES) + len(MALFORMED_NPZ) >= 85


quick = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EDIT = st.tuples(
    st.sampled_from(["edges", "nodes"]),
    st.integers(0, 200),
    st.integers(0, 3),
    st.binary(max_size=4),
)


@quick
@given(edits=st.lists(EDIT, min_size=1, max_size=3))
def test_any_edit_of_valid_tables_loads_or_is_refused(folder, edits):
    tables = {"edges": EDGES.encode(), "nodes": NODES.encode()}
    for name, at, cut, more in edits:
        raw = tables[name]
        at %= len(raw) + 1
        tables[name] = raw[:at] + more + raw[at + cut :]
    write(folder, **tables)
    try:
        data = load(folder)
    except UsageError:  # any other error is a failure
        pass
    else:
        assert torch.isfinite(dense(data.x)).all()
        assert len(data.y) == data.nodes
    assert sorted(p.name for p in folder.iterdir()) == ["edges.csv", "nodes.csv"]


@quick
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.integers(0, 50))
def test_any_damage_to_an_npz_loads_or_is_refused(tmp_path, at, byte, cut):
    path = Path(tmp_path / "a.npz")
    np.savez(path, **arrays())
    raw = bytearray(path.read_bytes())
    raw[int(at * (len(raw) - 1))] = byte
    path.write_bytes(raw[: len(raw) - cut])
    try:
        data = load(path)
    except UsageError:  # any other error is a failure
        pass
    else:
        assert data.nodes >= 5
