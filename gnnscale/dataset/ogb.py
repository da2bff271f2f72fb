"""Open Graph Benchmark, node property prediction, read from OGB's raw files without its package.

Hu et al., NeurIPS 2020, arXiv:2005.00687. Addresses, versions, splits, sizes and scores are those
of ogb 1.3.6, whose own loader fails on torch >= 2.6 and asks on stdin before big downloads; folders
that it has made are found and read. Departs from it: edges become simple and undirected unless
options say otherwise, and ogbn-mag becomes one graph of one kind of node.
"""

import contextlib
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gnnscale.core.cache import cache_folder
from gnnscale.core.errors import DataError, UsageError
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote, roots

SITE = "http://snap.stanford.edu/ogb/data/nodeproppred"
SPLITS = ("train", "valid", "test")
BASIC = ("raw/edge", "raw/num-node-list", "raw/num-edge-list", "raw/node-label")
MAG = ("raw/num-node-dict", "raw/triplet-type-list", "raw/node-feat/paper/node-feat",
       "raw/node-label/paper/node-label")  # fmt: skip
RELATIONS = (
    ("author", "affiliated_with", "institution"),
    ("author", "writes", "paper"),
    ("paper", "cites", "paper"),
    ("paper", "has_topic", "field_of_study"),
)
TYPES = ("paper", "author", "institution", "field_of_study")
"""Of ogbn-mag, in the order of their node ids here: papers keep their own."""
BLOCK = 1 << 20
"""Rows or entries of a big file that are in memory at once."""
BROKEN = (OSError, ValueError, KeyError, EOFError, OverflowError, NotImplementedError,
          zipfile.BadZipFile, zlib.error)  # fmt: skip


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


SOURCES = {
    "ogbn_arxiv": Source("arxiv", 1, "time", 169343, 1166243, 128, 40, (90941, 29799, 48603)),
    "ogbn_products": Source(
        "products", 1, "sales_ranking", 2449029, 61859140, 100, 47, (196615, 39323, 2213091)
    ),
    "ogbn_proteins": Source(
        "proteins", 1, "species", 132534, 39561252, 8, 112, (86619, 21236, 24679)
    ),
    "ogbn_mag": Source("mag", 2, "time", 1939743, 21111007, 128, 349, (629571, 64879, 41939)),
    "ogbn_papers100m": Source(
        "papers100M-bin", 1, "time", 111059956, 1615685872, 128, 172, (1207179, 125265, 214338)
    ),
}


