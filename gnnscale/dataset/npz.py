"""Attributed graphs in the npz layout of Shchur et al.'s benchmark, split per class by seed.

"Pitfalls of Graph Neural Network Evaluation", 2018, arXiv:1811.05868. Arrays: ``adj_data``,
``adj_indices``, ``adj_indptr``, ``adj_shape`` (compressed rows), the same under ``attr_`` for
features, and ``labels``. Nothing pickled is read.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from gnnscale.core.errors import DataError
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote

SHCHUR = "https://github.com/shchur/gnn-benchmark/raw/master/data/npz"
GRAPH2GAUSS = "https://github.com/abojchevski/graph2gauss/raw/master/data"
PPNP = "https://github.com/gasteigerjo/ppnp/raw/master/ppnp/data"


class Source(NamedTuple):
    """Where a set's file is, what must be in it, and where it is published.

    ``sha256`` is given where the sum of the published file itself is known.
    """

    folder: str
    file: str
    nodes: int
    features: int
    classes: int
    site: str = SHCHUR
    sha256: str | None = None


SOURCES = {
    "amazon_computers": Source("gnn_benchmark", "amazon_electronics_computers.npz", 13752, 767, 10),
    "amazon_photo": Source("gnn_benchmark", "amazon_electronics_photo.npz", 7650, 745, 8),
    "coauthor_cs": Source("gnn_benchmark", "ms_academic_cs.npz", 18333, 6805, 15),
    "coauthor_physics": Source("gnn_benchmark", "ms_academic_phy.npz", 34493, 8415, 5),
    "cora_ml": Source(
        "citation_full", "cora_ml.npz", 2995, 2879, 7, PPNP,
        "0460d25b737774a78a588838daf20afe9291b4eb89da2aa3d517244d3fc2bb0b",
    ),
    "dblp": Source("citation_full", "dblp.npz", 17716, 1639, 4, GRAPH2GAUSS),
    "cora_linqs": Source(
        "citation_full", "cora.npz", 2708, 1433, 7, SHCHUR,
        "068e22d90c3849b4057dfb05851741428992af058efcd4e7ebb4186f3d581de2",
    ),
    "citeseer_linqs": Source(
        "citation_full", "citeseer.npz", 3312, 3703, 6, SHCHUR,
        "280278b21b434c047922e8389518861416fb3ad39389c27865ff0e6bbb0aaab7",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Npz(Stored):
    """One set of the family; none has a public split.

    Args:
        name: which one. Others: ``Stored``.

    Shapes: x [N, F] float32, y [N] int64.
    Raises: DataError if the file is missing, damaged or not the published set.
    """

    name: Literal["amazon_computers", "amazon_photo", "coauthor_cs", "coauthor_physics",
                  "cora_ml", "dblp", "cora_linqs", "citeseer_linqs"] = "cora_ml"  # fmt: skip

    @property
    def folder(self) -> str:
        """As the file's source is called."""
        return SOURCES[self.name].folder

    def files(self) -> Sequence[Remote]:
        """One npz."""
        source = SOURCES[self.name]
        return [Remote(source.file, f"{source.site}/{source.file}", source.sha256)]

    def read(self, folder: Path) -> Raw:
        """The arrays as they are in the file."""
        source = SOURCES[self.name]
        path = folder / source.file
        try:
            with np.load(path, allow_pickle=False) as file:
                matrices = [
                    sp.csr_matrix(
                        tuple(file[f"{part}_{n}"] for n in ("data", "indices", "indptr")),
                        shape=tuple(file[f"{part}_shape"]),
                    )
                    for part in ("adj", "attr")
                ]
                labels = file["labels"]
            for matrix in matrices:
                matrix.check_format()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: damaged or not in the npz layout ({error})") from error
        links, x = matrices
        found = (*links.shape, *x.shape, *labels.shape, len(np.unique(labels)))
        n = source.nodes
        wanted = (n, n, n, source.features, n, source.classes)
        if found != wanted:
            raise DataError(
                f"{path}: not the published {self.name}: (rows, columns, rows of features, "
                f"features, labels, classes) are {found}, expected {wanted}"
            )
        edges = links.tocoo()
        return Raw(edges.row, edges.col, n, labels.astype(np.int64), source.classes, x)
