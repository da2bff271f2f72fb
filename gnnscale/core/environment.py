"""What a result depends on besides its configuration: versions, machine, source revision."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("gnnscale", "torch", "dgl", "hydra-core", "omegaconf", "numpy", "numba", "scikit-learn")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Installed versions of what computes the results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@lru_cache(maxsize=1)
def revision() -> str | None:
    """Git revision of the source tree, with ``-dirty`` if it was changed; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    ask = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """The record's ``environment``."""
    cuda = device.type == "cuda"
    return {
        "versions": versions(),
        "revision": revision(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(s.split(":", 1)[1].strip() for s in lines if s.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
