"""Open Graph Benchmark, node property prediction, read from OGB's raw files without its package.

Hu et al., NeurIPS 2020, arXiv:2005.00687. Addresses, versions, splits, sizes and scores are those
of ogb 1.3.6, whose own loader fails on torch >= 2.6 and asks on stdin before big downloads; folders
that it has made are found and read. Departs from it: edges become simple and undirected unless
options say otherwise, and ogbn-mag becomes one graph of one kind of node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gnnscale.core.errors import DataError, UsageError
from gnnscale.dataset import _ogb_layouts as layouts
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote, roots
from gnnscale.dataset._ogb_tables import SPLITS, Source

SITE = "http://snap.stanford.edu/ogb/data/nodeproppred"
BASIC = ("raw/edge", "raw/num-node-list", "raw/num-edge-list", "raw/node-label")
MAG = ("raw/num-node-dict", "raw/triplet-type-list", "raw/node-feat/paper/node-feat",
       "raw/node-label/paper/node-label")  # fmt: skip
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
    - papers100M: features are copied to the cache block by block, once, and mapped from there,
      never held in memory; they can't be transformed.

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
            tables = [
                f"{layouts.relation(r)}/{t}"
                for r in layouts.RELATIONS
                for t in ("edge", "num-edge-list")
            ]
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
        own = {"ogbn_mag": layouts.mag, "ogbn_proteins": layouts.proteins,
               "ogbn_papers100m": layouts.papers}  # fmt: skip
        raw = own.get(self.name, layouts.homogeneous)(folder, source)
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
