"""The rule by which a row is judged, and the words for what it says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gnnscale.reproduce.published import Row
from gnnscale.reproduce.summary import Summary

RULE = """\
A row is reached if the mean of our seeds is at least the published value minus the tolerance \
(lower is better, `mae`: at most the published value plus it): one-sided, so that doing better is \
no miss. Where a row says so, twice the published standard deviation takes the tolerance's place \
while there are fewer than three seeds. A row with `within` must also hold against our own \
baseline, by the mean of the differences seed by seed. Tolerances are targets, stated with the \
published value in `conf/table/` and not fitted to what we measured. A row with a failed seed is \
not reached, whatever the others say.\
"""
REACHED, MISSED, FAILED, UNJUDGED, NOTHING = "reached", "missed", "failed", "not judged", "not run"
EPSILON = 1e-9
"""Rounding of a mean of percentages, so that a value on the limit is on it."""


@dataclass(frozen=True)
class Verdict:
    """state: one of the five words above. reason: what a reader should know besides."""

    state: str
    reason: str = ""

    def text(self) -> str:
        """Both in one line."""
        return f"{self.state}: {self.reason}" if self.reason else self.state


def limit(row: Row, n: int) -> float | None:
    """The value that the mean of ``n`` seeds must reach; None where none is published or judged."""
    p = row.published
    if p.value is None or row.tolerance is None:
        return None
    room = 2 * p.spread if row.few and n < 3 and p.spread is not None else row.tolerance
    return p.value + room if row.lower else p.value - room


def reaches(row: Row, mean: float, bound: float) -> bool:
    """Whether a mean is on the right side of a bound, or on it."""
    return mean <= bound + EPSILON if row.lower else mean >= bound - EPSILON


def judge(
    row: Row, ours: Summary | None, failed: Sequence[int] = (), gap: Summary | None = None
) -> Verdict:
    """The verdict on a row.

    Args:
        row: what was promised. ours: of our finished seeds' scores, in the row's unit; None if none
            has finished. failed: seeds. gap: of ours minus our baseline's, seed by seed; None if
            that has not run.
    """
    if failed:
        return Verdict(FAILED, f"seed {', '.join(map(str, failed))}")
    if ours is None:
        return Verdict(NOTHING)
    if not math.isfinite(ours.mean):
        return Verdict(FAILED, "a score is not finite")
    n, wanted = ours.n, row.published.n
    few = [] if not wanted or n >= wanted else [f"n = {n} < {wanted}"]
    if not row.judged:
        return Verdict(UNJUDGED, "; ".join([row.why, *few]))
    said, good = [], True
    bound = limit(row, n)
    if bound is not None:
        good = reaches(row, ours.mean, bound)
        said.append(f"{'at most' if row.lower else 'at least'} {bound:.4g} wanted")
    if row.against is not None and row.against.within is not None:
        where = f"within {row.against.within:g} of {row.against.row}"
        if gap is None:
            return Verdict(UNJUDGED, f"{where} is wanted, and that row has not run")
        good &= reaches(row, gap.mean, row.against.within if row.lower else -row.against.within)
        said.append(f"{where} wanted")
    return Verdict(REACHED if good else MISSED, "; ".join([*said, *few]))