@dataclass(frozen=True)
class Ogbn(Stored):
    """One ogbn set in the folder ``ogbn_*`` that ogb makes of its archive, with its own split.

    - arxiv, products: as published. proteins: 112 labels a node, scored by ROC-AUC; nodes have no
      features, so a node gets the mean of its edges' 8, as in OGB's baseline (zeros if it has no
      edge).
    - mag: the four kinds of node as one, papers first (so ids of papers are OGB's), then authors,
      institutions and fields of study; the four relations as one, their kinds forgotten. Only
      papers have features, labels and a split; the others get zeros and y = -1.
    - papers100M: features are copied to the cache block by block and mapped from there, never
      held in memory; they can't be transformed.

    Args:
        name: which one. Others: ``Stored``.

    Shapes: x [N, F] float32; y [N] int64, for proteins [N, 112] float32.
    Raises: DataError if files are missing, damaged, of another release or not the published ones.
    """

    name: Literal["ogbn_arxiv", "ogbn_products", "ogbn_proteins", "ogbn_mag", "ogbn_papers100m"] = (
        "ogbn_arxiv"
    )

    @property
    def folder(self) -> str:
        """As ogb names it."""
        return self.name.replace("100m", "100M")

    def files(self) -> Sequence[Remote]:
        """Members of one archive."""
        source = SOURCES[self.name]
        split = f"split/{source.split}"
        if self.name == "ogbn_papers100m":
            names = ["raw/data.npz", "raw/node-label.npz"]
        elif self.name == "ogbn_mag":
            tables = [f"{_relation(r)}/{t}" for r in RELATIONS for t in ("edge", "num-edge-list")]
            names, split = [f"{t}.csv.gz" for t in (*MAG, *tables)], f"{split}/paper"
        else:
            own = "raw/edge-feat" if self.name == "ogbn_proteins" else "raw/node-feat"
            names = [f"{t}.csv.gz" for t in (*BASIC, own)]
        names += [f"{split}/{part}.csv.gz" for part in SPLITS]
        url = f"{SITE}/{source.archive}.zip"
        names.append(f"RELEASE_v{source.version}.txt")
        return [Remote(name, url, member=f"{source.archive}/{name}") for name in names]

    def locate(self) -> Path:
        """As for all; another release is refused rather than mixed with this one."""
        source = SOURCES[self.name]
        release = f"RELEASE_v{source.version}.txt"
        for base in roots(self.root):
            named = base.name in (self.folder, source.archive)
            for place in (base / self.folder, *([base] if named else [])):
                found = sorted(p.name for p in place.glob("RELEASE_v*.txt"))
                if found and release not in found:
                    raise DataError(
                        f"{place}: holds {found[0]}, the current release is {release}; move the "
                        "folder away and type the same command, or dataset.root=DIR"
                    )
        return super().locate()

    def read(self, folder: Path) -> Raw:
        """The arrays as published."""
        source = SOURCES[self.name]
        readers = {"ogbn_mag": _mag, "ogbn_proteins": _proteins, "ogbn_papers100m": _papers}
        raw = readers.get(self.name, _homogeneous)(folder, source)
        assert raw.x is not None
        found = (raw.nodes, len(raw.src), raw.x.shape[1])
        found += tuple(len(raw.splits[0][part]) for part in SPLITS)
        wanted = (source.nodes, source.edges, source.features, *source.sizes)
        if found != wanted:
            raise DataError(
                f"{folder}: not the published {self.name}: (nodes, edges, features, train, valid, "
                f"test) are {found}, expected {wanted}"
            )
        return replace(raw, facts={**raw.facts, "release": source.version})

    def _prepare(self, raw: Raw) -> dict[str, Any]:
        """As for all, but features that ``read`` left on disk stay there."""
        if not isinstance(raw.x, np.memmap):
            return super()._prepare(raw)
        if self.features != ["raw"] or self.normalize != "none" or self.largest_component:
            raise UsageError(
                f"dataset={self.name}: its features do not fit into memory and are used as they "
                "are; type dataset.features=[raw] dataset.normalize=none "
                "dataset.largest_component=false"
            )
        arrays = super()._prepare(replace(raw, x=np.empty((raw.nodes, 0), np.float32)))
        arrays = {name: value for name, value in arrays.items() if not name.startswith("x_")}
        return arrays | {"x": raw.x, "width": raw.x.shape[1]}


# -- the four layouts ---------------------------------------------------------------------------


def _homogeneous(folder: Path, source: Source) -> Raw:
    """``ogbn_arxiv`` and ``ogbn_products``: one table each of edges, features and labels."""
    src, dst, nodes = _graph(folder)
    x = _rows(folder / "raw/node-feat.csv.gz", nodes, np.float32)
    y = _labels(folder / "raw/node-label.csv.gz", nodes, source.classes)
    return Raw(src, dst, nodes, y, source.classes, x, [_split(folder, source, y)])


def _proteins(folder: Path, source: Source) -> Raw:
    """``ogbn_proteins``: features of edges, 112 labels of 0 or 1."""
    src, dst, nodes = _graph(folder)
    path = folder / "raw/node-label.csv.gz"
    y = _rows(path, nodes, np.float32)
    if y.shape[1] != source.classes or not np.isin(y, (0, 1)).all():
        raise DataError(f"{path}: {source.classes} labels of 0 or 1 per node were expected")
    x = _mean_at_ends(folder / "raw/edge-feat.csv.gz", src, dst, nodes)
    split = _split(folder, source, y)
    facts = {"features_from": "mean over a node's edges"}
    return Raw(src, dst, nodes, y, source.classes, x, [split], facts=facts, metric="roc_auc")


