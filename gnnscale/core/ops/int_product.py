"""Products of 8-bit codes in 32 bits, where the processor has no instruction of its own for them.

Two codes of a row and two of a column are multiplied and added in one step of 16 bits times 16
bits, in registers for four rows and sixteen columns: twice what float32 does at once, and codes
need no conversion of the whole matrix. torch's own (``torch._int_mm``) takes 25 to 42 times as long
as a float32 product without VNNI or AMX (measured, AVX2, one thread, four sizes).
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.lanes import HALF, LONG, WORD, every

ROWS, COLUMNS = 4, 16
"""What registers hold at once: eight sums of eight columns, beside two vectors of weights."""
TASK = 64
"""Rows of a task."""
MADD = "llvm.x86.avx2.pmadd.wd"
LIMIT = ((1 << 31) - 1) // 255**2
"""Columns whose products' sum fits 32 bits, whatever the codes."""


@cache
def has_avx2() -> bool:
    """Whether the processor compiled for multiplies and adds pairs of 16 bits in one step."""
    return binding.get_host_cpu_features().get("avx2", False)


@intrinsic
def _tile(typing_context, x, w, column, out):
    """out[:4, column : column + 16] = x w[:, column : column + 16]; nothing checks any index.

    Shapes: x [4, 2 P] int16, w [P, D, 2] int16, out [4, D] int32, all of them contiguous.
    """

    def generate(context, builder, signature, args):
        def array(k: int) -> Any:
            return context.make_array(signature.args[k])(context, builder, args[k])

        def data(k: int, to: ir.Type) -> Any:
            return builder.bitcast(array(k).data, to.as_pointer())

        lanes = COLUMNS // 2
        sums, pairs = ir.VectorType(WORD, lanes), ir.VectorType(HALF, 2 * lanes)
        odd = [ir.Constant(ir.VectorType(WORD, lanes), [2 * k + i for k in range(lanes)])
               for i in (0, 1)]  # fmt: skip
        count, width = (builder.extract_value(array(1).shape, k) for k in (0, 1))
        given, weights, put = data(0, WORD), data(1, WORD), data(3, WORD)

        def halves(vector: Any) -> list[Any]:
            blank = ir.Constant(pairs, ir.Undefined)
            return [builder.sext(builder.shuffle_vector(vector, blank, mask), sums) for mask in odd]

        def added(left: Any, right: Any) -> Any:
            """left[2 k] right[2 k] + left[2 k + 1] right[2 k + 1] for every k."""
            if has_avx2():
                kind = ir.FunctionType(sums, [pairs, pairs])
                step = cgutils.get_or_insert_function(builder.module, kind, MADD)
                return builder.call(step, [left, right])
            products = zip(halves(left), halves(right), strict=True)
            return builder.add(*(builder.mul(a, b) for a, b in products))

        start = builder.basic_block
        loop, done = (builder.function.append_basic_block(name) for name in ("pairs", "done"))
        none = ir.Constant(sums, [0] * lanes)
        builder.cbranch(builder.icmp_signed("<", LONG(0), count), loop, done)

        builder.position_at_end(loop)
        p = builder.phi(LONG)
        held = [builder.phi(sums) for _ in range(2 * ROWS)]
        at = builder.gep(weights, [builder.add(builder.mul(p, width), args[2])])
        right = [
            builder.load(builder.bitcast(builder.gep(at, [LONG(lanes * j)]), pairs.as_pointer()),
                         align=2) for j in (0, 1)
        ]  # fmt: skip
        then = []
        for r in range(ROWS):
            two = builder.load(builder.gep(given, [builder.add(builder.mul(count, LONG(r)), p)]),
                               align=2)  # fmt: skip
            left = builder.bitcast(every(builder, two, sums), pairs)
            then += [builder.add(held[2 * r + j], added(left, right[j])) for j in (0, 1)]
        following = builder.add(p, LONG(1))
        for phi, first, after in zip((p, *held), (LONG(0), *[none] * len(held)),
                                     (following, *then), strict=True):  # fmt: skip
            phi.add_incoming(first, start)
            phi.add_incoming(after, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

        builder.position_at_end(done)
        found = [builder.phi(sums) for _ in held]
        for phi, after in zip(found, then, strict=True):
            phi.add_incoming(none, start)
            phi.add_incoming(after, loop)
        for r in range(ROWS):
            for j in (0, 1):
                place = builder.add(builder.mul(width, LONG(r)), args[2])
                place = builder.gep(put, [builder.add(place, LONG(lanes * j))])
                builder.store(found[2 * r + j], builder.bitcast(place, sums.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(x, w, types.int64, out), generate


@compiled(parallel=True)
def _product(q, less, w, out):
    """out = q w - less. q [n, K] int8, w [P, D, 2], D a multiple of 16, less [D], out [n, D]."""
    (n, width), columns = out.shape, q.shape[1]
    for task in numba.prange((n + TASK - 1) // TASK):
        given = np.zeros((ROWS, 2 * len(w)), np.int16)
        found = np.empty((ROWS, width), np.int32)
        for first in range(task * TASK, min(n, task * TASK + TASK), ROWS):
            rows = min(ROWS, n - first)
            for r in range(rows):
                row, put = q[first + r], given[r]
                for k in range(columns):
                    put[k] = row[k]
            for column in range(0, width, COLUMNS):
                _tile(given, w, column, found)
            for r in range(rows):
                row, put = found[r], out[first + r]
                for c in range(width):
                    put[c] = row[c] - less[c]


def paired(w: np.ndarray) -> np.ndarray:
    """w [K, D] in 16 bits as ``product`` reads it: two rows side by side, [P, D', 2]."""
    k, width = w.shape
    made = np.zeros((-(-k // 2), -(-width // COLUMNS) * COLUMNS, 2), np.int16)
    made[:, :width, 0], made[: k // 2, :width, 1] = w[::2], w[1::2]
    return made


def product(q: np.ndarray, less: np.ndarray, w: np.ndarray, out: np.ndarray) -> None:
    """out = q w - less, exactly, in 32 bits: that of q - zero, if ``less`` is zero times ``sums``.

    Shapes: q [n, K] int8, contiguous, K at most ``LIMIT``; w [P, D', 2] of ``paired``, of numbers
    from -255 to 255; less [D'], out [n, D'] int32.
    """
    _product(q, less, w, out)


def sums(w: np.ndarray) -> np.ndarray:
    """Of the columns of what ``paired`` gave, [D'] int32."""
    return w.sum((0, 2), dtype=np.int32)


@cache
def torch_is_faster() -> bool:
    """Whether ``torch._int_mm`` beats ``product`` here: with VNNI or AMX."""
    q, w = torch.ones(512, 256, dtype=torch.int8), torch.ones(256, 64, dtype=torch.int8)
    pairs, out = paired(w.numpy()), np.empty((512, 64), np.int32)
    less = sums(pairs)

    def seconds(run: Callable[[], Any]) -> float:
        run()
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        return min(times)

    return seconds(lambda: torch._int_mm(q, w)) < seconds(
        lambda: product(q.numpy(), less, pairs, out)
    )
