"""Your own graph: an npz file, or a folder of CSV or Parquet tables (docs/your-own-graph.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gnnscale.core.errors import DataError
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._custom_npz import read_npz
from gnnscale.dataset._custom_tables import TABLES, read_folder
from gnnscale.dataset._files import Remote, roots
from gnnscale.dataset._tables import FORMATS, find


@dataclass(frozen=True)
class Custom(Stored):
    """A graph of the user's.

    Tables: ``edges`` (src, dst, optionally weight); optionally ``nodes`` (id, label, split and
    feature columns), or ``features``, ``labels`` and ``split``, each with a column id. Ids may be
    text. An empty label is unknown; several labels are joined by ``;`` or stand in columns
    ``label_*`` of 0 and 1. An npz holds the same by the names in ``_custom_npz.NAMES``.

    Args:
        path: the file or folder; also looked for under the data roots.
        classes: names of the classes, in order; None: those found, sorted. Others: ``Stored``.

    Shapes: x [N, F] float32, y [N] int64 or [N, C] float32.
    Raises: DataError with file, column and row of what is wrong.
    """

    path: str | None = None
    classes: list[str] | None = field(default=None)

    def place(self) -> Path:
        """Where the graph is. Raises DataError if it is nowhere."""
        if self.path is None:
            raise DataError(
                "dataset.path=null: which graph? type dataset.path=FILE.npz, or "
                "dataset.path=FOLDER with edges.csv in it (docs/your-own-graph.md)"
            )
        tried = [Path(self.path).expanduser(), *(base / self.path for base in roots(self.root))]
        for place in tried:
            if place.is_file() and place.suffix != ".npz":
                raise DataError(f"{place}: an .npz file or a folder of tables is expected")
            if place.exists():
                return place
        raise DataError(
            f"dataset.path={self.path}: neither a file nor a folder; searched "
            f"{', '.join(str(p.absolute()) for p in tried)}"
        )

    @property
    def title(self) -> str:
        """The name of the file or folder."""
        return "custom" if self.path is None else Path(self.path).stem

    def locate(self) -> Path:
        """The folder of the files."""
        place = self.place()
        return place if place.is_dir() else place.parent

    def files(self) -> Sequence[Remote]:
        """Every file that is read."""
        place = self.place()
        if place.is_file():
            return [Remote(place.name)]
        paths = [find(place, name) for name in TABLES]
        if paths[0] is None:
            forms = ", ".join(f"edges{f}" for f in FORMATS)
            raise DataError(f"{place}: the table of edges is missing; one of {forms} is expected")
        return [Remote(path.name) for path in paths if path is not None]

    def read(self, folder: Path) -> Raw:
        """The arrays or tables."""
        place = self.place()
        made = read_npz if place.is_file() else read_folder
        return made(place, self.classes)

    def _split(self, a: Mapping[str, Any], y: Tensor, seed: int) -> dict[str, Tensor]:
        parts = super()._split(a, y, seed)
        if self.split == "public" and not len(parts["train"]):
            raise DataError(
                f"{self.place()}: no node is in train; name some in the column split or in "
                "train_mask, or type dataset.split=none to predict only"
            )
        return parts