def _mag(folder: Path, source: Source) -> Raw:
    """``ogbn_mag``: kinds of node one after the other, relations one after the other."""
    path = folder / "raw/num-node-dict.csv.gz"
    head, *rows = _table(path, str).tolist()
    if len(rows) != 1 or set(head) != set(TYPES) or not all(c.isdecimal() for c in rows[0]):
        raise DataError(f"{path}: one row of numbers of {', '.join(TYPES)} was expected")
    count = dict(zip(head, map(int, rows[0]), strict=True))
    path = folder / "raw/triplet-type-list.csv.gz"
    if (listed := sorted(map(tuple, _table(path, str).tolist()))) != sorted(RELATIONS):
        raise DataError(f"{path}: lists {listed}, expected {sorted(RELATIONS)}")
    start = dict(zip(TYPES, np.cumsum([0, *(count[t] for t in TYPES)]).tolist(), strict=False))
    ends = []
    for head, kind, tail in RELATIONS:
        at = folder / _relation((head, kind, tail))
        pairs = _edges(at, (count[head], count[tail]))
        ends.append((pairs[0] + start[head], pairs[1] + start[tail]))
    src, dst = (np.concatenate(part) for part in zip(*ends, strict=True))
    papers, nodes = count["paper"], sum(count.values())
    own = _rows(folder / "raw/node-feat/paper/node-feat.csv.gz", papers, np.float32)
    x = np.zeros((nodes, own.shape[1]), np.float32)
    x[:papers] = own
    y = np.full(nodes, -1)
    path = folder / "raw/node-label/paper/node-label.csv.gz"
    y[:papers] = _labels(path, papers, source.classes)
    split = _split(folder, source, y, "paper")
    facts = {"first_node": start, "without_features": nodes - papers}
    return Raw(src, dst, nodes, y, source.classes, x, [split], facts=facts)


def _papers(folder: Path, source: Source) -> Raw:
    """``ogbn_papers100m``: npz, of which edges and features are too big for memory."""
    path = folder / "raw/data.npz"
    with _reading(path), np.load(path, allow_pickle=False) as small:
        nodes, edges = (int(small[f"num_{n}_list"].sum()) for n in ("nodes", "edges"))
    if nodes > np.iinfo(np.int32).max:
        raise DataError(f"{path}: {nodes} nodes, expected {source.nodes}")
    with _reading(path), zipfile.ZipFile(path) as packed:
        ends = _stream(packed, "edge_index", np.dtype(np.int32), nodes)
        x = _stream(packed, "node_feat", np.dtype(np.float32), None)
    if ends.shape != (2, edges) or x.ndim != 2 or len(x) != nodes:
        raise DataError(
            f"{path}: edge_index {ends.shape} and node_feat {x.shape} where {edges} edges and "
            f"{nodes} nodes are declared"
        )
    path = folder / "raw/node-label.npz"
    with _reading(path), np.load(path, allow_pickle=False) as file:
        label = file["node_label"].astype(np.float32).reshape(-1)
    y = _classes(path, label, nodes, source.classes)
    facts = {"unlabelled": int((y < 0).sum())}
    return Raw(*ends, nodes, y, source.classes, x, [_split(folder, source, y)], facts=facts)


# -- their parts --------------------------------------------------------------------------------


def _relation(triplet: Sequence[str]) -> str:
    """The folder of a relation of ogbn-mag."""
    return f"raw/relations/{'___'.join(triplet)}"


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a damaged file raises, as one DataError."""
    try:
        yield
    except DataError:
        raise
    except BROKEN as error:
        raise DataError(
            f"{path}: damaged or not in OGB's layout ({error}); remove it and type the same "
            "command to fetch it again"
        ) from error


def _table(path: Path, dtype: type) -> np.ndarray:
    """[rows, columns] of a gzipped table."""
    import pandas as pd

    with _reading(path):
        table = pd.read_csv(
            path, compression="gzip", header=None, dtype=dtype, keep_default_na=dtype is not str
        )
        return np.ascontiguousarray(table.to_numpy())


def _rows(path: Path, rows: int, dtype: type) -> np.ndarray:
    """A table of one finite row per node."""
    table = _table(path, dtype)
    if len(table) != rows or not np.isfinite(table).all():
        raise DataError(f"{path}: {len(table)} rows, {rows} finite ones were expected")
    return table


def _number(path: Path) -> int:
    """The one number of a file; OGB has lists because other sets are many graphs."""
    table = _table(path, np.int64)
    if table.shape != (1, 1):
        raise DataError(f"{path}: one number was expected, not {table.shape[0]} rows")
    return int(table[0, 0])


def _edges(at: Path, limits: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(src, dst) of the pairs in ``edge.csv.gz``, ids below ``limits``, as many as declared."""
    path = at / "edge.csv.gz"
    pairs, wanted = _table(path, np.int64), _number(at / "num-edge-list.csv.gz")
    if pairs.shape != (wanted, 2):
        raise DataError(f"{path}: {pairs.shape} entries, {wanted} pairs were expected")
    for ids, limit in zip(pairs.T, limits, strict=True):
        if wanted and not 0 <= ids.min() <= ids.max() < limit:
            raise DataError(
                f"{path}: node ids from {ids.min()} to {ids.max()}, valid: 0 to {limit - 1}"
            )
    return pairs[:, 0], pairs[:, 1]


