import os
import time

import torch

from gnnscale.bench.busy import Busy
from gnnscale.bench.energy import Rapl, meters, per_request

CPU = torch.device("cpu")
HZ = os.sysconf("SC_CLK_TCK")


def stat(path, busy_s, idle_s=0):
    path.write_text(f"cpu  {int(busy_s * HZ)} 0 0 {int(idle_s * HZ)} 0 0 0 0 0 0\ncpu0 1 2 3\n")
    return path


def test_time_of_others_is_flagged(tmp_path):
    path = stat(tmp_path / "stat", 100)
    busy = Busy(path)
    time.sleep(0.1)
    stat(path, 200)  # a hundred seconds of somebody's work in a tenth of one
    found = busy.result()
    assert found["flag"] is True
    assert found["others_share"] == 1.0


def test_a_quiet_machine_is_not(tmp_path):
    busy = Busy(stat(tmp_path / "stat", 100))
    time.sleep(0.05)
    found = busy.result()
    assert found["flag"] is False
    assert found["others_share"] == 0.0


def test_our_own_work_is_not_theirs(tmp_path):
    path = stat(tmp_path / "stat", 0)
    busy = Busy(path)
    start, own = time.monotonic(), sum(os.times()[:2])
    while time.monotonic() - start < 0.3:
        sum(range(1000))
    stat(path, sum(os.times()[:2]) - own)
    assert busy.result()["others_share"] < 0.05


def test_where_nothing_says_so_nothing_is_said(tmp_path):
    found = Busy(tmp_path / "none").result()
    assert found == {"others_share": None, "flag": None, "source": None}


def zone(root, name, uj, most=1000):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(str(uj))
    (folder / "max_energy_range_uj").write_text(str(most))


def test_rapl_sums_packages_and_survives_the_wrap(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900)
    zone(tmp_path, "intel-rapl:1", 100)
    zone(tmp_path, "intel-rapl:0:0", 77)  # a part of package 0, counted in it
    read = Rapl(tmp_path)
    zone(tmp_path, "intel-rapl:0", 50)  # 900 -> 1000 -> 50
    zone(tmp_path, "intel-rapl:1", 160)
    assert read() == (150 + 60) / 1e6
    assert read() == (150 + 60) / 1e6


def test_joule_per_request(tmp_path):
    joules = iter([1.0, 7.0])
    calls = []

    def request():
        calls.append(1)
        return 10**9

    found = per_request(request, {"rapl": lambda: next(joules)}, seconds=3)
    assert len(calls) == 3
    assert found == {"rapl": 2.0}


def test_without_a_counter_it_is_null_and_nothing_runs(tmp_path):
    assert meters(CPU, tmp_path) == {}

    def never():
        raise AssertionError

    assert per_request(never, {}) is None
