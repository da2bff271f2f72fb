"""Who is in a run folder: one process at a time, and how far each of its seeds has come."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gnnscale.core.errors import UsageError

LOCK = ".lock"
PATIENCE_S = 0.5
"""How long a lock is asked for: longer than ``held`` keeps one, shorter than anybody waits."""


@contextmanager
def locked(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep other processes out of a run folder; the system lets go of the lock if we are killed.

    Args:
        patience_s: how long to wait for another process to leave.

    Raises UsageError naming the process that is in there, or if the folder can't be written. What
    another process has locked is not altered.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _enter(folder / LOCK, patience_s)
    except BlockingIOError as error:
        raise UsageError(
            f"{folder}: {error} is training in it; wait for it, stop it, or choose another "
            "hydra.run.dir"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder}: the run folder can't be written ({error.strerror}); "
            "choose another place, e.g. hydra.run.dir=/tmp/run"
        ) from error
    try:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            os.truncate(handle, 0)
            os.pwrite(
                handle, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode(), 0
            )
        except OSError as error:  # a full disk
            raise UsageError(
                f"{folder / LOCK}: the run folder can't be written ({error.strerror}); "
                "choose another place, e.g. hydra.run.dir=/tmp/run"
            ) from error
        yield
    finally:
        os.close(handle)


def _enter(path: Path, patience_s: float) -> int:
    """A handle that holds the lock at ``path``. Raises BlockingIOError naming who holds it."""
    start = time.monotonic()
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(handle, path):
                return handle
        except BlockingIOError:
            if time.monotonic() - start > patience_s:
                holder = os.read(handle, 1000).decode(errors="replace").strip()
                os.close(handle)
                raise BlockingIOError(holder or "another process") from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the file was taken away since it was opened, or somebody only looks
        time.sleep(0.02)


def _is(handle: int, path: Path) -> bool:
    """Whether an open file still is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def held(folder: Path) -> bool:
    """Whether a process is in a run folder now."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def state(seed: Path) -> str:
    """How far the seed in the folder ``<run>/seed-<k>`` has come.

    ``finished``: it has a record. ``running``: a process is at it. ``failed``, ``interrupted``:
    what its ``status.json`` says. ``killed``: that says ``running``, but nobody is in the run
    folder any more. ``unknown``: there is no status that can be read.
    """
    if (seed / "record.json").exists():
        return "finished"
    try:
        said = json.loads((seed / "status.json").read_text())["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
    if said == "running":
        return "running" if held(seed.parent) else "killed"
    return str(said)
