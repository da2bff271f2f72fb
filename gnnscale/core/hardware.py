"""Where a run computes: device, cores, precision, kernels, and threads that load ahead."""

import contextlib
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numba
import torch

from gnnscale.core import ops
from gnnscale.core.errors import UsageError
from gnnscale.core.traits import Component
from gnnscale.core.values import Count, Whole

Order = Literal["source", "degree", "rcm", "metis"]


def cores() -> list[int]:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


ALL = cores()
"""What the process was started with; a run with ``affinity`` gives the rest back afterwards."""


class Hardware(Component):
    """The device and how it is used.

    Args:
        device: cpu or cuda (cuda:1 for the second one).
        threads: CPU threads of torch and of compiled kernels; None for every core it may use, or
            OMP_NUM_THREADS of them.
        affinity: ids of the cores to stay on; None for all.
        precision: of dense products and activations. bfloat16 is autocast: parameters, optimizer
            state, aggregation, losses and scores stay float32.
        kernel: message-passing backend; auto takes the fastest measured one per product.
        workers: threads that sample ahead of training; results do not depend on it.
        order: how the nodes of one graph are numbered: as the source has them, by degree, by
            reverse Cuthill-McKee, or part by part of METIS; predictions keep the source's ids.
        pin: on CUDA, copy batches asynchronously from page-locked memory.

    Raises: UsageError if the device or a core is not there.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: Count | None = None,
        affinity: list[Whole] | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        kernel: Literal["auto", "dgl", "native", "torch", "dense"] = "auto",
        workers: Whole = 0,
        order: Order = "source",
        pin: bool = True,
    ):
        self.device = _device(device)
        if affinity is not None and (not affinity or not set(affinity) <= set(ALL)):
            raise UsageError(
                f"hardware.affinity={affinity}: this process may use the cores {ALL}; "
                f"e.g. hardware.affinity=[{ALL[0]}]"
            )
        self.affinity = ALL if affinity is None else sorted(set(affinity))
        self.threads = threads or min(len(self.affinity), _wished())
        self.kernel, self.workers, self.order = kernel, workers, order
        self.dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self.pin = pin and self.device.type == "cuda"

    def apply(self) -> None:
        """Set the process up; called once, before data is loaded."""
        if hasattr(os, "sched_setaffinity") and self.affinity != cores():
            for thread in Path("/proc/self/task").iterdir():  # pools that have started already, too
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), self.affinity)
        most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        numba.set_num_threads(min(self.threads, most))
        torch.set_num_threads(self.threads)  # last: numba's pool, when it starts, sets OpenMP's own
        ops.select(self.kernel)

    def scope(self) -> AbstractContextManager:
        """The precision of everything that is computed inside it."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def _wished() -> int:
    """OMP_NUM_THREADS, where it says a number."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else sys.maxsize


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"hardware.device={name}: not a device; valid: cpu, cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"hardware.device={name}: not supported; valid: cpu, cuda")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UsageError(
                f"hardware.device={name}: this machine shows {count} CUDA devices; "
                "choose hardware=cpu (`gnnscale doctor` says what is found)"
            )
    return device
