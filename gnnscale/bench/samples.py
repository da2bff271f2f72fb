"""From the times of many requests to figures with intervals, and what too few can't support."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
LEAST = {"p99_ms": 100, "p999_ms": 1000}
"""Requests without which a percentile is null: it would be one request's word."""


def summary(nanoseconds: Sequence[int]) -> dict[str, Any]:
    """n, mean, sample standard deviation, percentiles (interpolated) and intervals, in ms.

    p50_ci and p99_ci are ``interval``; throughput is requests per second of request time.
    """
    ms = np.asarray(nanoseconds, float) / 1e6
    n = len(ms)
    found: dict[str, Any] = {
        "n": n,
        "mean_ms": float(ms.mean()),
        "std_ms": float(ms.std(ddof=1)) if n > 1 else None,
    }
    for name, q in (("p50_ms", 50), ("p90_ms", 90), ("p95_ms", 95), ("p99_ms", 99),
                    ("p999_ms", 99.9)):  # fmt: skip
        enough = n >= LEAST.get(name, 1)
        found[name] = float(np.percentile(ms, q)) if enough else None
    found["max_ms"] = float(ms.max())
    found["p50_ci"] = interval(ms, 0.5)
    found["p99_ci"] = interval(ms, 0.99) if n >= LEAST["p99_ms"] else None
    found["throughput_per_s"] = float(1000 * n / ms.sum())
    return found


def interval(values: Sequence[float] | np.ndarray, q: float) -> list[float] | None:
    """The 95 % bootstrap interval of the q-quantile; None of fewer than two values.

    The percentile bootstrap, without resampling: the q-quantile of n draws is their k-th smallest,
    k = ceil(n q), and it is at most the j-th smallest value with probability
    P(Binomial(n, j / n) >= k) (Maritz & Jarrett, JASA 73, 1978, sec. 2). What many resamples
    approximate is computed.
    """
    x = np.sort(np.asarray(values, float))
    n = len(x)
    if n < 2:
        return None
    k = max(1, int(np.ceil(n * q)))
    below = stats.binom.sf(k - 1, n, np.arange(1, n + 1) / n)  # P(quantile <= x_(j)), ascending
    tail = (1 - LEVEL) / 2
    low, high = (int(np.searchsorted(below, p)) for p in (tail, 1 - tail))
    return [float(x[min(low, n - 1)]), float(x[min(high, n - 1)])]


def ratios(mine: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
    """Mine over theirs, request by request as they were made in turn: median, interval, spread."""
    pairs = np.asarray(mine, float) / np.asarray(theirs, float)
    low, high = np.percentile(pairs, [5, 95])
    return {
        "median": float(np.median(pairs)),
        "ci": interval(pairs, 0.5),
        "p5": float(low),
        "p95": float(high),
        "n": len(pairs),
    }
