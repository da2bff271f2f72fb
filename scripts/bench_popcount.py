"""Products of signs by XNOR and popcount beside torch's float products, on one thread.

usage: python scripts/bench_popcount.py [REPEATS]

Prints one table: milliseconds of each product, the best of the repeats, interleaved. ``pack`` is
what packing the left side costs, which a layer pays once per call; the right side, a weight, is
packed once for all. Results are compared entry by entry before anything is timed.
"""

import sys
import time
from collections.abc import Callable

import numba
import torch

from gnnscale.core.ops.bits import pack, product, sign

REPEATS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
SHAPES = ((2708, 1433, 64), (100_000, 128, 128), (100_000, 256, 256))


def seconds(call: Callable[[], object]) -> float:
    """One call on the clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measured(n: int, c: int, m: int) -> list[float]:
    """Milliseconds of the float, bfloat16 and packed product [n, c] [c, m], and of packing."""
    x, y = sign(torch.randn(n, c)), sign(torch.randn(m, c))
    small, bits = (x.bfloat16(), y.bfloat16()), (pack(x), pack(y))
    assert torch.equal(product(*bits, c).float(), x @ y.T)
    calls = (lambda: x @ y.T, lambda: small[0] @ small[1].T, lambda: product(*bits, c),
             lambda: pack(x))  # fmt: skip
    best = [float("inf")] * len(calls)
    for _ in range(REPEATS):
        best = [min(b, 1000 * seconds(call)) for b, call in zip(best, calls, strict=True)]
    return best


def main() -> None:
    """Every shape, a line each."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    torch.manual_seed(0)
    names = ("float32", "bfloat16", "popcount", "pack")
    print("| product |", " | ".join(f"{n}, ms" for n in names), "| float32 / (popcount + pack) |")
    print("|---|" + "---|" * 5)
    for n, c, m in SHAPES:
        best = measured(n, c, m)
        said = " | ".join(f"{ms:.2f}" for ms in best)
        print(f"| [{n}, {c}] x [{c}, {m}] | {said} | {best[0] / (best[2] + best[3]):.1f} |")


if __name__ == "__main__":
    main()
