import io
import os
import pickle
import zipfile
import zlib

import pytest
import torch
from torch import nn

from gnnscale.core.errors import UsageError
from gnnscale.train import checkpoint


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "checkpoint.pt"


def framed(raw):
    """Bytes as ``save`` frames them: an attacker can compute a CRC, too."""
    return checkpoint.MAGIC % zlib.crc32(raw) + raw


def content():
    return {
        "epoch": 7,
        "finished": False,
        "model": {"w": torch.randn(3, 2), "n": torch.tensor(5), "flag": torch.tensor(True)},
        "best": None,
        "meter": {"seconds": {"fit": 0.1 + 0.2}, "epochs": [0.5, 1 / 3]},
        "patience": {"best": float("-inf"), "best_epoch": -1},
        "half": torch.randn(2).bfloat16(),
    }


def test_round_trip(path):
    given = content()
    checkpoint.save(path, given)
    found = checkpoint.load(path)
    assert found.pop("version") == checkpoint.VERSION
    assert list(found) == list(given)
    for name in ("epoch", "finished", "best", "meter", "patience"):
        assert found[name] == given[name]
    for name, value in given["model"].items():
        assert torch.equal(found["model"][name], value)
        assert found["model"][name].dtype == value.dtype
    assert torch.equal(found["half"], given["half"])


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=5),
}
LR = torch.optim.lr_scheduler
SCHEDULERS = {
    "cosine": lambda o: LR.CosineAnnealingLR(o, T_max=20),
    "plateau": lambda o: LR.ReduceLROnPlateau(o, mode="max", patience=1),
    "step": lambda o: LR.StepLR(o, step_size=2),
    "warmup": lambda o: LR.LinearLR(o, start_factor=0.02, total_iters=5),
}


def test_the_tables_here_are_the_options():
    from gnnscale.catalog import Catalog

    for group, table in (("optimizer", OPTIMIZERS), ("scheduler", SCHEDULERS)):
        assert set(table) == set(Catalog.load().options(group)) - {"none"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_training_goes_on_exactly(path, optimizer, scheduler):
    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
        opt = OPTIMIZERS[optimizer](model.parameters())
        return model, opt, SCHEDULERS[scheduler](opt)

    def steps(parts, which):
        model, opt, sch = parts
        for i in which:
            x = torch.randn(6, 4, generator=torch.Generator().manual_seed(i))

            def closure(x=x):
                opt.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                return loss

            opt.step(closure)
            sch.step(0.5) if scheduler == "plateau" else sch.step()

    through, first, second = fresh(), fresh(), fresh()
    steps(through, range(8))
    steps(first, range(4))
    names = ("model", "optimizer", "scheduler")
    checkpoint.save(path, {n: p.state_dict() for n, p in zip(names, first, strict=True)})
    found = checkpoint.load(path)
    for name, part in zip(names, second, strict=True):
        part.load_state_dict(found[name])
    steps(second, range(4, 8))
    assert second[1].param_groups[0]["lr"] == through[1].param_groups[0]["lr"]
    for a, b in zip(through[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(path, tmp_path):
    trap = tmp_path / "exploded"
    path.parent.mkdir()
    bomb = {"version": checkpoint.VERSION, "model": Bomb(trap)}
    written = io.BytesIO()
    torch.save(bomb, written)
    for raw in (pickle.dumps(bomb), pickle.dumps(bomb, protocol=2), written.getvalue()):
        path.write_bytes(framed(raw))
        with pytest.raises(UsageError, match="not a readable checkpoint"):
            checkpoint.load(path)
        assert not trap.exists()
    # the trap is a real one: plain unpickling springs it
    pickle.loads(pickle.dumps(bomb))
    assert trap.exists()


def test_truncated_files_are_refused(path):
    checkpoint.save(path, content())
    whole = path.read_bytes()
    cuts = sorted({0, 1, 2, 3, 10, 63, 64, 65, len(whole) // 2, len(whole) - 1, len(whole) - 30,
                   *range(100, len(whole), 97)})  # fmt: skip
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(UsageError, match=r"checkpoint.pt: not a readable checkpoint .+;"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"hello world", b"\x80", b"\x80\x02", b"\x80\x02.", b"{}", b"[1, 2]", b"\x00" * 100,
     b"PK\x03\x04" + b"\x00" * 60, b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
     pickle.dumps([1, 2]), pickle.dumps("text", 2), b"(dp0\n.", b"N.", b"I1\n.", b"."],
)  # fmt: skip
def test_other_files_are_refused(path, raw):
    path.parent.mkdir()
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"checkpoint\.pt: not a"):
        checkpoint.load(path)


def test_every_flipped_bit_is_noticed(path):
    given = content()
    checkpoint.save(path, given)
    whole = path.read_bytes()
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        raw = bytearray(whole)
        at = int(torch.randint(len(raw), (1,), generator=draw))
        raw[at] ^= 1 << int(torch.randint(8, (1,), generator=draw))
        path.write_bytes(raw)
        with pytest.raises(UsageError):
            checkpoint.load(path)


def test_a_damaged_checkpoint_falls_back_to_the_previous_one_and_says_so(path, caplog, monkeypatch):
    monkeypatch.setattr(checkpoint, "SYNC_S", 0.0)
    caplog.set_level("WARNING", "gnnscale")
    for epoch in (1, 2, 3):
        checkpoint.save(path, {"epoch": epoch})
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "checkpoint.previous.pt", "checkpoint.pt",
    ]  # fmt: skip
    assert checkpoint.load(path)["epoch"] == 3
    assert not caplog.text
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert checkpoint.load(path)["epoch"] == 2
    assert "checkpoint.pt: not a readable checkpoint" in caplog.text
    assert f"going on from {checkpoint.previous(path)}" in caplog.text
    path.unlink()
    assert checkpoint.exists(path)
    assert checkpoint.load(path)["epoch"] == 2
    checkpoint.previous(path).write_bytes(b"")
    with pytest.raises(UsageError, match=r"checkpoint\.pt: .*checkpoint\.previous\.pt: "):
        checkpoint.load(path)
    checkpoint.save(path, {"epoch": 4})
    assert checkpoint.load(path)["epoch"] == 4
    checkpoint.discard(path)
    assert not checkpoint.exists(path)


