"""Joules per request, where the machine tells: RAPL for the CPU, NVML for the GPU; else null."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnnscale.bench.request import Request

POWERCAP = Path("/sys/class/powercap")
SECONDS = 2.0
"""Requests are repeated for this long: the counters move about once per millisecond."""


class Rapl:
    """Energy of all CPU packages since start, in joule. Raises OSError if it can't be read."""

    def __init__(self, root: Path = POWERCAP):
        self.zones = [z for z in sorted(root.glob("intel-rapl:*")) if z.name.count(":") == 1]
        if not self.zones:
            raise FileNotFoundError(root)
        self.sums = [0] * len(self.zones)
        self.last = [self._read(zone) for zone in self.zones]
        self.range = [int((z / "max_energy_range_uj").read_text()) for z in self.zones]

    @staticmethod
    def _read(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())

    def __call__(self) -> float:
        """Counters wrap around at the range that the kernel states."""
        for k, zone in enumerate(self.zones):
            now = self._read(zone)
            step = now - self.last[k]
            self.sums[k] += step if step >= 0 else step + self.range[k]
            self.last[k] = now
        return sum(self.sums) / 1e6


def nvml(index: int) -> Callable[[], float]:
    """Energy of one GPU since its driver was loaded, in joule. Raises if NVML can't tell."""
    import pynvml  # type: ignore[import-not-found]

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def meters(device: Any, root: Path = POWERCAP) -> dict[str, Callable[[], float]]:
    """The counters that can be read here; empty on most virtual machines."""
    found: dict[str, Callable[[], float]] = {}
    with contextlib.suppress(OSError, ValueError):  # no such interface, or root only
        found["rapl"] = Rapl(root)
    if device.type == "cuda":
        try:
            found["nvml"] = nvml(device.index or 0)
        except Exception:  # the package, the library, the driver or the right to ask is missing
            return found
    return found


def per_request(
    request: Request, counters: dict[str, Callable[[], float]], seconds: float = SECONDS
) -> dict[str, float] | None:
    """Mean joule per request and counter, idle power included; None where nothing can be read."""
    if not counters:
        return None
    before = {name: read() for name, read in counters.items()}
    spent, n = 0, 0
    while spent < seconds * 1e9:
        spent += request()
        n += 1
    return {name: (read() - before[name]) / n for name, read in counters.items()}
