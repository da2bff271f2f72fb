import math

from hypothesis import given
from hypothesis import strategies as st

from gnnscale.report.pareto import front

NUMBER = st.none() | st.sampled_from([math.nan, math.inf]) | st.integers(0, 6).map(float)


def dominates(a, b):
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def test_by_hand():
    #        front     dominated  front     same cost, worse  front
    points = [(1.0, 5.0), (2.0, 4.0), (3.0, 8.0), (3.0, 7.0), (9.0, 9.0)]
    assert front(points) == [0, 2, 4]


def test_ties_duplicates_and_missing_values():
    assert front([(1.0, 5.0), (2.0, 5.0)]) == [0]  # as good, dearer
    assert front([(1.0, 5.0), (1.0, 6.0)]) == [1]  # as cheap, worse
    assert front([(1.0, 5.0), (1.0, 5.0), (2.0, 5.0)]) == [0, 1]
    assert front([(None, 9.0), (0.0, None), (math.nan, 9.0), (4.0, 1.0)]) == [3]
    assert front([]) == front([(None, None)]) == []


@given(st.lists(st.tuples(NUMBER, NUMBER), max_size=25))
def test_exactly_the_points_that_nobody_dominates_by_rising_cost(points):
    known = {i: p for i, p in enumerate(points)
             if all(x is not None and math.isfinite(x) for x in p)}  # fmt: skip
    found = front(points)
    expected = {i for i, p in known.items() if not any(dominates(q, p) for q in known.values())}
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)
    for i in known.keys() - expected:  # some point of the front dominates it
        assert any(dominates(points[j], points[i]) for j in found)
