"""Graph classification sets of the TU collection, in its own text form or in that of GIN's authors.

Morris et al., GRL+ workshop at ICML 2020, arXiv:2007.08663; the second form is that of Xu et al.,
ICLR 2019, arXiv:1810.00826.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset._files import Remote, reading
from gnnscale.dataset._graphs import GraphSet, RawGraphs

SITE = "https://www.chrsmrrs.com/graphkerneldatasets"


class Counts(NamedTuple):
    """What is published of a set, and the files that it has beside the three of all."""

    graphs: int
    classes: int
    tables: tuple[str, ...] = ("node_labels",)


KNOWN = {
    "MUTAG": Counts(188, 2, ("node_labels", "edge_labels")),
    "PROTEINS": Counts(1113, 2, ("node_labels", "node_attributes")),
    "ENZYMES": Counts(600, 6, ("node_labels", "node_attributes")),
    "NCI1": Counts(4110, 2),
    "DD": Counts(1178, 2),
    "IMDB-BINARY": Counts(1000, 2, ()),
    "IMDB-MULTI": Counts(1500, 3, ()),
    "REDDIT-BINARY": Counts(2000, 2, ()),
    "COLLAB": Counts(5000, 3, ()),
    "PTC": Counts(344, 2),
}


@dataclass(frozen=True, kw_only=True)
class TU(GraphSet):
    """One set of the collection.

    Features are one-hot node labels, attributes beside them if asked for, and one-hot degrees where
    there are no labels; edge labels are one-hot features of edges. Classes are the labels in their
    order.

    Args:
        name: as in the collection. form: ``tu``: ``NAME_A.txt`` and so on in a folder ``tu/NAME``;
            ``gin``: one file ``gin_dataset/NAME/NAME.txt``, NAME without a hyphen.
        attributes: node attributes (numbers), too; form tu only. Others: ``GraphSet``.

    Raises: DataError if files are missing, damaged or not the published ones.
    """

    name: str = "MUTAG"
    form: Literal["tu", "gin"] = "tu"
    attributes: bool = False
    split: Literal["public", "folds", "shares", "none"] = "folds"

    @property
    def short(self) -> str:
        """The set's name as its files have it."""
        return self.name.replace("-", "") if self.form == "gin" else self.name

    @property
    def folder(self) -> str:
        """Below a data root."""
        return f"{'gin_dataset' if self.form == 'gin' else 'tu'}/{self.short}"

    def files(self) -> Sequence[Remote]:
        """One file, or members of one archive."""
        if self.form == "gin":
            return [Remote(f"{self.short}.txt")]
        known = KNOWN.get(self.name)
        tables = ("A", "graph_indicator", "graph_labels", *(known.tables if known else ()))
        names = [f"{self.name}_{table}.txt" for table in tables]
        url = f"{SITE}/{self.name}.zip"
        return [Remote(name, url, member=f"{self.name}/{name}") for name in names]

    def present(self, folder: Path) -> list[Path]:
        """Also the tables that a set not known here may have."""
        found = super().present(folder)
        more = sorted(folder.glob(f"{self.name}_*_*.txt")) if self.form == "tu" else []
        return [*found, *(path for path in more if path not in found)]

    def read(self, folder: Path) -> RawGraphs:
        """The arrays, checked against what is published of the set."""
        raw = self._gin(folder) if self.form == "gin" else self._tu(folder)
        wanted = KNOWN.get(self.name)
        if wanted and (len(raw.sizes), raw.classes) != (wanted.graphs, wanted.classes):
            raise DataError(
                f"{folder}: not the published {self.name}: {len(raw.sizes)} graphs of "
                f"{raw.classes} classes, expected {wanted.graphs} of {wanted.classes}"
            )
        return raw

    def _tu(self, folder: Path) -> RawGraphs:
        def table(kind: str, dtype: type, columns: int | None = None) -> np.ndarray:
            path = folder / f"{self.name}_{kind}.txt"
            import pandas as pd

            with reading(path, "the TU collection's layout"):
                found = pd.read_csv(path, header=None, dtype=dtype).to_numpy()
                if columns is not None and found.shape[1] != columns:
                    raise ValueError(f"{found.shape[1]} columns, {columns} were expected")
                if not np.isfinite(found).all():
                    raise ValueError("entries that are not finite")
            return found

        def beside(kind: str) -> bool:
            return (folder / f"{self.name}_{kind}.txt").is_file()

        owner = table("graph_indicator", np.int64, 1)[:, 0] - 1
        pairs = table("A", np.int64, 2) - 1
        labels = table("graph_labels", np.int64, 1)[:, 0]
        at = folder / f"{self.name}_graph_indicator.txt"
        if len(owner) == 0 or owner[0] != 0 or (np.diff(owner) < 0).any():
            raise DataError(f"{at}: graph numbers from 1 on in ascending order were expected")
        if owner[-1] >= len(labels):
            raise DataError(f"{at}: names graph {owner[-1] + 1}, {len(labels)} have labels")
        if pairs.min() < 0 or pairs.max() >= len(owner):
            raise DataError(f"{folder / f'{self.name}_A.txt'}: node numbers from {pairs.min() + 1} "
                            f"to {pairs.max() + 1}, valid: 1 to {len(owner)}")  # fmt: skip
        if (owner[pairs[:, 0]] != owner[pairs[:, 1]]).any():
            raise DataError(f"{folder / f'{self.name}_A.txt'}: an edge joins two graphs")
        parts = []
        if beside("node_labels"):
            parts.append(one_hot(table("node_labels", np.int64, 1)[:, 0]))
        if self.attributes:
            parts.append(table("node_attributes", np.float32))
        for part in parts:
            if len(part) != len(owner):
                raise DataError(
                    f"{folder}: {len(part)} rows of node features for {len(owner)} nodes"
                )
        edge = one_hot(table("edge_labels", np.int64, 1)[:, 0]) if beside("edge_labels") else None
        if edge is not None and len(edge) != len(pairs):
            raise DataError(f"{folder}: {len(edge)} edge labels for {len(pairs)} edges")
        names, y = np.unique(labels, return_inverse=True)
        sizes = np.bincount(owner, minlength=len(labels))
        return RawGraphs(
            pairs[:, 0], pairs[:, 1], sizes, y, "single", len(names),
            x=np.hstack(parts) if parts else None, edge=edge, facts={"classes": names.tolist()},
        )  # fmt: skip

    def _gin(self, folder: Path) -> RawGraphs:
        path = folder / f"{self.short}.txt"
        with reading(path, "GIN's layout"):
            lines = path.read_text(encoding="utf-8").splitlines()
            sizes, labels, tags, src, dst = [], [], [], [], []
            at, first = 1, 0
            for _ in range(int(lines[0])):
                nodes, label = map(int, lines[at].split())
                for i, line in enumerate(lines[at + 1 : at + 1 + nodes]):
                    tag, degree, *near = map(int, line.split()[: 2 + int(line.split()[1])])
                    if len(near) != degree or not all(0 <= j < nodes for j in near):
                        raise ValueError(f"line {at + 2 + i}: {degree} of {nodes} nodes expected")
                    tags.append(tag)
                    src += [first + j for j in near]
                    dst += [first + i] * degree
                if len(tags) != first + nodes:
                    raise ValueError(f"ends within graph {len(sizes) + 1}")
                sizes.append(nodes)
                labels.append(label)
                at, first = at + 1 + nodes, first + nodes
        names, y = np.unique(np.array(labels), return_inverse=True)
        alike = len(set(tags)) == 1  # one tag for all says nothing
        return RawGraphs(
            np.array(src, np.int64), np.array(dst, np.int64), np.array(sizes), y, "single",
            len(names), x=None if alike else one_hot(np.array(tags)),
            facts={"classes": names.tolist()},
        )  # fmt: skip


def one_hot(labels: np.ndarray) -> np.ndarray:
    """[n, distinct labels] float32, columns in the labels' order."""
    names, place = np.unique(labels, return_inverse=True)
    return np.eye(len(names), dtype=np.float32)[place]
