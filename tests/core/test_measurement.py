import json
from dataclasses import asdict

import pytest

from gnnscale.core.measurement import Measurement


def one(**changes):
    entry = {"n": 200, "p50_ms": 1.5, "p99_ms": None, "stages_ms": {"forward": 1.4}}
    given = {
        "label": "a", "config": {"seed": 0}, "choices": {"sampler": "full"}, "seed": 0,
        "weights": "fresh", "settings": {}, "workloads": {"full": {"model": entry}},
        "memory": {}, "cost": None, "roofline": None, "calibration": None, "busy": {},
        "energy_j": {"full/model": None}, "cold_start_ms": {"build": 1.0}, "environment": {},
    }  # fmt: skip
    return Measurement(**{**given, **changes})


def test_a_measurement_comes_back_as_it_was(tmp_path):
    first = one(versus=[{"label": "b", "measurement": asdict(one(label="b")), "ratios": {}}])
    first.save(tmp_path / "x" / "bench.json")
    assert Measurement.load(tmp_path / "x" / "bench.json") == first
    assert json.loads((tmp_path / "x" / "bench.json").read_text())["energy_j"] == {
        "full/model": None
    }


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema_version": 99, "workloads": {}}',
                                     '{"schema_version": 1, "metric": {}}'])  # fmt: skip
def test_something_else_is_refused(tmp_path, content):
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(ValueError, match=r"bench\.json: version"):
        Measurement.load(tmp_path / "bench.json")
