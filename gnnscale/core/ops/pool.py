"""Memory of large matrices, used again.

The C library gives blocks of more than 32 MiB back to the system when they are freed, and a new one
costs a fault per page and pages that are in no cache: a third of a full-batch epoch. Here a block
that nobody holds any more serves the next matrix of just its size. A new block first gives back as
much of what waits in other sizes, so that blocks in use and waiting together are little more than
what was in use at once.

Smaller blocks the C library is told to keep (``keep_freed``). By itself it gives them back too when
a step has freed more than it once thought much, which depends on what was imported before: a new
tensor of 2 MB took 2.0 ms of CPU time then, 460 faults, and 0.3 ms without them.
"""

import ctypes
import math
import os
import threading
import weakref
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

LEAST = 32 << 20
"""Bytes; below, the C library keeps what is freed."""
KEPT = 1 << 30
"""Bytes of freed memory that it keeps at most."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user has said what is to be done."""


def keep_freed() -> bool:
    """Have the C library keep freed blocks below ``LEAST``; whether it does: glibc, and nobody has
    said otherwise.
    """
    if any(os.environ.get(name) for name in OWN):
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(tell(MMAP_THRESHOLD, LEAST)) and bool(tell(TRIM_THRESHOLD, KEPT))


class Pool:
    """Blocks that wait, by their size in bytes, the one that has waited longest first."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[int, list[Tensor]] = OrderedDict()
        # tensors are freed by any thread, and by a collection in the midst of ``take``
        self.lock = threading.RLock()

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A CPU tensor with arbitrary content, of a block that waits if one fits."""
        size = math.prod(shape) * dtype.itemsize
        if size < LEAST or dtype not in HELD:
            return torch.empty(shape, dtype=dtype)
        block = self.take(size)
        lent = block.numpy().view(HELD[dtype]).reshape(shape)
        weakref.finalize(lent, self.put, block).atexit = False
        return torch.from_numpy(lent)  # holds ``lent`` as long as its storage lives

    def like(self, x: Tensor) -> Tensor:
        """Of the shape and kind of ``x``."""
        return self.empty(*x.shape, dtype=x.dtype)

    def take(self, size: int) -> Tensor:
        """A block of that many bytes."""
        with self.lock:
            found = self.waiting.get(size)
            if found:
                block = found.pop()
                if not found:
                    del self.waiting[size]
                return block
            given = 0
            while self.waiting and given < size:
                other = next(iter(self.waiting))
                self.waiting[other].pop()
                given += other
                if not self.waiting[other]:
                    del self.waiting[other]
        return torch.empty(size, dtype=torch.uint8)

    def put(self, block: Tensor) -> None:
        """A block that nobody holds any more."""
        with self.lock:
            self.waiting.setdefault(len(block), []).append(block)
            self.waiting.move_to_end(len(block))

    @property
    def bytes(self) -> int:
        """What waits."""
        return sum(size * len(blocks) for size, blocks in self.waiting.items())


KINDS = {torch.float32: np.float32, torch.float64: np.float64}
"""What numpy knows of what is computed in."""
HELD = {**KINDS, torch.int32: np.int32}
"""And of what is kept beside that."""
POOL = Pool()
empty, like = POOL.empty, POOL.like
keep_freed()
