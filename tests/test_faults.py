"""A run loses nothing: kills, full disks, folders that can't be written, two processes on one."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compositions import quiet_metrics, toy, train

from gnnscale import jobs, session
from gnnscale.core.errors import UsageError
from gnnscale.core.lock import held, locked, state
from gnnscale.train import checkpoint

HERE = Path(__file__).parent
DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
from compositions import toy, train

EPOCHS = 60

def plan():
    return toy({"trainer": {"epochs": EPOCHS}, "dataset": {"nodes": 300},
                "sampler": {"roots": 20, "length": 2}, "hardware": {"threads": 1}},
               sampler="saint", architecture="gcn")

def start(folder):
    # nothing has started a thread yet in this process, so forking it is safe
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        train(plan(), folder)
        os._exit(0)
    return pid

here, kills = Path(sys.argv[1]), int(sys.argv[2])
begin = time.monotonic()
assert os.waitpid(start(here / "whole"), 0)[1] == 0
length = time.monotonic() - begin
record = json.loads((here / "whole/seed-0/record.json").read_text())
epoch = record["time_s"]["epoch_median"]
draw = random.Random(0)
told = []
for k in range(kills):
    folder = here / f"killed-{k}"
    lines = folder / "seed-0/metrics.jsonl"
    pid = start(folder)
    if k % 5:  # within the epoch behind a random one
        until = draw.randrange(1, EPOCHS - 2)
        while not (lines.exists() and lines.read_bytes().count(10) >= until):
            time.sleep(0.001)
        time.sleep(draw.random() * epoch)
    else:  # any moment, most of them before the first epoch
        time.sleep(draw.random() * length)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    told.append(len(lines.read_text().splitlines()) if lines.exists() else 0)
    assert os.waitpid(start(folder), 0)[1] == 0
print(json.dumps(told))
"""


def same_end(one: Path, other: Path) -> None:
    """Metrics, selected and last weights, optimizer: equal to the last bit."""
    assert quiet_metrics(one) == quiet_metrics(other)
    a, b = (checkpoint.load(p / "checkpoint.pt") for p in (one, other))
    for part in ("model", "best", "optimizer", "patience", "epoch", "finished"):
        assert flat(a[part]) == flat(b[part]), part
    scores = [json.loads((p / "record.json").read_text())["metric"] for p in (one, other)]
    assert scores[0] == scores[1]


