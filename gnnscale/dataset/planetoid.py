"""Cora, CiteSeer and PubMed in the Planetoid files, read by an unpickler that builds only arrays.

Yang, Cohen & Salakhutdinov, Revisiting Semi-Supervised Learning with Graph Embeddings, ICML 2016,
arXiv:1603.08861; files: github.com/kimiyoung/planetoid. Departs from the usual loaders: repeated
citations and self-citations are removed, and CiteSeer's nodes without a label get y = -1, not 0.
"""

import collections
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse

from gnnscale.core.errors import DataError
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote
from gnnscale.graph.simple import simple

SOURCE = "github.com/kimiyoung/planetoid"
SITE = f"https://{SOURCE}/raw/master/data"
SHA256 = {
    "ind.citeseer.allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
    "ind.citeseer.ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
    "ind.citeseer.graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
    "ind.citeseer.test.index": "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
    "ind.citeseer.tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
    "ind.citeseer.ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
    "ind.citeseer.x": "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6",
    "ind.citeseer.y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
    "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
}
"""Of the files at commit af6abf4; PubMed's are not known to us."""
PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
VALID = 500
"""Size of the public validation set, the nodes after the training nodes."""


class Counts(NamedTuple):
    """What the published dataset has, undirected edges without loops."""

    nodes: int
    edges: int
    features: int
    classes: int


COUNTS = {
    "cora": Counts(2708, 5278, 1433, 7),
    "citeseer": Counts(3327, 4552, 3703, 6),
    "pubmed": Counts(19717, 44324, 500, 3),
}


def _dtype(code, align=False, copy=False):
    """Make a fresh numeric dtype; any other kind (objects, records) could hide things."""
    if not re.fullmatch(r"[<>|=]?[biuf][1248]", str(code)):
        raise pickle.UnpicklingError(f"an array of type {code!r}")
    return np.dtype(code, copy=True)


def _array(*_):
    """Start an array empty; a pickle then fills it through numpy's own checked ``setstate``."""
    return np.empty(0, np.int8)


class _Unpickler(pickle.Unpickler):
    """Knows seven names and hands out stand-ins, so that a file can build arrays and run nothing.

    The stand-ins are made anew per file: a pickle may set attributes on classes it is given.
    """

    def __init__(self, file, path: Path):
        super().__init__(file, encoding="latin1")
        self.path = path
        matrix, marker = type("Matrix", (), {}), type("Marker", (), {})
        self.known = {
            ("numpy", "dtype"): _dtype,
            ("numpy", "ndarray"): marker,  # only ever an argument of _reconstruct
            ("numpy.core.multiarray", "_reconstruct"): _array,
            ("numpy._core.multiarray", "_reconstruct"): _array,
            ("scipy.sparse.csr", "csr_matrix"): matrix,
            ("scipy.sparse._csr", "csr_matrix"): matrix,
            ("collections", "defaultdict"): collections.defaultdict,
            ("builtins", "list"): list,
        }

    def find_class(self, module: str, name: str):
        """Answer a name the file asks for, or refuse the file."""
        module = "builtins" if module == "__builtin__" else module
        if (module, name) not in self.known:
            raise DataError(
                f"{self.path}: refused, it asks for '{module}.{name}', and Planetoid files hold "
                f"only arrays, sparse matrices and lists; get the original from {SOURCE}"
            )
        return self.known[module, name]


def _corrupt(path: Path, what: object) -> DataError:
    return DataError(f"{path}: truncated or corrupt: {what}; get the original from {SOURCE}")


def _unpickle(path: Path):
    try:
        with path.open("rb") as file:
            return _Unpickler(file, path).load()
    except DataError:
        raise
    except Exception as cause:  # a damaged pickle raises nearly anything
        raise _corrupt(path, f"{type(cause).__name__}: {cause}") from cause


def _dense(path: Path, cells: int) -> np.ndarray:
    """Read an array or sparse matrix as float32, [rows, columns], of at most ``cells`` entries."""
    value = _unpickle(path)
    try:
        if hasattr(value, "indptr"):  # scipy has named the size both ways
            rows, columns = getattr(value, "_shape", None) or value.shape
            if rows * columns > cells:
                raise ValueError(f"size {rows} x {columns}")
            parts = (value.data, value.indices, value.indptr)
            matrix = scipy.sparse.csr_matrix(parts, shape=(rows, columns))
            matrix.check_format(full_check=True)
            value = matrix.toarray()
        value = np.asarray(value, dtype=np.float32)
    except Exception as cause:  # whatever the attributes turn out to be
        raise _corrupt(path, f"not a matrix: {cause}") from cause
    if value.ndim != 2 or not np.isfinite(value).all():
        raise _corrupt(path, f"a finite matrix was expected, not shape {value.shape}")
    return value


