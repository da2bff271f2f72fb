"""Graphs whose neighbours mostly differ in class, each with ten public splits.

Platonov et al., "A Critical Look at the Evaluation of GNNs under Heterophily", ICLR 2023,
arXiv:2302.11640, and the repository beside it, github.com/yandex-research/heterophilous-graphs:
the authors' own sets (roman_empire to questions), Chameleon and Squirrel (Rozemberczki et al.,
2021, arXiv:1909.13021) with and without the nodes that occur twice, and Actor, Cornell, Texas and
Wisconsin (Pei et al., ICLR 2020, arXiv:2002.05287) with the splits of the latter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from gnnscale.core.errors import DataError
from gnnscale.dataset._arrays import arrays, published
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote

SITE = "https://github.com/yandex-research/heterophilous-graphs/raw/main/data"
MASKS = 10


class Source(NamedTuple):
    """What the published file holds, edges as listed; its sum where it is known."""

    nodes: int
    edges: int
    features: int
    classes: int
    sha256: str | None = None


SOURCES = {
    "roman_empire": Source(22662, 32927, 300, 18),
    "amazon_ratings": Source(24492, 93050, 300, 5),
    "tolokers": Source(11758, 519000, 10, 2),
    "questions": Source(48921, 153540, 301, 2),
    "minesweeper": Source(10000, 39402, 7, 2,
                          "e664c8dacf1e8ac466c2c09ed4b237bd2c5541f47a6eae9c6092cb87f16412b3"),
    "actor": Source(7600, 26659, 932, 5,
                    "c350eef06b2c2a9bf8218be2b57cac6d4003d0922eb597a039e9123f75817816"),
    "chameleon": Source(2277, 31371, 2325, 5,
                        "4c640bd2877fc4f9f101531e2f977bc16445a54e09a5cb01178df608e552f3fd"),
    "chameleon_filtered": Source(890, 8854, 2325, 5,
                                 "bf46f07e1fb5249280447e5fe3100f3e82fc4b93ad1e13ffcfdec924b6ac0bb5"),
    "squirrel": Source(5201, 198353, 2089, 5,
                       "d436e3b42c0546b105241c0ab0766097074e68e55f67b133eeb9b0162e55cbd9"),
    "squirrel_filtered": Source(2223, 46998, 2089, 5,
                                "f06370ffb3116c5de8b7a600005400b2293c025e0ce2f6916d8201a825505ac7"),
    "cornell": Source(183, 277, 1703, 5,
                      "684c54ba3daa13b0ba1f04a3d6dd1b1175c1ae9bdeb982851fd4ff96d3aac298"),
    "texas": Source(183, 279, 1703, 5,
                    "b164b99e6c3d43e4ab07488ec59bd8c815f90cbc1bd4cf425ce587d2b534d844"),
    "wisconsin": Source(251, 450, 1703, 5,
                        "2543c89838cfc75f737f7c4664cc1d097f8268602c20b2d1bd4f21407df9c074"),
}  # fmt: skip


@dataclass(frozen=True)
class Heterophilous(Stored):
    """One set of the family; the run's seed picks one of the ten public splits.

    Sets with two classes are scored by ROC-AUC, as in the paper (sec. 4), the others by accuracy.

    Args:
        name: which one. Others: ``Stored``.

    Shapes: x [N, F] float32, y [N] int64.
    Raises: DataError if the file is missing, damaged or not the published set.
    """

    name: Literal["roman_empire", "amazon_ratings", "tolokers", "questions", "minesweeper",
                  "actor", "chameleon", "chameleon_filtered", "squirrel", "squirrel_filtered",
                  "cornell", "texas", "wisconsin"] = "roman_empire"  # fmt: skip

    @property
    def folder(self) -> str:
        """The family's."""
        return "heterophilous"

    def files(self) -> Sequence[Remote]:
        """One npz."""
        file = f"{self.name}.npz"
        return [Remote(file, f"{SITE}/{file}", SOURCES[self.name].sha256)]

    def read(self, folder: Path) -> Raw:
        """The arrays as they are in the file."""
        path, source = folder / f"{self.name}.npz", SOURCES[self.name]
        masks = {"train": "train_masks", "valid": "val_masks", "test": "test_masks"}
        a = arrays(path, ["node_features", "node_labels", "edges", *masks.values()])
        x, y, edges = a["node_features"], a["node_labels"], a["edges"]
        found = (*x.shape, *edges.shape, *y.shape, len(np.unique(y)))
        n = source.nodes
        wanted = (n, source.features, source.edges, 2, n, source.classes)
        what = "(nodes, features, edges, ends, labels, classes)"
        published(path, self.name, found, wanted, what)
        shapes = [a[m].shape for m in masks.values()]
        published(path, self.name, shapes, [(MASKS, n)] * 3, "masks of each kind (splits, nodes)")
        stacked = np.stack([a[m] for m in masks.values()])
        if stacked.dtype != bool or stacked.sum(0).max() > 1:
            raise DataError(f"{path}: masks must be true or false, one per node and split")
        splits = [
            {s: np.flatnonzero(a[m][k]) for s, m in masks.items()} for k in range(MASKS)
        ]  # fmt: skip
        return Raw(
            edges[:, 0], edges[:, 1], n, y.astype(np.int64), source.classes,
            x if np.count_nonzero(x) > x.size / 20 else sp.csr_matrix(x), splits,
            metric="roc_auc" if source.classes == 2 else "",
        )  # fmt: skip
