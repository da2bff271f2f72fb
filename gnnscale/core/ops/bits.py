"""Rows of -1 and +1 as bits: signs with a gradient, products by XNOR and popcount, nearest rows.

A bit is set where the value is +1, and +1 is the sign of everything that is at least 0. The bits
of a row stand in words of 64, the rest of the last word is 0 in all rows, so that it never differs.
"""

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from gnnscale.core.compiled import compiled

WORD = 64


@intrinsic
def popcount(typing_context, word):
    """How many bits of a word are set."""
    signature = types.uint64(types.uint64)

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return signature, generate


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x.abs() <= 1)


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1; the gradient is the clipped straight-through one, g 1[|x| <= 1].

    ``torch.sign(0)`` is 0, which has no bit. Shapes: any -> the same.
    """
    return _Sign.apply(x)


@compiled(parallel=True)
def _pack(x, out):
    rows, n = x.shape
    for i in numba.prange(rows):
        for w in range(out.shape[1]):
            start = w * WORD
            word = np.uint64(0)
            for b in range(min(WORD, n - start)):
                word |= np.uint64(x[i, start + b] >= 0) << np.uint64(b)
            out[i, w] = word


@compiled(parallel=True)
def _product(x, y, columns, out):
    """y: [words, m], so that neighbouring entries of ``out`` are computed side by side."""
    words, m = y.shape
    for i in numba.prange(len(x)):
        differ = np.zeros(m, np.uint64)
        for w in range(words):
            word = x[i, w]
            for j in range(m):
                differ[j] += popcount(word ^ y[w, j])
        for j in range(m):
            out[i, j] = columns - 2 * np.int64(differ[j])


@compiled(parallel=True)
def _nearest(x, offsets, owner, indptr, out):
    """Insertion into a list of the best; later rows come behind earlier ones at their distance."""
    for i in numba.prange(len(x)):
        first, last = offsets[owner[i]], offsets[owner[i] + 1]
        size = indptr[i + 1] - indptr[i]
        best = np.full(size, np.int64(1) << 62)
        found = np.zeros(size, np.int64)
        for j in range(first, last):
            distance = np.int64(0)
            for w in range(x.shape[1]):
                distance += np.int64(popcount(x[i, w] ^ x[j, w]))
            if distance < best[size - 1]:
                at = size - 1
                while at > 0 and best[at - 1] > distance:
                    best[at], found[at] = best[at - 1], found[at - 1]
                    at -= 1
                best[at], found[at] = distance, j
        for at in range(size):
            out[indptr[i] + at] = found[at]


def _words(packed: Tensor) -> np.ndarray:
    return packed.contiguous().numpy().view(np.uint64)


def pack(x: Tensor) -> Tensor:
    """The signs of rows as bits, in int64 words (torch's uint64 has few operators).

    Shapes: x [n, C], on the CPU -> [n, ceil(C / 64)].
    """
    out = torch.empty(len(x), -(-x.shape[1] // WORD), dtype=torch.int64)
    _pack(x.detach().contiguous().numpy(), _words(out))
    return out


def unpack(packed: Tensor, columns: int) -> Tensor:
    """The signs of packed rows, -1 and +1 in float32. Shapes: [n, W] -> [n, columns]."""
    places = torch.arange(WORD)
    set_ = (packed.unsqueeze(2) >> places) & 1
    return (2 * set_ - 1).flatten(1)[:, :columns].float()


def product(x: Tensor, y: Tensor, columns: int) -> Tensor:
    """x y^T of packed rows of ``columns`` signs: C - 2 popcount(x xor y), an integer.

    Rastegari et al., ECCV 2016, arXiv:1603.05279, sec. 3.2.

    Shapes: x [n, W], y [m, W] as ``pack`` gives them -> [n, m] int32.
    """
    out = torch.empty(len(x), len(y), dtype=torch.int32)
    _product(_words(x), _words(y.T), columns, out.numpy())
    return out


class Signs:
    """A matrix [n, C] of -1 and +1 as bits, its columns' factors beside it where it is a weight.

    A product with another one is that of bits; everything else is done to the float32 values.

    Args:
        words: [n, W] as ``pack`` gives them. columns: C. scale: [n] factors of rows, or None.
        turned: it stands for the transposed matrix, [C, n].
    """

    dtype = torch.float32
    device = torch.device("cpu")
    requires_grad = False

    def __init__(
        self, words: Tensor, columns: int, scale: Tensor | None = None, turned: bool = False
    ):
        self.words, self.columns, self.scale, self.turned = words, columns, scale, turned
        self._values: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """[n, C], or [C, n] where it is turned."""
        size = (len(self.words), self.columns)
        return torch.Size(size[::-1] if self.turned else size)

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """Two."""
        return 2

    @property
    def T(self) -> "Signs":
        """The transposed matrix."""
        return Signs(self.words, self.columns, self.scale, not self.turned)

    def values(self) -> Tensor:
        """The float32 matrix, made once."""
        if self._values is None:
            values = unpack(self.words, self.columns)
            values = values if self.scale is None else values * self.scale.unsqueeze(1)
            self._values = values.T if self.turned else values
        return self._values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.values(), name)

    def __getitem__(self, rows: Any) -> Any:
        by_row = isinstance(rows, slice) or (isinstance(rows, Tensor) and rows.dim() == 1)
        if self.turned or self.scale is not None or not by_row:
            return self.values()[rows]
        return Signs(self.words[rows], self.columns)

    def __matmul__(self, other: Any) -> Tensor:
        plain = not self.turned and self.scale is None
        if plain and isinstance(other, Signs) and other.turned:
            found = product(self.words, other.words, self.columns).float()
            return found if other.scale is None else found.mul_(other.scale)
        return self.values() @ _plain(other)

    def __rmatmul__(self, other: Any) -> Any:
        return other @ self.values()

    def __mul__(self, other: Any) -> Tensor:
        return self.values() * _plain(other)

    def __add__(self, other: Any) -> Tensor:
        return self.values() + _plain(other)

    def __sub__(self, other: Any) -> Tensor:
        return self.values() - _plain(other)

    __rmul__, __radd__ = __mul__, __add__

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Linear maps of signs by signs are products of bits, the rest is done to the values."""
        kwargs = kwargs or {}
        if function is F.linear and all(isinstance(a, Signs) for a in args[:2]):
            x, w, bias = (*args, None)[:3]
            found = x @ w.T
            bias = kwargs.get("bias", bias)
            return found if bias is None else found + bias
        return function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Signs):
        return value.values()
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    return value


def nearest(x: Tensor, offsets: Tensor, owner: Tensor, indptr: Tensor) -> Tensor:
    """For every packed row the nearest rows of its group in Hamming space, itself among them.

    Nearest first; of rows at one distance, the one of the lowest index. Distances are whole numbers
    up to C, hence mostly tied: the rule decides which rows they are.

    Shapes: x [n, W], offsets [G + 1] where groups begin, owner [n] the group of each row, indptr
    [n + 1]: indptr[i + 1] - indptr[i] >= 1 are wanted of row i -> [indptr[n]] int32.
    """
    out = torch.empty(int(indptr[-1]), dtype=torch.int32)
    _nearest(_words(x), offsets.numpy(), owner.numpy(), indptr.numpy(), out.numpy())
    return out
