import fcntl
import json
import os
import threading

import pytest

from gnnscale.core import lock
from gnnscale.core.errors import UsageError
from gnnscale.core.lock import LOCK, held, locked, state


def test_one_at_a_time_and_free_afterwards(tmp_path):
    run = tmp_path / "a" / "run"
    assert not held(run)
    with locked(run):
        assert held(run)
        assert (run / LOCK).read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(UsageError, match=rf"run: process {os.getpid()} on .*is training in it"):
            locked(run).__enter__()
        assert held(run), "a refusal lets nobody in"
    assert not held(run)
    with locked(run):
        pass


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert not held(tmp_path)


def test_who_only_looks_keeps_nobody_out(tmp_path, monkeypatch):
    """A reader that asks ``held`` at that very moment; it lets go within the patience of us."""
    (tmp_path / LOCK).touch()
    looking = os.open(tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, [looking])
    timer.start()
    with locked(tmp_path):
        assert held(tmp_path)
    timer.join()


def test_a_lock_whose_file_is_taken_away_is_none(tmp_path, monkeypatch):
    """Opened before a refused command removed it: the lock must be on the file that is there."""
    true, opened = os.open, []

    def slow(path, *more):
        handle = true(path, *more)
        if not opened:
            os.unlink(path)
        opened.append(handle)
        return handle

    monkeypatch.setattr(lock.os, "open", slow)
    with locked(tmp_path):
        assert len(opened) == 2
        assert held(tmp_path)


@pytest.mark.parametrize("said", ["failed", "interrupted"])
def test_the_state_of_a_seed(tmp_path, said):
    seed = tmp_path / "seed-0"
    assert state(seed) == "unknown"
    seed.mkdir()
    for text in ("", "[]", "{}", '{"state": '):
        (seed / "status.json").write_text(text)
        assert state(seed) == "unknown"
    (seed / "status.json").write_text(json.dumps({"state": said}))
    assert state(seed) == said
    (seed / "status.json").write_text(json.dumps({"state": "running"}))
    with locked(tmp_path):
        assert state(seed) == "running"
    assert state(seed) == "killed"
    (seed / "record.json").write_text("{}")
    assert state(seed) == "finished"
