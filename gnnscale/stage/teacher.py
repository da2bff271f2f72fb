"""Train the teacher, or read a finished run, and tabulate what it says of every node or graph."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.ops import full
from gnnscale.core.record import write_json
from gnnscale.core.teacher import Rows
from gnnscale.core.teacher import Teacher as Said
from gnnscale.core.traits import Trait, traits
from gnnscale.stage._base import Stage
from gnnscale.train.loop import Run

Tap = tuple[int, Rows]


class Teacher(Stage):
    """Fills ``run.teacher``: logits and hidden levels of the teacher on the training graph.

    The teacher is frozen, in evaluation mode and sees exactly what training may see, so that no
    held-out node of inductive data reaches a soft label. Its exact inference is asked once, for the
    logits and for the levels that terms tap; the tables are kept in the seed's folder, in
    ``teacher/``, and mapped from there.

    Raises: UsageError for a teacher that predicts with validation labels (Correct & Smooth may):
        the student would have them from it, and its own selection would mean nothing; and for a
        level that the teacher has not.
    """

    gives = traits(Trait.TEACHER)

    def __call__(self, run: Run) -> None:
        """Train or load, then tabulate."""
        assert run.make_teacher is not None  # the composition check guarantees it
        folder = run.folder / "teacher"
        taps = sorted({tap for term in run.objective.each for tap in term.taps})
        if kept(folder, taps) is None:
            teacher = run.make_teacher(run.data)
            if getattr(teacher.inference, "validation_labels", False):
                raise UsageError(
                    f"teacher={teacher.folder}: predicts with validation labels, which would reach "
                    "the student and its selection; train it with validation_labels: false"
                )
            keep(folder, tabulate(teacher, run.train_data, taps, run.device))
        run.teacher = kept(folder, taps)


def tabulate(teacher: Run, data: GraphData, taps: Sequence[Tap], device: torch.device) -> Said:
    """The tables of a finished run over ``data``."""
    hidden: dict[Tap, Tensor] = {}

    def put(tap: Tap, ids: Tensor, rows: Tensor, n: int) -> None:
        if tap not in hidden:
            hidden[tap] = torch.zeros(n, rows.shape[1])
        hidden[tap][ids.cpu()] = rows.float().cpu()

    def listen(batch: Batch, out: Output) -> None:
        for level, rows in taps:
            held = len(out.levels)
            if not -held <= level < held:
                raise UsageError(
                    f"teacher_level={level}: the teacher has {held} hidden levels; valid: 0 to "
                    f"{held - 1}, or -1 (what its classifier reads) to {-held}"
                )
            if rows == "nodes" and batch.readout:
                put((level, rows), batch.nodes, full(out.levels[level]), data.nodes)
            else:
                put((level, rows), batch.ids, out.hidden(level), data.items)

    items = torch.arange(data.items)
    logits = teacher.inference.heard(teacher.model, data, items, device, listen)
    return Said(logits.float().cpu(), hidden, str(teacher.folder))


def keep(folder: Path, said: Said) -> None:
    """Write the tables; ``tables.json`` comes last, so that without it there are none."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"logits": said.logits, **{name(tap): rows for tap, rows in said.hidden.items()}}
    for file, rows in names.items():
        np.save(folder / f"{file}.npy", rows.numpy(), allow_pickle=False)
    write_json(folder / "tables.json", {"source": said.source, "tables": sorted(names)})


def kept(folder: Path, taps: Sequence[Tap]) -> Said | None:
    """The tables of a seed's folder, mapped; None if there are none, or not these."""
    if not (folder / "tables.json").exists():
        return None
    about = json.loads((folder / "tables.json").read_text())
    if not {"logits", *map(name, taps)} <= set(about["tables"]):
        return None

    def read(file: str) -> Tensor:
        return torch.from_numpy(np.load(folder / f"{file}.npy", mmap_mode="c", allow_pickle=False))

    return Said(read("logits"), {tap: read(name(tap)) for tap in taps}, about["source"])


def name(tap: Tap) -> str:
    """The file of a hidden level."""
    level, rows = tap
    return f"hidden_{level}_{rows}"
