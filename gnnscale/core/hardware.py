"""Where a run computes: device, threads and kernels."""

import os
from typing import Literal

import numba
import torch

from gnnscale.core import ops
from gnnscale.core.errors import UsageError
from gnnscale.core.traits import Component
from gnnscale.core.values import Count


class Hardware(Component):
    """The device and how it is used.

    Args:
        device: cpu or cuda (cuda:1 for the second one).
        threads: CPU threads of torch and of compiled kernels; None for every core of this process.
        kernel: message-passing backend; auto takes the fastest measured one per product.

    Raises: UsageError if the device is not there.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: Count | None = None,
        kernel: Literal["auto", "dgl", "numba", "torch"] = "auto",
    ):
        try:
            self.device = torch.device(device)
        except RuntimeError:
            raise UsageError(f"hardware.device={device}: not a device; valid: cpu, cuda") from None
        if self.device.type not in ("cpu", "cuda"):
            raise UsageError(f"hardware.device={device}: not supported; valid: cpu, cuda")
        if self.device.type == "cuda":
            count = torch.cuda.device_count()
            if (self.device.index or 0) >= count:
                raise UsageError(
                    f"hardware.device={device}: this machine shows {count} CUDA devices; "
                    "choose hardware=cpu (`gnnscale doctor` says what is found)"
                )
        self.threads = threads or cores()
        self.kernel = kernel

    def apply(self) -> None:
        """Set the process up; called once, before data is loaded."""
        torch.set_num_threads(self.threads)
        most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        numba.set_num_threads(min(self.threads, most))
        ops.select(self.kernel)


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
