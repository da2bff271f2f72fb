import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gnnscale.report.compare import holm, mean_std, paired

OURS = {0: 81.2, 1: 82.5, 2: 80.9, 3: 83.1, 4: 82.0, 7: 1.0}
THEIRS = {0: 80.1, 1: 82.6, 2: 79.7, 3: 81.5, 4: 80.9, 9: 2.0}


def test_mean_and_sample_std():
    assert mean_std([1.0, 2.0, 4.0]) == (7 / 3, pytest.approx(math.sqrt(7 / 3)))
    assert mean_std([5.0]) == (5.0, None)
    assert mean_std([2.0, 4.0])[1] == statistics.stdev([2, 4]) == math.sqrt(2)


def test_paired_t_is_scipys_over_the_shared_seeds():
    found = paired(OURS, THEIRS, ("t", "wilcoxon"))
    a, b = ([side[k] for k in range(5)] for side in (OURS, THEIRS))
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert found.pairs == 5
    assert found.difference == pytest.approx(
        statistics.mean(x - y for x, y in zip(a, b, strict=True))
    )
    assert found.p["t"] == pytest.approx(theirs.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.p["wilcoxon"] == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_paired_t_by_hand():
    """d = 1, 2, 3: mean 2, s 1, t = 2 sqrt(3); with 2 degrees p = 1 - t / sqrt(t^2 + 2)."""
    found = paired({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    t = 2 * math.sqrt(3)
    assert found.p["t"] == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-12)
    assert found.high - found.difference == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_wilcoxon_by_hand():
    """Five positive differences without ties: 2 of the 2^5 signings are as extreme."""
    ours = {k: 10.0 + k + 0.1 * (k + 1) for k in range(5)}
    found = paired(ours, {k: 10.0 + k for k in range(5)}, ("wilcoxon",))
    assert found.p == {"wilcoxon": pytest.approx(2 / 32)}


def test_no_test_on_fewer_than_three_pairs_or_without_spread():
    assert paired({0: 1.0, 1: 2.0, 5: 3.0}, {0: 1.0, 1: 2.5, 6: 3.0}) is None
    same = paired({k: 1.0 + k for k in range(4)}, {k: 1.0 + k for k in range(4)}, ("t", "wilcoxon"))
    assert same.p == {"t": 1.0, "wilcoxon": 1.0}
    constant = paired({k: 0.1 + k for k in range(4)}, {k: 0.0 + k for k in range(4)})
    assert constant.p == {"t": None}
    assert constant.difference == pytest.approx(0.1)


def test_holm_by_hand():
    """0.01 * 4, 0.02 * 3, then 0.03 * 2 = 0.06 and 0.04 * 1, raised to 0.06."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, None, 0.4]) == [0.8, None, 0.8]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]


@given(st.lists(st.none() | st.floats(0, 1), max_size=12))
def test_holm_raises_keeps_the_order_and_stays_below_bonferroni(ps):
    adjusted = holm(ps)
    known = [(p, a) for p, a in zip(ps, adjusted, strict=True) if p is not None]
    assert [a is None for a in adjusted] == [p is None for p in ps]
    assert all(p <= a <= min(1.0, len(known) * p) for p, a in known)
    ranked = [a for _, a in sorted(known)]
    assert ranked == sorted(ranked)
