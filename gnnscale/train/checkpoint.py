"""Checkpoints: whole or not at all, with a sum over their bytes and an earlier one kept on disk."""

import contextlib
import io
import logging
import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gnnscale.core.errors import UsageError
from gnnscale.core.record import partial, sync, write_bytes

log = logging.getLogger("gnnscale")

VERSION = 2
MAGIC = b"gnnscale checkpoint %08x\n"
HEAD = len(MAGIC % 0)
SYNC_S = 5.0
"""Seconds of training that a power cut may cost; waiting for the disk takes 10 to 30 ms each time,
more than an epoch of a small graph."""


SHARE = 0.05
"""Of the time of training, that checkpoints may take."""


@dataclass
class Cadence:
    """When a checkpoint is due: every so many epochs, or (None) once what the last one took is at
    most ``SHARE`` of the seconds since. A run that is killed draws again what it drew, so that this
    decides how much is trained twice, and nothing else.
    """

    every: int | None
    end: float = -math.inf
    took: float = 0.0

    def due(self, epoch: int) -> bool:
        """Whether one is, after this many epochs."""
        if self.every is not None:
            return epoch % self.every == 0
        return time.monotonic() - self.end >= self.took / SHARE

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Take the time of one."""
        start = time.monotonic()
        yield
        self.end = time.monotonic()
        self.took = self.end - start


def previous(path: Path) -> Path:
    """Where an earlier checkpoint than the one at ``path`` is kept."""
    return path.with_suffix(f".previous{path.suffix}")


def exists(path: Path) -> bool:
    """Whether there is anything to go on from."""
    return path.exists() or previous(path).exists()


def save(path: Path, content: dict[str, Any], last: bool = False) -> None:
    """Write tensors and plain values; an earlier file is kept as the previous one.

    The bytes are preceded by their CRC-32, since torch reads damaged tensors without a word. A kill
    at any moment leaves at least one whole file: the earlier one gets its second name as a hard
    link before the new one is renamed over it. So does a power cut: the first and the ``last`` file
    are on the disk before this returns, and so is the previous one, which makes room for a later
    one when it is ``SYNC_S`` old.
    """
    buffer = io.BytesIO()
    buffer.write(MAGIC % 0)
    torch.save({"version": VERSION, **content}, buffer)
    whole = buffer.getbuffer()
    whole[:HEAD] = MAGIC % zlib.crc32(whole[HEAD:])
    first = not path.exists()
    if not first and _age(previous(path)) >= SYNC_S:
        sync(path)
        _keep(path, previous(path))
        sync(path.parent)
    write_bytes(path, whole, durable=first or last)


def _age(path: Path) -> float:
    """Seconds since a file was written; infinite if there is none."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return float("inf")


def _keep(path: Path, second: Path) -> None:
    """Give the file at ``path`` the name ``second`` as well, in one step."""
    link = partial(second)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, second)
        return
    try:
        os.replace(link, second)  # does nothing, and leaves the link, where both are one file
    finally:
        link.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote; only tensors and plain containers can come out of it.

    A damaged file is passed over, with a warning, for the previous one. Raises UsageError if
    neither can be read.
    """
    return _whole(path)[0]


def take(path: Path) -> dict[str, Any]:
    """``load`` in order to go on writing at ``path``: what is damaged there is set aside.

    Else the next ``save`` could keep the damaged file as the previous one, in place of a whole one.
    """
    found, place = _whole(path)
    if place != path and path.exists():
        os.replace(path, path.with_suffix(f".damaged{path.suffix}"))
    return found


def _whole(path: Path) -> tuple[dict[str, Any], Path]:
    """Content of the newest whole file, and which one it is."""
    reasons: list[str] = []
    for place in (path, previous(path)):
        if not place.exists() and reasons and place != path:
            continue
        try:
            found = _read(place)
        except ValueError as error:
            reasons.append(f"{place}: {error}")
            continue
        if reasons:
            log.warning("%s; going on from %s", reasons[0], place)
        return found, place
    raise UsageError(f"{'; '.join(reasons)}; delete what is damaged to start this seed afresh")


def _read(path: Path) -> dict[str, Any]:
    """One file. Raises ValueError saying what is wrong with it."""
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise ValueError(f"not a readable checkpoint ({error.strerror})") from error
    head, payload = whole[:HEAD], memoryview(whole)[HEAD:]
    if head[:19] != MAGIC[:19]:
        raise ValueError(f"not a readable checkpoint of version {VERSION}")
    if head != MAGIC % zlib.crc32(payload):
        raise ValueError("not a readable checkpoint (its bytes are not those that were written)")
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # whole, but not ours: the unpickler fails in any way at all
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"not a checkpoint of version {VERSION}")
    return content


def discard(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    for place in (path, previous(path)):
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