@pytest.mark.parametrize("call", ["link", "replace"])
def test_at_every_step_of_saving_a_whole_checkpoint_is_there(path, monkeypatch, call):
    """Stopped before any of its renames, ``save`` leaves one that can be loaded."""
    monkeypatch.setattr(checkpoint, "SYNC_S", 0.0)
    checkpoint.save(path, {"epoch": 1})
    checkpoint.save(path, {"epoch": 2})
    true, calls = getattr(os, call), []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return true(*arguments)

    for stop_at in (1, 2):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, stop)
            try:
                checkpoint.save(path, {"epoch": 3})
            except KeyboardInterrupt:
                assert checkpoint.load(path)["epoch"] == 2
            else:
                assert len(calls) < stop_at
                assert checkpoint.load(path)["epoch"] == 3
        checkpoint.save(path, {"epoch": 2})
        assert not list(path.parent.glob("*.part"))


def test_the_next_save_never_keeps_the_damaged_file_as_the_previous_one(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SYNC_S", 0.0)
    for epoch in (1, 2):
        checkpoint.save(path, {"epoch": epoch})
    path.write_bytes(b"damaged")
    assert checkpoint.take(path)["epoch"] == 1
    assert path.with_name("checkpoint.damaged.pt").read_bytes() == b"damaged"
    checkpoint.save(path, {"epoch": 3})
    assert checkpoint.load(checkpoint.previous(path))["epoch"] == 1
    checkpoint.save(path, {"epoch": 4})
    assert checkpoint.load(checkpoint.previous(path))["epoch"] == 3
    assert checkpoint.take(path)["epoch"] == 4  # nothing is set aside where nothing is damaged
    assert path.exists()


def test_without_hard_links_the_previous_one_is_kept_too(path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for epoch in (1, 2):
        checkpoint.save(path, {"epoch": epoch})
    assert checkpoint.load(path)["epoch"] == 2
    path.unlink()
    assert checkpoint.load(path)["epoch"] == 1


@pytest.fixture
def on_disk(monkeypatch):
    """What is on the disk after a power cut: content by inode as of its last fsync."""
    kept, true = {}, os.fsync

    def watched(handle):
        if not os.path.isdir(f"/proc/self/fd/{handle}"):
            at = os.fstat(handle).st_ino
            kept[at] = os.pread(handle, os.fstat(handle).st_size, 0)
        true(handle)

    monkeypatch.setattr(os, "fsync", watched)
    return kept


def power_cut(path, on_disk):
    """Files that were renamed into place but not waited for are empty."""
    for place in (path, checkpoint.previous(path)):
        if place.exists() and on_disk.get(place.stat().st_ino) != place.read_bytes():
            place.write_bytes(b"")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open files")
def test_a_power_cut_costs_seconds_and_never_the_run(path, on_disk, monkeypatch):
    """Epochs of one second each, cut after every one of them; never more than six are lost."""
    lost = []
    for cut in range(1, 31):
        checkpoint.discard(path)
        on_disk.clear()
        for epoch in range(1, cut + 1):
            monkeypatch.setattr(checkpoint.time, "time", lambda now=epoch: 1e9 + now)
            checkpoint.save(path, {"epoch": epoch}, last=epoch == 30)
            os.utime(path, (1e9 + epoch, 1e9 + epoch))
        waited = len(on_disk)
        power_cut(path, on_disk)
        lost.append(cut - checkpoint.load(path)["epoch"])
        assert waited <= 2 + cut / checkpoint.SYNC_S, "most epochs wait for nothing"
    assert max(lost) <= checkpoint.SYNC_S + 1
    assert lost[0] == lost[-1] == 0, "the first and the last one are waited for"
    assert max(lost) > 0, "and the test can tell"


def test_zip_files_of_others_are_refused(path):
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.txt", "nothing")
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("saved", [{"version": 0}, {"epoch": 1}, [1, 2], {"version": None}])
def test_another_version_is_refused(path, saved):
    path.parent.mkdir()
    written = io.BytesIO()
    torch.save(saved, written)
    path.write_bytes(framed(written.getvalue()))
    with pytest.raises(UsageError, match="not a checkpoint of version 2; delete what is damaged"):
        checkpoint.load(path)


def test_a_missing_file_is_a_usage_error(path):
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_save_is_atomic(path, monkeypatch):
    checkpoint.save(path, {"epoch": 1})
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            checkpoint.save(path, {"epoch": 2})
    assert path.read_bytes() == old
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        checkpoint.save(path, {"epoch": lambda: 3})
    assert path.read_bytes() == old
    assert not list(path.parent.glob("*.part"))
    checkpoint.save(path, {"epoch": 4})
    assert checkpoint.load(path)["epoch"] == 4
    assert sorted(os.listdir(path.parent)) == ["checkpoint.previous.pt", "checkpoint.pt"]
