"""Feature rows of which few entries are not zero: stored, dropped out and multiplied as such."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnscale.core import ops
from gnnscale.core.compiled import compiled
from gnnscale.core.ops import native_kernels
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.dropout import applied, drawn, dropout
from gnnscale.core.ops.pool import KINDS
from gnnscale.core.ops.sparse_product import fits, sparse_product
from gnnscale.core.ops.watch import tell

FEW = 16
"""Rows up to which a product with a transposed matrix is a dense one: to lay that matrix out anew
takes longer than all of it (one row of 1,433 columns to 128: 0.37 ms, and 0.07 ms so)."""


@compiled()
def _take(indptr, indices, values, rows):
    """CSR rows, in the order asked for."""
    starts = np.zeros(len(rows) + 1, np.int64)
    for k in range(len(rows)):
        starts[k + 1] = starts[k] + indptr[rows[k] + 1] - indptr[rows[k]]
    columns = np.empty(starts[-1], indices.dtype)
    kept = np.empty(starts[-1], values.dtype)
    for k in range(len(rows)):
        first, size = indptr[rows[k]], starts[k + 1] - starts[k]
        columns[starts[k] : starts[k + 1]] = indices[first : first + size]
        kept[starts[k] : starts[k + 1]] = values[first : first + size]
    return starts, columns, kept


class SparseRows:
    """A matrix [n, F] in compressed rows that behaves like a feature tensor where models read one.

    ``x @ W`` is dense and has a gradient in W; ``x[ids]`` selects rows; ``dropout`` draws for the
    stored entries only, which is dropout of the whole matrix, since a zero that is kept is still a
    zero. ``len``, ``shape``, ``dtype``, ``device``, ``to``, ``split`` are a tensor's.

    Args:
        indptr: [n + 1] int64. indices: [nnz] int32, columns. values: [nnz], without gradients.
        width: F.
    """

    def __init__(self, indptr: Tensor, indices: Tensor, values: Tensor, width: int):
        self.rows, self.values = Adjacency(indptr, indices, width), values

    @classmethod
    def of(cls, pattern: Adjacency, values: Tensor) -> "SparseRows":
        """Other values in the same places; the pattern's transpose is shared, not made again."""
        made = cls.__new__(cls)
        made.rows, made.values = pattern, values
        return made

    @classmethod
    def from_dense(cls, x: Tensor) -> "SparseRows":
        """The entries of ``x`` [n, F] that are not zero."""
        row, column = x.nonzero(as_tuple=True)
        indptr = torch.zeros(len(x) + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(row, minlength=len(x)), 0, out=indptr[1:])
        return cls(indptr, column.int(), x[row, column], x.shape[1])

    def __repr__(self) -> str:
        n, f = self.shape
        return f"SparseRows([{n}, {f}], {len(self.values)} entries, {self.device})"

    @property
    def shape(self) -> torch.Size:
        """[n, F]."""
        return torch.Size((self.rows.n_dst, self.rows.n_src))

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    def __len__(self) -> int:
        return self.rows.n_dst

    def dim(self) -> int:
        """Two."""
        return 2

    def __getitem__(self, ids: Tensor | slice) -> "SparseRows":
        """Rows by node ids, a mask, or a slice of step 1."""
        if isinstance(ids, slice):
            start, end, step = ids.indices(len(self))
            if step != 1:
                raise ValueError(f"rows {ids}: only slices of step 1 select sparse rows")
            bounds = self.rows.indptr[start : max(start, end) + 1]
            first, last = int(bounds[0]), int(bounds[-1])
            if (start, end) == (0, len(self)):
                return self
            part = self.rows.indices[first:last]
            return SparseRows(bounds - first, part, self.values[first:last], self.shape[1])
        if ids.dtype == torch.bool:
            ids = ids.nonzero().squeeze(1)
        if self.device.type == "cpu":
            arrays = _take(
                self.rows.indptr.numpy(), self.rows.indices.numpy(), self.values.numpy(),
                ids.long().numpy(),
            )  # fmt: skip
            indptr, indices, values = (torch.from_numpy(a) for a in arrays)
            return SparseRows(indptr, indices, values, self.shape[1])
        counts = self.rows.in_degree[ids]
        indptr = torch.zeros(len(ids) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(counts, 0, out=indptr[1:])
        shift = torch.repeat_interleave(self.rows.indptr[:-1][ids] - indptr[:-1], counts)
        at = shift + torch.arange(len(shift), device=self.device)
        return SparseRows(indptr, self.rows.indices[at], self.values[at], self.shape[1])

    def cpu(self) -> "SparseRows":
        """On the CPU."""
        return self.to("cpu")

    def pin_memory(self) -> "SparseRows":
        """In page-locked memory."""
        return SparseRows.of(self.rows.pin_memory(), self.values.pin_memory())

    def split(self, size: int) -> list["SparseRows"]:
        """Consecutive pieces of at most ``size`` rows."""
        return [self[at : at + size] for at in range(0, len(self), size)]

    def __matmul__(self, w: Tensor) -> Tensor:
        """Shapes: [n, F] @ [F, D] -> [n, D]."""
        return self._times(w, self.values)

    def _times(self, w: Tensor, values: Tensor, key: int = 0, p: float = 0.0) -> Tensor:
        """The product, with these values under the dropout mask of this key."""
        here = self.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if here and len(self) <= FEW and not w.is_contiguous():
            return self.dense() @ w
        native = ops.backend("weighted_total", self.device) is native_kernels
        if native and fits(self.rows, values, w):
            tell("total", self.rows, w.shape[1], True)
            return sparse_product(self.rows, values, w, key, p)
        return ops.total(self.rows, w.contiguous(), applied(values, key, p) if p else values)

    def dropout(self, p: float) -> "SparseRows":
        """Each entry zero with probability p, the others divided by 1 - p."""
        if p == 0:
            return self
        if self.device.type != "cpu" or self.dtype not in KINDS or self.values.requires_grad:
            return SparseRows.of(self.rows, dropout(self.values, p))
        return Dropped(self.rows, self.values, drawn(p), p)

    def dense(self) -> Tensor:
        """The same matrix as a tensor."""
        x = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        x[self.rows.dst.long(), self.rows.indices.long()] = self.values
        return x

    def to(self, target: torch.device | str | torch.dtype, non_blocking: bool = False):
        """On another device, or with values of another type."""
        if isinstance(target, torch.dtype):
            return SparseRows.of(self.rows, self.values.to(target))
        if torch.device(target) == self.device:
            return self
        values = self.values.to(target, non_blocking=non_blocking)
        return SparseRows.of(self.rows.to(target), values)


class Dropped(SparseRows):
    """Sparse rows under a dropout mask that a product draws on its way: entries that are dropped
    cost nothing there. Whoever asks for ``values`` gets them with zeros in their places.

    Args:
        pattern, given: rows and columns, and values [nnz] before dropout. key, p: mask and rate.
    """

    def __init__(self, pattern: Adjacency, given: Tensor, key: int, p: float):
        self.rows, self.given, self.key, self.p = pattern, given, key, p

    @cached_property
    def values(self) -> Tensor:  # type: ignore[override]
        """[nnz], the dropped ones 0."""
        return applied(self.given, self.key, self.p)

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.given.dtype

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.given.device

    def __matmul__(self, w: Tensor) -> Tensor:
        """Shapes: [n, F] @ [F, D] -> [n, D]."""
        return self._times(w, self.given, self.key, self.p)


def cat(parts: Sequence[Any]) -> Any:
    """Rows of tensors, or of sparse rows, one part below the other."""
    if not isinstance(parts[0], SparseRows):
        return torch.cat(list(parts))
    if len(parts) == 1:
        return parts[0]
    ends = [0, *np.cumsum([len(p.values) for p in parts])]
    indptr = [p.rows.indptr[:-1] + start for p, start in zip(parts, ends, strict=False)]
    last = parts[0].rows.indptr.new_tensor(ends[-1:])
    return SparseRows(
        torch.cat([*indptr, last]), torch.cat([p.rows.indices for p in parts]),
        torch.cat([p.values for p in parts]), parts[0].shape[1],
    )  # fmt: skip


def beside(x: "Tensor | SparseRows", codes: Tensor, classes: int) -> "Tensor | SparseRows":
    """The rows of ``x`` [n, F] with a one-hot code behind each: [n, F + classes].

    Shapes: codes [n] int64 in [0, classes).
    """
    if isinstance(x, Tensor):
        return torch.cat([x, torch.nn.functional.one_hot(codes, classes).to(x.dtype)], 1)
    n, width = x.shape
    indptr = x.rows.indptr + torch.arange(n + 1, device=codes.device)
    at = torch.arange(len(x.values), device=codes.device) + x.rows.dst
    indices = x.rows.indices.new_empty(len(at) + n)
    values = x.values.new_ones(len(at) + n)
    indices[at], values[at] = x.rows.indices, x.values
    indices[indptr[1:] - 1] = (width + codes).to(indices.dtype)
    return SparseRows(indptr, indices, values, width + classes)


def dense(x: "Tensor | SparseRows") -> Tensor:
    """The tensor of features that may be sparse."""
    return x.dense() if isinstance(x, SparseRows) else x
