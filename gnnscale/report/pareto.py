"""The Pareto front: which points no other point beats."""

import math
from collections.abc import Sequence


def front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Indices of the (cost, score) pairs that are not dominated, by rising cost.

    A point dominates another if it costs no more and scores no less, and one of the two strictly.
    Equal points do not dominate each other: all of them are in or out together. A pair with a
    missing or non-finite number is no point: it is not on the front and dominates nothing.

    One sweep by rising cost, O(n log n): a point is on the front if, at its cost, nobody scores
    higher, and nobody cheaper scores as high.
    """
    known = [(cost, score, i) for i, (cost, score) in enumerate(points)
             if cost is not None and score is not None
             and math.isfinite(cost) and math.isfinite(score)]  # fmt: skip
    known.sort(key=lambda p: (p[0], -p[1], p[2]))
    found: list[int] = []
    best, at = -math.inf, None  # the highest score so far, and the cost it has
    for cost, score, i in known:
        if score > best or (score == best and cost == at):
            best, at = score, cost
            found.append(i)
    return found
