import os
import pickle
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from gnnscale.core.errors import DataError
from gnnscale.dataset import planetoid
from gnnscale.dataset.planetoid import PARTS, Counts, Planetoid

SHARED = Path(__file__).parents[3] / "shared" / "data"


def real(name):
    """A data root with the true files, or skip."""
    given = os.environ.get("GNNSCALE_DATA", "").split(os.pathsep)
    for root in [*filter(None, given), SHARED]:
        if (Path(root) / "planetoid" / f"ind.{name}.graph").exists():
            return str(root)
    pytest.skip(f"planetoid/ind.{name}.* is neither in $GNNSCALE_DATA nor in {SHARED}")


def save(path, value):
    path.write_bytes(pickle.dumps(value, protocol=4))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Six nodes in the format: 0, 1 train; 2 valid; tests 5 and 3; 4 is missing, as in CiteSeer."""
    monkeypatch.setattr(planetoid, "VALID", 1)
    monkeypatch.setitem(planetoid.COUNTS, "cora", Counts(6, 6, 3, 2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "planetoid"
    folder.mkdir()
    allx = np.array([[1, 1, 0], [0, 2, 0], [0, 0, 1]], np.float32)
    ally = np.array([[1, 0], [0, 1], [1, 0]])
    tx = np.array([[3, 0, 1], [0, 0, 5]], np.float32)
    ty = np.array([[0, 1], [1, 0]])
    graph = {0: [1, 1, 2], 1: [0, 5], 2: [0, 2], 3: [2], 4: [], 5: [1, 3]}
    sparse = scipy.sparse.csr_matrix
    values = {"x": sparse(allx[:2]), "y": ally[:2], "tx": sparse(tx), "ty": ty}
    values |= {"allx": sparse(allx), "ally": ally, "graph": defaultdict(list, graph)}
    values["graph"][4].append(0)
    for part, value in values.items():
        save(folder / f"ind.cora.{part}", value)
    (folder / "ind.cora.test.index").write_text("5\n3\n")
    return folder


def test_six_nodes_by_hand(small):
    data = Planetoid("cora", root=str(small.parent)).load(0)
    want = [[1, 1, 0], [0, 2, 0], [0, 0, 1], [0, 0, 5], [0, 0, 0], [3, 0, 1]]
    assert data.x.tolist() == want
    assert data.y.tolist() == [0, 1, 0, 0, -1, 1]
    assert data.graph.indptr.tolist() == [0, 3, 5, 7, 9, 10, 12]
    assert data.graph.indices.tolist() == [1, 2, 4, 0, 5, 0, 3, 2, 5, 0, 1, 3]
    splits = {name: ids.tolist() for name, ids in data.splits.items()}
    assert splits == {"train": [0, 1], "valid": [2], "test": [3, 5]}
    facts = {"edges_given": 11, "loops_removed": 1, "duplicates_removed": 1, "unlabelled": 1}
    assert facts.items() <= data.facts.items()


def test_rows_sum_to_one_or_stay_zero(small):
    x = Planetoid("cora", root=str(small), normalize="row").load(0).x
    assert torch.allclose(x.sum(1), torch.tensor([1.0, 1, 1, 1, 0, 1]))
    assert torch.allclose(x[5], torch.tensor([0.75, 0, 0.25]))


class Shell:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (pickle.dumps(Shell(), protocol=2), f"{os.name}.system"),
        (pickle.dumps(Shell(), protocol=4), f"{os.name}.system"),
        (b'cbuiltins\neval\n(S\'open("executed", "w")\'\ntR.', "builtins.eval"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", "numpy.ndarray.dumps"),
        (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
    ],
)
@pytest.mark.parametrize("part", ["allx", "graph"])
def test_code_is_refused_and_not_run(small, attack, name, part):
    (small / f"ind.cora.{part}").write_bytes(attack)
    with pytest.raises(DataError, match=f"{part}: refused, it asks for '{name}'"):
        Planetoid("cora", root=str(small)).load(0)
    assert not Path("executed").exists()


def test_object_arrays_are_refused(small):
    save(small / "ind.cora.ally", np.array([[object.__name__]], dtype=object))
    with pytest.raises(DataError, match=r"ally: truncated or corrupt: .*an array of type 'O8'"):
        Planetoid("cora", root=str(small)).load(0)


def test_a_file_cannot_alter_classes(small):
    # BUILD with slot state sets attributes on whatever lies on the stack, here on a class
    attack = b"\x80\x02cscipy.sparse.csr\ncsr_matrix\nN}U\x07toarrayK\x01s\x86b."
    (small / "ind.cora.allx").write_bytes(attack)
    with pytest.raises(DataError, match="allx: truncated or corrupt"):
        Planetoid("cora", root=str(small)).load(0)
    assert callable(scipy.sparse.csr_matrix.toarray)


@pytest.mark.parametrize("part", [p for p in PARTS if p != "test.index"])
def test_truncated(small, part):
    path = small / f"ind.cora.{part}"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"ind\.cora\.{part}: truncated or corrupt"):
        Planetoid("cora", root=str(small)).load(0)


@pytest.mark.parametrize(
    ("part", "value", "match"),
    [
        ("tx", scipy.sparse.csr_matrix(np.ones((3, 3))), "3 rows, ind.cora.ty has 2"),
        ("tx", scipy.sparse.csr_matrix(np.ones((2, 4))), "4 columns, ind.cora.allx has 3"),
        ("tx", scipy.sparse.csr_matrix((2, 10**9)), "size 2 x 1000000000"),
        ("x", np.full((2, 3), np.nan), "finite"),
        ("ally", np.ones((3, 2)), "one-hot"),
        ("graph", {0: [6]}, "node ids from 0 to 5"),
        ("graph", {0: ["1"]}, "node ids"),
        ("graph", [1, 2], "lists of neighbours by node"),
        ("graph", {0: [1]}, "edges=1"),
    ],
)
def test_files_that_disagree(small, part, value, match):
    save(small / f"ind.cora.{part}", value)
    with pytest.raises(DataError, match=match):
        Planetoid("cora", root=str(small)).load(0)


@pytest.mark.parametrize(
    ("text", "match"),
    [("5\n", "1 ids"), ("5\n5\n", "distinct"), ("5\nx\n", "per line"), ("1\n3\n", "follow the 3")],
)
def test_wrong_test_index(small, text, match):
    (small / "ind.cora.test.index").write_text(text)
    with pytest.raises(DataError, match=f"test.index: .*{match}"):
        Planetoid("cora", root=str(small)).load(0)


def test_missing_files(small, monkeypatch):
    monkeypatch.delenv("GNNSCALE_DATA", raising=False)
    for part in ("ty", "graph"):
        (small / f"ind.cora.{part}").unlink()
    with pytest.raises(DataError, match=r"missing: ind\.cora\.ty, ind\.cora\.graph; .*GNNSCALE_DA"):
        Planetoid("cora", root=str(small.parent), download=False).load(0)


@pytest.mark.parametrize(
    ("name", "classes", "loops", "unlabelled"), [("cora", 7, 0, 0), ("citeseer", 6, 124, 15)]
)
def test_published_counts(name, classes, loops, unlabelled):
    root = real(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Planetoid(name, root=root).load(0)
    nodes, edges, features = {"cora": (2708, 5278, 1433), "citeseer": (3327, 4552, 3703)}[name]
    assert (data.nodes, data.graph.n_edges, data.x.shape[1]) == (nodes, 2 * edges, features)
    assert (data.task.classes, data.facts["nodes_with_loops"]) == (classes, loops)
    assert [len(data.splits[s]) for s in ("train", "valid", "test")] == [20 * classes, 500, 1000]
    assert torch.cat(list(data.splits.values())).unique().numel() == 20 * classes + 1500
    assert data.y[data.splits["train"]].bincount().tolist() == [20] * classes
    assert all((data.y[ids] >= 0).all() for ids in data.splits.values())
    assert (data.y < 0).sum() == data.facts["without_features"] == unlabelled
    homophily = (data.y[data.graph.dst] == data.y[data.graph.indices]).float().mean().item()
    assert homophily == pytest.approx({"cora": 0.810, "citeseer": 0.736}[name], abs=0.002)


def test_drawn_split_follows_the_seed():
    root = real("citeseer")
    a, b = (Planetoid("citeseer", root=root, split="per_class").load(s).splits for s in (0, 1))
    c = Planetoid("citeseer", root=root, split="per_class", split_seed=0).load(1).splits
    assert [len(ids) for ids in a.values()] == [120, 180, 3312 - 300]
    assert not a["train"].equal(b["train"])
    assert all(a[name].equal(c[name]) for name in a)
