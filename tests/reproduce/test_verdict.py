import pytest

from gnnscale.reproduce import verdict
from gnnscale.reproduce.published import Row
from gnnscale.reproduce.summary import Summary
from gnnscale.reproduce.verdict import limit


def judge(row, scores, failed=(), differences=None):
    return verdict.judge(row, Summary.of(scores), failed, Summary.of(differences or []))


def row(**changes):
    published = {"value": 80.0, "spread": 0.5, "n": 3, "source": "here", "verified": "code"}
    published |= changes.pop("published", {})
    about = {"label": "x", "experiment": "x", "dataset": "x", "why": "because", "judged": True,
             "tolerance": 1.0}  # fmt: skip
    return Row(published=published, **{**about, **changes})


@pytest.mark.parametrize(
    ("scores", "state"),
    [
        ([79.0, 79.0, 79.0], "reached"),  # on the limit
        ([79.1, 78.9, 79.0], "reached"),  # the mean counts, not each seed
        ([78.9, 79.0, 79.0], "missed"),
        ([100 * 0.79] * 3, "reached"),  # rounding of 100 times a fraction
        ([95.0, 95.0, 95.0], "reached"),  # one-sided: better is no miss
        ([79.0], "reached"),
        ([float("nan"), 90.0, 90.0], "failed"),
    ],
)
def test_the_mean_must_reach_the_published_value_minus_the_tolerance(scores, state):
    assert judge(row(), scores).state == state


@pytest.mark.parametrize(
    ("scores", "state"),
    [([0.31, 0.33], "reached"), ([0.33, 0.33], "missed"), ([0.1, 0.1], "reached")],
)
def test_lower_is_better_is_the_mirror_image(scores, state):
    zinc = row(metric="mae", published={"value": 0.30, "spread": None}, tolerance=0.02)
    assert judge(zinc, scores).state == state
    assert "at most 0.32" in judge(zinc, scores).reason


def test_two_published_deviations_are_the_room_while_there_are_fewer_than_three_seeds():
    few = row(tolerance=0.2, few="two_std")
    assert [limit(few, n) for n in (1, 2, 3, 10)] == [79.0, 79.0, 79.8, 79.8]
    assert judge(few, [79.1, 79.1]).state == "reached"
    assert judge(few, [79.1, 79.1, 79.1]).state == "missed"
    loss = row(metric="mae", tolerance=0.2, few="two_std")
    assert [limit(loss, n) for n in (2, 3)] == [81.0, 80.2]


def test_fewer_seeds_than_published_are_told():
    assert "n = 2 < 3" in judge(row(), [80.0, 80.0]).reason
    assert "n =" not in judge(row(), [80.0, 80.0, 80.0]).reason
    assert "n =" not in judge(row(published={"n": None}), [80.0]).reason


def test_a_failed_seed_is_never_reached_whatever_the_others_say():
    assert judge(row(), [99.0, 99.0], failed=[7]).text() == "failed: seed 7"


def test_what_is_not_judged_says_why_and_what_has_not_run_says_so():
    shown = row(judged=False, tolerance=None, why="a single run")
    assert judge(shown, [10.0, 10.0, 10.0]).text() == "not judged: a single run"
    assert judge(shown, []).text() == "not run"
    assert judge(row(), []).text() == "not run"


@pytest.mark.parametrize(
    ("differences", "state"),
    [
        ([-0.7, -0.7], "reached"),
        ([-1.4, 0.0], "reached"),
        ([-0.8, -0.7], "missed"),
        ([3.0], "reached"),
        (None, "not judged"),
    ],
)
def test_within_is_the_mean_difference_to_our_baseline(differences, state):
    paired = row(tolerance=None, published={"verified": "none", "value": None, "spread": None,
                                            "n": None, "source": ""},
                 against={"row": "a/b", "within": 0.7})  # fmt: skip
    assert judge(paired, [50.0, 50.0], (), differences).state == state


def test_both_conditions_must_hold():
    both = row(against={"row": "a/b", "within": 0.7})
    assert judge(both, [80.0] * 3, (), [0.0]).state == "reached"
    assert judge(both, [80.0] * 3, (), [-1.0]).state == "missed"
    assert judge(both, [70.0] * 3, (), [0.0]).state == "missed"
    lower = row(metric="mae", against={"row": "a/b", "within": 0.7})
    assert judge(lower, [80.0] * 3, (), [0.8]).state == "missed"
    assert judge(lower, [80.0] * 3, (), [-5.0]).state == "reached"
