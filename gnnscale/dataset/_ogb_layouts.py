"""The layouts of OGB's node sets: one graph of one kind of node, several kinds, and npz."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gnnscale.core.cache import spill
from gnnscale.core.errors import DataError
from gnnscale.dataset import _ogb_tables as tables
from gnnscale.dataset._base import Raw
from gnnscale.dataset._ogb_tables import Source

RELATIONS = (
    ("author", "affiliated_with", "institution"),
    ("author", "writes", "paper"),
    ("paper", "cites", "paper"),
    ("paper", "has_topic", "field_of_study"),
)
TYPES = ("paper", "author", "institution", "field_of_study")
"""Of ogbn-mag, in the order of their node ids here: papers keep their own."""


def homogeneous(folder: Path, source: Source) -> Raw:
    """``ogbn_arxiv`` and ``ogbn_products``: one table each of edges, features and labels."""
    src, dst, nodes = tables.graph(folder)
    x = tables.node_rows(folder / "raw/node-feat.csv.gz", nodes, np.float32)
    y = tables.labels(folder / "raw/node-label.csv.gz", nodes, source.classes)
    return Raw(src, dst, nodes, y, source.classes, x, [tables.split(folder, source, y)])


def proteins(folder: Path, source: Source) -> Raw:
    """``ogbn_proteins``: features of edges, 112 labels of 0 or 1."""
    src, dst, nodes = tables.graph(folder)
    path = folder / "raw/node-label.csv.gz"
    y = tables.node_rows(path, nodes, np.float32)
    if y.shape[1] != source.classes or not np.isin(y, (0, 1)).all():
        raise DataError(f"{path}: {source.classes} labels of 0 or 1 per node were expected")
    x = tables.mean_at_ends(folder / "raw/edge-feat.csv.gz", src, dst, nodes)
    split = tables.split(folder, source, y)
    facts = {"features_from": "mean over a node's edges"}
    return Raw(src, dst, nodes, y, source.classes, x, [split], facts=facts, metric="roc_auc")


def relation(triplet: Sequence[str]) -> str:
    """The folder of a relation of ogbn-mag."""
    return f"raw/relations/{'___'.join(triplet)}"


def mag(folder: Path, source: Source) -> Raw:
    """``ogbn_mag``: kinds of node one after the other, relations one after the other."""
    path = folder / "raw/num-node-dict.csv.gz"
    head, *rows = tables.read_table(path, str).tolist()
    if len(rows) != 1 or set(head) != set(TYPES) or not all(c.isdecimal() for c in rows[0]):
        raise DataError(f"{path}: one row of numbers of {', '.join(TYPES)} was expected")
    count = dict(zip(head, map(int, rows[0]), strict=True))
    path = folder / "raw/triplet-type-list.csv.gz"
    if (listed := sorted(map(tuple, tables.read_table(path, str).tolist()))) != sorted(RELATIONS):
        raise DataError(f"{path}: lists {listed}, expected {sorted(RELATIONS)}")
    start = dict(zip(TYPES, np.cumsum([0, *(count[t] for t in TYPES)]).tolist(), strict=False))
    ends = []
    for head, kind, tail in RELATIONS:
        at = folder / relation((head, kind, tail))
        pairs = tables.edges(at, (count[head], count[tail]))
        ends.append((pairs[0] + start[head], pairs[1] + start[tail]))
    src, dst = (np.concatenate(part) for part in zip(*ends, strict=True))
    papers, nodes = count["paper"], sum(count.values())
    own = tables.node_rows(folder / "raw/node-feat/paper/node-feat.csv.gz", papers, np.float32)
    x = np.zeros((nodes, own.shape[1]), np.float32)
    x[:papers] = own
    y = np.full(nodes, -1)
    path = folder / "raw/node-label/paper/node-label.csv.gz"
    y[:papers] = tables.labels(path, papers, source.classes)
    split = tables.split(folder, source, y, "paper")
    facts = {"first_node": start, "without_features": nodes - papers}
    return Raw(src, dst, nodes, y, source.classes, x, [split], facts=facts)


def papers(folder: Path, source: Source) -> Raw:
    """``ogbn_papers100m``: npz, of which edges and features are too big for memory."""
    path = folder / "raw/data.npz"
    with tables.reading(path), np.load(path, allow_pickle=False) as small:
        nodes, edges = (int(small[f"num_{n}_list"].sum()) for n in ("nodes", "edges"))
    if nodes > np.iinfo(np.int32).max:
        raise DataError(f"{path}: {nodes} nodes, expected {source.nodes}")
    with tables.reading(path), zipfile.ZipFile(path) as packed:
        ends = _stream(packed, "edge_index", np.dtype(np.int32), nodes)
        x = _stream(packed, "node_feat", np.dtype(np.float32), None)
    if ends.shape != (2, edges) or x.ndim != 2 or len(x) != nodes:
        raise DataError(
            f"{path}: edge_index {ends.shape} and node_feat {x.shape} where {edges} edges and "
            f"{nodes} nodes are declared"
        )
    path = folder / "raw/node-label.npz"
    with tables.reading(path), np.load(path, allow_pickle=False) as file:
        label = file["node_label"].astype(np.float32).reshape(-1)
    y = tables.class_ids(path, label, nodes, source.classes)
    facts = {"unlabelled": int((y < 0).sum())}
    return Raw(*ends, nodes, y, source.classes, x, [tables.split(folder, source, y)], facts=facts)


def _stream(packed: zipfile.ZipFile, name: str, dtype: np.dtype, below: int | None) -> np.memmap:
    """An array of an npz as ``dtype``, copied in blocks to where the cache is and mapped there.

    Ids must be from 0 to ``below`` - 1, if it is given; else entries must be finite.
    """
    with packed.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, fortran, stored = header(file)
        if stored.kind not in "iuf":
            raise ValueError(f"{name} holds {stored}, numbers were expected")

        def blocks() -> Iterator[np.ndarray]:
            while block := file.read(tables.BLOCK * stored.itemsize):
                part = np.frombuffer(block, stored)
                if below is not None and not 0 <= part.min() <= part.max() < below:
                    raise ValueError(f"{name} runs from {part.min()} to {part.max()}")
                if below is None and not np.isfinite(part).all():
                    raise ValueError(f"{name} has entries that are not finite")
                yield part

        return spill(blocks(), dtype, shape, fortran)
