"""What losses on hidden rows share: whose rows, of which level, and heads that project them."""

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.ops import full
from gnnscale.core.random import Key
from gnnscale.core.teacher import Rows, Table, Teacher
from gnnscale.core.traits import Trait, traits
from gnnscale.distillation._base import Nodes, Term, chosen


def head(width: int, out: int) -> nn.Module:
    """Linear, batch norm, ReLU: [n, width] -> [n, out] (Joshi et al., arXiv:2111.04964)."""
    return nn.Sequential(nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU())


class Features(Term):
    """A loss between hidden rows of student and teacher, row k of both being the same node.

    The supervised loss keeps its factor, L = CE + weight * term. The student's rows are those of
    the forward pass, so behind its dropout; the teacher's are constants, from exact inference.

    Args:
        weight: beta of the papers. level, teacher_level: hidden levels as in ``Output.levels``; -1
            is what the classifier reads. rows: what rows are of. nodes: which seeds take part; at
            graph level with rows=nodes, the nodes of which graphs. samples: rows drawn without
            replacement in every step where there are more; 0: all.

    Raises: UsageError for a level that the student has not.
    """

    needs = (traits(Trait.TEACHER),)
    levels = measures = True
    projection = 0
    """P, the width that ``attach`` maps both to; 0: they are compared as they are."""

    def __init__(
        self, weight: float, level: int, teacher_level: int, rows: Rows, nodes: Nodes, samples: int
    ):
        super().__init__()
        self.weight, self.level, self.rows, self.nodes = weight, level, rows, nodes
        self.tap = (teacher_level, rows)
        self.taps, self.samples = (self.tap,), samples
        self.heads: nn.ModuleList | None = None

    def size(self, widths: tuple[int, ...]) -> None:
        """Remember the width of the level that is read."""
        held = len(widths)
        if not -held <= self.level < held:
            raise UsageError(
                f"level={self.level}: the student has {held} hidden levels; valid: 0 to {held - 1}"
                f", or -1 (what its classifier reads) to {-held}"
            )
        self.width = widths[self.level]

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """Keep the teacher's rows; make the heads."""
        assert teacher is not None  # the composition check guarantees it
        said = teacher.hidden[self.tap]
        self.table = Table(said)
        if self.projection:
            sizes = (self.width, said.shape[1])
            self.heads = nn.ModuleList(head(width, self.projection) for width in sizes)

    def members(self, out: Output, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(student's rows [n, D], their ids [n], sampler weights [n]) of all that take part."""
        picked = chosen(self.nodes, batch)
        if self.rows == "nodes" and batch.readout:
            assert batch.segment is not None
            at = picked[batch.segment].nonzero().flatten()
            h, ids = full(out.levels[self.level])[at], batch.nodes[at]
            return h, ids, torch.ones_like(ids, dtype=h.dtype)
        at = picked.nonzero().flatten()
        h = out.hidden(self.level)[at]
        w = batch.weight[at] if batch.weight is not None else torch.ones_like(at, dtype=h.dtype)
        return h, batch.ids[at], w

    def pairs(self, out: Output, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(student's rows, teacher's rows, weights), drawn and projected; [n, D], [n, D'], [n]."""
        h, ids, w = self.members(out, batch)
        if 0 < self.samples < len(ids):
            draw = Key(batch.key[0], f"rows of {type(self).__name__}", *batch.key[1:]).torch()
            kept = torch.randperm(len(ids), generator=draw)[: self.samples].to(ids.device)
            h, ids, w = h[kept], ids[kept], w[kept]
        t = self.table(ids).to(h.dtype)
        if self.heads is not None and len(h) > 1:  # batch norm has no variance of one row
            h, t = (each(rows) for each, rows in zip(self.heads, (h, t), strict=True))
        return h, t, w

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """weight * term, a scalar; 0 where fewer than two rows take part."""
        h, t, w = self.pairs(out, batch)
        if len(h) < 2:
            return out.logits.sum() * 0
        return self.weight * self.compare(h, t, w)

    def compare(self, h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        """The term of matched rows, a scalar.

        Shapes: h [n, D] the student's, t [n, D'] the teacher's, w [n] the sampler's weights.
        """
        raise NotImplementedError


def average(each: Tensor, w: Tensor) -> Tensor:
    """sum w v / sum w, the self-normalised mean over rows. [n] -> scalar."""
    return (each * w).sum() / w.sum().clamp(min=torch.finfo(each.dtype).tiny)
