"""Mean, sample standard deviation and n of scores, or of differences seed by seed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What is said of values, in their unit.

    std: of the sample; None for one value. p: of a t-test of mean 0, None where it can't be told.
    """

    n: int
    mean: float
    std: float | None = None
    p: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], test: bool = False) -> "Summary | None":
        """That of values, None of none. test: with p, which equal values have not."""
        if not values:
            return None
        n, mean = len(values), statistics.mean(values)
        std = statistics.stdev(values) if n > 1 and math.isfinite(mean) else None
        return cls(n, mean, std, _p(values) if test and std else None)

    def text(self, digits: int = 2) -> str:
        """``83.00 ± 0.70``; one value has no spread."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.std is None else f"{mean} ± {self.std:.{digits}f}"


def _p(values: Sequence[float]) -> float:
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(values, 0.0).pvalue)