def _graph(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """(src, dst, nodes)."""
    nodes = _number(folder / "raw/num-node-list.csv.gz")
    return *_edges(folder / "raw", (nodes, nodes)), nodes


def _labels(path: Path, nodes: int, classes: int) -> np.ndarray:
    """[N] int64."""
    return _classes(path, _table(path, np.float64).reshape(-1), nodes, classes)


def _classes(path: Path, label: np.ndarray, nodes: int, classes: int) -> np.ndarray:
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


def _split(folder: Path, source: Source, y: np.ndarray, kind: str = "") -> dict[str, np.ndarray]:
    """Node ids of the published split, which are labelled and disjoint."""
    at = folder / "split" / source.split / kind
    split = {part: _table(at / f"{part}.csv.gz", np.int64).reshape(-1) for part in SPLITS}
    ids = np.concatenate(list(split.values()))
    if ids.min() < 0 or ids.max() >= len(y) or len(np.unique(ids)) < len(ids):
        raise DataError(f"{at}: distinct node ids from 0 to {len(y) - 1} were expected")
    if (y[ids] < 0).any():
        raise DataError(f"{at}: {int((y[ids] < 0).sum())} of its nodes have no label")
    return split


def _mean_at_ends(path: Path, src: np.ndarray, dst: np.ndarray, nodes: int) -> np.ndarray:
    """x_i: mean of the features of the edges at i, whichever end it is; zeros without edges.

    Shapes: file [E, F], src and dst [E] -> [N, F] float32.
    """
    import pandas as pd

    total, at = np.zeros((nodes, 0)), 0
    with _reading(path):
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


def _stream(packed: zipfile.ZipFile, name: str, dtype: np.dtype, below: int | None) -> np.memmap:
    """An array of an npz as ``dtype``, copied in blocks to a nameless file and mapped from there.

    The file lies where the cache is and goes with the last reference to the array, also after a
    kill. Ids must be from 0 to ``below`` - 1, if it is given; else entries must be finite.
    """
    with packed.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, fortran, stored = header(file)
        if stored.kind not in "iuf":
            raise ValueError(f"{name} holds {stored}, numbers were expected")
        shape = shape[::-1] if fortran else shape  # a matrix by columns is its transpose by rows
        wanted = int(np.prod(shape)) * dtype.itemsize
        with _scratch(wanted) as sink:
            while block := file.read(BLOCK * stored.itemsize):
                part = np.frombuffer(block, stored)
                if below is not None and not 0 <= part.min() <= part.max() < below:
                    raise ValueError(f"{name} runs from {part.min()} to {part.max()}")
                if below is None and not np.isfinite(part).all():
                    raise ValueError(f"{name} has entries that are not finite")
                sink.write(part.astype(dtype).data)
            if sink.tell() != wanted:
                raise ValueError(f"{name} has {sink.tell()} of {wanted} bytes")
            sink.flush()
            mapped = np.memmap(sink, dtype, "c", shape=shape)
    return mapped.T if fortran else mapped


@contextlib.contextmanager
def _scratch(size: int) -> Iterator[Any]:
    """A nameless file in the cache folder; what can't be written is told with its place."""
    place = cache_folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as sink:
            yield sink
    except OSError as error:
        raise DataError(
            f"{place}: can't be written ({error.strerror or error}), and {size / 2**30:.1f} GiB "
            "must be; GNNSCALE_CACHE=DIR names another place"
        ) from error
