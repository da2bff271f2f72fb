import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from compositions import CATALOG, plan, quiet_metrics, toy, train

from gnnscale import finished, session
from gnnscale.core.errors import TrainingError, UsageError
from gnnscale.core.record import Record
from gnnscale.stage.teacher import kept
from gnnscale.train import checkpoint, loop

COMPOSITIONS = {
    "full-gcn": {},
    "saint-egc": {"sampler": "saint", "architecture": "egc"},
    "neighbor-sage": {"sampler": "neighbor", "architecture": "sage"},
    "shadow-sage": {"sampler": "shadow_khop", "architecture": "sage"},
    "gttf-gcn": {"sampler": "gttf", "architecture": "gcn"},
    "qat-gat": {"quantization": "qat", "architecture": "gat"},
    "degree-gin": {"quantization": "degree", "architecture": "gin"},
    "ptq-gcn": {"quantization": "ptq", "architecture": "gcn", "recipe": "ptq"},
    "logit-gin": {"distillation": ["logit"], "recipe": "distill", "architecture": "gin"},
    "precompute-sgc": {"sampler": "precompute", "architecture": "sgc"},
    "ppr-pprgo": {"sampler": "ppr", "architecture": "pprgo"},
    "lbfgs-sgc": {"sampler": "precompute", "architecture": "sgc", "optimizer": "lbfgs"},
    "plateau-mlp": {"scheduler": "plateau", "architecture": "mlp"},
    "full-deq": {"architecture": "deq"},
    "label_reuse-revgat": {"sampler": "label_reuse", "architecture": "revgat"},
}
EPOCHS = 7


