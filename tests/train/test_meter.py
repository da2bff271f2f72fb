import numpy as np
import torch

from gnnscale.train.meter import Meter


def test_seconds_add_up_by_name_and_phases_are_coarse():
    meter = Meter(torch.device("cpu"))
    with meter.phase("fit"):
        for _ in range(3):
            with meter.step("forward"):
                pass
    assert 0 < meter.seconds["forward"] <= meter.seconds["fit"]
    times = meter.times()
    assert times["total"] == meter.seconds["fit"]
    assert times["epoch_median"] is None


def test_peak_memory_is_that_of_its_phase():
    meter = Meter(torch.device("cpu"))
    with meter.phase("prepare"):
        pass
    with meter.phase("fit"):
        block = np.ones(2**26, np.float32)  # 256 MiB
        del block
    memory = meter.memory()
    assert memory["phase"] == "fit"
    assert memory["cuda_peak"] is None
    if "reset" in memory["source"]:
        assert memory["phases"]["fit"] - memory["phases"]["prepare"] > 200


def test_a_resumed_run_reports_the_whole_of_its_time():
    first, second = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    first.epochs, second.epochs = [1.0, 2.0], [3.0]
    first.seconds["fit"], second.seconds["fit"] = 5.0, 7.0
    first.rss["fit"], second.rss["fit"] = 900.0, 100.0
    second.load(first.state())
    assert second.epochs == [1.0, 2.0, 3.0]
    assert second.seconds["fit"] == 12.0
    assert second.memory()["rss_peak"] == 900.0
