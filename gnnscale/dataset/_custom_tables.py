"""A user's graph as a folder of tables: what each column means, and what is wrong in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnnscale.core.errors import DataError, closest
from gnnscale.dataset._base import Raw
from gnnscale.dataset._tables import Table, find, index_of

TABLES = ("edges", "nodes", "features", "labels", "split")
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
RESERVED = ("id", "label", "split")


def read_folder(folder: Path, given: Sequence[str] | None) -> Raw:
    """The graph of a folder of tables; ``given`` are the classes in order, None for those found."""
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
    x, columns = _inputs(tables, known)
    y, classes = _labels(tables, known, where, given)
    split = _parts(tables, known, where)
    return Raw(
        src, dst, len(ids), y, len(classes), x, [split] if split else [], weight,
        names=ids, facts={"classes": classes, "columns": columns},
    )  # fmt: skip


def _rows(table: Table, known: Any, where: str, whole: bool = False) -> np.ndarray:
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


def _inputs(tables: dict[str, Table], known: Any) -> tuple[Any, list[str]]:
    table = tables.get("features") or tables.get("nodes")
    if table is None:
        return None, []
    columns = [c for c in table.frame.columns if c not in RESERVED and not c.startswith("label_")]
    if not columns:
        return None, []
    at = _rows(table, known, "the table of nodes", whole=True)
    x = np.empty((len(known), len(columns)), np.float32)
    advice = "; encode text as numbers, e.g. one column of 0 and 1 per value"
    for k, column in enumerate(columns):
        x[at, k] = table.numbers(column, advice=advice)
    return x, columns


def _labels(
    tables: dict[str, Table], known: Any, where: str, given: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    table = tables.get("labels") or tables.get("nodes")
    flags = [] if table is None else [c for c in table.frame.columns if c.startswith("label_")]
    if table is None or not (flags or "label" in table.frame.columns):
        if "labels" in tables:
            tables["labels"].need("label")
        return np.full(len(known), -1, np.int64), list(given or ["0"])
    at = _rows(table, known, where)
    if flags:
        return _flags(table, flags, at, len(known), given)
    said = table.text("label")
    lists = np.char.find(said, ";") >= 0
    if lists.any():
        rows, words = _pieces(said)
    else:
        rows = np.flatnonzero(said != "")
        words = said[rows]
    classes = list(given) if given else list(_sorted(words))
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
    table: Table, flags: list[str], at: np.ndarray, nodes: int, given: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    names = [c.removeprefix("label_") for c in flags]
    if given and names != list(given):
        raise DataError(
            f"{table.path}: the columns {', '.join(flags)} are not dataset.classes="
            f"[{','.join(given)}], in that order"
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


def _parts(tables: dict[str, Table], known: Any, where: str) -> dict[str, np.ndarray] | None:
    table = tables.get("split") or tables.get("nodes")
    if table is None or "split" not in table.frame.columns:
        if "split" in tables:
            tables["split"].need("split")
        return None
    at = _rows(table, known, where)
    said = np.char.lower(table.text("split"))
    wrong = (said != "") & ~np.isin(said, list(SPLITS))
    near = closest(str(said[wrong][0]), SPLITS) if wrong.any() else ""
    table.fail("split", wrong, f"train, valid or test is expected{near}")
    meant = np.array([SPLITS.get(word, "") for word in said])
    return {name: np.sort(at[meant == name]) for name in ("train", "valid", "test")}


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
