import threading
import time

import pytest
import torch
from compositions import quiet_metrics, toy, train

from gnnscale.train import checkpoint
from gnnscale.train.prefetch import AHEAD, ahead


def quiet(name, seconds):
    assert name in ("sample", "wait")
    assert seconds >= 0


def workers_alive():
    return [t for t in threading.enumerate() if t.name.startswith("sample")]


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_order_is_that_of_the_tasks_whoever_is_faster(workers):
    def make(k):
        time.sleep(0.002 * (k % 3))
        return k * k

    assert list(ahead(make, range(20), workers, quiet)) == [k * k for k in range(20)]
    assert list(ahead(make, [], workers, quiet)) == []
    assert workers_alive() == []


def test_the_window_is_bounded():
    made = []
    for taken, _ in enumerate(ahead(lambda k: made.append(k) or k, range(100), 3, quiet), 1):
        assert len(made) <= taken + AHEAD * 3
    assert len(made) == 100


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_out_where_its_batch_would_have(workers):
    def make(k):
        if k == 3:
            raise KeyError("the third")
        return k

    got = []
    with pytest.raises(KeyError, match="the third") as caught:
        got.extend(ahead(make, range(10), workers, quiet))
    assert got == [0, 1, 2]
    assert any(entry.name == "make" for entry in caught.traceback)
    assert workers_alive() == []


def test_leaving_early_ends_the_workers():
    started = []

    def make(k):
        started.append(k)
        time.sleep(0.01)
        return k

    iterator = ahead(make, range(1000), 2, quiet)
    next(iterator)
    iterator.close()
    assert workers_alive() == []
    assert len(started) <= 1 + AHEAD * 2 + 2


def test_sampling_and_waiting_are_told_apart():
    seconds = {"sample": 0.0, "wait": 0.0}

    def clock(name, value):
        seconds[name] += value

    for _ in ahead(lambda k: time.sleep(0.02), range(10), 1, clock):
        time.sleep(0.03)  # training is the slower one: after the first batch nobody waits
    assert seconds["sample"] >= 0.2
    assert seconds["wait"] < seconds["sample"] / 2


@pytest.mark.parametrize(
    "sampler", ["saint", "saint_node", "neighbor", "shadow", "shadow_khop", "gttf"]
)
def test_results_do_not_depend_on_the_number_of_workers(sampler, tmp_path):
    budget = {
        "neighbor": {"batch_size": 4, "fanouts": 3},
        "shadow": {"batch_size": 4, "k": 12, "drop_edge": 0.2},
        "shadow_khop": {"batch_size": 4, "budget": 2, "drop_edge": 0.2},
        "gttf": {"batch_size": 4, "fanouts": 3},
    }.get(sampler, {"steps": 6})
    ends = []
    for workers in (0, 1, 2, 4):
        changes = {
            "hardware": {"workers": workers},
            "sampler": budget,
            "trainer": {"epochs": 3},
            "dataset": {"nodes": 200},
        }
        train(toy(changes, sampler=sampler), tmp_path / str(workers))
        seed = tmp_path / str(workers) / "seed-0"
        weights = checkpoint.load(seed / "checkpoint.pt")["model"]
        ends.append((quiet_metrics(seed), weights))
    for metrics, weights in ends[1:]:
        assert metrics == ends[0][0]
        assert all(torch.equal(weights[n], ends[0][1][n]) for n in weights)
    assert workers_alive() == []


def test_distillation_draws_the_same_rows_whoever_prepares_the_batches(tmp_path):
    teacher = {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=2"]}
    ends = []
    for workers in (0, 2):
        checked = toy(
            {"hardware": {"workers": workers}, "sampler": {"steps": 6}, "teacher": teacher},
            sampler="saint", distillation=["gcrd"], recipe="distill",
        )  # fmt: skip
        checked.parts["distillation"][0].arguments.update(samples=5, nodes="observed", weight=1.0)
        train(checked, tmp_path / str(workers))
        seed = tmp_path / str(workers) / "seed-0"
        ends.append((quiet_metrics(seed), checkpoint.load(seed / "checkpoint.pt")["objective"]))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1]
    assert all(torch.equal(ends[0][1][n], ends[1][1][n]) for n in ends[0][1])
