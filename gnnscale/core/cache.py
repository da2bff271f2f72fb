"""The processed cache: arrays that need not be made twice, keyed by what they are made from."""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gnnscale.core.errors import DataError, UsageError

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
            _save(folder / f"{n}.npy", array)
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
    build = _building(place.parent)
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


def _building(folder: Path) -> Path:
    """The name of a folder of this process, which ``_sweep`` knows for one if we are killed."""
    return folder / f".build-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _save(path: Path, array: np.ndarray) -> None:
    """Write an array; one that ``spill`` left beside the entries only changes its file's place."""
    source = Path(str(getattr(array, "filename", None)))
    if isinstance(array, np.memmap) and source.parent.parent == path.parent.parent:
        try:
            whole = np.load(source, mmap_mode="r", allow_pickle=False)
            if (whole.shape, whole.strides, whole.dtype) == (
                array.shape, array.strides, array.dtype,
            ):  # fmt: skip
                os.replace(source, path)
                return
        except (OSError, ValueError):  # its file is another entry's by now
            pass
    np.save(path, array, allow_pickle=False)


def spill(
    blocks: Iterable[np.ndarray], dtype: np.dtype, shape: Sequence[int], fortran: bool = False
) -> np.memmap:
    """An array too big for memory, written block by block beside the entries and mapped from there.

    Not to be written to. Its file goes with the last reference to it or, after a kill, when an
    entry is made the next time; if the array becomes part of an entry (``cached``), so does the
    file, without a copy.

    Args:
        blocks: its entries in the order of memory: by rows, or by columns if ``fortran``.

    Raises: DataError if the file can't be written, ValueError if blocks are not as many as said.
    """
    place, wanted = cache_folder(), int(np.prod(shape)) * dtype.itemsize
    build = _building(place)
    path = build / "array.npy"
    about = {"descr": dtype.str, "fortran_order": fortran, "shape": tuple(shape)}
    try:
        with _telling(place, wanted):
            _sweep(place)
            build.mkdir(parents=True)
            sink = path.open("wb")
            np.lib.format.write_array_header_2_0(sink, about)
        with sink:
            start = sink.tell()
            for block in blocks:
                with _telling(place, wanted):
                    sink.write(np.ascontiguousarray(block, dtype).data)
            if sink.tell() - start != wanted:
                raise ValueError(f"{sink.tell() - start} of {wanted} bytes are there")
            with _telling(place, wanted):
                sink.flush()
        mapped = np.load(path, mmap_mode="c", allow_pickle=False)
        weakref.finalize(mapped.base, shutil.rmtree, build, ignore_errors=True)
        return mapped
    except BaseException:
        shutil.rmtree(build, ignore_errors=True)
        raise


@contextmanager
def _telling(place: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{place}: can't be written ({error.strerror or error}), and {size / 2**30:.1f} GiB "
            "must be; GNNSCALE_CACHE=DIR names another place"
        ) from error


def _sweep(folder: Path) -> None:
    """Remove what processes of this machine left that were killed while building."""
    prefix = f".build-{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*"):
        pid = path.name.removeprefix(prefix).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
