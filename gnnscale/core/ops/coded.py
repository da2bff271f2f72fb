"""Matrices that integer inference holds as codes, and what is still to be done to them.

A layer's own code runs on them unchanged: products and sums of codes are integers, biases, norms
and rectifiers are noted, and when a site asks for codes again everything that was noted is done in
one pass over the integers. Whatever has no integer form gets the float32 values instead. The
results are those of fake quantization: the same numbers in the same order of operations, where
float32 holds the sums exactly (below 2^24) and scales are powers of two, bit for bit.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.ops import coded_kernels as kernels
from gnnscale.core.ops import int_product
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.coded_kernels import ADD, JOIN, OVER, OWN, RELU, SCALE, SHIFT, TIMES
from gnnscale.core.ops.codes import Grid
from gnnscale.core.ops.lanes import LINE

ROWS = 2048
"""Of integers that are made and used up at once, so that they stay in the cache."""
LANES = 16
"""Codes that are added up at once."""
MANY = 2048
"""Rows from which codes of codes are looked up: eight times what a table of all codes has."""


class Codes:
    """Integers q [n, D] in 8 bits, or float32 values, that stand for (q - zero) scale.

    scale: [] , or [D] per column (``axis`` 1) or [n] per row (0). zero: the same, whole numbers.
    """

    def __init__(self, q: Tensor, scale: Tensor, zero: Tensor, axis: int = 1):
        self.q, self.scale, self.zero, self.axis = q, scale, zero, axis

    @property
    def in_bytes(self) -> bool:
        """Whether they are integers."""
        return self.q.dtype == torch.int8

    @property
    def narrow(self) -> bool:
        """Whether they are integers with one scale."""
        return self.in_bytes and not self.scale.dim()

    @property
    def shape(self) -> torch.Size:
        """[n, D]."""
        return self.q.shape

    @cached_property
    def T(self) -> "Codes":
        """The transposed matrix."""
        return Codes(self.q.T, self.scale, self.zero, 1 - self.axis)

    def __getitem__(self, rows: Any) -> "Codes":
        scale, zero = self.scale, self.zero
        if self.axis == 0 and scale.dim():
            scale, zero = scale[rows], zero[rows]
        return Codes(self.q[rows], scale, zero, self.axis)

    @cached_property
    def centred(self) -> Tensor:
        """q - zero as float32 [n, D]: of weights, made once."""
        zero = self.zero
        if zero.dim():
            zero = zero.unsqueeze(1 - self.axis)
        return (self.q.float() - zero).contiguous()

    @cached_property
    def packed(self) -> tuple[Tensor, Tensor]:
        """q and its columns' sums in 32 bits: of weights, made once."""
        return self.q.contiguous(), self.q.sum(0, dtype=torch.int32)

    @cached_property
    def table(self) -> np.ndarray:
        """q - zero in as few bits as hold it, whole vectors wide: of weights, made once."""
        rows = self.centred.to(torch.int16) if self.zero.any() else self.q
        return F.pad(rows, (0, -rows.shape[1] % LANES)).contiguous().numpy()

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """q - zero as ``int_product`` reads it, and its columns' sums: of weights, made once."""
        pairs = int_product.paired(self.centred.to(torch.int16).numpy())
        return pairs, int_product.sums(pairs)

    def all_codes(self) -> "Codes":
        """Every code there is in every column, by its last 8 bits: [256, D]."""
        q = torch.arange(256, dtype=torch.uint8).view(torch.int8)
        return Codes(q.unsqueeze(1).expand(256, self.shape[1]), self.scale, self.zero)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """All rows at once: (first row, integers)."""
        yield 0, self.q


class Mapped(Codes):
    """Codes [n, D] that are, column by column, functions of other codes; looked up when asked for.

    of: the others. images: [256, D] int8, by their last 8 bits.
    """

    of: Codes
    images: np.ndarray
    in_bytes = True

    def __init__(self, of: Codes, images: np.ndarray, scale: Tensor, zero: Tensor):
        if isinstance(of, Mapped) and not of.made:  # nobody asked for those between
            between = of.images.view(np.uint8).astype(np.int64)
            of, images = of.of, np.take_along_axis(images, between, 0)
        self.of, self.images = of, images
        self.scale, self.zero, self.axis = scale, zero, 1

    @property
    def made(self) -> bool:
        """Whether they have been looked up."""
        return "q" in vars(self)

    @cached_property
    def q(self) -> Tensor:  # type: ignore[override]
        """The codes."""
        out = torch.empty(self.shape, dtype=torch.int8)
        given = self.of.q.contiguous().numpy().view(np.uint8)
        kernels.look_up(given, self.images, out.numpy())
        return out

    @property
    def shape(self) -> torch.Size:
        """[n, D]."""
        return self.of.shape

    def __getitem__(self, rows: Any) -> Codes:
        return super().__getitem__(rows) if self.made else Mapped(
            self.of[rows], self.images, self.scale, self.zero)  # fmt: skip


