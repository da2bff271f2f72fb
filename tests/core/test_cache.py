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
from gnnscale.core.cache import cache_folder, cached, content, spill, written
from gnnscale.core.errors import DataError, UsageError
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


# -- written on disk ----------------------------------------------------------------------------


def test_what_is_written_on_disk_is_mapped_and_made_once(folder):
    calls = []

    def write(into):
        calls.append(into)
        np.save(into / "x.npy", X)

    for _ in range(2):
        found = written("stack", {"k": 1}, write)
        assert isinstance(found["x"], np.memmap)
        assert np.array_equal(found["x"], X)
    assert len(calls) == 1
    assert [p.name[:6] for p in folder.iterdir()] == ["stack-"]
    (entry,) = folder.glob("stack-*/x.npy")
    entry.write_bytes(entry.read_bytes()[:-1])  # damaged: made again
    assert np.array_equal(written("stack", {"k": 1}, write)["x"], X)
    assert len(calls) == 2


def test_an_error_while_writing_leaves_nothing(folder):
    def write(into):
        np.save(into / "x.npy", X)
        raise KeyError("half-way")

    with pytest.raises(KeyError):
        written("stack", {}, write)
    assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", "/dev/null/none")
    with pytest.raises(UsageError, match=r"GNNSCALE_CACHE=/dev/null/none: can't be written"):
        written("stack", {}, lambda into: None)


def test_content_follows_types_shapes_and_bytes():
    seen = {content(X), content(X.reshape(3, 4)), content(X.astype(np.float64)), content(X + 1),
            content(X, None), content(None, X), content(X[:0])}  # fmt: skip
    assert len(seen) == 7
    assert content(X) == content(X.copy(order="F"))


# -- arrays too big for memory ------------------------------------------------------------------

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("fortran", [False, True])
def test_a_spilled_array_is_moved_into_the_entry(folder, fortran):
    def make():
        order = "F" if fortran else "C"
        blocks = np.split(X.astype(np.float64).ravel(order), [5, 7])
        made.append(spill(blocks, FLOAT, X.shape, fortran))
        return {"x": made[0], "turned": made[0].T, "some": made[0][1:], "n": 1}

    made = []
    first = cached("toy", {}, make, mmap=("x",))
    inode = made[0]._mmap.size(), (next(folder.glob("toy-*")) / "x.npy").stat().st_ino
    assert inode[1] == os.stat(first["x"].filename).st_ino
    assert np.array_equal(made[0], X), "still mapped, wherever its file is now"
    for found in (first, cached("toy", {}, make, mmap=("x",))):
        assert isinstance(found["x"], np.memmap)
        assert np.array_equal(found["x"], X)
        assert np.array_equal(found["turned"], X.T)  # parts of it are copied
        assert np.array_equal(found["some"], X[1:])
    assert len(made) == 1
    cached("other", {}, lambda: {"x": made[0]})  # its file has gone into the first entry
    assert np.array_equal(cached("other", {}, make)["x"], X)
    made.clear()
    assert [p.name[:4] for p in sorted(folder.iterdir())] == ["othe", "toy-"]


def test_a_spilled_array_takes_no_room_when_nobody_has_it(folder):
    x = spill([X], FLOAT, X.shape)
    row = x[1]
    del x
    assert len(list(folder.iterdir())) == 1
    assert row.tolist() == X[1].tolist()
    del row
    assert list(folder.iterdir()) == []


def test_a_spilled_array_that_cannot_be_whole_leaves_nothing(folder, monkeypatch):
    with pytest.raises(ValueError, match="24 of 48 bytes"):
        spill([X[:2]], FLOAT, X.shape)

    def wrong():
        yield X
        raise ValueError("not a number")

    with pytest.raises(ValueError, match="not a number"):
        spill(wrong(), FLOAT, X.shape)
    assert list(folder.iterdir()) == []
    monkeypatch.setenv("GNNSCALE_CACHE", "/dev/null/none")
    with pytest.raises(DataError, match=r"/dev/null/none: can't be written .*GNNSCALE_CACHE=DIR"):
        spill([X], FLOAT, X.shape)


def test_what_a_kill_left_of_a_spilled_array_is_swept(folder):
    code = """if True:
        import os, numpy as np
        from gnnscale.core.cache import spill
        kept = spill([np.ones(9)], np.dtype(np.float32), (9,))
        os.kill(os.getpid(), 9)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list(folder.glob(".build-*/array.npy"))) == 1
    x = spill([X], FLOAT, X.shape)
    assert len(list(folder.glob(".build-*/array.npy"))) == 1, "that of this process"
    assert np.array_equal(x, X)


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
