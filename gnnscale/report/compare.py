"""Means with their spread, and paired tests of one row against another."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05
TESTS = ("t", "wilcoxon", "both")
NAMES = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test"}
FEWEST = 3
"""Fewest shared seeds that a test is made on."""


@dataclass(frozen=True)
class Comparison:
    """A row against another over the seeds they share.

    pairs: how many. difference: mean of ours - theirs. low, high: 95 % interval of that mean (from
    the t distribution). p: p-value by name of the test; None where no test can be made.
    """

    pairs: int
    difference: float
    low: float | None
    high: float | None
    p: dict[str, float | None]


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); one value has no spread."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) if len(values) > 1 else None


def paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], tests: Sequence[str] = ("t",)
) -> Comparison | None:
    """Compare two rows over their shared seeds; None if they share fewer than ``FEWEST``.

    Two-sided p-values: Student's paired t-test, t = mean(d) / (s / sqrt(n)) with n - 1 degrees of
    freedom, and Wilcoxon's signed-rank test (exact where scipy can). Where all differences are
    zero p is 1; where they are all the same number otherwise, the t-test has no scale to judge by
    and p is None.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if len(shared) < FEWEST:
        return None
    differences = [ours[seed] - theirs[seed] for seed in shared]
    mean, std = mean_std(differences)
    size = max(abs(ours[s]) + abs(theirs[s]) for s in shared)
    if std is None or std <= 1e-9 * size:  # rounding is not a spread
        same = abs(mean) <= 1e-9 * size
        return Comparison(
            len(shared), mean, None, None, dict.fromkeys(tests, 1.0 if same else None)
        )
    from scipy import special

    degrees, error = len(shared) - 1, std / math.sqrt(len(shared))
    reach = float(special.stdtrit(degrees, 0.975)) * error
    p = {test: _student(mean / error, degrees) if test == "t" else _wilcoxon(differences)
         for test in tests}  # fmt: skip
    return Comparison(len(shared), mean, mean - reach, mean + reach, p)


def _student(t: float, degrees: int) -> float:
    """Two-sided; from scipy.special, since scipy.stats takes a second to load."""
    from scipy import special

    return 2 * float(special.stdtr(degrees, -abs(t)))


def _wilcoxon(differences: Sequence[float]) -> float | None:
    from scipy import stats

    p = float(stats.wilcoxon(differences).pvalue)
    return p if math.isfinite(p) else None


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (Scand. J. Statist. 6, 1979): None stays None and does not count.

    With p_(1) <= ... <= p_(m), the adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    worst = 0.0
    for rank, (p, i) in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * p))
        adjusted[i] = worst
    return adjusted