def flat(value):
    if isinstance(value, dict):
        return {k: flat(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [flat(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.process
@pytest.mark.parametrize("kills", [5, 20])
def test_kill_9_at_random_moments_and_resume_to_the_same_end(tmp_path, kills):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(kills)],
        cwd=HERE, capture_output=True, text=True, timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    epochs = json.loads(done.stdout.splitlines()[-1])
    assert len(epochs) == kills
    inside = {e for e in epochs if 0 < e < 60}
    assert len(inside) >= kills // 2, f"killed while training, at {epochs}"
    for k in range(kills):
        same_end(tmp_path / "whole/seed-0", tmp_path / f"killed-{k}/seed-0")
        assert not list((tmp_path / f"killed-{k}").rglob("*.part")), "no temporary file is left"


def test_what_a_kill_left_half_written_is_swept_when_the_run_goes_on(tmp_path):
    plan = toy({"trainer": {"epochs": 2}})
    left = [tmp_path / ".config.json.77.part", tmp_path / "seed-0/.checkpoint.pt.77.part"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    train(plan, tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / "seed-0/record.json").exists()


def test_a_corrupted_checkpoint_falls_back_and_ends_the_same(tmp_path, caplog):
    plan = toy({"trainer": {"epochs": 6}})
    train(plan, tmp_path / "whole")
    for epochs, name in ((4, "cut"), (6, "cut")):
        plan = toy({"trainer": {"epochs": epochs}})
        if epochs == 6:
            seed = tmp_path / name / "seed-0"
            (seed / "record.json").unlink()
            state = checkpoint.load(seed / "checkpoint.pt")
            # as if it had been killed after epoch 4 of 6: not finished, and the last file damaged
            for path in (checkpoint.previous(seed / "checkpoint.pt"), seed / "checkpoint.pt"):
                state = checkpoint.load(path)
                checkpoint.save(tmp_path / "x.pt", {**state, "finished": False})
                path.write_bytes((tmp_path / "x.pt").read_bytes())
            raw = bytearray((seed / "checkpoint.pt").read_bytes())
            raw[-100] ^= 4
            (seed / "checkpoint.pt").write_bytes(raw)
            (tmp_path / name / "config.json").unlink()
        train(plan, tmp_path / name)
    assert "going on from" in caplog.text
    same_end(tmp_path / "whole/seed-0", tmp_path / "cut/seed-0")


# -- two processes ------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from gnnscale.core.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield folder, process
    process.kill()
    process.wait()


def process(*values):
    return pytest.param(*values, marks=pytest.mark.process)


def content(folder):
    """Every path below a folder with its bytes and its time of change."""
    return {
        p: (p.read_bytes() if p.is_file() else None, p.stat().st_mtime_ns, p.stat().st_ino)
        for p in [folder, *folder.rglob("*")]
    }


def gnnscale(*words, cwd, **more):
    return subprocess.run(
        [sys.executable, "-m", "gnnscale", *words],
        capture_output=True, text=True, cwd=cwd, timeout=120, **more,
    )  # fmt: skip


def test_a_second_process_on_a_run_folder_is_refused_and_alters_nothing(holder):
    folder, process = holder
    before = content(folder)
    with pytest.raises(UsageError, match=rf"process {process.pid} on .* since 20.* is training in"):
        train(toy(), folder)
    session.discard(folder)
    assert content(folder) == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    (record,) = train(toy(), folder)  # the system let go of a killed process's lock
    assert record.time_s["epochs"] == 2


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "begun"),
    [
        process(["trainer.epochs=1", "hydra.run.dir={}"], False),
        (["trainer.epochs=1", "hydra.run.dir={}"], True),
        process(
            ["-m", "trainer.epochs=1", "hydra.sweep.dir={}/..", "hydra.sweep.subdir=run"], True
        ),
        process(["resume={}"], True),
        process(["recipe=evaluate", "run={0}/../other", "hydra.run.dir={0}"], True),
    ],
    ids=["just locked", "train", "multirun", "resume", "evaluate"],
)
def test_a_refused_second_command_alters_nothing(holder, tmp_path, words, begun):
    folder, process = holder
    train(toy({"trainer": {"epochs": 3}}), tmp_path / "other")
    if begun:
        for path in (tmp_path / "other").rglob("*.*"):
            if path.name not in (".lock", "record.json"):
                there = folder / path.relative_to(tmp_path / "other")
                there.parent.mkdir(exist_ok=True)
                shutil.copy(path, there)
        (folder / ".hydra").mkdir()
        (folder / ".hydra/config.yaml").write_text("of: the run that is there\n")
        (folder / ".metrics.jsonl.1.part").write_text("that process is writing this\n")
    before = content(folder)
    done = gnnscale("train", *(w.format(folder) for w in words), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"process {process.pid}" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(folder) == before
    assert process.poll() is None


@pytest.mark.process
def test_a_command_refused_for_its_composition_leaves_the_run_as_it_was(tmp_path):
    folder = tmp_path / "run"
    words = "dataset.neighbours=3", "trainer.epochs=1", f"hydra.run.dir={folder}"
    assert gnnscale("train", *words, cwd=tmp_path).returncode == 0
    assert {p.name for p in (folder / ".hydra").iterdir()} == {
        "config.yaml", "hydra.yaml", "overrides.yaml"
    }  # fmt: skip
    assert (folder / ".hydra/overrides.yaml").read_text().startswith("- ++dataset.neighbours=3")
    (folder / ".lock").write_text("")  # who was here last is the one thing that changes
    before = {p: c for p, c in content(folder).items() if p.name != ".lock"}
    done = gnnscale("train", *words, "optimizer.lr=0.5", cwd=tmp_path)
    assert done.returncode == 2
    assert "another composition (it differs in optimizer)" in done.stderr
    assert {p: c for p, c in content(folder).items() if p.name != ".lock"} == before


@pytest.mark.process
def test_a_killed_seed_is_told_from_a_running_one(tmp_path):
    """Its status.json can't say so: nothing runs after kill -9. The lock does."""
    folder, plan = tmp_path / "run", "toy({'trainer': {'epochs': 100000}})"
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path; from compositions import *;"
         f"train({plan}, Path(sys.argv[1]))", str(folder)],
        cwd=HERE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    seed = folder / "seed-0"
    while not (seed / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    assert state(seed) == "running"
    assert held(folder)
    process.kill()
    process.wait()
    assert json.loads((seed / "status.json").read_text())["state"] == "running"
    assert state(seed) == "killed"
    assert not held(folder)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"can't be written .*hydra\.run\.dir=/tmp/run"):
        train(toy(), tmp_path / "file" / "run")


def obey_modes():
    """In a child: give up root's right to write where modes forbid it."""
    if os.geteuid() == 0:
        libc, drop, capabilities = ctypes.CDLL(None), 24, (1, 2)  # DAC_OVERRIDE, DAC_READ_SEARCH
        for capability in capabilities:
            assert libc.prctl(drop, capability, 0, 0, 0) == 0


@pytest.fixture
def read_only(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="root's rights are given up in Linux's way")
@pytest.mark.parametrize("begun", [process(False), True], ids=["empty", "to go on with"])
def test_a_read_only_folder_is_one_message_and_stays_as_it_is(read_only, tmp_path, begun):
    words = ["trainer.epochs=1", f"hydra.run.dir={read_only}"]
    if begun:
        train(toy(), read_only)
        (read_only / "seed-0/record.json").unlink()
        (read_only / ".lock").unlink()
        words = [f"resume={read_only}"]
    read_only.chmod(0o500)
    before = content(read_only)
    done = gnnscale("train", *words, cwd=tmp_path, preexec_fn=obey_modes)
    assert done.returncode == 2, done.stderr
    assert "can't be written (Permission denied); choose another place" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert content(read_only) == before


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="root's rights are given up in Linux's way")
def test_a_seed_folder_that_became_read_only_is_one_message(read_only, tmp_path):
    train(toy(), read_only)
    (read_only / "seed-0/record.json").unlink()
    (read_only / "seed-0").chmod(0o500)
    done = gnnscale("train", f"resume={read_only}", cwd=tmp_path, preexec_fn=obey_modes)
    assert done.returncode == 1, done.stderr
    assert "can't be written (Permission denied" in done.stderr
    assert f"train resume={read_only}" in done.stderr
    assert "Traceback" not in done.stderr
    (read_only / "seed-0").chmod(0o755)
    assert gnnscale("train", f"resume={read_only}", cwd=tmp_path).returncode == 0


# -- a full disk --------------------------------------------------------------------------------

FULL = """
import resource, signal, sys
from pathlib import Path
from compositions import toy
from gnnscale import jobs

jobs.set_up_log()
if sys.argv[2] != "free":  # no file may grow beyond this: what a quota or a full disk does
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(jobs.run_folder(toy({"trainer": {"epochs": 40}}), Path(sys.argv[1]), []))
"""


def run_full(folder, limit):
    return subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(limit)],
        cwd=HERE, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.process
