"""Was the machine ours? CPU time that other processes took while we measured."""

import os
import time
from pathlib import Path
from typing import Any

LIMIT = 0.05
"""Share of all cores' time, taken by others, from which on a measurement is flagged."""
STAT = Path("/proc/stat")


def _ticks(path: Path) -> float | None:
    """CPU seconds that this machine has worked since it started, None if nothing says so."""
    try:
        fields = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


class Busy:
    """Started when measuring starts; asked when it ends.

    ``workers``: further processes of ours that are still running, by id.
    """

    def __init__(self, stat: Path = STAT):
        self.stat = stat
        self.begun = (time.monotonic(), _ticks(stat), _own())
        self.workers: dict[int, float] = {}

    def ours(self, pid: int) -> None:
        """Count a running process as ours."""
        self.workers[pid] = _process(pid)

    def result(self) -> dict[str, Any]:
        """others_share in [0, 1], flag, source; null where /proc/stat can't be read."""
        wall, before, own = self.begun
        now = _ticks(self.stat)
        if now is None or before is None:
            return {"others_share": None, "flag": None, "source": None}
        mine = _own() - own
        mine += sum(max(_process(pid) - start, 0.0) for pid, start in self.workers.items())
        cores = os.cpu_count() or 1
        elapsed = max(time.monotonic() - wall, 1e-9)
        share = max(now - before - mine, 0.0) / (elapsed * cores)
        return {
            "others_share": round(min(share, 1.0), 4),
            "flag": share > LIMIT,
            "source": f"{self.stat}, all {cores} cores, own CPU time taken off",
        }


def _process(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
