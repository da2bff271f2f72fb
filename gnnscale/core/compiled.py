"""Compiled functions whose cache survives kills, concurrent processes and changed sources.

numba's own cache names machine code by a running number and writes the index before the code. After
a source has changed, a process that is killed between the two leaves an index that points to the
code of another version, and every later process jumps into it; two processes that compile at once
can give one number to two signatures. A function called from another file may change without the
caller's being compiled anew. Hence: names carry a sum over the function's file and all that it
imports of ours, and savers take turns.

Compiling a parallel loop takes two to four times as long as compiling the same loop for one thread
(measured on five of ours); so each has both forms.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numba
from filelock import FileLock
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys

PACKAGE = Path(__file__).parents[1]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` without the interpreter's lock, kept on disk; ``options`` are numba's.

    With ``parallel=True``: a ``Parallel``, which compiled functions can't call.
    """

    def compile_(function: Callable[..., Any]) -> Any:
        if options.get("parallel"):
            return Parallel(
                kept(function, **options), kept(function, **options | {"parallel": False})
            )
        return kept(function, **options)

    return compile_


def kept(function: Callable[..., Any], **options: Any) -> Any:
    """The dispatcher of a function, with a cache of its own form."""
    dispatcher = numba.njit(nogil=True, **options)(function)
    if hasattr(dispatcher, "enable_caching"):  # not with NUMBA_DISABLE_JIT
        dispatcher._cache = Cache(function, "" if options.get("parallel", True) else ".serial")
    return dispatcher


@dataclass(frozen=True)
class Parallel:
    """A function over ``prange`` in two forms: for several threads, and for one.

    Which one runs is decided per call, by ``numba.get_num_threads()``. Rows are computed by the
    same operations in the same order in both.
    """

    threads: Callable[..., Any]
    serial: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """The function's value."""
        return (self.threads if numba.get_num_threads() > 1 else self.serial)(*args)


@cache
def sources() -> str:
    """A sum over all files of the package."""
    return _sum(PACKAGE.rglob("*.py"))


@cache
def behind(path: Path) -> str:
    """A sum over a file and the package's files that it imports, directly or not."""
    found, new = set(), {path}
    while new:
        found |= new
        new = {other for one in new for other in imports(one)} - found
    return _sum(found)


def _sum(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(str(path).removeprefix(str(PACKAGE)).encode() + b"\0" + _content(path))
    return total.hexdigest()


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


FROM = re.compile(r"^\s*from (gnnscale[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


@cache
def imports(path: Path) -> frozenset[Path]:
    """The package's files that a file's ``from`` lines name, wherever they stand in it."""
    found = set()
    for module, names in FROM.findall(_content(path).decode(errors="replace")):
        place = PACKAGE.joinpath(*module.split(".")[1:])
        if not place.is_dir():
            found.add(place.with_suffix(".py"))
            continue
        for name in re.findall(r"\w+", re.sub(r"\bas \w+|#.*", "", names)):
            places = place / f"{name}.py", place / name / "__init__.py"
            found.add(next(filter(Path.is_file, places), place / "__init__.py"))
    return frozenset(found)


class Cache(FunctionCache):
    """numba's cache of one function, under names that no other version has."""

    def __init__(self, function: Callable[..., Any], form: str = ""):
        super().__init__(function)
        stamp = behind(Path(function.__code__.co_filename))[:16]
        self.base = self._impl.filename_base + form
        self.stamp = stamp
        self._cache_file = IndexDataCacheFile(self._cache_path, f"{self.base}.{stamp}", stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Machine code without what compiling needs: numba gets ready to compile at every load.

        That takes a quarter to half a second once. What is not kept is compiled by a compiler that
        gets ready itself; machine code needs the memory that it allocates from, no more.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        """One process at a time; what other versions have left is removed."""
        self._impl.locator.ensure_cache_path()
        place = Path(self._cache_path)
        with FileLock(place / "compiled.lock"):
            for left in place.glob(f"{self.base}.*"):
                if self.stamp not in left.name and left.suffix in (".nbi", ".nbc"):
                    with suppress(FileNotFoundError):
                        left.unlink()
            super().save_overload(sig, data)
