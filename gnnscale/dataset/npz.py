"""Attributed graphs in the npz layout of Shchur et al.'s benchmark, split per class by seed.

"Pitfalls of Graph Neural Network Evaluation", 2018, arXiv:1811.05868. Arrays: ``adj_data``,
``adj_indices``, ``adj_indptr``, ``adj_shape`` (compressed rows), the same under ``attr_`` for
features, and ``labels``. Nothing pickled is read.
"""

import zipfile
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import DataError
from gnnscale.core.random import Key
from gnnscale.core.values import Count, Whole
from gnnscale.dataset._base import Dataset, find, per_class_split
from gnnscale.graph.simple import simple


class Source(NamedTuple):
    """Where a set's file is and what must be in it."""

    folder: str
    file: str
    nodes: int
    features: int
    classes: int


SOURCES = {
    "amazon_computers": Source("gnn_benchmark", "amazon_electronics_computers.npz", 13752, 767, 10),
    "amazon_photo": Source("gnn_benchmark", "amazon_electronics_photo.npz", 7650, 745, 8),
    "coauthor_cs": Source("gnn_benchmark", "ms_academic_cs.npz", 18333, 6805, 15),
    "coauthor_physics": Source("gnn_benchmark", "ms_academic_phy.npz", 34493, 8415, 5),
    "cora_ml": Source("citation_full", "cora_ml.npz", 2995, 2879, 7),
    "dblp": Source("citation_full", "dblp.npz", 17716, 1639, 4),
    "cora_linqs": Source("citation_full", "cora.npz", 2708, 1433, 7),
    "citeseer_linqs": Source("citation_full", "citeseer.npz", 3312, 3703, 6),
}


class Npz(Dataset):
    """One set of the family, symmetrised, without self-loops and duplicates.

    Args:
        name: which one.
        root: data root, searched before $GNNSCALE_DATA and ./data.
        train_per_class, valid_per_class: labelled nodes drawn per class; the rest test.
        split_seed: of the draw; None: the run's seed.
        largest_component: keep the largest connected component only (CPF, GLNN).
        features: raw, ``row`` (rows sum to 1) or ``binary`` (1 where not 0; CPF).

    Shapes: x [N, F] float32, y [N] int64.
    Raises: DataError if the file is missing, damaged or not the published set.
    """

    def __init__(
        self,
        name: Literal["amazon_computers", "amazon_photo", "coauthor_cs", "coauthor_physics",
                      "cora_ml", "dblp", "cora_linqs", "citeseer_linqs"],
        root: str | None = None,
        train_per_class: Count = 20,
        valid_per_class: Count = 30,
        split_seed: Whole | None = None,
        largest_component: bool = False,
        features: Literal["raw", "row", "binary"] = "raw",
    ):  # fmt: skip
        self.name, self.root, self.source = name, root, SOURCES[name]
        self.train_per_class, self.valid_per_class = train_per_class, valid_per_class
        self.split_seed = split_seed
        self.largest_component, self.features = largest_component, features

    def load(self, seed: int) -> GraphData:
        """Read the file and split by ``split_seed`` or else ``seed``."""
        adjacency, x, labels = self._read()
        kept = np.arange(len(labels))
        if self.largest_component:
            _, owner = sp.csgraph.connected_components(adjacency, directed=False)
            kept = np.flatnonzero(owner == np.bincount(owner).argmax())
            adjacency = adjacency[kept][:, kept]
        edges = adjacency.tocoo()
        graph, facts = simple(edges.row, edges.col, len(kept))
        dense = torch.from_numpy(self._scaled(x[kept]).toarray())
        y = torch.from_numpy(labels[kept].astype(np.int64))
        key = Key(seed if self.split_seed is None else self.split_seed, "dataset.npz.split")
        return GraphData(
            name=self.name,
            graph=graph,
            x=dense,
            y=y,
            splits=per_class_split(y, self.train_per_class, self.valid_per_class, key),
            task=Task("node", "single", self.source.classes),
            facts={
                **facts,
                "edges": graph.n_edges // 2,
                "features": self.features,
                "nodes_outside_largest_component": len(labels) - len(kept),
            },
        )

    def _scaled(self, x: sp.csr_matrix) -> sp.csr_matrix:
        x = x.astype(np.float32)
        if self.features == "binary":
            x.data = (x.data != 0).astype(np.float32)
        if self.features == "row":
            sums = np.asarray(x.sum(1)).ravel()
            x = sp.diags(np.divide(1, sums, where=sums != 0, out=np.zeros_like(sums))) @ x
        return x.tocsr()

    def _read(self) -> tuple[sp.csr_matrix, sp.csr_matrix, np.ndarray]:
        """(adjacency [N, N], features [N, F], labels [N]) as they are in the file."""
        source = self.source
        path = find(self.root, source.folder, [source.file]) / source.file
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
        adjacency, x = matrices
        found = (*adjacency.shape, *x.shape, *labels.shape, len(np.unique(labels)))
        n = source.nodes
        wanted = (n, n, n, source.features, n, source.classes)
        if found != wanted:
            raise DataError(
                f"{path}: not the published {self.name}: (rows, columns, rows of features, "
                f"features, labels, classes) are {found}, expected {wanted}"
            )
        return adjacency, x, labels
