"""What this machine can do at best, measured in the same run: copying, gathering, multiplying."""

import time
from collections.abc import Callable

import numba
import numpy as np
import torch

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.adjacency import Adjacency

REPEATS = 7
COPIED = 2**24
"""Floats of the array that is copied: 64 MiB, beyond any cache of this class of machine."""


@compiled(parallel=True)
def _visit(indices, x, out):
    """Read the rows ``indices`` [E] of ``x`` [n, D] and add them up, one sum per piece of work."""
    pieces = len(out)
    size = (len(indices) + pieces - 1) // pieces
    for p in numba.prange(pieces):
        for e in range(p * size, min((p + 1) * size, len(indices))):
            j = indices[e]
            for d in range(x.shape[1]):
                out[p, d] += x[j, d]


def best(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Seconds of the fastest repetition after one that is not counted."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    least = float("inf")
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        least = min(least, time.perf_counter() - start)
    return least


class Machine:
    """Times at the sizes that a model has, each measured once.

    Args:
        device: where the model computes. repeats: of which the fastest counts.
    """

    def __init__(self, device: torch.device, repeats: int = REPEATS):
        self.device, self.repeats = device, repeats
        self.gemms: dict[tuple, float] = {}
        self.gathers: dict[tuple, float] = {}
        x = torch.ones(COPIED, device=device)
        y = torch.empty_like(x)
        self.bandwidth = 2 * 4 * COPIED / best(lambda: y.copy_(x), device, repeats)
        """Bytes per second, read plus written."""

    def gemm(self, batch: int, m: int, k: int, n: int, dtype: torch.dtype) -> float:
        """Seconds of [m, k] @ [k, n], ``batch`` of them."""
        key = (batch, m, k, n, dtype)
        if key not in self.gemms:
            a = torch.ones(batch, m, k, dtype=dtype, device=self.device)
            b = torch.ones(batch, k, n, dtype=dtype, device=self.device)
            out = torch.empty(batch, m, n, dtype=dtype, device=self.device)
            if batch == 1:
                work = lambda: torch.mm(a[0], b[0], out=out[0])  # noqa: E731
            else:
                work = lambda: torch.bmm(a, b, out=out)  # noqa: E731
            self.gemms[key] = best(work, self.device, self.repeats)
        return self.gemms[key]

    def gather(self, adj: Adjacency, width: int) -> float:
        """Seconds of reading the rows that ``adj`` names, in its order, ``width`` floats each.

        On the CPU rows are read and added to one row per piece of work, so that nothing is written
        per edge; on CUDA it is ``index_select``, which writes them.
        """
        key = (id(adj), width)
        if key not in self.gathers:
            x = torch.ones(adj.n_src, width, device=self.device)
            if self.device.type == "cpu":
                pieces = max(1, min(64 * numba.get_num_threads(), adj.n_edges))
                out = np.zeros((pieces, width), np.float32)
                named, rows = adj.indices.numpy(), x.numpy()
                seconds = best(lambda: _visit(named, rows, out), self.device, self.repeats)
            else:
                work = lambda: x.index_select(0, adj.indices)  # noqa: E731
                seconds = best(work, self.device, self.repeats)
            self.gathers[key] = seconds
        return self.gathers[key]

    def rates(self) -> dict:
        """What was measured, for the report."""
        shapes = [
            {"shape": [m, k, n], "batch": b, "dtype": str(t).removeprefix("torch."),
             "ms": 1e3 * s, "gmac_per_s": b * m * k * n / s / 1e9}
            for (b, m, k, n, t), s in self.gemms.items()
        ]  # fmt: skip
        return {
            "copy_gb_per_s": self.bandwidth / 1e9,
            "gemm": shapes,
            "source": f"fastest of {self.repeats}, in this run",
        }
