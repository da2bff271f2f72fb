"""One kind of request to one subject, and the clock of its stages."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Request(Protocol):
    """Called, it does the request once and returns its nanoseconds."""

    size: dict[str, float]
    """What one request computes: seeds, nodes, edges (means, where requests differ)."""

    def __call__(self) -> int:
        """Do it once."""
        ...

    def forget(self) -> None:
        """Start the means of the stages afresh."""

    def stages_ms(self) -> dict[str, float]:
        """Mean milliseconds per stage since then."""
        ...

    def close(self) -> None:
        """Free what it holds."""


class Laps:
    """Adds up the time between calls of ``lap`` under their names.

    On CUDA a stage ends when the device has finished it; since waiting for that disturbs the
    request, stages are then taken in requests of their own (``on``), which are not counted.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.on = not self.cuda
        self.device = device
        self.totals: dict[str, float] = defaultdict(float)
        self.count = 0
        self.last = 0

    def start(self) -> None:
        """A request begins."""
        self.count += self.on
        self.last = time.perf_counter_ns()

    def lap(self, name: str) -> None:
        """What was done since the last call was ``name``."""
        if self.on:
            if self.cuda:
                torch.cuda.synchronize(self.device)
            now = time.perf_counter_ns()
            self.totals[name] += now - self.last
            self.last = now

    def add(self, name: str, seconds: float) -> None:
        """Time that was taken elsewhere."""
        if self.on:
            self.totals[name] += seconds * 1e9

    def forget(self) -> None:
        """Start afresh."""
        self.totals.clear()
        self.count = 0


class Local:
    """A request in this process.

    Args:
        work: the request; told of stages through the laps it is given.
        device: synchronised before the clock is read.
        before: called before the clock starts (the settings of this subject).
        size: see ``Request``.
    """

    def __init__(
        self,
        work: Callable[[Laps], Any],
        device: torch.device,
        before: Callable[[], Any] | None = None,
        size: dict[str, float] | None = None,
    ):
        self.work, self.before, self.size = work, before, size or {}
        self.laps = Laps(device)

    def _wait(self) -> None:
        if self.laps.cuda:
            torch.cuda.synchronize(self.laps.device)

    def __call__(self) -> int:
        """Do it once."""
        if self.before is not None:
            self.before()
        self._wait()
        start = time.perf_counter_ns()
        self.laps.start()
        self.work(self.laps)
        self._wait()
        return time.perf_counter_ns() - start

    def forget(self) -> None:
        """Start the stages afresh."""
        self.laps.forget()

    def stages_ms(self) -> dict[str, float]:
        """Mean milliseconds per stage; on CUDA of twenty further requests."""
        if self.laps.cuda:
            self.laps.on = True
            for _ in range(20):
                self()
            self.laps.on = False
        count = max(self.laps.count, 1)
        return {name: total / count / 1e6 for name, total in self.laps.totals.items()}

    def close(self) -> None:
        """Let go of the batches that the work holds."""
        self.work = lambda laps: None
