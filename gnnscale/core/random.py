"""Every random draw is a pure function of (seed, purpose, epoch, step, rank).

Nothing depends on thread count or on what ran before, so a run that is killed and resumed draws
exactly what the uninterrupted run drew, and no generator state has to be saved.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch


class Key(NamedTuple):
    """The name of one source of randomness."""

    seed: int
    purpose: str
    epoch: int = 0
    step: int = 0
    rank: int = 0

    @property
    def word(self) -> int:
        """A 63-bit integer that differs for every key (BLAKE2b of the fields)."""
        # numpy's integers print differently, so every number is made a plain one
        fields = (int(self.seed), self.purpose, int(self.epoch), int(self.step), int(self.rank))
        digest = hashlib.blake2b(repr(fields).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def at(self, purpose: str, epoch: int = 0, step: int = 0) -> "Key":
        """A key of the same seed and rank for another purpose."""
        return Key(self.seed, purpose, epoch, step, self.rank)

    def numpy(self) -> np.random.Generator:
        """A numpy generator seeded by this key."""
        return np.random.Generator(np.random.Philox(self.word))

    def torch(self) -> torch.Generator:
        """A torch CPU generator seeded by this key."""
        return torch.Generator().manual_seed(self.word)

    def seed_torch(self) -> None:
        """Seed torch's own generators (dropout, initialisation) for what follows.

        That of the CPU, and those of CUDA once it is in use. ``torch.manual_seed`` would format a
        stack trace for every kind of device that is not: 1 ms or more, and this is called per step.
        """
        torch.default_generator.manual_seed(self.word)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(self.word)
