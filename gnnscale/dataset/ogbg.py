"""Open Graph Benchmark, graph property prediction: molecules, read from OGB's raw files.

Hu et al., NeurIPS 2020, arXiv:2005.00687. Addresses, splits and scores are those of ogb 1.3.6;
folders that it has made are found and read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset import _ogb_tables as tables
from gnnscale.dataset._files import Remote
from gnnscale.dataset._graphs import PARTS, GraphSet, RawGraphs

SITE = "http://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download"
ATOMS = (119, 4, 12, 12, 10, 6, 6, 2, 2)
"""Codes of an atom's number, chirality, degree, charge, hydrogens, radical electrons,
hybridisation, aromaticity, ring; the release whose chirality has four makes the published counts of
parameters (ogb 1.3 has a fifth, for none of these molecules)."""
BONDS = (5, 6, 2)
"""Codes of a bond's type, stereochemistry and conjugation."""


class Source(NamedTuple):
    """Published numbers of graphs and tasks, and the task's kind and score."""

    graphs: int
    tasks: int
    kind: str = "multi"
    metric: str = "roc_auc"


SOURCES = {
    "ogbg_molhiv": Source(41127, 1),
    "ogbg_molpcba": Source(437929, 128, metric="average_precision"),
    "ogbg_molmuv": Source(93087, 17, metric="average_precision"),
    "ogbg_molbace": Source(1513, 1),
    "ogbg_molbbbp": Source(2039, 1),
    "ogbg_molclintox": Source(1477, 2),
    "ogbg_molsider": Source(1427, 27),
    "ogbg_moltox21": Source(7831, 12),
    "ogbg_moltoxcast": Source(8576, 617),
    "ogbg_molesol": Source(1128, 1, "regression", "rmse"),
    "ogbg_molfreesolv": Source(642, 1, "regression", "rmse"),
    "ogbg_mollipo": Source(4200, 1, "regression", "rmse"),
}


@dataclass(frozen=True, kw_only=True)
class Ogbg(GraphSet):
    """One set of molecules in the folder ``ogbg_mol*`` that ogb makes, with its scaffold split.

    Args:
        name: which one. Others: ``GraphSet``.

    Shapes: x [N, 9] and edge [E, 3] int64 codes; y [G, tasks] float32, NaN where not measured.
    Raises: DataError if files are missing, damaged or not the published ones.
    """

    name: Literal[
        "ogbg_molhiv", "ogbg_molpcba", "ogbg_molmuv", "ogbg_molbace", "ogbg_molbbbp",
        "ogbg_molclintox", "ogbg_molsider", "ogbg_moltox21", "ogbg_moltoxcast", "ogbg_molesol",
        "ogbg_molfreesolv", "ogbg_mollipo",
    ] = "ogbg_molhiv"  # fmt: skip

    @property
    def folder(self) -> str:
        """As ogb names it."""
        return self.name

    def files(self) -> Sequence[Remote]:
        """Members of one archive."""
        short = self.name.removeprefix("ogbg_mol")
        raw = ("edge", "num-edge-list", "num-node-list", "node-feat", "edge-feat", "graph-label")
        names = [f"raw/{t}.csv.gz" for t in raw]
        names += [f"split/scaffold/{part}.csv.gz" for part in PARTS]
        return [Remote(n, f"{SITE}/{short}.zip", member=f"{short}/{n}") for n in names]

    def read(self, folder: Path) -> RawGraphs:
        """The arrays as published."""
        source, raw = SOURCES[self.name], folder / "raw"
        sizes = tables.read_table(raw / "num-node-list.csv.gz", np.int64)[:, 0]
        counts = tables.read_table(raw / "num-edge-list.csv.gz", np.int64)[:, 0]
        y = tables.read_table(raw / "graph-label.csv.gz", np.float32)
        if (len(sizes), *y.shape) != (source.graphs, source.graphs, source.tasks):
            raise DataError(
                f"{folder}: not the published {self.name}: {len(sizes)} graphs and {y.shape} "
                f"labels, expected {source.graphs} of {source.tasks} tasks"
            )
        if source.kind == "multi" and not np.isin(y[~np.isnan(y)], (0, 1)).all():
            raise DataError(f"{raw / 'graph-label.csv.gz'}: labels of 0, 1 or none were expected")
        x = _codes(raw / "node-feat.csv.gz", int(sizes.sum()), ATOMS)
        pairs = tables.read_table(raw / "edge.csv.gz", np.int64)
        edge = _codes(raw / "edge-feat.csv.gz", len(pairs), BONDS)
        if len(counts) != len(sizes) or pairs.shape != (counts.sum(), 2):
            raise DataError(f"{raw / 'edge.csv.gz'}: {pairs.shape} entries, {counts.sum()} pairs "
                            f"of {len(sizes)} graphs were expected")  # fmt: skip
        owner = np.repeat(np.arange(len(sizes)), counts)
        if len(pairs) and (pairs.min() < 0 or (pairs >= sizes[owner][:, None]).any()):
            raise DataError(f"{raw / 'edge.csv.gz'}: an edge leaves its graph")
        first = np.cumsum(sizes) - sizes
        pairs = pairs + first[owner][:, None]
        return RawGraphs(
            pairs[:, 0], pairs[:, 1], sizes, y, source.kind, source.tasks, source.metric,
            x, ATOMS, edge, BONDS, [self._public(folder, len(sizes))],
        )  # fmt: skip

    def _public(self, folder: Path, graphs: int) -> dict[str, np.ndarray]:
        at = folder / "split/scaffold"
        split = {p: tables.read_table(at / f"{p}.csv.gz", np.int64).reshape(-1) for p in PARTS}
        ids = np.concatenate(list(split.values()))
        if not np.array_equal(np.sort(ids), np.arange(graphs)):
            raise DataError(f"{at}: every graph from 0 to {graphs - 1} once was expected")
        return split


def _codes(path: Path, rows: int, categories: Sequence[int]) -> np.ndarray:
    """[rows, columns] codes, each below its category."""
    table = tables.read_table(path, np.int64)
    if table.shape != (rows, len(categories)):
        raise DataError(f"{path}: {table.shape} codes, {(rows, len(categories))} were expected")
    if rows and ((table < 0) | (table >= np.array(categories))).any():
        raise DataError(f"{path}: codes up to {table.max(0)}, valid: below {list(categories)}")
    return table
