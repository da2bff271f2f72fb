"""Who wants to hear of message-passing products hears of them here: counting, never timing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gnnscale.core.ops.adjacency import Adjacency

See = Callable[[str, "Adjacency", int, bool], None]
"""see(product, adjacency, values per edge, whether edges have weights)."""

_watchers: list[See] = []


@contextmanager
def watched(see: See) -> Iterator[None]:
    """Call ``see`` for every forward product inside: total, extreme, additive, softmax."""
    _watchers.append(see)
    try:
        yield
    finally:
        _watchers.remove(see)


def tell(product: str, adj: "Adjacency", width: int, weighted: bool = False) -> None:
    """One product is about to be computed."""
    for see in _watchers:
        see(product, adj, width, weighted)
