"""Computer-science papers on arXiv in 2023 and what they cite: ogbn-arxiv's kin, a year of it.

Collected by TRAIS-Lab, github.com/TRAIS-Lab/LLM-Structured-Data; features are counts of the title
words that occur in ten papers or more, made here from the collection's titles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset._arrays import arrays, matrix, published
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote

FILE = "arxiv_2023_graph.npz"
NODES, EDGES, WORDS, CLASSES = 33868, 305672, 2817, 40
SPLITS = {"train": 19461, "valid": 4682, "test": 668}


@dataclass(frozen=True)
class Arxiv2023(Stored):
    """Directed citations, 40 subject areas (39 occur), split by time of publication.

    Papers in no part of the public split keep their labels but are neither trained on nor tested.

    Shapes: x [33868, 2817] sparse, y [33868] int64.
    Raises: DataError if the file is missing, damaged or another one.
    """

    @property
    def title(self) -> str:
        """The name of the set."""
        return "arxiv_2023"

    @property
    def folder(self) -> str:
        """Its own."""
        return "arxiv_2023"

    def files(self) -> Sequence[Remote]:
        """One npz, which has no public address."""
        return [Remote(FILE)]

    def read(self, folder: Path) -> Raw:
        """The arrays as they are in the file."""
        path = folder / FILE
        parts = [f"x_{n}" for n in ("data", "indices", "indptr", "shape")]
        ids = {split: f"{split}_idx" for split in SPLITS}
        a = arrays(path, ["edge_index", "y", "class_names", *parts, *ids.values()])
        x, y, edges = matrix(path, a, "x_"), a["y"].astype(np.int64), a["edge_index"]
        found = (*x.shape, *y.shape, *edges.shape, len(a["class_names"]))
        what = "(nodes, words, labels, ends, edges, classes)"
        published(path, self.title, found, (NODES, WORDS, NODES, 2, EDGES, CLASSES), what)
        sizes = {split: len(a[key]) for split, key in ids.items()}
        published(path, self.title, sizes, SPLITS, "parts of the split")
        chosen = np.concatenate([a[key] for key in ids.values()])
        if len(np.unique(chosen)) < len(chosen) or chosen.min() < 0 or chosen.max() >= NODES:
            raise DataError(f"{path}: the parts of the split overlap or leave the graph")
        if edges.min() < 0 or edges.max() >= NODES or y.min() < -1 or y.max() >= CLASSES:
            raise DataError(f"{path}: edges or labels are out of range")
        split = {name: a[key].astype(np.int64) for name, key in ids.items()}
        facts = {"classes": [str(name) for name in a["class_names"]]}
        return Raw(edges[0], edges[1], NODES, y, CLASSES, x, [split], facts=facts)
