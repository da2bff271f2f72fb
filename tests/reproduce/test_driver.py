"""Rows as processes: what a kill costs, what Ctrl-C does, and that no failure stops the others."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
from toys import TABLE, write

from gnnscale.core.lock import LOCK, held
from gnnscale.reproduce import driver
from gnnscale.reproduce.driver import Job

LONG = {  # long enough that there is an epoch to be killed in
    **TABLE,
    "shared": {
        **TABLE["shared"],
        "overrides": ["trainer.epochs=60", "trainer.checkpoint_every=1", "dataset.nodes=1000"],
    },
    "rows": {"a": TABLE["rows"]["a"], "c": {"label": "C", "seeds": 1}},
}
COMMAND = [sys.executable, "-m", "gnnscale", "reproduce", "table=toy"]
QUIET = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def wait_for(what, seconds=240):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def children(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(word) for word in listed.stdout.split()]


def epochs(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def outcome(root):
    """Everything of the records and curves that is no time, memory or place."""
    found = {}
    for path in sorted(root.glob("toy/*/seed-*/record.json")):
        record = json.loads(path.read_text())
        lines = (path.parent / "metrics.jsonl").read_text().splitlines()
        curve = [{k: v for k, v in json.loads(s).items() if k != "train_s"} for s in lines]
        found[str(path.relative_to(root))] = (record["metric"], record["parameters"], curve)
    return found


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def long_rows(here):
    write(here, LONG)
    return here


@pytest.fixture
def endless_rows(here):
    """Rows of which none is finished before it is stopped."""
    endless = ["trainer.epochs=100000", "dataset.nodes=1000"]
    write(here, {**LONG, "shared": {**LONG["shared"], "overrides": endless}})
    return here


@pytest.mark.process
def test_a_kill_at_any_moment_loses_the_epoch_in_progress(long_rows):
    words = [*COMMAND, "rows=a", "seeds=1", "out=killed"]
    process = subprocess.Popen(words, **QUIET)
    seed = long_rows / "killed/toy/a/seed-0"
    wait_for(lambda: epochs(seed) >= 20)
    gone = children(process.pid)
    assert gone
    for pid in (process.pid, *gone):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    reached = epochs(seed)
    assert not (seed / "record.json").exists()
    again = subprocess.run(words, **QUIET, timeout=500)
    assert again.returncode in (0, 1), again.stdout
    said = (long_rows / "killed/toy/logs/a.txt").read_text()
    (taken_up,) = [line for line in said.splitlines() if "goes on after epoch" in line]
    assert int(taken_up.rpartition(" ")[2]) >= reached - 1
    straight = subprocess.run([*COMMAND, "rows=a", "seeds=1", "out=whole"], **QUIET, timeout=500)
    assert straight.returncode == again.returncode, straight.stdout
    assert outcome(long_rows / "killed") == outcome(long_rows / "whole")
    assert len(outcome(long_rows / "whole")) == 1


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_children_are_stopped_cleanly_with_the_driver(endless_rows, number):
    process = subprocess.Popen([*COMMAND, "jobs=2"], **QUIET)
    seeds = [endless_rows / f"runs/reproduce/toy/{row}/seed-0" for row in "ac"]
    wait_for(lambda: all(epochs(seed) >= 5 for seed in seeds))
    begun = children(process.pid)
    assert len(begun) == 2
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not any(alive(pid) for pid in begun)
    for row, seed in zip("ac", seeds, strict=True):
        assert json.loads((seed / "status.json").read_text())["state"] == "interrupted"
        assert f"toy/{row}: stopped" in said


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to be told")
def test_children_do_not_outlive_a_driver_that_was_killed(endless_rows):
    process = subprocess.Popen([*COMMAND, "rows=a"], **QUIET)
    wait_for(lambda: epochs(endless_rows / "runs/reproduce/toy/a/seed-0") >= 2)
    begun = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in begun), 60)
    process.stdout.close()
    status = json.loads((endless_rows / "runs/reproduce/toy/a/seed-0/status.json").read_text())
    assert status["state"] == "interrupted"


# -- the queue, with children that do as they are told ------------------------------------------


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """jobs(*programs): one job per line of Python, which runs in the child's place."""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **how: popen(
        [sys.executable, "-c", words[-1]], **how))  # fmt: skip

    def make(*programs):
        return [Job(f"t/{i}", (code,), tmp_path / str(i), tmp_path / f"{i}.txt")
                for i, code in enumerate(programs)]  # fmt: skip

    return make


def test_a_row_that_fails_does_not_stop_the_others(jobs, caplog):
    logging.getLogger("gnnscale").propagate = True
    made = jobs("print('test fine')", "raise SystemExit('no such thing')", "import os; os.abort()",
                "raise SystemExit(2)", "print('test too')")  # fmt: skip
    with caplog.at_level("INFO", "gnnscale"):
        codes, stopped = driver.run(made, 2)
    assert codes == {"t/0": 0, "t/1": 1, "t/2": -6, "t/3": 2, "t/4": 0}
    assert not stopped
    assert "t/1: failed (exit code 1): no such thing" in caplog.text
    assert "killed by signal 6" in caplog.text
    assert "test fine" in caplog.text


def test_no_more_run_at_once_than_asked_for(jobs, tmp_path):
    code = (
        "import os, pathlib, time; p = pathlib.Path({0!r}) / str(os.getpid()); p.touch();"
        "time.sleep(0.5); n = len(list(p.parent.iterdir())); p.unlink(); assert n <= 2, n"
    )
    (tmp_path / "now").mkdir()
    codes, _ = driver.run(jobs(*[code.format(str(tmp_path / "now"))] * 5), 2)
    assert set(codes.values()) == {0}
    assert len(codes) == 5


def test_a_folder_in_which_another_process_trains_is_waited_for(jobs, tmp_path):
    import fcntl

    (first, second) = jobs("print('test a')", "print('test b')")
    first.folder.mkdir()
    holder = os.open(first.folder / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert held(first.folder)
    assert not held(second.folder)
    order = []
    real = driver._finish

    def finish(one):
        order.append(one.job.name)
        if one.job is second:
            os.close(holder)  # the other process is done
        return real(one)

    driver._finish = finish
    try:
        codes, _ = driver.run([first, second], 1)
    finally:
        driver._finish = real
    assert order == ["t/1", "t/0"]
    assert set(codes.values()) == {0}


@pytest.mark.parametrize(
    ("cores", "at_once", "wanted"),
    [
        ([0, 1, 2, 3], 2, [[0, 2], [1, 3]]),
        ([0, 1, 2], 2, [[0, 2], [1]]),
        ([4, 5], 1, [[4, 5]]),
        ([4, 5], 3, [[4], [5], [4]]),
    ],
)
def test_cores_are_divided_among_the_slots(cores, at_once, wanted):
    assert driver.shares(cores, at_once) == wanted