def equal_states(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal_states(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal_states(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def without_times(folder):
    state = checkpoint.load(folder / "seed-0" / "checkpoint.pt")
    return {k: v for k, v in state.items() if k != "meter"}


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("after_write", [False, pytest.param(True, marks=pytest.mark.process)])
def test_a_killed_run_resumes_to_the_bit_identical_end(name, after_write, tmp_path, monkeypatch):
    changes = {
        "trainer": {"epochs": EPOCHS},
        "teacher": {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=2"]},
    }
    checked = toy(changes, **COMPOSITIONS[name])
    (whole,) = train(checked, tmp_path / "whole")

    written = []
    true_save = loop.Run.save

    def dying_save(run):
        if run.folder.name == "seed-0":
            written.append(run.epoch)
            if len(written) in (3, 5):
                if after_write:
                    true_save(run)
                raise Killed
        true_save(run)

    monkeypatch.setattr(loop.Run, "save", dying_save)
    for _ in range(2):
        with pytest.raises(Killed):
            train(checked, tmp_path / "cut")
        # what a kill in the middle of appending a line leaves behind
        with (tmp_path / "cut" / "seed-0" / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 3, "lo')
    (resumed,) = train(session.load_plan(tmp_path / "cut", taught=True), tmp_path / "cut")

    assert equal_states(without_times(tmp_path / "whole"), without_times(tmp_path / "cut"))
    assert quiet_metrics(tmp_path / "whole" / "seed-0") == quiet_metrics(tmp_path / "cut/seed-0")
    assert resumed.metric == whole.metric
    assert resumed.time_s["epochs"] == whole.time_s["epochs"] == EPOCHS


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gnnscale", "train", *words]


LONG = ("+sampler=saint", "+model=egc", "dataset=synthetic", "dataset.nodes=400",
        "trainer.epochs=60", "sampler.coverage=5")  # fmt: skip


def wait_for_lines(folder, count, process):
    path = folder / "seed-0" / "metrics.jsonl"
    for _ in range(1200):
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("training never got there")


@pytest.mark.process
def test_kill_nine_then_resume_from_the_command_line(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = subprocess.run(
        command(*LONG, f"hydra.run.dir={whole}"), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str(whole)
    process = subprocess.Popen(
        command(*LONG, f"hydra.run.dir={cut}"), stderr=subprocess.PIPE, text=True
    )
    wait_for_lines(cut, 5, process)
    process.kill()
    process.wait()
    assert not (cut / "seed-0" / "record.json").exists()
    again = subprocess.run(command(f"resume={cut}"), capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[-1] == str(cut)
    assert "goes on after epoch" in again.stderr
    assert equal_states(without_times(whole), without_times(cut))
    assert quiet_metrics(whole / "seed-0") == quiet_metrics(cut / "seed-0")
    records = [Record.load(f / "seed-0" / "record.json") for f in (whole, cut)]
    assert records[0].metric == records[1].metric


@pytest.mark.process
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    words = (*LONG, "trainer.epochs=100000", "trainer.checkpoint_every=1000")
    process = subprocess.Popen(
        command(*words, f"hydra.run.dir={tmp_path / 'r'}"), stderr=subprocess.PIPE, text=True
    )
    wait_for_lines(tmp_path / "r", 3, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"gnnscale train resume={tmp_path / 'r'}" in said
    assert "Traceback" not in said
    seed = tmp_path / "r" / "seed-0"
    assert json.loads((seed / "status.json").read_text())["state"] == "interrupted"
    state = checkpoint.load(seed / "checkpoint.pt")
    assert state["epoch"] == len((seed / "metrics.jsonl").read_text().splitlines())


def test_finished_seeds_are_skipped_and_more_can_be_added(tmp_path, caplog):
    two = toy({"seeds": 2})
    first = train(two, tmp_path)
    stamps = {f: os.stat(f).st_mtime_ns for f in tmp_path.glob("seed-*/record.json")}
    assert len(stamps) == 2
    three = toy({"seeds": 3})
    again = train(three, tmp_path)
    assert [r.seed for r in again] == [0, 1, 2]
    assert {f: os.stat(f).st_mtime_ns for f in stamps} == stamps
    assert [r.metric for r in again[:2]] == [r.metric for r in first]
    assert "n = 3, seeds 0-2" in session.summary(again)


def test_a_folder_goes_on_with_checkpoints_as_often_as_one_likes(tmp_path):
    first = train(toy(), tmp_path)
    again = train(toy({"seeds": 2, "trainer": {"checkpoint_every": 2}}), tmp_path)
    assert again[0].metric == first[0].metric
    assert [r.seed for r in again] == [0, 1]
    with pytest.raises(UsageError, match="it differs in trainer"):
        train(toy({"trainer": {"epochs": 3}}), tmp_path)


def test_seeds_differ_and_repeat(tmp_path):
    a = train(toy({"seeds": 2}), tmp_path / "a")
    b = train(toy({"seed": 1}), tmp_path / "b")
    assert a[1].metric == b[0].metric
    assert quiet_metrics(tmp_path / "a/seed-1") == quiet_metrics(tmp_path / "b/seed-1")
    assert quiet_metrics(tmp_path / "a/seed-0") != quiet_metrics(tmp_path / "b/seed-1")


def test_a_folder_of_another_composition_is_refused(tmp_path):
    train(toy(), tmp_path)
    with pytest.raises(UsageError, match=r"differs in trainer.*resume="):
        train(toy({"trainer": {"epochs": 3}}), tmp_path)
    assert len((tmp_path / "seed-0/metrics.jsonl").read_text().splitlines()) == 2


def test_infinite_loss_stops_with_epoch_step_and_causes(tmp_path):
    wild = toy({"optimizer": {"lr": 1e36}, "trainer": {"epochs": 30}})
    with pytest.raises(TrainingError, match=r"epoch \d+, step 0.*optimizer.lr="):
        train(wild, tmp_path)
    status = json.loads((tmp_path / "seed-0/status.json").read_text())
    assert status["state"] == "failed"
    assert not (tmp_path / "seed-0/record.json").exists()


def test_record_holds_what_reports_need(tmp_path):
    (record,) = train(toy({"trainer": {"epochs": 3}}), tmp_path)
    content = json.loads((tmp_path / "seed-0/record.json").read_text())
    assert content["schema_version"] == 1
    assert set(content["metric"]) == {"name", "train", "valid", "test", "best_epoch", "extra"}
    assert {"prepare", "epoch_median", "evaluate_median", "total"} <= set(content["time_s"])
    assert {"p50", "p95", "n"} == set(content["latency_ms"])
    assert {"rss_peak", "cuda_peak", "phase", "source"} <= set(content["memory_mib"])
    assert content["memory_mib"]["cuda_peak"] is None
    assert content["parameters"] == 8 * 64 + 64 + 64 * 3 + 3
    assert content["model_bytes"] == 4 * content["parameters"]
    assert content["environment"]["versions"]["torch"] == torch.__version__
    assert content["config"]["trainer"]["epochs"] == 3
    valid = [m["valid"] for m in quiet_metrics(tmp_path / "seed-0")]
    assert record.metric["valid"] == max(valid)
    assert record.metric["best_epoch"] == valid.index(max(valid))
    assert json.loads((tmp_path / "run.json").read_text())["command"] == "test"


def test_fake_quantization_is_never_timed(tmp_path):
    (record,) = train(toy(quantization="qat"), tmp_path)
    assert record.latency_ms is None
    assert "fake quantization" in record.notes[0]
    assert record.model_bytes < 4 * record.parameters


def test_last_epoch_selection_and_patience(tmp_path):
    (last,) = train(toy({"trainer": {"epochs": 5, "selection": "last"}}), tmp_path / "last")
    assert last.metric["best_epoch"] == 4
    frozen = {"optimizer": {"lr": 0.0}, "trainer": {"epochs": 50, "patience": 3}}
    (stopped,) = train(toy(frozen), tmp_path / "patience")
    assert stopped.time_s["epochs"] == 4  # the first is the best, then three without a gain


def test_time_budget_ends_training(tmp_path):
    budget = {"trainer": {"epochs": 10_000, "time_budget_s": 1e-9}}
    (record,) = train(toy(budget), tmp_path)
    assert record.time_s["epochs"] == 1


def test_teacher_from_a_finished_run_and_refusals(tmp_path):
    train(toy({"seeds": 2}, architecture="sage"), tmp_path / "teacher")
    changes = {"teacher": {"run": str(tmp_path / "teacher"), "architecture": "gcn",
                           "overrides": []}}  # fmt: skip
    options = {"distillation": ["logit"], "recipe": "distill", "architecture": "mlp"}
    (record,) = train(toy(changes, **options), tmp_path / "student")
    table = kept(tmp_path / "student/seed-0/teacher", [])
    assert table.source.endswith("teacher/seed-0")
    assert table.logits.shape == (60, 3)
    assert record.parameters == 8 * 64 + 64 + 64 * 3 + 3
    with pytest.raises(UsageError, match="has no finished seed 5"):
        train(toy({**changes, "seed": 5}, **options), tmp_path / "late")
    other = toy({**changes, "dataset": {"nodes": 70}}, **options)
    with pytest.raises(UsageError, match="another dataset or split"):
        train(other, tmp_path / "other")
    moved = toy({**changes, "hardware": {"order": "degree"}}, **options)
    with pytest.raises(UsageError, match=r"numbers its nodes by .*; type hardware.order=source"):
        train(moved, tmp_path / "moved")


def test_a_finished_student_needs_its_teacher_no_more(tmp_path):
    train(toy(architecture="sage"), tmp_path / "teacher")
    changes = {"teacher": {"run": str(tmp_path / "teacher"), "architecture": "gcn",
                           "overrides": []}}  # fmt: skip
    options = {"distillation": ["logit"], "recipe": "distill", "architecture": "mlp"}
    train(toy(changes, **options), tmp_path / "student")
    (tmp_path / "teacher").rename(tmp_path / "elsewhere")
    words = (tmp_path / "student", ["hardware.threads=1"])
    written = finished.predict(*words, None, None, CATALOG, frozenset())
    assert len(written.read_text().splitlines()) == 61
    with pytest.raises(UsageError, match=r"teacher=.*: no such run folder, seen from /"):
        session.load_plan(tmp_path / "student", taught=True)


def test_a_teacher_is_trained_once_for_all_students_of_its_data_and_seed(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    teacher = {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=2"]}
    options = {"distillation": ["logit", "fitnet"], "recipe": "distill"}

    def folders():
        return sorted((tmp_path / "cache/teachers").glob("*/seed-*/record.json"))

    train(toy({"teacher": teacher}, architecture="mlp", **options), tmp_path / "mlp")
    (first,) = folders()
    before = first.stat().st_mtime_ns
    train(toy({"teacher": teacher}, architecture="sage", **options), tmp_path / "sage")
    assert folders() == [first]
    assert first.stat().st_mtime_ns == before
    said = [kept(tmp_path / run / "seed-0/teacher", [(-1, "items")]) for run in ("mlp", "sage")]
    assert torch.equal(said[0].logits, said[1].logits)
    assert said[0].hidden[-1, "items"].shape == (60, 64)
    for changes in ({"seed": 1}, {"dataset": {"degree": 5}}):
        train(toy({"teacher": teacher, **changes}, architecture="mlp", **options),
              tmp_path / str(changes))  # fmt: skip
    longer = {**teacher, "overrides": ["trainer.epochs=3"]}
    train(toy({"teacher": longer}, architecture="mlp", **options), tmp_path / "longer")
    assert len(folders()) == 4


def test_a_folder_of_students_keeps_the_teacher_it_was_begun_with(tmp_path):
    teacher = {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=2"]}
    options = {"distillation": ["logit"], "recipe": "distill", "architecture": "mlp"}
    where = tmp_path / "student"
    train(toy({"teacher": teacher}, **options), where)
    later = toy({"teacher": teacher, "seeds": 2}, **options)
    later.teacher.config["trainer"]["epochs"] = 3  # as if a preset that it names said so now
    with pytest.raises(UsageError, match=r"another teacher \(it differs in trainer: .* resume="):
        train(later, where)
    assert not (where / "seed-1").exists()
    begun = where / session.TEACHER
    begun.write_text(begun.read_text().replace('"epochs": 2', '"epochs": 4'))
    again = session.load_plan(where, taught=True)
    again.config["seeds"] = 2
    train(again, where)
    taught = Path(kept(where / "seed-1/teacher", []).source).parent / "config.json"
    assert json.loads(taught.read_text())["trainer"]["epochs"] == 4


def test_a_level_that_student_or_teacher_has_not_is_refused(tmp_path):
    teacher = {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=1"]}
    options = {"distillation": ["fitnet"], "recipe": "distill", "architecture": "mlp"}
    for level, said in (("level", "the student has 2 hidden levels"),
                        ("teacher_level", "the teacher has 2 hidden levels")):  # fmt: skip
        checked = toy({"teacher": teacher}, **options)
        checked.parts["distillation"][0].arguments[level] = 7
        with pytest.raises(UsageError, match=f"{level}=7: {said}; valid: 0 to 1, or -1"):
            train(checked, tmp_path / level)


def test_evaluation_stage_selects_on_validation_only(tmp_path):
    """Changing the test labels must not change the selected epoch or the weights."""
    checked = toy({"trainer": {"epochs": 6}})
    train(checked, tmp_path / "a")
    dataset = checked.one("dataset").cls
    true_load = dataset.load

    def poisoned(self, seed):
        data = true_load(self, seed)
        y = data.y.clone()
        y[data.splits["test"]] = (y[data.splits["test"]] + 1) % 3
        return data.with_(y=y)

    dataset.load = poisoned
    try:
        train(checked, tmp_path / "b")
    finally:
        dataset.load = true_load
    assert equal_states(without_times(tmp_path / "a"), without_times(tmp_path / "b"))
    a, b = (Record.load(tmp_path / f / "seed-0/record.json").metric for f in "ab")
    assert a["valid"] == b["valid"]
    assert a["test"] != b["test"]


def test_load_plan_refuses_what_is_no_run_folder(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        session.load_plan(tmp_path)


def test_digits_needs_no_files(tmp_path):
    (record,) = train(plan({"trainer": {"epochs": 20}}), tmp_path)
    assert record.data["nodes"] == 1797
    assert record.metric["test"] > 0.8


@pytest.mark.parametrize("sampler", ["full", "saint", "neighbor"])
def test_inductive_training_never_sees_a_held_out_node(sampler, tmp_path, monkeypatch):
    """Held-out features are NaN while training; the weights stay finite and score the true data."""
    from gnnscale.dataset.synthetic import Synthetic
    from gnnscale.graph import whole

    true_load, true_cut = Synthetic.load, whole.training_graph
    monkeypatch.setattr(
        Synthetic, "load", lambda self, seed: true_load(self, seed).with_(inductive=True)
    )

    def poisoned(data):
        x = torch.full_like(data.x, float("nan"))
        x[data.splits["train"]] = data.x[data.splits["train"]]
        return true_cut(data.with_(x=x))

    monkeypatch.setattr(loop, "training_graph", poisoned)
    (record,) = train(toy({"trainer": {"epochs": 3}}, sampler=sampler), tmp_path)
    state = checkpoint.load(tmp_path / "seed-0/checkpoint.pt")
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    assert 0 <= record.metric["test"] <= 1
