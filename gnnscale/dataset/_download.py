"""Downloads that resume, are checked and appear whole or not at all."""

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import requests
from filelock import FileLock
from urllib3.exceptions import HTTPError

from gnnscale.core.errors import DataError
from gnnscale.core.record import write_json

log = logging.getLogger("gnnscale")

TRIES, BACKOFF_S, TIMEOUT_S = 4, 1.0, 30.0
"""Attempts in a row without a new byte, the first pause between two, and patience with a silent
server."""
CHUNK = 1 << 18
AGAIN = (429, 500, 502, 503, 504)
"""Status codes that may pass; every other error is final."""


def download(url: str, target: Path, *, sha256: str | None = None, size: int | None = None) -> None:
    """Fetch ``url`` into ``target``.

    Bytes go into ``<target>.part``, which an interrupted download leaves for the next one to go on
    from (HTTP ranges, guarded by the server's validator). The file is renamed into place once its
    length, and its sha256 where a true one is known, are right; ``<target>.sha256.json`` records
    the sum of what was got. A second process that wants the same file waits for the first.

    Raises: DataError naming the url and what to do.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: only http and https can be downloaded")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            try:
                if not target.is_file():
                    _whole(url, target, sha256, size)
            finally:
                Path(f"{target}.lock").unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        free = shutil.disk_usage(target.parent).free >> 20 if target.parent.is_dir() else 0
        why = f"the disk is full ({free} MiB free)" if full else error.strerror
        raise DataError(
            f"{target}: can't be written: {why}; free some space or type dataset.root=DIR; what "
            "was downloaded so far is kept and gone on from"
        ) from error


def _whole(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    part, note = Path(f"{target}.part"), Path(f"{target}.part.json")
    failures, reason = 0, ""
    log.info("downloading %s", url)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _attempt(url, part, note, size):
                break
            reason = "the connection ended early"
        except (requests.RequestException, HTTPError) as error:
            reason = str(error).split("(Caused by", maxsplit=1)[0][:200]
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures >= TRIES:
            raise DataError(
                f"{url}: can't be downloaded: {reason}; {after} bytes are kept in {part}, the "
                f"same command goes on from there. Or put the file at {target} yourself"
            )
        time.sleep(BACKOFF_S * 2 ** max(0, failures - 1))
    _settle(url, part, note, target, sha256)


def _attempt(url: str, part: Path, note: Path, size: int | None) -> bool:
    """One request; True once the part is complete."""
    have, validator = _resumable(url, part, note)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as reply:
        if reply.status_code == 416:  # what we have is not a beginning of what is there
            part.unlink(missing_ok=True)
            return False
        if reply.status_code in AGAIN:
            raise requests.ConnectionError(f"the server answers {reply.status_code}")
        if not reply.ok:
            raise DataError(
                f"{url}: the server answers {reply.status_code} {reply.reason}; put the file at "
                f"{str(part).removesuffix('.part')} yourself"
            )
        start = have if reply.status_code == 206 else 0
        declared = reply.headers.get("Content-Length")
        length = start + int(declared) if declared and declared.isdecimal() else None
        if size is not None and length is not None and length != size:
            raise DataError(
                f"{url}: {length} bytes, the published file has {size}; it is another file, "
                "nothing was kept"
            )
        known = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
        write_json(note, {"url": url, "validator": "" if known.startswith("W/") else known})
        with part.open("ab" if start else "wb") as file:
            _stream(reply, file, start, length)
    got, whole = part.stat().st_size, length if length is not None else size
    return whole is None or got == whole


def _resumable(url: str, part: Path, note: Path) -> tuple[int, str]:
    """(bytes we have, validator) of a part that can be gone on from, else (0, "")."""
    try:
        about = json.loads(note.read_text())
        if about["url"] == url and about["validator"] and isinstance(about["validator"], str):
            return part.stat().st_size, about["validator"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # no note, or a damaged one: start anew
    return 0, ""


def _stream(reply: requests.Response, file, start: int, length: int | None) -> None:
    """Copy the body to the file, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    shown = Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with shown:
        task = shown.add_task(Path(file.name).name, total=length, completed=start)
        while chunk := reply.raw.read1(CHUNK):  # whatever has come: a broken connection loses none
            file.write(chunk)
            shown.advance(task, len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _settle(url: str, part: Path, note: Path, target: Path, sha256: str | None) -> None:
    """Check the sum, record it, and rename the part into place."""
    found = digest(part)
    if sha256 is not None and found != sha256:
        part.unlink()
        note.unlink(missing_ok=True)
        raise DataError(
            f"{url}: sha256 {found}, the published file has {sha256}: damaged on the way or "
            "replaced at its source; nothing was kept"
        )
    record = Path(f"{target}.sha256.json")
    try:
        earlier = json.loads(record.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        earlier = found
    if earlier != found:
        log.warning("%s: differs from what was downloaded earlier (sha256 %s, now %s)",
                    url, earlier, found)  # fmt: skip
    about = {
        "url": url,
        "sha256": found,
        "size": part.stat().st_size,
        "verified": sha256 is not None,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(record, about)
    os.replace(part, target)
    note.unlink(missing_ok=True)
    log.info("%s: %.1f MiB, sha256 %s", target, about["size"] / 2**20, found)


def digest(path: Path) -> str:
    """sha256 of a file's content."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def unpack(archive: Path, members: Mapping[str, Path]) -> None:
    """Write members of a zip archive to the paths given, each whole or not at all.

    Raises: DataError if the archive is damaged (it is removed) or lacks a member.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for member, path in members.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}.{os.getpid()}.part")
                try:
                    with packed.open(member) as source, part.open("wb") as sink:
                        shutil.copyfileobj(source, sink, CHUNK)
                    os.replace(part, path)
                finally:
                    part.unlink(missing_ok=True)
    except KeyError as error:
        raise DataError(f"{archive}: lacks {error.args[0]}; not the published archive") from error
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        archive.unlink(missing_ok=True)
        raise DataError(
            f"{archive}: damaged ({error}) and removed; type the same command to fetch it again"
        ) from error
