"""DBLP co-authors and the venues they publish in: 60 classes, no features.

Files of ProNE (Zhang, Dong, Wang, Tang & Ding, IJCAI 2019); github.com/THUDM/ProNE.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset._arrays import published
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote

SITE = "https://github.com/THUDM/ProNE/raw/master/data"
SHA256 = {
    "dblp.ungraph": "dfffc3dacacfc2af2b0b924e14d9b5730702c27cf86cc59a3b8d1822e4f6aaee",
    "dblp.cmty": "9d18fa32e37ff9f1489321f94586ec8022026c8fe6f19a78bf1d51ca4cbea6b9",
}
NODES, EDGES, CLASSES = 51264, 127968, 60


@dataclass(frozen=True)
class DblpProne(Stored):
    """Every node is in exactly one of the 60 communities. There are no public splits.

    Shapes: y [51264] int64.
    Raises: DataError if files are missing, damaged or not the published ones.
    """

    @property
    def title(self) -> str:
        """The name of the set."""
        return "dblp_prone"

    @property
    def folder(self) -> str:
        """Its own."""
        return "dblp_prone"

    def files(self) -> Sequence[Remote]:
        """Edges, and a line of nodes per community."""
        return [Remote(name, f"{SITE}/{name}", total) for name, total in SHA256.items()]

    def read(self, folder: Path) -> Raw:
        """Edges and communities as listed."""
        edges_path, path = folder / "dblp.ungraph", folder / "dblp.cmty"
        pairs = _numbers(edges_path)
        ends = np.array([i for pair in pairs for i in pair if len(pair) == 2], np.int64)
        lengths = {len(pair) for pair in pairs}
        published(edges_path, self.title, (len(pairs), lengths), (EDGES, {2}), "(lines, ends)")
        members = _numbers(path)
        ids = np.array([i for line in members for i in line], np.int64)
        found = (len(members), len(ids), len(np.unique(ids)))
        what = "(communities, members, distinct)"
        published(path, self.title, found, (CLASSES, NODES, NODES), what)
        for where, values in ((edges_path, ends), (path, ids)):
            if values.min() < 0 or values.max() >= NODES:
                raise DataError(f"{where}: node ids must run from 0 to {NODES - 1}")
        y = np.empty(NODES, np.int64)
        y[ids] = np.repeat(np.arange(CLASSES), [len(line) for line in members])
        src, dst = ends.reshape(-1, 2).T
        return Raw(src, dst, NODES, y, CLASSES)


def _numbers(path: Path) -> list[list[int]]:
    """Whole numbers line by line. Raises DataError naming the first line that has others."""
    try:
        lines = path.read_text("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: damaged, not a text of numbers ({error.reason})") from error
    found = []
    for at, line in enumerate(lines, 1):
        try:
            found.append([int(word) for word in line.split()])
        except ValueError as error:
            raise DataError(f"{path}: line {at}: whole numbers expected ({error})") from error
    return [line for line in found if line]
