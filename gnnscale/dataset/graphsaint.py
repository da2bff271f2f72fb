"""Reddit, Flickr, Yelp and PPI in GraphSAINT's files: inductive, with published roles of nodes.

Zeng et al., ICLR 2020, arXiv:1907.04931; files: github.com/GraphSAINT/GraphSAINT. ``adj_full``
and ``adj_train`` are scipy's compressed rows, ``feats.npy`` is [N, F] float64, ``class_map`` gives
a class or a list of 0 and 1 per node, ``role`` the nodes of ``tr``, ``va`` and ``te``.
Departs from their loader: features are z-scored over all training nodes, not only over those with
a training edge; and edges become simple and undirected unless options say otherwise.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from gnnscale.core.errors import DataError
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote, reading

SOURCE = "github.com/GraphSAINT/GraphSAINT"
FILES = ("adj_full.npz", "adj_train.npz", "class_map.json", "feats.npy", "role.json")
ROLES = {"train": "tr", "valid": "va", "test": "te"}
BLOCK = 1 << 16
"""Rows of features that are in memory as float64 at once."""


class Counts(NamedTuple):
    """What is published. ``entries``: of ``adj_full``, so both directions of an edge count, and
    a loop once; None where what the published number counts is not certain (PPI's 225,270).
    """

    nodes: int
    entries: int | None
    features: int
    classes: int
    multi: bool


COUNTS = {
    "reddit": Counts(232965, 23213838, 602, 41, False),
    "flickr": Counts(89250, 899756, 500, 7, False),
    "yelp": Counts(716847, 13954819, 300, 100, True),
    "ppi": Counts(14755, None, 50, 121, True),
}


@dataclass(frozen=True)
class GraphSaint(Stored):
    """One set of the family: training sees training nodes and the edges among them only.

    Args:
        name: which one. Others: ``Stored``; ``normalize=zscore`` is GraphSAINT's.

    Shapes: x [N, F] float32; y [N] int64, for yelp and ppi [N, C] float32 of 0 and 1.
    Raises: DataError if files are missing, damaged, at odds with each other or not the published.
    """

    name: Literal["reddit", "flickr", "yelp", "ppi"] = "flickr"

    @property
    def folder(self) -> str:
        """As in GraphSAINT's ``data``."""
        return self.name

    def files(self) -> Sequence[Remote]:
        """Five files."""
        return [Remote(name) for name in FILES]

    def locate(self) -> Path:
        """As for all, but says where files that can't be fetched can be had."""
        try:
            return super().locate()
        except DataError as error:
            raise DataError(
                f"{error}. {SOURCE} links in its README to a Google Drive with the folder "
                f"'{self.name}', which needs a browser; put it below one of the folders searched"
            ) from error

    def read(self, folder: Path) -> Raw:
        """The arrays as published."""
        wanted = COUNTS[self.name]
        full, train = (_matrix(folder / name) for name in FILES[:2])
        x = _features(folder / "feats.npy", wanted)
        found = (full.shape, train.shape, x.shape[0], x.shape[1])
        square = (wanted.nodes, wanted.nodes)
        if found != (square, square, wanted.nodes, wanted.features):
            raise self._other(folder, "(adj_full, adj_train, rows of feats, features)", found)
        if wanted.entries not in (None, full.nnz):
            raise self._other(folder, "entries of adj_full", full.nnz)
        splits = _roles(folder / "role.json", wanted.nodes)
        y = _labels(folder / "class_map.json", wanted)
        rows, columns = full.nonzero()
        _induced(folder, rows, columns, train, splits["train"])
        facts = {"loops_given": int((rows == columns).sum()), "entries_given": int(full.nnz)}
        return Raw(
            columns, rows, wanted.nodes, y, wanted.classes, x, [splits],
            inductive=True, facts=facts,
        )  # fmt: skip

    def _other(self, folder: Path, what: str, found: object) -> DataError:
        return DataError(
            f"{folder}: not the published {self.name}: {what} are {found}, expected "
            f"{COUNTS[self.name]}; get the files linked from {SOURCE}"
        )


def _reading(path: Path) -> contextlib.AbstractContextManager[None]:
    """Whatever a damaged file raises, as one DataError."""
    return reading(path, "GraphSAINT's layout", f"get the original, linked from {SOURCE}")


def _matrix(path: Path) -> sp.csr_matrix:
    """Compressed rows, entries that are not zero, sorted, each once."""
    with _reading(path):
        matrix = sp.csr_matrix(sp.load_npz(path), dtype=bool)
        matrix.check_format(full_check=True)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    return matrix


def _features(path: Path, wanted: Counts) -> np.ndarray:
    """[N, F] float32, converted in blocks of rows from the mapped file."""
    with _reading(path):
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.ndim != 2 or stored.dtype.kind not in "iuf":
            raise ValueError(f"{stored.dtype} {stored.shape}, a matrix of numbers was expected")
        x = np.empty(stored.shape, np.float32)
        for at in range(0, len(stored), BLOCK):
            x[at : at + BLOCK] = stored[at : at + BLOCK]
            if not np.isfinite(x[at : at + BLOCK]).all():
                raise ValueError(f"rows from {at} on have entries that are not finite")
    return x


def _json(path: Path) -> dict[str, Any]:
    with _reading(path):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, names and values were expected")
    return content


def _roles(path: Path, nodes: int) -> dict[str, np.ndarray]:
    """Node ids by split: distinct, in range, none empty."""
    content = _json(path)
    if set(content) != set(ROLES.values()):
        raise DataError(f"{path}: has roles {sorted(content)}; valid: te, tr, va")
    with _reading(path):
        splits = {split: np.array(content[role]) for split, role in ROLES.items()}
        for split, ids in splits.items():
            if ids.dtype.kind != "i" or ids.ndim != 1:
                raise ValueError(f"{ROLES[split]}: a list of node ids was expected")
    every = np.concatenate(list(splits.values()))
    unknown = np.unique(every[(every < 0) | (every >= nodes)])
    if len(unknown):
        raise DataError(
            f"{path}: {len(unknown)} node ids do not exist, {unknown[0]} among them; valid: 0 to "
            f"{nodes - 1}"
        )
    if len(np.unique(every)) < len(every):
        raise DataError(f"{path}: {len(every) - len(np.unique(every))} nodes are listed twice")
    return splits


def _labels(path: Path, wanted: Counts) -> np.ndarray:
    """[N] int64 from 0, or [N, C] float32, by node id."""
    content = _json(path)
    absent = [i for i in range(wanted.nodes) if str(i) not in content]
    if absent or len(content) != wanted.nodes:
        said = f"lacks node {absent[0]}" if absent else "names nodes that do not exist"
        raise DataError(f"{path}: {said}; {len(content)} nodes, expected 0 to {wanted.nodes - 1}")
    shape = (wanted.nodes, wanted.classes) if wanted.multi else (wanted.nodes,)
    y = np.zeros(shape, np.float32 if wanted.multi else np.int64)
    with _reading(path):
        for i in range(wanted.nodes):
            value = np.asarray(content[str(i)])
            if value.shape != shape[1:] or value.dtype.kind not in "iuf":
                raise ValueError(f"node {i} has {str(content[str(i)])[:40]}")
            if value.dtype.kind == "f" and (value % 1).any():
                raise ValueError(f"node {i} has {value.reshape(-1)[:8]}, not whole numbers")
            y[i] = value
    if not wanted.multi:
        y -= y.min()  # GraphSAINT counts classes from the smallest
    least, most = y.min(), y.max()
    if most > (1 if wanted.multi else wanted.classes - 1) or least < 0:
        kind = "labels of 0 and 1" if wanted.multi else f"{wanted.classes} classes"
        raise DataError(f"{path}: labels run from {least} to {most}; {kind} were expected")
    return y


def _induced(
    folder: Path, rows: np.ndarray, columns: np.ndarray, train: sp.csr_matrix, ids: np.ndarray
) -> None:
    """Refuse an ``adj_train`` that is not ``adj_full`` among the training nodes, loops aside."""
    nodes = train.shape[0]
    inside = np.zeros(nodes, bool)
    inside[ids] = True
    kept = inside[rows] & inside[columns] & (rows != columns)
    expected = rows[kept].astype(np.int64) * nodes + columns[kept]
    row, column = train.nonzero()
    given = row[row != column].astype(np.int64) * nodes + column[row != column]
    if not np.array_equal(expected, given):
        raise DataError(
            f"{folder}: adj_train has {len(given)} entries and adj_full {len(expected)} among the "
            f"training nodes of role.json, {len(np.intersect1d(expected, given))} of them the "
            "same; they must be the same edges, so these files do not belong together; get the "
            f"originals, linked from {SOURCE}"
        )
