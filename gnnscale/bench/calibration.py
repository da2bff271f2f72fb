"""A fixed piece of work between the requests: if it drifts, so did the machine."""

import time

import numpy as np
import torch

SHARE = 0.05
"""Of the time, at most, that goes into it."""


class Calibration:
    """A product of two 192 x 192 matrices and a copy of 4 MiB, on the CPU, the same everywhere.

    It says nothing about a model; compared between two reports it says how far the machines, or
    the same machine at two hours, may be compared at all.
    """

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.a = torch.rand(192, 192, generator=draw)
        self.x = torch.rand(2**20, generator=draw)
        self.y = torch.empty_like(self.x)
        self.times: list[int] = []
        for _ in range(3):
            self._once()
        self.due = 0.0

    def _once(self) -> int:
        start = time.perf_counter_ns()
        torch.mm(self.a, self.a)
        self.y.copy_(self.x)
        return time.perf_counter_ns() - start

    def between(self) -> None:
        """Run it, unless that would take more than ``SHARE`` of the time."""
        if time.perf_counter() < self.due:
            return
        took = self._once()
        self.times.append(took)
        self.due = time.perf_counter() + took / 1e9 / SHARE

    def result(self) -> dict | None:
        """p50 in ms, how often it ran, and drift: median of the last quarter over the first's."""
        n = len(self.times)
        if n == 0:
            return None
        ms = np.array(self.times) / 1e6
        quarter = max(1, n // 4)
        drift = np.median(ms[-quarter:]) / np.median(ms[:quarter]) if n >= 8 else None
        return {
            "p50_ms": float(np.median(ms)),
            "p5_ms": float(np.percentile(ms, 5)),
            "p95_ms": float(np.percentile(ms, 95)),
            "n": n,
            "drift": None if drift is None else float(drift),
        }
