"""Time and memory per phase, with evaluation never billed to training."""

import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from gnnscale.core.errors import TrainingError

MIB = 2**20
ALLOCATION = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
TRAINING = (
    "sampler=neighbor or sampler=saint for batches in place of the whole graph, or a smaller "
    "sampler.batch_size, sampler.roots or architecture.hidden"
)
EVALUATION = "inference=layerwise, with a smaller inference.chunk if it is that already"
REMEDIES = {
    "load": "dataset.sparse=true, or fewer kinds in dataset.features",
    "prepare": "another sampler, or a smaller budget for this one",
    "validate": EVALUATION,
    "evaluate": EVALUATION,
}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> bool:
    """Make the kernel forget the peak so far; False where it can't (not Linux, no permission)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def rss_peak() -> float:
    """Peak resident memory since the last reset, MiB."""
    try:
        line = next(s for s in _STATUS.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return psutil.Process().memory_info().rss / MIB


class Meter:
    """Seconds and peak memory by phase.

    ``phase`` is coarse (prepare, fit, evaluate): it also resets and reads peak memory. ``step`` is
    fine (sample, forward, ...): it only adds seconds. CUDA is synchronised before a clock is read.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.rss: dict[str, float] = {}
        self.cuda: dict[str, float] = {}
        self.epochs: list[float] = []
        self.evaluations: list[float] = []
        self.source = "VmHWM, reset at each phase"

    def now(self) -> float:
        """Seconds on a monotonic clock, after the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to ``name``."""
        start = self.now()
        try:
            with self.remedies(name):
                yield
        finally:
            self.add(name, self.now() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self.seconds[name] += seconds

    @contextmanager
    def remedies(self, phase: str) -> Iterator[None]:
        """Turn running out of memory into a message that names the phase and what to change.

        Raises: TrainingError in place of torch's, numpy's or the interpreter's own errors.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
                text in str(error) for text in ALLOCATION
            ):
                raise
            asked = re.search(r"allocate ([\d.,]+ ?(?:[KMGT]i?B|bytes)?)", str(error))
            size = f" (asked for {asked[1].strip()})" if asked else ""
            where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
            raise TrainingError(
                f"out of {where} in the phase '{phase}'{size}; to need less, type "
                f"{REMEDIES.get(phase, TRAINING)}"
            ) from error

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of a block and note its peak memory."""
        if not reset_peak():
            self.source = "VmHWM, over the life of the process"
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            with self.step(name):
                yield
        finally:
            self.rss[name] = max(self.rss.get(name, 0.0), rss_peak())
            if self.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(self.device) / MIB
                self.cuda[name] = max(self.cuda.get(name, 0.0), peak)

    def times(self) -> dict[str, Any]:
        """The record's ``time_s``."""
        coarse = ("load", "prepare", "fit", "evaluate")
        return {
            "prepare": self.seconds["load"] + self.seconds["prepare"],
            "epoch_median": statistics.median(self.epochs) if self.epochs else None,
            "evaluate_median": statistics.median(self.evaluations) if self.evaluations else None,
            "epochs": len(self.epochs),
            "total": sum(self.seconds[name] for name in coarse),
            "phases": dict(self.seconds),
        }

    def memory(self) -> dict[str, Any]:
        """The record's ``memory_mib``."""
        worst = max(self.rss, key=lambda name: self.rss[name])
        return {
            "rss_peak": self.rss[worst],
            "cuda_peak": max(self.cuda.values()) if self.cuda else None,
            "phase": worst,
            "source": self.source + (", torch allocator" if self.cuda else ""),
            "phases": dict(self.rss),
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run reports the whole of its time."""
        return {
            "seconds": dict(self.seconds), "rss": self.rss, "cuda": self.cuda,
            "epochs": self.epochs, "evaluations": self.evaluations,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Add what an earlier process measured."""
        for name, value in state["seconds"].items():
            self.seconds[name] += value
        for mine, theirs in ((self.rss, state["rss"]), (self.cuda, state["cuda"])):
            for name, value in theirs.items():
                mine[name] = max(mine.get(name, 0.0), value)
        self.epochs = [*state["epochs"], *self.epochs]
        self.evaluations = [*state["evaluations"], *self.evaluations]
