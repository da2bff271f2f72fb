"""The processed cache: arrays that need not be made twice, keyed by what they are made from."""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gnnscale.core.errors import UsageError

log = logging.getLogger("gnnscale")

FORMAT = 1
META = "meta.json"


def cache_folder() -> Path:
    """$GNNSCALE_CACHE, else $XDG_CACHE_HOME/gnnscale, else ~/.cache/gnnscale."""
    own = os.environ.get("GNNSCALE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gnnscale"


def cached(
    name: str,
    key: Mapping[str, Any],
    make: Callable[[], Mapping[str, Any]],
    mmap: Collection[str] = (),
) -> dict[str, Any]:
    """What ``make()`` gives, read from the cache if it was made from the same ``key`` before.

    Arrays are kept as ``.npy`` files, plain values in ``meta.json``, in a folder named by the hash
    of the key. It is built beside its place and renamed into it, so that readers, concurrent
    makers and a kill at any moment see a whole entry or none. A damaged entry is made again; where
    the cache can't be written, its absence is told once and costs time only.

    Args:
        name: of the dataset, for people who look at the cache. key: JSON values.
        make: gives arrays and JSON values by name. mmap: arrays to map into memory, copy on write.
    """
    place, stamp = _place(name, key)
    found = _read(place, stamp, mmap)
    if found is not None:
        return found
    made = _plain(make())
    arrays = {n: v for n, v in made.items() if isinstance(v, np.ndarray)}

    def write(folder: Path) -> dict[str, Any]:
        for n, array in arrays.items():
            np.save(folder / f"{n}.npy", array, allow_pickle=False)
        return {n: v for n, v in made.items() if n not in arrays}

    try:
        _publish(place, stamp, write)
    except OSError as error:
        log.warning(
            "%s: the processed data can't be kept (%s) and will be made again next time; "
            "GNNSCALE_CACHE=DIR names another place", place.parent, error.strerror,
        )  # fmt: skip
        return made
    again = _read(place, stamp, mmap) if mmap else None
    return made if again is None else again


def written(name: str, key: Mapping[str, Any], write: Callable[[Path], None]) -> dict[str, Any]:
    """Arrays larger than memory may be: made on disk by ``write``, mapped, kept like ``cached``.

    Args:
        name, key: as for ``cached``. write: puts ``.npy`` files into the folder it is given.

    Returns: every array by the name of its file, mapped copy on write: rows are read when indexed.
    Raises: UsageError if the cache can't be written.
    """
    place, stamp = _place(name, key)
    found = _read(place, stamp, None)
    if found is None:
        try:
            _publish(place, stamp, write)
        except OSError as error:
            raise UsageError(
                f"GNNSCALE_CACHE={place.parent}: can't be written ({error.strerror}), and what is "
                "kept on disk must lie there; name a folder with room, GNNSCALE_CACHE=DIR"
            ) from error
        found = _read(place, stamp, None)
        assert found is not None
    return found


def content(*parts: np.ndarray | None) -> str:
    """A digest of arrays: their types, shapes and bytes."""
    found = hashlib.blake2b(digest_size=16)
    for array in parts:
        if array is None:
            found.update(b"none")
            continue
        array = np.ascontiguousarray(array)
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return found.hexdigest()


def _place(name: str, key: Mapping[str, Any]) -> tuple[Path, str]:
    """Where the entry of a key is, and what is written in it to tell it from others."""
    stamp = json.dumps({"format": FORMAT, **key}, sort_keys=True, default=str)
    return cache_folder() / f"{name}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}", stamp


def _read(place: Path, stamp: str, mmap: Collection[str] | None) -> dict[str, Any] | None:
    """The entry, or None if there is none that is whole. ``mmap``: arrays to map; None: all."""
    if not place.is_dir():
        return None
    try:
        meta = json.loads((place / META).read_text())
        if meta["stamp"] != stamp:
            raise ValueError("made from something else")
        for array, size in meta["arrays"].items():
            if (place / f"{array}.npy").stat().st_size != size:
                raise ValueError(f"{array}.npy is not whole")
        arrays = {
            n: np.load(
                place / f"{n}.npy",
                mmap_mode="c" if mmap is None or n in mmap else None,
                allow_pickle=False,
            )
            for n in meta["arrays"]
        }
        return {**meta["values"], **arrays}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError,
            RecursionError) as error:  # fmt: skip
        log.info("%s: damaged (%s), made again", place, error)
        shutil.rmtree(place, ignore_errors=True)
        return None


def _plain(made: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as they are, values as JSON gives them back: a first use equals every later one."""
    return {
        n: v if isinstance(v, np.ndarray) else json.loads(json.dumps(v, default=_number))
        for n, v in made.items()
    }


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} can't be kept in the cache")


def _publish(place: Path, stamp: str, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a folder beside the place and rename it there.

    ``write`` puts ``.npy`` files into the folder and returns plain values, if any. Raises OSError
    if that can't be done; that another process was first is no error.
    """
    _sweep(place.parent)
    build = place.parent / f".build-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        build.mkdir(parents=True)
        values = write(build) or {}
        sizes = {path.stem: path.stat().st_size for path in build.glob("*.npy")}
        (build / META).write_text(json.dumps({"stamp": stamp, "arrays": sizes, "values": values}))
        try:
            os.rename(build, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(build, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes of this machine left that were killed while building."""
    prefix = f".build-{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*"):
        pid = path.name.removeprefix(prefix).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
