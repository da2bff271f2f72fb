import json

from made_runs import seed, three

from gnnscale.report.bench import newest
from gnnscale.report.measures import find, offered
from gnnscale.report.rows import collect


def measured(folder, stamp, p50):
    path = folder / "bench" / f"{stamp}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({
        "workloads": {"full": {"model": {"p50_ms": p50, "n": 200, "note": "x", "p99_ms": None}},
                      "batch_1": {"end2end": {"p50_ms": 2 * p50}}},
        "memory": {"peak_mib": 70.0},
    }))  # fmt: skip
    return path


def test_the_newest_file_counts_and_only_its_numbers(tmp_path):
    measured(tmp_path, "20260101T000000", 9.0)
    measured(tmp_path, "20260102T000000", 3.0)
    assert newest(tmp_path) == {
        "full.model.p50_ms": 3.0, "full.model.n": 200.0, "batch_1.end2end.p50_ms": 6.0,
        "memory.peak_mib": 70.0,
    }  # fmt: skip


def test_absence_is_no_error_and_an_unreadable_file_is_told_of(tmp_path, caplog):
    assert newest(tmp_path) == {}
    measured(tmp_path, "1", 4.0)
    (tmp_path / "bench/2.json").write_text("{")
    (tmp_path / "bench/3.json").write_text("[]")
    assert newest(tmp_path)["full.model.p50_ms"] == 4.0
    assert "2.json: can't be read" in caplog.text
    assert "3.json: can't be read" in caplog.text


def test_bench_numbers_are_columns_with_their_direction(tmp_path):
    three(tmp_path / "a", [0.5, 0.6])
    measured(tmp_path / "a/seed-0", "1", 4.0)
    rows = collect([tmp_path]).rows
    measure = find("bench.full.model.p50_ms", rows)
    assert measure.values(rows[0]) == {0: 4.0}
    assert measure.header == "bench.full.model.p50_ms ↓"
    assert find("bench.full.model.n", rows).better == 0
    assert find("bench.memory.peak_mib", rows).better == -1
    assert "bench.batch_1.end2end.p50_ms" in offered(rows)
    assert find("bench.full.model.p51_ms", rows) is None


def test_dotted_paths_extras_and_what_is_no_number(tmp_path):
    seed(tmp_path / "a", 0, extra={"f1.macro": 0.25, "name": "x"})
    rows = collect([tmp_path]).rows
    assert find("time_s.phases.fit", rows).values(rows[0]) == {0: 4.0}
    assert find("extra.f1.macro", rows).values(rows[0]) == {0: 0.25}
    assert find("extra.name", rows).values(rows[0]) == {}
    assert find("test", rows).values(rows[0]) == {0: 50.0}
    assert find("cuda_memory", rows).values(rows[0]) == {}
    assert find("metric.name", rows) is None
