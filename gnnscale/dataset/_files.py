"""Where a dataset's files are: data roots searched in order, else downloads."""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnnscale.core.cache import cache_folder
from gnnscale.core.errors import DataError
from gnnscale.core.record import write_bytes
from gnnscale.dataset._download import digest, download, unpack


@dataclass(frozen=True)
class Remote:
    """One file of a dataset.

    name: its path below the dataset's folder. url: where it can be had; None if nowhere directly.
    sha256, size (bytes): of the published file, where they are known for certain. member: its path
    inside the zip archive at ``url``, if it is one; files may share an archive.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    member: str | None = None


def roots(root: str | os.PathLike | None = None) -> list[Path]:
    """List data folders in search order: ``dataset.root``, then $GNNSCALE_DATA, then ./data.

    The first two may each list several folders, separated as in $PATH.
    """
    given = [os.fspath(root or ""), os.environ.get("GNNSCALE_DATA", ""), "data"]
    listed = [part for value in given for part in value.split(os.pathsep) if part]
    return list(dict.fromkeys(Path(part).expanduser() for part in listed))


def locate(root: str | None, folder: str, files: Sequence[Remote], fetch: bool) -> Path:
    """Find the first folder, a data root or its ``folder``, that holds all ``files``.

    Where none does and ``fetch`` is set, the missing ones are downloaded into the first data root
    that can be written. Raises DataError with what is missing, where it was searched, where it can
    be had and what to type.
    """
    places = [place for base in roots(root) for place in (base / folder, base)]
    missing = {p: [f for f in files if not (p / f.name).is_file()] for p in places}
    best = min(places, key=lambda place: len(missing[place]))
    if not missing[best]:
        return best
    partly = f" of {best}" if len(missing[best]) < len(files) else ""
    lost = (
        f"dataset.root={'null' if root is None else root}: files{partly} are missing: "
        f"{_few([f.name for f in missing[best]])}; searched "
        f"{', '.join(str(p.absolute()) for p in places)}"
    )
    hint = f"dataset.root=DIR or GNNSCALE_DATA=DIR, where DIR or DIR/{folder} holds them"
    target = best if partly and _writable(best) else _home(root, folder)
    wanted = [f for f in files if target is None or not (target / f.name).is_file()]
    if any(f.url is None for f in wanted):
        raise DataError(f"{lost}; their source offers no direct download; type {hint}")
    sources = _few(list(dict.fromkeys(str(f.url) for f in wanted)))
    if not fetch:
        raise DataError(
            f"{lost}; they can be had from {sources}; type dataset.download=true, or {hint}"
        )
    if target is None:
        raise DataError(
            f"{lost}; none of these folders can be written, so nothing was downloaded from "
            f"{sources}; type dataset.root=DIR with a folder that can"
        )
    fresh = [p for p in (target, *target.parents) if not p.exists()]
    try:
        for file in wanted:
            _fetch(file, target, [f for f in wanted if f.url == file.url])
    except DataError:
        with contextlib.suppress(OSError):  # folders made for nothing; others are not empty
            for place in fresh:
                place.rmdir()
        raise
    return target


def _fetch(file: Remote, target: Path, siblings: Sequence[Remote]) -> None:
    """One missing file, or every member of the archive that it shares with ``siblings``."""
    assert file.url is not None
    if (target / file.name).is_file():
        return
    if file.member is None:
        download(file.url, target / file.name, sha256=file.sha256, size=file.size)
        return
    archive = target / file.url.rsplit("/", 1)[-1]
    download(file.url, archive, sha256=file.sha256, size=file.size)
    unpack(archive, {str(f.member): target / f.name for f in siblings})
    archive.unlink()


BROKEN = (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, OverflowError,
          RecursionError, AttributeError, NotImplementedError, zipfile.BadZipFile,
          zlib.error)  # fmt: skip


@contextlib.contextmanager
def reading(path: Path, layout: str, remedy: str = "") -> Iterator[None]:
    """Whatever a damaged file raises, as one DataError.

    Args:
        path: the file. layout: whose it should be in. remedy: what to do; "": fetch it again.
    """
    try:
        yield
    except DataError:
        raise
    except BROKEN as error:
        again = "remove it and type the same command to fetch it again"
        raise DataError(
            f"{path}: damaged or not in {layout} ({error}); {remedy or again}"
        ) from error


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _writable(place: Path) -> bool:
    """Whether files can be made in a folder, which need not exist yet."""
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _home(root: str | None, folder: str) -> Path | None:
    """Where downloads go: below the first data root that can be written."""
    return next((base / folder for base in roots(root) if _writable(base)), None)


# -- what is in the files -----------------------------------------------------------------------


def fingerprint(paths: Iterable[Path]) -> str:
    """sha256 over the content of files, in order.

    Sums are remembered by path, size, time of change and inode, so that a big file is read once.
    """
    memo = cache_folder() / "sums.json"
    known = _read(memo)
    total, fresh = hashlib.sha256(), {}
    for path in paths:
        at = path.stat()
        key = f"{path.resolve()}|{at.st_size}|{at.st_mtime_ns}|{at.st_ctime_ns}|{at.st_ino}"
        found = known.get(key)
        if not isinstance(found, str):
            found = fresh[key] = digest(path)
        total.update(found.encode())
    if fresh:
        with contextlib.suppress(OSError):  # the memo saves time and nothing else
            write_bytes(memo, json.dumps({**_read(memo), **fresh}).encode())
    return total.hexdigest()


def _read(memo: Path) -> dict[str, object]:
    """The remembered sums; nothing if they can't be read."""
    try:
        content = json.loads(memo.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
