import gc
import logging

import pytest
import torch

from gnnscale.bench.calibration import Calibration
from gnnscale.bench.request import Laps, Local
from gnnscale.bench.settings import Bench
from gnnscale.bench.timing import rounds
from gnnscale.core.errors import UsageError

CPU = torch.device("cpu")


class Scripted:
    """A request that writes down that it was made and takes as long as it says."""

    def __init__(self, name, log, ns=1_000_000):
        self.name, self.log, self.ns, self.size = name, log, ns, {}

    def __call__(self):
        self.log.append((self.name, gc.isenabled()))
        return self.ns

    def forget(self):
        self.log.append((f"forget {self.name}", None))


class Silent(Calibration):
    """Counts instead of computing."""

    def __init__(self):
        self.calls = 0

    def between(self):
        self.calls += 1


def rules(**changes):
    return Bench(**{"requests": 5, "seconds": 0.0, "warmup": 3, "warmup_s": 0.0, **changes})


def test_requests_are_made_in_turn_and_warm_up_does_not_count():
    log, silent = [], Silent()
    found = rounds([Scripted("A", log), Scripted("B", log)], rules(), silent)
    names = [name for name, _ in log]
    cut = names.index("forget A")
    assert names[:cut] == ["A", "B"] * 3  # the first ones, then warm-up to three
    assert names[cut + 2 :] == ["A", "B", "B", "A", "A", "B", "B", "A", "A", "B"]
    assert [len(s) for s in found.samples] == [5, 5]
    assert found.first == [1_000_000, 1_000_000]
    assert found.complete
    assert silent.calls == 5


def test_the_garbage_collector_rests_while_it_counts():
    log = []
    assert gc.isenabled()
    rounds([Scripted("A", log)], rules(), Silent())
    counted = log[[name for name, _ in log].index("forget A") + 1 :]
    assert counted
    assert not any(on for _, on in counted)
    assert gc.isenabled()


def test_it_goes_on_until_the_seconds_are_over_for_the_fastest():
    log = []
    slow, fast = Scripted("A", log, 10_000_000), Scripted("B", log, 1_000_000)
    found = rounds([slow, fast], rules(requests=2, seconds=0.02), Silent())
    assert [len(s) for s in found.samples] == [20, 20]  # 20 x 1 ms of the faster one


def test_warm_up_lasts_at_least_its_seconds():
    log = []
    rounds([Scripted("A", log)], rules(warmup=1, warmup_s=0.05), Silent())
    names = [name for name, _ in log]
    assert names.index("forget A") == 50


def test_the_time_limit_ends_it_and_says_so():
    log = []
    found = rounds([Scripted("A", log)], rules(requests=10**9, limit_s=0.05), Silent())
    assert not found.complete
    assert len(found.samples[0]) >= 1


def test_nothing_is_logged_while_it_counts(caplog):
    with caplog.at_level(logging.DEBUG):
        rounds([Scripted("A", [])], rules(), Silent())
    assert not caplog.records


def test_laps_add_up_and_start_afresh():
    def work(laps: Laps):
        laps.lap("one")
        torch.ones(1000).sum()
        laps.lap("two")
        laps.add("three", 0.25)

    request = Local(work, CPU)
    took = [request() for _ in range(4)]
    assert all(ns > 0 for ns in took)
    found = request.stages_ms()
    assert list(found) == ["one", "two", "three"]
    assert found["three"] == pytest.approx(250)
    assert (found["one"] + found["two"]) * 4 <= sum(took) / 1e6
    request.forget()
    assert request.stages_ms() == {}


def test_the_settings_of_a_subject_are_made_before_the_clock_starts():
    order = []
    request = Local(lambda laps: order.append("work"), CPU, lambda: order.append("before"))
    request()
    assert order == ["before", "work"]


def test_calibration_runs_seldom_and_tells_of_drift():
    real = Calibration()
    for _ in range(50):
        real.between()
    assert len(real.times) < 50  # most calls come too early
    real.times = [1_000_000] * 10 + [2_000_000] * 10
    assert real.result()["drift"] == 2.0
    assert real.result()["n"] == 20
    real.times = []
    assert real.result() is None


@pytest.mark.parametrize("wrong", [{"queries": [1, 1]}, {"workloads": ["full", "full"]},
                                   {"scopes": []}])  # fmt: skip
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(UsageError, match=r"bench\."):
        Bench(**wrong)


def test_the_calibration_follows_each_subject_in_its_turn():
    log = []

    class Noted(Silent):
        def between(self):
            log.append(("calibrate", None))

    rounds([Scripted("A", log), Scripted("B", log)], rules(requests=4), Noted())
    names = [name for name, _ in log]
    counted = names[names.index("forget B") + 1 :]
    assert [n for n in counted if n != "calibrate"] == ["A", "B", "B", "A"] * 2
    after = [counted[i - 1] for i, n in enumerate(counted) if n == "calibrate"]
    assert after == ["A", "A", "B", "B"]  # first and last of a round, each of them
