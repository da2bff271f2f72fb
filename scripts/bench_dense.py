"""Sums over neighbours by edge list and by dense matrix, over sizes, densities and widths.

usage: scripts/bench_dense.py [ROUNDS]

Both forms of one product in turn on the same random graph, one thread, the matrix made before; the
median of each. Prints one markdown table of dense over sparse time: below 1 the matrix is faster.
The threshold that hardware.kernel=auto goes by is read off it (ops/dense_kernels.py).
"""

import statistics
import sys
import time
from collections.abc import Callable

import numba
import torch

from gnnscale.core.ops import dense_kernels, native_kernels
from gnnscale.core.ops.adjacency import Adjacency

SIZES = (30, 100, 300, 1000, 3000)
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.4)
WIDTHS = (16, 64, 256)


def main() -> None:
    """Measure every size at every density and width, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    say(["nodes", "edges / nodes^2", *(f"{width} columns" for width in WIDTHS)])
    say(["---"] * (2 + len(WIDTHS)))
    draw = torch.Generator().manual_seed(0)
    for nodes in SIZES:
        for density in DENSITIES:
            dst, src = (torch.rand(nodes, nodes, generator=draw) < density).nonzero().T
            graph = Adjacency.from_edges(src, dst, nodes)
            graph.dense(torch.float32)
            cells = [ratio(graph, torch.randn(nodes, width), rounds) for width in WIDTHS]
            say([str(nodes), str(density), *cells])


def ratio(graph: Adjacency, x: torch.Tensor, rounds: int) -> str:
    """Dense over sparse, and both times."""
    found: dict[str, list[float]] = {"sparse": [], "dense": []}
    for number in range(rounds + 2):
        for name, kernel in (("sparse", native_kernels.total), ("dense", dense_kernels.total)):
            seconds = timed(kernel, graph, x)
            if number >= 2:
                found[name].append(seconds)
    sparse, dense = (1e3 * statistics.median(found[name]) for name in ("sparse", "dense"))
    return f"{dense / sparse:.2f} ({sparse:.3g} ms, {dense:.3g} ms)"


def timed(kernel: Callable[..., torch.Tensor], graph: Adjacency, x: torch.Tensor) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    kernel(graph, x)
    return time.perf_counter() - start


def say(cells: list[str]) -> None:
    """One row of the table."""
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
