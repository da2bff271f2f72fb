"""A user's graph as an npz file: arrays by several common names, and what is wrong in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gnnscale.core.errors import DataError
from gnnscale.dataset._arrays import arrays, matrix
from gnnscale.dataset._base import Raw

NAMES = {  # what an npz may call each part, ours first
    "edges": ("edges", "edge_index"),
    "weight": ("edge_weight", "weight"),
    "x": ("x", "features", "node_features"),
    "y": ("y", "labels", "node_labels"),
    "train": ("train_mask", "train_masks"),
    "valid": ("valid_mask", "val_mask", "valid_masks", "val_masks"),
    "test": ("test_mask", "test_masks"),
}


def read_npz(path: Path, given: Sequence[str] | None) -> Raw:
    """The graph of an npz; ``given`` are the classes in order, None for numbers."""
    a = arrays(path)
    named = {part: next((n for n in names if n in a), None) for part, names in NAMES.items()}
    part = {k: a[n] for k, n in named.items() if n is not None}
    src, dst, weight, least = _ends(path, a, part)
    x = matrix(path, a, "attr_") if "attr_data" in a else part.get("x")
    y = part.get("y")
    nodes = max(least, 0 if x is None else x.shape[0], 0 if y is None else len(y))
    if x is not None:
        _shape(path, named["x"] or "attr_*", (*x.shape[:1], x.ndim), (nodes, 2))
        x = _finite(path, named["x"] or "attr_data", x)
    y, classes = _targets(path, named["y"], y, nodes, given)
    return Raw(
        src, dst, nodes, y, len(classes), x, _masks(path, named, part, nodes), weight,
        facts={"classes": classes, "columns": []},
    )  # fmt: skip


def _ends(
    path: Path, a: dict[str, np.ndarray], part: dict[str, np.ndarray]
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
    path: Path, name: str | None, y: np.ndarray | None, nodes: int, given: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    if y is None:
        return np.full(nodes, -1, np.int64), list(given or ["0"])
    _shape(path, str(name), y.shape[:1], (nodes,))
    if y.ndim == 1 and y.dtype.kind in "iu":
        if y.min(initial=0) < -1:
            row = int(np.flatnonzero(y < -1)[0])
            raise DataError(f"{path}: {name}, row {row}: {y[row]}: classes start at 0, -1: unknown")
        count = max(int(y.max(initial=0)) + 1, len(given or ()))
        names = given or [str(c) for c in range(count)]
        if len(names) < count:
            raise DataError(f"{path}: {name}: {count} classes, dataset.classes names {len(names)}")
        return y.astype(np.int64), list(names)
    if y.ndim == 2 and y.dtype.kind in "biuf":
        y = y.astype(np.float32)
        if not np.isin(y[~np.isnan(y)], (0, 1)).all():
            raise DataError(f"{path}: {name}: several labels per node are 0, 1 or NaN (unknown)")
        y[np.isnan(y).any(1)] = np.nan
        return y, list(given or [str(c) for c in range(y.shape[1])])
    raise DataError(
        f"{path}: {name}: [N] whole numbers or [N, C] of 0 and 1 expected, not {y.dtype} "
        f"{list(y.shape)}"
    )


def _masks(
    path: Path, named: dict[str, Any], part: dict[str, np.ndarray], nodes: int
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
