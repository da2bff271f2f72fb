"""NELL: entities and relations of a knowledge graph, one label in a thousand known.

Carlson et al., AAAI 2010, in the files of Yang, Cohen & Salakhutdinov, ICML 2016, arXiv:1603.08861
(``ind.nell.0.001.*``), as far as they can be recovered without pickled code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset._arrays import arrays, matrix, published
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote

FILE = "nell_recovered.npz"
NODES, EDGES, FEATURES, CLASSES = 65755, 125775, 5414, 105
SPLITS = {"train": "train_idx", "valid": "val_official_known_idx", "test": "test_idx"}
SIZES = {"train": 105, "valid": 128, "test": 969}


@dataclass(frozen=True)
class Nell(Stored):
    """One entity per class to train on, 969 to test; most nodes have no label (y = -1).

    Features describe the 9,891 entities; relation nodes have none. The original protocol gives each
    of those a feature of its own: ``dataset.features=[raw,one_hot]``. Of the public validation set
    only the 128 nodes whose labels are known are kept.

    Shapes: x [65755, 5414] sparse, y [65755] int64.
    Raises: DataError if the file is missing, damaged or another one.
    """

    @property
    def title(self) -> str:
        """The name of the set."""
        return "nell"

    @property
    def folder(self) -> str:
        """Its own."""
        return "nell"

    def files(self) -> Sequence[Remote]:
        """One npz, which has no public address."""
        return [Remote(FILE)]

    def read(self, folder: Path) -> Raw:
        """The arrays as they are in the file."""
        path = folder / FILE
        parts = [f"x_{n}" for n in ("data", "indices", "indptr", "shape")]
        a = arrays(path, ["edge_index_undirected", "y", *parts, *SPLITS.values()])
        x, y, edges = matrix(path, a, "x_"), a["y"].astype(np.int64), a["edge_index_undirected"]
        found = (*x.shape, *y.shape, *edges.shape)
        what = "(nodes, features, labels, ends, edges)"
        published(path, self.title, found, (NODES, FEATURES, NODES, 2, EDGES), what)
        splits = {name: a[key].astype(np.int64) for name, key in SPLITS.items()}
        sizes = {name: len(ids) for name, ids in splits.items()}
        published(path, self.title, sizes, SIZES, "parts of the split")
        chosen = np.concatenate(list(splits.values()))
        if len(np.unique(chosen)) < len(chosen) or (y[chosen] < 0).any():
            raise DataError(f"{path}: the parts of the split overlap or hold nodes without a label")
        if edges.min() < 0 or edges.max() >= NODES:
            raise DataError(f"{path}: edges leave the graph")
        used = np.unique(y[y >= 0])  # of 186 columns, the files use 105: numbered in their order
        published(path, self.title, len(used), CLASSES, "classes")
        y = np.where(y >= 0, np.searchsorted(used, y), -1)
        return Raw(edges[0], edges[1], NODES, y, CLASSES, x, [splits])