def test_a_full_disk_ends_a_run_with_one_message_and_it_goes_on_later(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(toy({"trainer": {"epochs": 40}}), whole)
    size = (whole / "seed-0/metrics.jsonl").stat().st_size
    assert (whole / "seed-0/checkpoint.pt").stat().st_size > size  # so these limits are reached
    early = run_full(cut, size // 4)  # the checkpoint can't be written
    assert early.returncode == 1
    assert "can't be written (File too large" in early.stderr
    assert f"train resume={cut}" in early.stderr
    assert "Traceback" not in early.stderr
    assert "Logging error" not in early.stderr
    assert not list(cut.rglob("*.part"))
    late = run_full(cut, "free")
    assert late.returncode == 0, late.stderr
    same_end(whole / "seed-0", cut / "seed-0")


@pytest.fixture
def disk(tmp_path):
    """A file system of 192 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=192k", "none", str(place)]
    if not shutil.which("mount") or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("a file system can't be mounted here: not root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.process
@pytest.mark.parametrize("room_kib", [0, 8, 16, 32, 48, 64])
def test_a_file_system_without_room(disk, tmp_path, room_kib, caplog):
    """Wherever in a run it is that the room ends: one message, and the same end later."""
    plan, whole, cut = toy({"trainer": {"epochs": 40}}), tmp_path / "whole", disk / "run"
    train(plan, whole)
    caplog.clear()
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(bytes(max(free - room_kib * 1024, 0)))
    try:
        code, said = jobs.run_folder(plan, cut, []), caplog.text
    except UsageError as error:  # which the command line tells, and ends with 2
        code, said = 2, str(error)
    assert code in (1, 2)
    assert "can't be written (No space left on device" in said
    assert "Traceback" not in said
    (disk / "ballast").unlink()
    assert jobs.run_folder(plan, cut, []) == 0
    same_end(whole / "seed-0", cut / "seed-0")
    assert not list(cut.rglob("*.part"))


@pytest.mark.process
def test_a_read_only_file_system(disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = gnnscale("train", "trainer.epochs=1", f"hydra.run.dir={disk}/run", cwd=tmp_path)
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    plan = toy({"trainer": {"epochs": 8}})
    train(plan, whole)
    true, saved = checkpoint.write_bytes, []

    def fills_up(path, content, durable=False):
        saved.append(path)
        if len(saved) > 5:
            raise OSError(28, "No space left on device", str(path))
        true(path, content, durable)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_bytes", fills_up)
        assert jobs.run_folder(plan, cut, []) == 1
    assert checkpoint.load(cut / "seed-0/checkpoint.pt")["epoch"] == 5
    assert state(cut / "seed-0") == "failed"
    assert json.loads((cut / "seed-0/status.json").read_text())["state"] == "failed"
    train(plan, cut)
    same_end(whole / "seed-0", cut / "seed-0")


def test_a_refused_command_leaves_no_lock_behind(tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        pass
    session.discard(folder)
    assert not folder.exists()


def test_waiting_is_not_needed_after_a_normal_end(tmp_path):
    start = time.monotonic()
    train(toy(), tmp_path)
    train(toy(), tmp_path)
    assert time.monotonic() - start < 60
