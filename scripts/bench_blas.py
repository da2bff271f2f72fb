"""Tall float32 products by torch's library and by OpenBLAS, and those of the rows' gradient.

usage: scripts/bench_blas.py [ROUNDS]

Of 169,343 rows, in turn, by OMP_NUM_THREADS threads; GFLOP/s at the median of each, in a markdown
table. ``core/ops/blas.py`` goes by it.
"""

import statistics
import sys
import time

import torch

from gnnscale.core.ops import blas

ROWS = 169_343
WIDTHS = ((128, 256), (256, 256), (256, 40))


def main() -> None:
    """Measure every width and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    blas.amd = lambda: True  # whatever the processor
    if blas.openblas() is None:
        sys.exit("scipy is built on another BLAS")
    print(f"| {torch.get_num_threads()} threads | x w: torch | OpenBLAS | g w': torch | OpenBLAS |")
    print("| --- " * 5 + "|")
    for d, e in WIDTHS:
        x, w, g = torch.randn(ROWS, d), torch.randn(d, e), torch.randn(ROWS, e)
        z, gx = torch.empty_like(g), torch.empty_like(x)
        sides = [
            lambda x=x, w=w, z=z: torch.mm(x, w, out=z),
            lambda x=x, w=w, z=z: blas.multiply(x, w, z),
            lambda g=g, w=w, gx=gx: torch.mm(g, w.T, out=gx),
            lambda g=g, w=w, gx=gx: blas.multiply(g, w.T, gx),
        ]
        times: list[list[float]] = [[] for _ in sides]
        for _ in range(rounds + 1):
            for side, own in zip(sides, times, strict=True):
                start = time.perf_counter()
                side()
                own.append(time.perf_counter() - start)
        speed = [2e-9 * ROWS * d * e / statistics.median(own[1:]) for own in times]
        print(f"| {d} to {e} | " + " | ".join(f"{s:.0f}" for s in speed) + " |", flush=True)


if __name__ == "__main__":
    main()
