"""Cora, CiteSeer and PubMed in the Planetoid files, read by an unpickler that builds only arrays.

Yang, Cohen & Salakhutdinov, Revisiting Semi-Supervised Learning with Graph Embeddings, ICML 2016,
arXiv:1603.08861; files: github.com/kimiyoung/planetoid. Departs from the usual loaders: repeated
citations and self-citations are removed, and CiteSeer's nodes without a label get y = -1, not 0.
"""

import collections
import pickle
import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import DataError
from gnnscale.core.random import Key
from gnnscale.core.values import Count, Whole
from gnnscale.dataset._base import Dataset, find, per_class_split
from gnnscale.graph.simple import simple

SOURCE = "github.com/kimiyoung/planetoid"
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


class Planetoid(Dataset):
    """A citation network: papers, bag-of-words features, topics as classes.

    Nodes keep the files' order: training nodes first, then other labelled nodes, then the test
    nodes at the ids of ``test.index``. CiteSeer lacks 15 of the latter: zero features, y = -1.

    Args:
        name: which one.
        root: data folder(s); None: $GNNSCALE_DATA, then ./data. The files lie in it or in its
            ``planetoid/``.
        normalize: ``row`` divides features by their sum per node (Kipf & Welling, sec. 5.2).
        split: ``public`` (20 per class, 500, 1000) or ``per_class``, drawn by seed.
        train_per_class, valid_per_class: for ``per_class``; every other labelled node is tested.
        split_seed: for ``per_class``; None: the run's seed.

    Shapes: x [N, F] float32, y [N] int64.
    Raises: DataError if files are missing, corrupt, not the published ones or ask for code.
    """

    def __init__(
        self,
        name: Literal["cora", "citeseer", "pubmed"] = "cora",
        root: str | None = None,
        normalize: Literal["row", "none"] = "row",
        split: Literal["public", "per_class"] = "public",
        train_per_class: Count = 20,
        valid_per_class: Count = 30,
        split_seed: Whole | None = None,
    ):
        self.name, self.root, self.normalize, self.split = name, root, normalize, split
        self.train_per_class, self.valid_per_class = train_per_class, valid_per_class
        self.split_seed = split_seed

    def load(self, seed: int) -> GraphData:
        """Read the graph; ``seed`` matters only to ``split=per_class`` without a ``split_seed``."""
        folder = find(self.root, "planetoid", [f"ind.{self.name}.{part}" for part in PARTS])
        path = {part: folder / f"ind.{self.name}.{part}" for part in PARTS}
        x, labels, public = self._rows(path)
        src, dst = _edges(path["graph"], len(x))
        graph, facts = simple(src, dst, len(x))
        found = Counts(len(x), graph.n_edges // 2, x.shape[1], labels.shape[1])
        if found != COUNTS[self.name]:
            raise _corrupt(folder, f"{found} where {self.name} has {COUNTS[self.name]}")
        facts |= {
            "edges": found.edges,
            "nodes_with_loops": len(np.unique(src[src == dst])),
            "unlabelled": int((labels.sum(1) == 0).sum()),
            "without_features": int((x == 0).all(1).sum()),
            "features": "divided by their sum per node" if self.normalize == "row" else "raw",
        }
        if self.normalize == "row":
            total = x.sum(1, keepdims=True)
            x /= np.where(total == 0, 1, total)
        y = torch.from_numpy(np.where(labels.any(1), labels.argmax(1), -1))
        return GraphData(
            name=self.name,
            graph=graph,
            x=torch.from_numpy(x),
            y=y,
            splits=public if self.split == "public" else self._drawn(y, seed),
            task=Task("node", "single", found.classes),
            facts=facts,
        )

    def _drawn(self, y: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
        key = Key(seed if self.split_seed is None else self.split_seed, "dataset.planetoid.split")
        return per_class_split(y, self.train_per_class, self.valid_per_class, key)

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
            "train": torch.arange(train),
            "valid": torch.arange(train, train + VALID),
            "test": torch.from_numpy(np.sort(test)),
        }
        return x, labels, public
