import numpy as np
import pytest
from scipy import stats

from gnnscale.bench.samples import interval, ratios, summary


def test_hand_values():
    found = summary([1_000_000, 2_000_000, 3_000_000, 6_000_000])
    assert found["n"] == 4
    assert found["mean_ms"] == 3.0
    assert found["std_ms"] == pytest.approx(np.sqrt((4 + 1 + 0 + 9) / 3))  # sample, not population
    assert found["p50_ms"] == 2.5
    assert found["p90_ms"] == pytest.approx(3 + 0.7 * 3)
    assert found["max_ms"] == 6.0
    assert found["throughput_per_s"] == pytest.approx(4 / 0.012)


def test_percentiles_are_numpys():
    ns = np.random.default_rng(0).integers(10**6, 10**7, 1234)
    found = summary(ns)
    for name, q in (("p50_ms", 50), ("p90_ms", 90), ("p95_ms", 95), ("p99_ms", 99),
                    ("p999_ms", 99.9)):  # fmt: skip
        assert found[name] == pytest.approx(np.percentile(ns / 1e6, q))


TAILS = [(99, False, False), (100, True, False), (999, True, False), (1000, True, True)]


@pytest.mark.parametrize(("n", "p99", "p999"), TAILS)
def test_too_few_requests_have_no_tail(n, p99, p999):
    found = summary(range(1, n + 1))
    assert (found["p99_ms"] is not None) == p99
    assert (found["p99_ci"] is not None) == p99
    assert (found["p999_ms"] is not None) == p999
    assert found["p50_ci"] is not None


def test_one_request_has_no_spread():
    found = summary([5])
    assert found["std_ms"] is None
    assert found["p50_ci"] is None


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_interval_is_what_resampling_converges_to(q):
    x = np.random.default_rng(1).lognormal(size=300)
    k = int(np.ceil(300 * q)) - 1

    def statistic(sample, axis):
        return np.take(np.sort(sample, axis=axis), k, axis=axis)

    many = stats.bootstrap((x,), statistic, n_resamples=40_000, method="percentile", batch=2000,
                           random_state=np.random.default_rng(2))  # fmt: skip
    low, high = interval(x, q)
    ordered = np.sort(x)
    at = [int(np.searchsorted(ordered, v)) for v in (low, high)]
    wanted = [int(np.searchsorted(ordered, v)) for v in many.confidence_interval]
    assert abs(at[0] - wanted[0]) <= 1  # Monte Carlo lands on a neighbouring order statistic
    assert abs(at[1] - wanted[1]) <= 1
    assert low <= ordered[k] <= high


def test_interval_covers_as_often_as_it_says():
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        low, high = interval(draw.exponential(size=200), 0.5)
        hits += low <= np.log(2) <= high
    assert 0.91 < hits / 400 < 0.985


def test_interval_of_constants_and_ends():
    assert interval([2.0] * 50, 0.99) == [2.0, 2.0]
    low, high = interval([1.0, 2.0], 0.5)
    assert (low, high) == (1.0, 2.0)


def test_ratios_are_taken_pair_by_pair():
    # both drift tenfold together: means and medians of each move, the ratio does not
    theirs = np.linspace(1, 10, 101)
    mine = theirs * 1.5
    found = ratios(mine, theirs)
    assert found["median"] == pytest.approx(1.5)
    assert found["ci"] == pytest.approx([1.5, 1.5])
    assert found["p5"] == pytest.approx(1.5)
    assert found["n"] == 101
    swapped = ratios(list(reversed(mine)), theirs)  # not in turn: the pairs mean nothing
    assert swapped["p95"] > 5
