"""gnnscale: train, compress, measure and compare efficient graph neural networks."""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
"""Torch asks for huge pages, if this is set before it is imported: of large activations a new page
is needed in every step, and 512 small ones cost more than what is computed on them
(docs/hardware.md)."""

__version__ = "0.1.0"