def _ids(path: Path) -> np.ndarray:
    try:
        ids = np.array(path.read_text("ascii").split(), dtype=np.int64)
    except (ValueError, OverflowError) as cause:
        raise _corrupt(path, f"one node id per line was expected; {cause}") from cause
    if len(ids) == 0 or len(np.unique(ids)) < len(ids):
        raise _corrupt(path, f"{len(ids)} node ids, {len(np.unique(ids))} distinct")
    return ids


def _edges(path: Path, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """(src, dst) of the neighbour lists, as listed."""
    lists = _unpickle(path)
    if not isinstance(lists, dict) or not all(isinstance(v, list) for v in lists.values()):
        raise _corrupt(path, "lists of neighbours by node were expected")
    ends = [list(lists), [j for row in lists.values() for j in row]]
    for ids in ends:
        if not ids or {type(i) for i in ids} != {int} or min(ids) < 0 or max(ids) >= nodes:
            raise _corrupt(path, f"node ids from 0 to {nodes - 1} were expected, as in the others")
    return np.array(ends[1]), np.repeat(ends[0], [len(row) for row in lists.values()])


@dataclass(frozen=True)
class Planetoid(Stored):
    """A citation network: papers, bag-of-words features, topics as classes.

    Nodes keep the files' order: training nodes first, then other labelled nodes, then the test
    nodes at the ids of ``test.index``. CiteSeer lacks 15 of the latter: zero features, y = -1.
    The public split has 20 training nodes per class, 500 to validate, 1000 to test.

    Args:
        name: which one. Others: ``Stored``; ``normalize=row`` is Kipf & Welling's (sec. 5.2).

    Shapes: x [N, F] float32, y [N] int64.
    Raises: DataError if files are missing, corrupt, not the published ones or ask for code.
    """

    name: Literal["cora", "citeseer", "pubmed"] = "cora"

    @property
    def folder(self) -> str:
        """As the files' source is called."""
        return "planetoid"

    def files(self) -> Sequence[Remote]:
        """Eight files."""
        names = [f"ind.{self.name}.{part}" for part in PARTS]
        return [Remote(name, f"{SITE}/{name}", SHA256.get(name)) for name in names]

    def read(self, folder: Path) -> Raw:
        """Features, labels, edges and the public split, by node id."""
        path = {part: folder / f"ind.{self.name}.{part}" for part in PARTS}
        x, labels, public = self._rows(path)
        src, dst = _edges(path["graph"], len(x))
        graph, _ = simple(src, dst, len(x))
        found = Counts(len(x), graph.n_edges // 2, x.shape[1], labels.shape[1])
        if found != COUNTS[self.name]:
            raise _corrupt(folder, f"{found} where {self.name} has {COUNTS[self.name]}")
        facts = {
            "nodes_with_loops": len(np.unique(src[src == dst])),
            "unlabelled": int((labels.sum(1) == 0).sum()),
            "without_features": int((x == 0).all(1).sum()),
        }
        y = np.where(labels.any(1), labels.argmax(1), -1)
        return Raw(src, dst, len(x), y, found.classes, x, [public], facts=facts)

    def _rows(self, path: dict[str, Path]):
        """Features [N, F], labels [N, C] (one-hot or zero) and public split, by node id."""
        cells = COUNTS[self.name].nodes * COUNTS[self.name].features
        rows = {part: _dense(path[part], cells) for part in PARTS[:6]}
        test = _ids(path["test.index"])
        known = len(rows["allx"])
        for less, more in (("x", "y"), ("allx", "ally"), ("tx", "ty")):
            if len(rows[less]) != len(rows[more]):
                raise _corrupt(
                    path[less], f"{len(rows[less])} rows, {path[more].name} has {len(rows[more])}"
                )
        for a, b in (("allx", "x"), ("allx", "tx"), ("ally", "y"), ("ally", "ty")):
            if rows[a].shape[1] != rows[b].shape[1]:
                raise _corrupt(
                    path[b], f"{rows[b].shape[1]} columns, {path[a].name} has {rows[a].shape[1]}"
                )
        if len(test) != len(rows["tx"]):
            raise _corrupt(
                path["test.index"], f"{len(test)} ids, {path['tx'].name} has {len(rows['tx'])} rows"
            )
        if test.min() < known or test.max() >= known + 2 * len(test):
            raise _corrupt(path["test.index"], f"test nodes must follow the {known} rows of allx")
        if len(rows["x"]) + VALID > known:
            raise _corrupt(path["allx"], f"{known} rows do not hold x and {VALID} to validate")
        nodes = int(test.max()) + 1
        x = np.zeros((nodes, rows["allx"].shape[1]), np.float32)
        labels = np.zeros((nodes, rows["ally"].shape[1]), np.float32)
        x[:known], x[test] = rows["allx"], rows["tx"]
        labels[:known], labels[test] = rows["ally"], rows["ty"]
        if not np.isin(labels, (0, 1)).all() or labels.sum(1).max() > 1:
            raise _corrupt(path["ally"], "labels must be one-hot")
        train = len(rows["x"])
        public = {
            "train": np.arange(train),
            "valid": np.arange(train, train + VALID),
            "test": np.sort(test),
        }
        return x, labels, public