class Product:
    """x w of codes: whole numbers, by blocks of rows. x [n, K], w [K, D] -> [n, D]."""

    def __init__(self, x: "Codes | SparseCodes", w: Codes):
        self.x, self.w = x, w
        self.scale, self.zero, self.axis = x.scale * w.scale, torch.zeros(()), 1

    @property
    def shape(self) -> torch.Size:
        """[n, D]."""
        return torch.Size((self.x.shape[0], self.w.shape[1]))

    def __getitem__(self, rows: Any) -> "Product":
        return Product(self.x[rows], self.w)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, int32), possibly in the place of the one before."""
        if isinstance(self.x, SparseCodes):
            yield from self.x.times(self.w)
            return
        q, zero = self.x.q.contiguous(), int(self.x.zero)
        if int_product.torch_is_faster() and not self.w.zero.any():
            w, sums = self.w.packed
            for at in range(0, len(q), ROWS):
                yield at, torch._int_mm(q[at : at + ROWS], w).sub_(sums, alpha=zero)
            return
        pairs, columns = self.w.pairs
        less = columns * np.int32(zero)
        room = torch.empty(min(len(q), ROWS), pairs.shape[1], dtype=torch.int32)
        for at in range(0, len(q), ROWS):
            out = room[: min(ROWS, len(q) - at)]
            int_product.product(q[at : at + ROWS].numpy(), less, pairs, out.numpy())
            yield at, out


class Sum:
    """Sums of codes over the in-edges of every destination: whole numbers, by blocks of rows."""

    def __init__(self, graph: Adjacency, x: Codes):
        self.graph, self.x = graph, x
        self.scale, self.zero, self.axis = x.scale, torch.zeros(()), 1

    @property
    def shape(self) -> torch.Size:
        """[n_dst, D]."""
        return torch.Size((self.graph.n_dst, self.x.shape[1]))

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, int32), each in the place of the one before."""
        indptr, indices = self.graph.indptr.numpy(), self.graph.indices.numpy()
        n, width = self.shape
        # whole vectors, and no row that begins in one line and ends in the next
        wide = next((w for w in (LANES, 2 * LANES) if width <= w), -(-width // LINE) * LINE)
        rows = self.x.q if wide == width else F.pad(self.x.q, (0, wide - width))
        q, zero = rows.contiguous().numpy(), int(self.x.zero)
        room = torch.empty(min(n, ROWS), wide, dtype=torch.int32)
        for at in range(0, n, ROWS):
            out = room[: min(ROWS, n - at)]
            kernels.sums(indptr, indices, q, zero, at, out.numpy())
            yield at, out


class SparseCodes:
    """Codes of sparse rows less the code of 0: whole numbers where something is stored.

    pattern: rows and columns. values: [nnz] int16, code - zero. scale: [].
    """

    def __init__(self, pattern: Adjacency, values: Tensor, scale: Tensor, rows: Any):
        self.pattern, self.values, self.scale, self.rows = pattern, values, scale, rows
        self.shape = torch.Size((pattern.n_dst, pattern.n_src))

    def __len__(self) -> int:
        return self.shape[0]

    def __matmul__(self, w: Any) -> "Coded | Tensor":
        """Codes by codes are integers; others are made float32."""
        if isinstance(w, Coded) and w.plain is not None and w.plain.axis == 1:
            return Coded(Product(self, w.plain))
        return self.values_() @ (w.values() if isinstance(w, Coded) else w)

    def __getitem__(self, ids: Any) -> "SparseCodes":
        part = self.rows.of(self.pattern, self.values)[ids]
        return SparseCodes(part.rows, part.values, self.scale, self.rows)

    def values_(self) -> Any:
        """Sparse rows of float32 values."""
        return self.rows.of(self.pattern, self.values.float() * self.scale)

    def dense(self) -> Tensor:
        """The float32 matrix."""
        return self.values_().dense()

    def times(self, w: Codes) -> Iterator[tuple[int, Tensor]]:
        """(first row, int32) of the product, each in the place of the one before."""
        indptr, indices = self.pattern.indptr.numpy(), self.pattern.indices.numpy()
        values = self.values.numpy()
        room = torch.empty(min(len(self), ROWS), w.table.shape[1], dtype=torch.int32)
        for at in range(0, len(self), ROWS):
            out = room[: min(ROWS, len(self) - at)]
            kernels.sparse_product(indptr, indices, values, w.table, at, out.numpy())
            yield at, out


Source = Codes | Product | Sum
Step = tuple[int, Any]


class Coded:
    """A float32 matrix [n, D] as integers, their scale, and steps that are still to be taken."""

    dtype = torch.float32
    device = torch.device("cpu")
    requires_grad = False

    def __init__(self, source: Source, steps: tuple[Step, ...] = ()):
        self.source, self.steps = source, steps
        self._values: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor) -> "Coded":
        """Float32 values."""
        return cls(Codes(x.contiguous(), torch.ones(()), torch.zeros(())))

    # -- what a tensor answers --------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """[n, D]."""
        return self.source.shape

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """Two."""
        return 2

    def __repr__(self) -> str:
        return f"Coded({list(self.shape)}, {type(self.source).__name__}, {len(self.steps)} steps)"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.values(), name)

    @property
    def plain(self) -> Codes | None:
        """The codes, if there is nothing else: no float values, no steps."""
        source = self.source
        codes = isinstance(source, Codes) and source.in_bytes
        return source if codes and not self.steps else None  # type: ignore[return-value]

    @property
    def T(self) -> Any:
        """The transposed matrix."""
        return self.values().T if self.plain is None else Coded(self.plain.T)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Itself, where it stays what it is."""
        wanted = [*args, *kwargs.values()]
        same = all(w in (self.dtype, self.device, "cpu") for w in wanted)
        return self if same else self.values().to(*args, **kwargs)

    def float(self) -> "Coded":
        """It is."""
        return self

    def detach(self) -> "Coded":
        """It has no gradient."""
        return self

    def contiguous(self) -> "Coded":
        """It is."""
        return self

    def relu(self) -> "Coded":
        """max(x, 0)."""
        return self.then(RELU, None)

    def view(self, *shape: int) -> Any:
        """As heads, [n, heads, D], where it is codes; a view of the float32 values elsewhere."""
        codes, fits = self.plain, len(shape) == 3 and shape[0] == len(self)
        if codes is not None and fits and not codes.scale.dim():
            return Heads(codes, shape[1])
        return self.values().view(*shape)

    # -- steps ------------------------------------------------------------------------------------

    def then(self, kind: int, operand: Any) -> "Coded":
        """With one more step to be taken."""
        return Coded(self.source, (*self.steps, (kind, operand)))

    def _operand(self, other: Any) -> tuple[str, Any]:
        """How an operand spreads over the matrix: column, row, all or no."""
        if isinstance(other, int | float):
            return "column", torch.full((self.shape[1],), float(other))
        if isinstance(other, Coded):
            return ("all", other) if other.shape == self.shape else ("no", other)
        if not isinstance(other, Tensor) or other.dtype != torch.float32:
            return "no", other
        size = other.shape
        if other.numel() == 1:
            return "column", other.detach().reshape(1).expand(self.shape[1])
        if size in ((self.shape[1],), (1, self.shape[1])):
            return "column", other.detach().reshape(-1)
        if size == (self.shape[0], 1):
            return "row", other.detach().reshape(-1)
        return ("all", other.detach()) if size == self.shape else ("no", other)

    def __add__(self, other: Any) -> Any:
        how, operand = self._operand(other)
        if how == "column":
            return self.then(SHIFT, operand)
        known = {kind for kind, _ in self.steps}
        if how == "all" and isinstance(operand, Coded) and not known & {OWN, JOIN}:
            shift = operand._shift()
            if shift is not None:
                return self.then(JOIN, (operand.source, shift))
        if how == "all" and ADD not in known:
            return self.then(ADD, operand.values() if isinstance(operand, Coded) else operand)
        return self.values() + _plain(other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        how, operand = self._operand(other)
        if how in ("column", "row"):
            return self.then(SCALE if how == "column" else TIMES, operand)
        return self.values() * _plain(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        how, operand = self._operand(other)
        return self.then(OVER, operand) if how == "row" else self.values() / _plain(other)

    def __sub__(self, other: Any) -> Any:
        return self.values() - _plain(other)

    def __matmul__(self, other: Any) -> Any:
        x, w = self.plain, other.plain if isinstance(other, Coded) else None
        fits = x is not None and x.shape[1] <= int_product.LIMIT
        if x is not None and w is not None and fits and not x.scale.dim() and w.axis == 1:
            return Coded(Product(x, w))
        return self.values() @ _plain(other)

    def __rmatmul__(self, other: Any) -> Any:
        return other @ self.values()

    def __getitem__(self, rows: Any) -> Any:
        by_row = isinstance(rows, slice) or (isinstance(rows, Tensor) and rows.dim() == 1)
        if not by_row or isinstance(self.source, Sum):
            return self.values()[rows]
        steps: list[Step] = []
        for kind, operand in self.steps:
            if kind in (TIMES, OVER, ADD):
                operand = operand[rows]
            elif kind == OWN:
                operand = (operand[0][rows], operand[1][rows])
            elif kind == JOIN:
                operand = (operand[0][rows], operand[1])
            steps.append((kind, operand))
        return Coded(self.source[rows], tuple(steps))

    # -- integers to integers, or to floats -------------------------------------------------------

    def total(self, graph: Adjacency, weight: Tensor | None) -> "Coded | None":
        """Sums of codes over in-edges; None if it is no codes. [n_src, D] -> [n_dst, D]."""
        x = self.plain
        if x is not None and not x.scale.dim() and weight is None:
            return Coded(Sum(graph, x))
        return None

    def extreme(self, graph: Adjacency, sign: int) -> "Coded | None":
        """Largest or smallest codes, which are those of the largest or smallest values; or None."""
        x = self.plain
        if x is None or x.scale.dim():
            return None
        out = torch.empty(graph.n_dst, x.shape[1], dtype=torch.int8)
        kernels.extremes(
            graph.indptr.numpy(), graph.indices.numpy(), x.q.contiguous().numpy(), sign,
            np.int8(int(x.zero)), out.numpy(),
        )  # fmt: skip
        return Coded(Codes(out, x.scale, x.zero))

    def encode(self, grid: Grid) -> "Coded":
        """The codes of the values, in 8 bits. grid: one scale for all."""
        offset = 128 if grid.last > 127 else 0
        zero = grid.zero - offset
        alike = all(kind in (SCALE, SHIFT, RELU) for kind, _ in self.steps)
        if self.narrow and alike and len(self) >= MANY:
            every = Coded(self.source.all_codes(), self.steps)  # type: ignore[union-attr]
            images = every._encoded(grid, offset).numpy()
            return Coded(Mapped(self.source, images, grid.scale, zero))  # type: ignore[arg-type]
        return Coded(Codes(self._encoded(grid, offset), grid.scale, zero))

    @property
    def narrow(self) -> bool:
        """Whether what the steps are taken from is codes of 8 bits with one scale."""
        return isinstance(self.source, Codes) and self.source.narrow

    def _shift(self) -> Tensor | None:
        """What is added to each column of codes, [D]; None if anything else is done to them."""
        if not self.narrow or [kind for kind, _ in self.steps] not in ([], [SHIFT]):
            return None
        return self.steps[0][1] if self.steps else torch.zeros(self.shape[1])

    def _encoded(self, grid: Grid, offset: int) -> Tensor:
        out = torch.empty(self.shape, dtype=torch.int8)
        self._run(out, grid, offset)
        return out

    def values(self) -> Tensor:
        """The float32 matrix."""
        if self._values is None:
            source = self.source
            if isinstance(source, Codes) and not self.steps and source.axis == 0:
                self._values = (source.centred.T * source.scale).T
            elif isinstance(source, Codes) and not self.steps and source.q.dtype == torch.float32:
                self._values = source.q
            else:
                self._values = torch.empty(self.shape)
                self._run(self._values, None, 0)
        return self._values

    def _run(self, out: Tensor, grid: Grid | None, offset: int) -> None:
        source, (n, width) = self.source, self.shape
        kinds = np.array([kind for kind, _ in self.steps], np.int64)
        columns = np.zeros((len(kinds), width), np.float32)
        rows = np.zeros((len(kinds), n), np.float32)
        own, own_scale, own_zero = np.zeros((0, width), np.int8), 1.0, 0.0
        extra = np.zeros((0, width), np.float32)
        for s, (kind, operand) in enumerate(self.steps):
            if kind in (SCALE, SHIFT):
                columns[s] = operand.numpy()
            elif kind == JOIN:
                codes, columns[s] = operand[0], operand[1].numpy()
                own, own_scale, own_zero = codes.q.numpy(), float(codes.scale), float(codes.zero)
            elif kind in (TIMES, OVER):
                rows[s] = operand.numpy()
            elif kind == OWN:
                codes, rows[s] = operand[0], operand[1].numpy()
                own, own_scale, own_zero = codes.q.numpy(), float(codes.scale), float(codes.zero)
            elif kind == ADD:
                extra = np.ascontiguousarray(operand.numpy())
        single = np.float32
        scale, zero = _filled(source.scale, width), _filled(source.zero, width)
        code = (single(1), single(0), single(0), single(0))
        if grid is not None:
            inverse = single(1) / single(float(grid.scale))
            code = (inverse, single(float(grid.zero)), single(grid.first), single(grid.last))
        for start, block in source.blocks():
            kernels.finish(
                block.contiguous().numpy(), start, scale, zero, kinds, columns, rows, own,
                single(own_scale), single(own_zero), extra, grid is not None, *code,
                single(offset), out.numpy(),
            )  # fmt: skip

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Torch's functions: those that leave integers, all others on the float32 values."""
        kwargs = kwargs or {}
        handler = HANDLED.get(function)
        found = NotImplemented if handler is None else handler(*args, **kwargs)
        if found is not NotImplemented:
            return found
        return function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()})


