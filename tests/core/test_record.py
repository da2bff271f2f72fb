import json
import os

import pytest

from gnnscale.core.record import SCHEMA_VERSION, Record, write_bytes, write_json


def record(**changes) -> Record:
    fields = {
        "config": {"architecture": {"hidden": 16, "act": "relu"}, "seeds": [0, 1]},
        "seed": 3,
        "metric": {"name": "accuracy", "train": 1.0, "valid": 0.5, "test": 0.25, "best_epoch": 7,
                   "extra": {}},
        "time_s": {"prepare": 0.1, "epoch_median": None, "phases": {"fit": 2.5}},
        "latency_ms": None,
        "memory_mib": {"rss_peak": 100.0, "cuda_peak": None},
        "parameters": 10,
        "model_bytes": 40,
        "environment": {"torch": "2"},
        "choices": {"sampler": "full"},
        "data": {"name": "sixty"},
        "notes": ["µ ± 1"],
    }  # fmt: skip
    return Record(**{**fields, **changes})


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "er" / "record.json"
    record().save(path)
    assert Record.load(path) == record()
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


def test_floats_survive_exactly(tmp_path):
    path = tmp_path / "r.json"
    record(metric={"test": 0.1 + 0.2, "valid": 1 / 3}).save(path)
    assert Record.load(path).metric == {"test": 0.1 + 0.2, "valid": 1 / 3}


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, None, str(SCHEMA_VERSION)])
def test_another_schema_version_is_refused(tmp_path, version):
    path = tmp_path / "r.json"
    record(schema_version=version).save(path)
    with pytest.raises(ValueError, match=f"schema version {version}, expected {SCHEMA_VERSION}"):
        Record.load(path)


@pytest.mark.parametrize("text", ["[1, 2]", '"record"', "{}", "{", ""])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"schema version|Expecting"):
        Record.load(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_json(path, {"old": 1})
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_json(path, {"new": 2})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["r.json"]
    loop: dict = {}
    loop["loop"] = loop
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, loop)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["r.json"]


def test_the_new_file_appears_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "f.bin"
    write_bytes(path, b"old")
    seen = []
    true = os.replace

    def watched(part, target):
        seen.append((path.read_bytes(), part.parent, part.read_bytes()))
        true(part, target)

    monkeypatch.setattr(os, "replace", watched)
    write_bytes(path, b"new" * 1000)
    assert seen == [(b"old", tmp_path, b"new" * 1000)]
    assert path.read_bytes() == b"new" * 1000
    assert os.listdir(tmp_path) == ["f.bin"]
