import csv
import io
import json
import statistics

import pytest

from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.report.render import render
from gnnscale.report.table import HEADERS, collect


def seed(run, k, test, config, choices, failed=False, latency=2.0):
    folder = run / f"seed-{k}"
    folder.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({**config, "seed": 0, "seeds": 3}))
    (run / "run.json").write_text(json.dumps({"choices": choices}))
    (folder / "status.json").write_text(json.dumps({"state": "failed" if failed else "finished"}))
    if failed:
        return
    Record(
        config=config, seed=k, time_s={"epoch_median": 0.5}, parameters=1234, model_bytes=4936,
        metric={"name": "accuracy", "train": 1.0, "valid": 0.5, "test": test, "best_epoch": 3},
        latency_ms={"p50": latency, "p95": 3.0, "n": 5} if latency else None,
        memory_mib={"rss_peak": 100.0}, environment={},
    ).save(folder / "record.json")  # fmt: skip


CHOICES = {"dataset": "digits", "sampler": "full", "architecture": "gcn", "quantization": "none",
           "recipe": "supervised", "distillation": "[none]"}  # fmt: skip


def test_mean_sample_std_n_seeds_and_failures(tmp_path):
    config = {"optimizer": {"lr": 0.1}, "distillation": {}}
    scores = [0.8, 0.9, 0.7]
    for k, score in enumerate(scores):
        seed(tmp_path / "a", k, score, config, CHOICES)
    seed(tmp_path / "a", 3, 0, config, CHOICES, failed=True)
    (row,) = collect([tmp_path])
    cells = dict(zip(HEADERS, row.cells(), strict=True))
    percent = [100 * s for s in scores]
    spread = f"{statistics.mean(percent):.2f} ± {statistics.stdev(percent):.2f}"
    assert cells["composition"] == "digits full gcn"
    assert cells["test %"] == spread == "80.00 ± 10.00"
    assert (cells["n"], cells["seeds"], cells["unfinished"]) == ("3", "0-2", "3")
    assert cells["parameters ↓"] == "1,234"


def test_rows_of_the_same_options_are_told_apart_by_what_differs(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        seed(tmp_path / name, 0, 0.5, {"optimizer": {"lr": lr, "eps": 1}, "distillation": {}},
             CHOICES)  # fmt: skip
    other = {**CHOICES, "architecture": "mlp"}
    seed(tmp_path / "c", 0, 0.5, {"optimizer": {"lr": 0.3}, "distillation": {"logit": {}}}, other)
    labels = [row.label for row in collect([tmp_path])]
    assert labels == [
        "digits full gcn optimizer.lr=0.1",
        "digits full gcn optimizer.lr=0.2",
        "digits full mlp logit",
    ]


def test_two_folders_of_one_composition_are_one_row(tmp_path):
    for name, k in (("a", 0), ("b", 1)):
        seed(tmp_path / name, k, 0.5, {"distillation": {}}, CHOICES)
    (row,) = collect([tmp_path / "a", tmp_path / "b"])
    assert [r.seed for r in row.records] == [0, 1]


def test_what_was_not_measured_is_a_dash_never_zero(tmp_path):
    seed(tmp_path / "a", 0, 0.5, {"distillation": {}}, CHOICES, latency=None)
    seed(tmp_path / "b", 0, 0.5, {"distillation": {}, "x": 1}, CHOICES, failed=True)
    measured, failed = (row.cells() for row in collect([tmp_path]))
    assert measured[HEADERS.index("latency p50 ms ↓")] == "-"
    assert failed[HEADERS.index("test %")] == "-"
    assert failed[HEADERS.index("unfinished")] == "0"


def test_formats_hold_the_same_cells(tmp_path):
    seed(tmp_path / "a_b", 0, 0.5, {"distillation": {}}, {**CHOICES, "dataset": "a_b"})
    rows = collect([tmp_path])
    cells = [row.cells() for row in rows]
    markdown = render(HEADERS, cells, "markdown").splitlines()
    assert markdown[0].count("|") == markdown[2].count("|") == len(HEADERS) + 1
    table = list(csv.reader(io.StringIO(render(HEADERS, cells, "csv"))))
    assert table[1] == rows[0].cells()
    latex = render(HEADERS, cells, "latex")
    assert r"a\_b" in latex
    assert latex.count("&") == 2 * (len(HEADERS) - 1)
    assert "a_b full gcn" in render(HEADERS, cells, "table")


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="no finished seed"):
        collect([tmp_path])
