import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnnscale.core import cache
from gnnscale.core.cache import cache_folder, cached
from gnnscale.dataset import _files
from gnnscale.dataset._files import fingerprint

X = np.arange(12.0, dtype=np.float32).reshape(4, 3)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Counts how often it was needed."""

    def __init__(self, **values):
        self.values, self.calls = values or {"x": X, "n": np.int64(7), "facts": {"a": (1, 2)}}, 0

    def __call__(self):
        self.calls += 1
        return self.values


def test_made_once_and_equal_every_time(folder):
    make = Maker()
    first = cached("toy", {"k": 1}, make)
    second = cached("toy", {"k": 1}, make, mmap=("x",))
    assert make.calls == 1
    for found in (first, second):
        assert np.array_equal(found["x"], X)
        assert (found["n"], found["facts"]) == (7, {"a": [1, 2]})
    assert isinstance(second["x"], np.memmap)
    (entry,) = folder.iterdir()
    assert entry.name.startswith("toy-")
    cached("toy", {"k": 2}, make)
    cached("other", {"k": 1}, make)
    assert make.calls == 3


def test_a_first_use_can_be_mapped_too():
    assert isinstance(cached("toy", {}, Maker(), mmap=("x",))["x"], np.memmap)


def test_writing_to_a_mapped_array_does_not_alter_the_entry():
    cached("toy", {}, Maker(), mmap=("x",))["x"][0] = -1
    assert np.array_equal(cached("toy", {}, Maker())["x"], X)


def test_object_arrays_are_refused(folder):
    with pytest.raises(ValueError, match="Object arrays"):
        cached("toy", {}, Maker(x=np.array([{}], dtype=object)))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "remove", "meta", "pickle", "foreign"])
def test_a_damaged_entry_is_made_again(folder, damage, caplog):
    caplog.set_level("INFO", "gnnscale")
    make = Maker()
    cached("toy", {}, make)
    (entry,) = folder.iterdir()
    path = entry / "x.npy"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "remove":
        path.unlink()
    elif damage == "meta":
        (entry / "meta.json").write_text('{"stamp": ')
    elif damage == "pickle":
        size = path.stat().st_size
        np.save(path, np.array([None], dtype=object), allow_pickle=True)
        path.write_bytes(path.read_bytes()[:size].ljust(size, b"."))
    else:
        meta = json.loads((entry / "meta.json").read_text())
        (entry / "meta.json").write_text(json.dumps({**meta, "stamp": "another"}))
    assert np.array_equal(cached("toy", {}, make)["x"], X)
    assert make.calls == 2
    assert "made again" in caplog.text
    cached("toy", {}, make)
    assert make.calls == 2


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["stamp", "arrays", "values", "x"]), inner)
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_is_in_meta_the_result_is_right(folder, content):
    cached("toy", {}, Maker())
    (entry,) = folder.glob("toy-*")
    (entry / "meta.json").write_bytes(content)
    assert np.array_equal(cached("toy", {}, Maker())["x"], X)


def test_without_a_place_to_write_it_still_works(monkeypatch, caplog):
    caplog.set_level("WARNING", "gnnscale")
    monkeypatch.setenv("GNNSCALE_CACHE", "/dev/null/none")
    make = Maker()
    for _ in range(2):
        assert np.array_equal(cached("toy", {}, make, mmap=("x",))["x"], X)
    assert make.calls == 2
    assert "GNNSCALE_CACHE=DIR names another place" in caplog.text


def test_where_it_is(monkeypatch):
    monkeypatch.delenv("GNNSCALE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/gnnscale")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/gnnscale"


def test_what_killed_processes_left_is_swept(folder, monkeypatch):
    import socket

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (folder / f".build-{socket.gethostname()}-{pid}-0").mkdir(parents=True)
    (folder / ".build-elsewhere-1-0").mkdir()
    cached("toy", {}, Maker())
    left = {p.name for p in folder.glob(".build-*")}
    assert left == {f".build-{socket.gethostname()}-{os.getppid()}-0", ".build-elsewhere-1-0"}


CHILD = """
import os, sys, time
import numpy as np
from gnnscale.core import cache
if sys.argv[1] == "slow":
    save = np.save
    def slow(path, array, **more):
        save(path, array, **more)
        print("saved", flush=True)
        time.sleep(60)
    np.save = slow
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
found = cache.cached("toy", {}, lambda: {"x": np.arange(100_000), "a": 1})
assert found["x"].sum() == 4999950000 and found["a"] == 1
"""


def child(how, gate):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, how, str(gate)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_four_processes_at_once_leave_one_entry(folder, tmp_path):
    processes = [child("fast", tmp_path / "gate") for _ in range(4)]
    time.sleep(0.5)
    (tmp_path / "gate").touch()
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert len(list(folder.iterdir())) == 1


def test_a_kill_while_building_leaves_no_entry(folder, tmp_path):
    (tmp_path / "gate").touch()
    process = child("slow", tmp_path / "gate")
    assert process.stdout.readline() == "saved\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(folder.glob("toy-*")) == []
    assert len(list(folder.glob(".build-*"))) == 1
    cached("toy", {}, Maker())
    assert [p.name[:4] for p in folder.iterdir()] == ["toy-"]


# -- fingerprints -------------------------------------------------------------------------------


def test_a_fingerprint_follows_content_and_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    first = fingerprint([a, b])
    assert first == fingerprint([a, b]) != fingerprint([b, a])
    b.write_bytes(b"3")
    assert fingerprint([a, b]) != first
    b.write_bytes(b"2")
    assert fingerprint([a, b]) == first


def test_a_file_is_read_once_and_a_damaged_memory_harms_nothing(tmp_path, folder, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    read = []
    digest = _files.digest
    monkeypatch.setattr(_files, "digest", lambda p: read.append(p) or digest(p))
    first = fingerprint([path])
    assert fingerprint([path]) == first
    assert len(read) == 1
    for damage in (b"", b"[]", b"{", b"\xff", b'{"x": 1}'):
        (folder / "sums.json").write_bytes(damage)
        assert fingerprint([path]) == first
    monkeypatch.setenv("GNNSCALE_CACHE", "/dev/null/none")
    assert fingerprint([path]) == first
    assert cache.cache_folder() == Path("/dev/null/none")
