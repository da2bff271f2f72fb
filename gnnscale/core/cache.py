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


def digest(*arrays: np.ndarray) -> str:
    """What arrays hold, as 64 hexadecimal digits: their types, shapes and bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


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
    stamp = json.dumps({"format": FORMAT, **key}, sort_keys=True, default=str)
    place = cache_folder() / f"{name}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    found = _read(place, stamp, mmap)
    if found is None:
        made = _plain(make())
        published = _publish(place, stamp, made)
        again = _read(place, stamp, mmap) if published and mmap else None
        found = made if again is None else again
    return found


def _read(place: Path, stamp: str, mmap: Collection[str]) -> dict[str, Any] | None:
    """The entry, or None if there is none that is whole."""
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
            n: np.load(place / f"{n}.npy", mmap_mode="c" if n in mmap else None, allow_pickle=False)
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


def _publish(place: Path, stamp: str, made: Mapping[str, Any]) -> bool:
    """Write an entry beside its place and rename it there; True unless it could not be written."""
    _sweep(place.parent)
    build = place.parent / f".build-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    arrays = {n: v for n, v in made.items() if isinstance(v, np.ndarray)}
    values = {n: v for n, v in made.items() if n not in arrays}
    try:
        build.mkdir(parents=True)
        for n, array in arrays.items():
            np.save(build / f"{n}.npy", array, allow_pickle=False)
        sizes = {n: (build / f"{n}.npy").stat().st_size for n in arrays}
        meta = {"stamp": stamp, "arrays": sizes, "values": values}
        (build / META).write_text(json.dumps(meta))
        os.rename(build, place)
        return True
    except OSError as error:
        taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)  # another process was first
        if not taken:
            log.warning(
                "%s: the processed data can't be kept (%s) and will be made again next time; "
                "GNNSCALE_CACHE=DIR names another place", place.parent, error.strerror,
            )  # fmt: skip
        return taken
    finally:
        shutil.rmtree(build, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes of this machine left that were killed while building."""
    prefix = f".build-{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*"):
        pid = path.name.removeprefix(prefix).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
