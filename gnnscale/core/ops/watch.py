"""Who wants to hear of products that torch does not see, to count them, hears of them here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from gnnscale.core.ops.adjacency import Adjacency

See = Callable[[str, "Adjacency", int, bool], None]
"""see(product, adjacency, values per edge, whether edges have weights)."""
SeeDense = Callable[[tuple[int, int, int, int, "torch.dtype"]], None]
"""see((batch, m, k, n, dtype)) of a product [m, k] [k, n]."""

_watchers: list[tuple[See, SeeDense | None]] = []


@contextmanager
def watched(see: See, dense: SeeDense | None = None) -> Iterator[None]:
    """Call ``see`` for every forward product over edges inside (total, extreme, additive, softmax),
    ``dense`` for every dense one of another library than torch's.
    """
    pair = (see, dense)
    _watchers.append(pair)
    try:
        yield
    finally:
        _watchers.remove(pair)


def tell(product: str, adj: "Adjacency", width: int, weighted: bool = False) -> None:
    """One product over edges is about to be computed."""
    for see, _ in _watchers:
        see(product, adj, width, weighted)


def tell_dense(m: int, k: int, n: int, dtype: "torch.dtype") -> None:
    """One dense product is about to be computed."""
    for _, see in _watchers:
        if see is not None:
            see((1, m, k, n, dtype))
