"""Deezer users who are friends and the genres they like: 84 per country, no features.

Rozemberczki, Davies, Sarkar & Sutton, "GEMSEC", ASONAM 2019, arXiv:1802.03997;
github.com/benedekrozemberczki/datasets.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset._arrays import published
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote
from gnnscale.dataset._text import integers, table

COUNTS = {"HU": (47538, 222887), "RO": (41773, 125826)}
"""Nodes and friendships."""
GENRES = {"hu": 84, "ro": 84, "both": 86}


@dataclass(frozen=True)
class Deezer(Stored):
    """Hungary's and Romania's graphs, disjoint; node ids of the second follow the first's.

    Args:
        country: hu, ro or both. Others: ``Stored``. There are no public splits.

    Shapes: y [N, 84] float32 (86 for both), genres in alphabetical order.
    Raises: DataError if files are missing, damaged or not the published ones.
    """

    country: Literal["hu", "ro", "both"] = "both"

    @property
    def title(self) -> str:
        """Name and country."""
        return "deezer" if self.country == "both" else f"deezer_{self.country}"

    @property
    def folder(self) -> str:
        """Both countries' files lie in one."""
        return "deezer_hu_ro"

    @property
    def parts(self) -> list[str]:
        """The countries as the files name them."""
        return ["HU", "RO"] if self.country == "both" else [self.country.upper()]

    def files(self) -> Sequence[Remote]:
        """Edges and genres per country; their source is an archive without a stable address."""
        return [Remote(f"{c}_{n}") for c in self.parts for n in ("edges.csv", "genres.json")]

    def read(self, folder: Path) -> Raw:
        """The countries one after the other."""
        liked = {c: self._genres(folder / f"{c}_genres.json") for c in self.parts}
        names = sorted({g for lists in liked.values() for genres in lists for g in genres})
        published(folder, self.title, len(names), GENRES[self.country], "genres")
        column = {name: k for k, name in enumerate(names)}
        src, dst, rows, first = [], [], [], 0
        for country, lists in liked.items():
            path = folder / f"{country}_edges.csv"
            frame, n = table(path, ["node_1", "node_2"]), len(lists)
            published(path, self.title, (n, len(frame)), COUNTS[country], "(nodes, edges)")
            src.append(integers(path, frame, "node_1", n) + first)
            dst.append(integers(path, frame, "node_2", n) + first)
            y = np.zeros((n, len(names)), np.float32)
            owner = np.repeat(np.arange(n), [len(genres) for genres in lists])
            y[owner, [column[g] for genres in lists for g in genres]] = 1
            rows.append(y)
            first += n
        return Raw(
            np.concatenate(src), np.concatenate(dst), first, np.concatenate(rows), len(names),
            facts={"classes": names},
        )  # fmt: skip

    def _genres(self, path: Path) -> list[list[str]]:
        """Genres of node 0, 1, ..."""
        try:
            lists = json.loads(path.read_text())
            ordered = [lists[str(k)] for k in range(len(lists))]
            if not all(isinstance(g, str) for genres in ordered for g in genres):
                raise TypeError("a genre is not text")
        except KeyError as error:
            raise DataError(f"{path}: node {error.args[0]} is missing") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}: damaged, lists of genres by node expected ({error})"
            ) from error
        return ordered