def _filled(value: Tensor, width: int) -> np.ndarray:
    """A number for each column, [width] float32."""
    if value.dim():
        return value.float().expand(width).contiguous().numpy()
    return np.full(width, float(value), np.float32)


class Heads:
    """Codes [n, heads * D] as [n, heads, D]: sums with a weight per edge and head read 8 bits.

    Everything else is done to the float32 values. codes: with one scale.
    """

    requires_grad = False

    def __init__(self, codes: Codes, heads: int):
        self.codes, self.heads = codes, heads

    @cached_property
    def shape(self) -> torch.Size:
        """[n, heads, D]."""
        n, width = self.codes.shape
        return torch.Size((n, self.heads, width // self.heads))

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def _values(self) -> Tensor:
        return Coded(self.codes).values().view(self.shape)

    def values(self) -> Tensor:
        """The float32 values."""
        return self._values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._values, name)

    def __getitem__(self, rows: Any) -> Tensor:
        return self._values[rows]

    def __mul__(self, other: Any) -> Tensor:
        return self._values * _plain(other)

    def __add__(self, other: Any) -> Tensor:
        return self._values + _plain(other)

    __rmul__, __radd__ = __mul__, __add__

    def total(self, graph: Adjacency, weight: Tensor | None) -> Tensor | None:
        """Sums over in-edges, weight [E, heads] -> [n_dst, heads, D] in float32; None without."""
        if weight is None or weight.dim() != 2:
            return None
        n, heads, width = self.shape
        out = torch.zeros(graph.n_dst, heads, width)
        q = self.codes.q.contiguous().view(n, heads, width)
        kernels.weighted(graph.indptr.numpy(), graph.indices.numpy(), q.numpy(),
                  np.float32(self.codes.zero), np.float32(self.codes.scale),
                  weight.detach().float().contiguous().numpy(), out.numpy())  # fmt: skip
        return out

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Torch's functions, on the float32 values."""
        return function(*map(_plain, args), **{k: _plain(v) for k, v in (kwargs or {}).items()})


def _plain(value: Any) -> Any:
    """Float32 values in place of codes, also in lists of them."""
    if isinstance(value, Coded | Heads):
        return value.values()
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    return value


def _relu(x: Any, inplace: bool = False) -> Any:
    return x.relu()


def _batch_norm(x, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training or not isinstance(x, Coded) or mean is None:
        return NotImplemented
    scale = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
    shift = -mean * scale + (0.0 if bias is None else bias)
    return x.then(SCALE, scale.detach()).then(SHIFT, shift.detach())


def _addcmul(x, one, other, *, value=1):
    """x + own r, with own codes and a factor per row."""
    if not (isinstance(x, Coded) and isinstance(one, Coded) and value == 1):
        return NotImplemented
    codes = one.plain
    how, operand = x._operand(other)
    if codes is None or codes.scale.dim() or how != "row" or codes.shape != x.shape:
        return NotImplemented
    if any(kind == OWN for kind, _ in x.steps):
        return NotImplemented
    return x.then(OWN, (codes, operand))


HANDLED: dict[Any, Callable[..., Any]] = {
    F.relu: _relu,
    torch.relu: _relu,
    F.batch_norm: _batch_norm,
    torch.addcmul: _addcmul,
    torch.Tensor.add: lambda a, b: b + a if isinstance(b, Coded) else NotImplemented,
    torch.add: lambda a, b: a + b if isinstance(a, Coded) else b + a,
    torch.Tensor.mul: lambda a, b: b * a if isinstance(b, Coded) else NotImplemented,
    torch.mul: lambda a, b: a * b if isinstance(a, Coded) else b * a,
}
