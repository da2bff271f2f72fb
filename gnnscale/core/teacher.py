"""What a trained teacher says, as tables whose rows are looked up by id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Rows = Literal["items", "nodes"]
"""Of what a hidden level has rows: of what is predicted, or of nodes. At node level both agree."""
SMALL = 2**30
"""Bytes up to which a table is moved to the device where its rows are wanted."""


@dataclass(frozen=True)
class Teacher:
    """What a teacher says of the training graph, whose items and nodes number the rows.

    logits: [items, C]. hidden: [items or N, D] for every (level, rows) that a term asked for.
    source: where it came from.
    """

    logits: Tensor
    hidden: Mapping[tuple[int, Rows], Tensor] = field(default_factory=dict)
    source: str = ""


class Table:
    """Rows by id, constants, on the device of the ids.

    A small table moves to that device at its first use; one of more than ``SMALL`` bytes, which may
    be mapped from disk, stays where it is and gives the rows that are asked for.

    Args:
        rows: [n, D].
    """

    def __init__(self, rows: Tensor):
        self.rows = rows.detach()

    def __call__(self, ids: Tensor) -> Tensor:
        """Shapes: ids [k] -> [k, D]."""
        if self.rows.device != ids.device and self.rows.nbytes <= SMALL:
            self.rows = self.rows.to(ids.device)
        return self.rows[ids.to(self.rows.device)].to(ids.device)
