"""What a folder of OGB's holds: its gzipped tables, each checked against what is declared."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset import _files

SPLITS = ("train", "valid", "test")
BLOCK = 1 << 20
"""Rows or entries of a big file that are in memory at once."""


class Source(NamedTuple):
    """A set's archive, release and split, and what is published of it; edges as in its files."""

    archive: str
    version: int
    split: str
    nodes: int
    edges: int
    features: int
    classes: int
    sizes: tuple[int, int, int]


def reading(path: Path) -> contextlib.AbstractContextManager[None]:
    """Whatever a damaged file raises, as one DataError."""
    return _files.reading(path, "OGB's layout")


def read_table(path: Path, dtype: type) -> np.ndarray:
    """[rows, columns] of a gzipped table."""
    import pandas as pd

    with reading(path):
        table = pd.read_csv(
            path, compression="gzip", header=None, dtype=dtype, keep_default_na=dtype is not str
        )
        return np.ascontiguousarray(table.to_numpy())


def node_rows(path: Path, rows: int, dtype: type) -> np.ndarray:
    """A table of one finite row per node."""
    table = read_table(path, dtype)
    if len(table) != rows or not np.isfinite(table).all():
        raise DataError(f"{path}: {len(table)} rows, {rows} finite ones were expected")
    return table


def _number(path: Path) -> int:
    """The one number of a file; OGB has lists because other sets are many graphs."""
    table = read_table(path, np.int64)
    if table.shape != (1, 1):
        raise DataError(f"{path}: one number was expected, not {table.shape[0]} rows")
    return int(table[0, 0])


def edges(at: Path, limits: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(src, dst) of the pairs in ``edge.csv.gz``, ids below ``limits``, as many as declared."""
    path = at / "edge.csv.gz"
    pairs, wanted = read_table(path, np.int64), _number(at / "num-edge-list.csv.gz")
    if pairs.shape != (wanted, 2):
        raise DataError(f"{path}: {pairs.shape} entries, {wanted} pairs were expected")
    for ids, limit in zip(pairs.T, limits, strict=True):
        if wanted and not 0 <= ids.min() <= ids.max() < limit:
            raise DataError(
                f"{path}: node ids from {ids.min()} to {ids.max()}, valid: 0 to {limit - 1}"
            )
    return pairs[:, 0], pairs[:, 1]


def graph(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """(src, dst, nodes)."""
    nodes = _number(folder / "raw/num-node-list.csv.gz")
    return *edges(folder / "raw", (nodes, nodes)), nodes


def labels(path: Path, nodes: int, classes: int) -> np.ndarray:
    """[N] int64."""
    return class_ids(path, read_table(path, np.float64).reshape(-1), nodes, classes)


def class_ids(path: Path, label: np.ndarray, nodes: int, classes: int) -> np.ndarray:
    """[N] int64 of [N] floats, NaN as -1."""
    known = ~np.isnan(label)
    y = np.full(len(label), -1)
    if len(label) == nodes and np.isin(label[known], np.arange(classes)).all():
        y[known] = label[known]
        return y
    raise DataError(
        f"{path}: {len(label)} labels from {np.nanmin(label)} to {np.nanmax(label)}, {nodes} "
        f"whole numbers from 0 to {classes - 1} were expected"
    )


def split(folder: Path, source: Source, y: np.ndarray, kind: str = "") -> dict[str, np.ndarray]:
    """Node ids of the published split, which are labelled and disjoint."""
    at = folder / "split" / source.split / kind
    split = {part: read_table(at / f"{part}.csv.gz", np.int64).reshape(-1) for part in SPLITS}
    ids = np.concatenate(list(split.values()))
    if ids.min() < 0 or ids.max() >= len(y) or len(np.unique(ids)) < len(ids):
        raise DataError(f"{at}: distinct node ids from 0 to {len(y) - 1} were expected")
    if (y[ids] < 0).any():
        raise DataError(f"{at}: {int((y[ids] < 0).sum())} of its nodes have no label")
    return split


def mean_at_ends(path: Path, src: np.ndarray, dst: np.ndarray, nodes: int) -> np.ndarray:
    """x_i: mean of the features of the edges at i, whichever end it is; zeros without edges.

    Shapes: file [E, F], src and dst [E] -> [N, F] float32.
    """
    import pandas as pd

    total, at = np.zeros((nodes, 0)), 0
    with reading(path):
        pieces = pd.read_csv(
            path, compression="gzip", header=None, dtype=np.float32, chunksize=BLOCK
        )
        for piece in pieces:
            values = piece.to_numpy(np.float64)
            if not at:
                total = np.zeros((nodes, values.shape[1]))
            for ends in (src[at : at + len(values)], dst[at : at + len(values)]):
                for f in range(total.shape[1]):
                    total[:, f] += np.bincount(ends, values[: len(ends), f], nodes)
            at += len(values)
    if at != len(src) or not np.isfinite(total).all():
        raise DataError(f"{path}: {at} rows, {len(src)} finite ones were expected, one per edge")
    degree = np.bincount(src, minlength=nodes) + np.bincount(dst, minlength=nodes)
    return (total / np.maximum(degree, 1)[:, None]).astype(np.float32)
