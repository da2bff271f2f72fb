"""Your own graph: an npz file, or a folder of CSV or Parquet tables (docs/your-own-graph.md)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gnnscale.core.errors import DataError, closest
from gnnscale.dataset._arrays import arrays, matrix
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote, roots
from gnnscale.dataset._tables import FORMATS, Table, find, index_of

TABLES = ("edges", "nodes", "features", "labels", "split")
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
RESERVED = ("id", "label", "split")
NAMES = {  # what an npz may call each part, ours first
    "edges": ("edges", "edge_index"),
    "weight": ("edge_weight", "weight"),
    "x": ("x", "features", "node_features"),
    "y": ("y", "labels", "node_labels"),
    "train": ("train_mask", "train_masks"),
    "valid": ("valid_mask", "val_mask", "valid_masks", "val_masks"),
    "test": ("test_mask", "test_masks"),
}


@dataclass(frozen=True)
class Custom(Stored):
    """A graph of the user's.

    Tables: ``edges`` (src, dst, optionally weight); optionally ``nodes`` (id, label, split and
    feature columns), or ``features``, ``labels`` and ``split``, each with a column id. Ids may be
    text. An empty label is unknown; several labels are joined by ``;`` or stand in columns
    ``label_*`` of 0 and 1. An npz holds the same by the names in ``NAMES``.

    Args:
        path: the file or folder; also looked for under the data roots.
        classes: names of the classes, in order; None: those found, sorted. Others: ``Stored``.

    Shapes: x [N, F] float32, y [N] int64 or [N, C] float32.
    Raises: DataError with file, column and row of what is wrong.
    """

    path: str | None = None
    classes: list[str] | None = field(default=None)

    def place(self) -> Path:
        """Where the graph is. Raises DataError if it is nowhere."""
        if self.path is None:
            raise DataError(
                "dataset.path=null: which graph? type dataset.path=FILE.npz, or "
                "dataset.path=FOLDER with edges.csv in it (docs/your-own-graph.md)"
            )
        tried = [Path(self.path).expanduser(), *(base / self.path for base in roots(self.root))]
        for place in tried:
            if place.is_file() and place.suffix != ".npz":
                raise DataError(f"{place}: an .npz file or a folder of tables is expected")
            if place.exists():
                return place
        raise DataError(
            f"dataset.path={self.path}: neither a file nor a folder; searched "
            f"{', '.join(str(p.absolute()) for p in tried)}"
        )

    @property
    def title(self) -> str:
        """The name of the file or folder."""
        return "custom" if self.path is None else Path(self.path).stem

    def locate(self) -> Path:
        """The folder of the files."""
        place = self.place()
        return place if place.is_dir() else place.parent

    def files(self) -> Sequence[Remote]:
        """Every file that is read."""
        place = self.place()
        if place.is_file():
            return [Remote(place.name)]
        paths = [find(place, name) for name in TABLES]
        if paths[0] is None:
            forms = ", ".join(f"edges{f}" for f in FORMATS)
            raise DataError(f"{place}: the table of edges is missing; one of {forms} is expected")
        return [Remote(path.name) for path in paths if path is not None]

    def read(self, folder: Path) -> Raw:
        """The arrays or tables."""
        place = self.place()
        return self._npz(place) if place.is_file() else self._folder(place)

    # -- tables ---------------------------------------------------------------------------------

    def _folder(self, folder: Path) -> Raw:
        import pandas as pd

        found = {name: find(folder, name) for name in TABLES}
        tables = {name: Table(path) for name, path in found.items() if path is not None}
        edges = tables["edges"]
        edges.need("src", "dst")
        ends = [edges.ids(name) for name in ("src", "dst")]
        weight = edges.numbers("weight", 0.0) if "weight" in edges.frame.columns else None
        for table in list(tables.values())[1:]:
            table.need("id")
        owner = tables.get("nodes") or tables.get("features")
        ids = _sorted(np.concatenate(ends)) if owner is None else owner.ids("id")
        known = pd.Index(ids)
        if owner is not None:
            owner.fail("id", known.duplicated(), "this node has a row already")
        where = "the table of edges" if owner is None else owner.path.name
        src, dst = (
            index_of(edges, name, values, known, where)
            for name, values in zip(("src", "dst"), ends, strict=True)
        )
        x, columns = self._inputs(tables, known)
        y, classes = self._labels(tables, known, where)
        split = self._parts(tables, known, where)
        return Raw(
            src, dst, len(ids), y, len(classes), x, [split] if split else [], weight,
            names=ids, facts={"classes": classes, "columns": columns},
        )  # fmt: skip

    def _rows(self, table: Table, known: Any, where: str, whole: bool = False) -> np.ndarray:
        """The node of each row of a table; every node must have one if ``whole``."""
        import pandas as pd

        ids = table.ids("id")
        table.fail("id", pd.Index(ids).duplicated(), "this node has a row already")
        at = index_of(table, "id", ids, known, where)
        if whole and len(at) < len(known):
            lost = known[np.setdiff1d(np.arange(len(known)), at)]
            raise DataError(
                f"{table.path}: {len(lost)} nodes have no row, the first is '{lost[0]}'; every "
                "node needs its features"
            )
        return at

    def _inputs(self, tables: dict[str, Table], known: Any) -> tuple[Any, list[str]]:
        table = tables.get("features") or tables.get("nodes")
        if table is None:
            return None, []
        columns = [
            c for c in table.frame.columns if c not in RESERVED and not c.startswith("label_")
        ]
        if not columns:
            return None, []
        at = self._rows(table, known, "the table of nodes", whole=True)
        x = np.empty((len(known), len(columns)), np.float32)
        advice = "; encode text as numbers, e.g. one column of 0 and 1 per value"
        for k, column in enumerate(columns):
            x[at, k] = table.numbers(column, advice=advice)
        return x, columns

    def _labels(
        self, tables: dict[str, Table], known: Any, where: str
    ) -> tuple[np.ndarray, list[str]]:
        table = tables.get("labels") or tables.get("nodes")
        flags = [] if table is None else [c for c in table.frame.columns if c.startswith("label_")]
        if table is None or not (flags or "label" in table.frame.columns):
            if "labels" in tables:
                tables["labels"].need("label")
            return np.full(len(known), -1, np.int64), list(self.classes or ["0"])
        at = self._rows(table, known, where)
        if flags:
            return self._flags(table, flags, at, len(known))
        said = table.text("label")
        lists = np.char.find(said, ";") >= 0
        if lists.any():
            rows, words = _pieces(said)
        else:
            rows = np.flatnonzero(said != "")
            words = said[rows]
        classes = list(self.classes) if self.classes else list(_sorted(words))
        code = {name: k for k, name in enumerate(classes)}
        wrong = np.zeros(len(said), bool)
        wrong[rows] = [w not in code for w in words]
        listed = ", ".join(classes[:8])
        table.fail("label", wrong, f"not among dataset.classes: {listed}")
        codes = np.array([code[w] for w in words], np.int64)
        if lists.any():
            y = np.full((len(known), len(classes)), np.nan, np.float32)
            y[at[np.unique(rows)]] = 0
            y[at[rows], codes] = 1
            return y, classes
        y = np.full(len(known), -1, np.int64)
        y[at[rows]] = codes
        return y, classes or ["0"]

    def _flags(
        self, table: Table, flags: list[str], at: np.ndarray, nodes: int
    ) -> tuple[np.ndarray, list[str]]:
        names = [c.removeprefix("label_") for c in flags]
        if self.classes and names != self.classes:
            raise DataError(
                f"{table.path}: the columns {', '.join(flags)} are not dataset.classes="
                f"[{','.join(self.classes)}], in that order"
            )
        y = np.full((nodes, len(flags)), np.nan, np.float32)
        for k, column in enumerate(flags):
            known = table.text(column) != ""
            values = np.full(len(known), np.nan)
            said = table.text(column)
            table.fail(column, known & ~np.isin(said, ["0", "1", "0.0", "1.0", "True", "False"]),
                       "0 or 1 is expected, or nothing where it is unknown")  # fmt: skip
            values[known] = np.isin(said[known], ["1", "1.0", "True"])
            y[at, k] = values
        y[np.isnan(y).any(1)] = np.nan
        return y, names

    def _parts(
        self, tables: dict[str, Table], known: Any, where: str
    ) -> dict[str, np.ndarray] | None:
        table = tables.get("split") or tables.get("nodes")
        if table is None or "split" not in table.frame.columns:
            if "split" in tables:
                tables["split"].need("split")
            return None
        at = self._rows(table, known, where)
        said = np.char.lower(table.text("split"))
        wrong = (said != "") & ~np.isin(said, list(SPLITS))
        near = closest(str(said[wrong][0]), SPLITS) if wrong.any() else ""
        table.fail("split", wrong, f"train, valid or test is expected{near}")
        meant = np.array([SPLITS.get(word, "") for word in said])
        parts = {name: np.sort(at[meant == name]) for name in ("train", "valid", "test")}
        if self.split == "public" and not len(parts["train"]):
            raise DataError(f"{table.path}: column split: no node is in train")
        return parts

    # -- npz ------------------------------------------------------------------------------------

    def _npz(self, path: Path) -> Raw:
        a = arrays(path)
        named = {part: next((n for n in names if n in a), None) for part, names in NAMES.items()}
        part = {k: a[n] for k, n in named.items() if n is not None}
        src, dst, weight, least = self._ends(path, a, part)
        x = matrix(path, a, "attr_") if "attr_data" in a else part.get("x")
        y = part.get("y")
        nodes = max(least, 0 if x is None else x.shape[0], 0 if y is None else len(y))
        if x is not None:
            _shape(path, named["x"] or "attr_*", (*x.shape[:1], x.ndim), (nodes, 2))
            x = _finite(path, named["x"] or "attr_data", x)
        y, classes = self._targets(path, named["y"], y, nodes)
        return Raw(
            src, dst, nodes, y, len(classes), x, self._masks(path, named, part, nodes), weight,
            facts={"classes": classes, "columns": []},
        )  # fmt: skip

    def _ends(
        self, path: Path, a: dict[str, np.ndarray], part: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int]:
        """(src, dst, weights or None, least number of nodes)."""
        if "adj_data" in a:
            links = matrix(path, a, "adj_").tocoo()
            _shape(path, "adj_shape", links.shape[:1], links.shape[1:])
            ones = (links.data == 1).all()
            weight = None if ones else _positive(path, "adj_data", links.data)
            return links.row, links.col, weight, links.shape[0]
        if "edges" not in part:
            raise DataError(f"{path}: lacks the array 'edges' [E, 2] (or adj_data, adj_indices, "
                            "adj_indptr, adj_shape)")  # fmt: skip
        edges = part["edges"]
        if edges.ndim != 2 or 2 not in edges.shape or edges.dtype.kind not in "iu":
            raise DataError(
                f"{path}: edges: whole numbers in the shape [E, 2] or [2, E] are expected, not "
                f"{edges.dtype} {list(edges.shape)}"
            )
        edges = edges if edges.shape[1] == 2 else edges.T
        if len(edges) and edges.min() < 0:
            row = int(np.flatnonzero((edges < 0).any(1))[0])
            raise DataError(f"{path}: edges, row {row}: {edges[row].tolist()}: ids start at 0")
        weight = part.get("weight")
        if weight is not None:
            _shape(path, "edge_weight", weight.shape, (len(edges),))
            weight = _positive(path, "edge_weight", weight)
        most = int(edges.max()) + 1 if len(edges) else 0
        rows = [part[n].shape[0] for n in ("x", "y") if n in part and part[n].ndim]
        if rows and most > rows[0]:
            row = int(np.flatnonzero((edges >= rows[0]).any(1))[0])
            raise DataError(
                f"{path}: edges, row {row}: {edges[row].tolist()}: valid ids are 0 to {rows[0] - 1}"
            )
        return edges[:, 0], edges[:, 1], weight, most

    def _targets(
        self, path: Path, name: str | None, y: np.ndarray | None, nodes: int
    ) -> tuple[np.ndarray, list[str]]:
        if y is None:
            return np.full(nodes, -1, np.int64), list(self.classes or ["0"])
        _shape(path, str(name), y.shape[:1], (nodes,))
        if y.ndim == 1 and y.dtype.kind in "iu":
            if y.min(initial=0) < -1:
                row = int(np.flatnonzero(y < -1)[0])
                raise DataError(
                    f"{path}: {name}, row {row}: {y[row]}: classes start at 0, -1: unknown"
                )
            count = max(int(y.max(initial=0)) + 1, len(self.classes or ()))
            names = self.classes or [str(c) for c in range(count)]
            if len(names) < count:
                raise DataError(
                    f"{path}: {name}: {count} classes, dataset.classes names {len(names)}"
                )
            return y.astype(np.int64), list(names)
        if y.ndim == 2 and y.dtype.kind in "biuf":
            y = y.astype(np.float32)
            if not np.isin(y[~np.isnan(y)], (0, 1)).all():
                raise DataError(
                    f"{path}: {name}: several labels per node are 0, 1 or NaN (unknown)"
                )
            y[np.isnan(y).any(1)] = np.nan
            return y, list(self.classes or [str(c) for c in range(y.shape[1])])
        raise DataError(
            f"{path}: {name}: [N] whole numbers or [N, C] of 0 and 1 expected, not {y.dtype} "
            f"{list(y.shape)}"
        )

    def _masks(
        self, path: Path, named: dict[str, Any], part: dict[str, np.ndarray], nodes: int
    ) -> list[dict[str, np.ndarray]]:
        given = [s for s in ("train", "valid", "test") if s in part]
        if not given:
            return []
        if len(given) < 3:
            lost = next(s for s in ("train", "valid", "test") if s not in part)
            raise DataError(f"{path}: lacks the array '{NAMES[lost][0]}'; it has those of {given}")
        masks = {}
        for split in given:
            mask = part[split]
            mask = mask[None] if mask.ndim == 1 else mask
            mask = mask if mask.ndim != 2 or mask.shape[1] == nodes else mask.T
            if mask.ndim != 2 or mask.shape[1] != nodes or mask.dtype != bool:
                raise DataError(
                    f"{path}: {named[split]}: true or false in the shape [{nodes}] or "
                    f"[{nodes}, splits] expected, not {part[split].dtype} {list(part[split].shape)}"
                )
            masks[split] = mask
        counts = {s: len(m) for s, m in masks.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"{path}: masks of different numbers of splits: {counts}")
        twice = np.argwhere(np.stack(list(masks.values())).sum(0) > 1)
        if len(twice):
            raise DataError(f"{path}: node {twice[0][1]} is in two parts of split {twice[0][0]}")
        return [{s: np.flatnonzero(m[k]) for s, m in masks.items()} for k in range(len(mask))]


def _sorted(values: np.ndarray) -> np.ndarray:
    """Distinct words, by number if all of them are whole numbers."""
    found = np.unique(values)
    digits = np.char.isdecimal(np.char.lstrip(found, "-")) if len(found) else np.array([], bool)
    short = np.char.str_len(found) < 18 if len(found) else digits
    return (
        found[np.argsort(found.astype(np.int64), kind="stable")]
        if (digits & short).all()
        else found
    )


def _pieces(said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, word) of every word of lists joined by ``;``."""
    pairs = [(r, w.strip()) for r, s in enumerate(said) if s for w in s.split(";") if w.strip()]
    rows = np.array([r for r, _ in pairs], np.int64)
    return rows, np.array([w for _, w in pairs], str)


def _shape(path: Path, name: str, found: tuple, wanted: tuple) -> None:
    if tuple(found) != tuple(wanted):
        raise DataError(f"{path}: {name}: {list(found)} rows where {list(wanted)} are expected")


def _finite(path: Path, name: str, x: Any) -> Any:
    values = x.data if sp.issparse(x) else x
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name}: numbers are expected, not {values.dtype}")
    if not np.isfinite(values).all():
        at = np.argwhere(~np.isfinite(x.toarray() if sp.issparse(x) else x))[0]
        raise DataError(f"{path}: {name}, row {at[0]}, column {at[1]}: not a finite number")
    return x


def _positive(path: Path, name: str, w: np.ndarray) -> np.ndarray:
    if w.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name}: numbers are expected, not {w.dtype}")
    wrong = np.flatnonzero(~(np.isfinite(w) & (w >= 0)))
    if len(wrong):
        raise DataError(
            f"{path}: {name}, row {wrong[0]}: {w[wrong[0]]}: a number of 0 or more is expected"
        )
    return w.astype(np.float64)
