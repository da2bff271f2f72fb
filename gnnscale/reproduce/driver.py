"""Rows as child processes, some at a time; a kill at any moment loses the epoch in progress."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gnnscale.core.lock import held

log = logging.getLogger("gnnscale")

POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """One row's command (the words behind ``gnnscale``), its run folder and where it may talk."""

    name: str
    words: tuple[str, ...]
    folder: Path
    log: Path


@dataclass
class Running:
    """A job that is in the air."""

    job: Job
    slot: int
    process: subprocess.Popen
    output: IO[bytes]
    began: float


def run(jobs: Sequence[Job], at_once: int) -> tuple[dict[str, int], bool]:
    """(exit code by job, was it interrupted). A job that fails does not stop the others.

    Each of ``at_once`` slots has its share of the cores. Ctrl-C and SIGTERM are passed on once, so
    that children finish and save the epoch in progress; a second one stops them at once.
    """
    waiting, running, codes = list(jobs), [], {}
    stopped = told = False
    at_once = min(at_once, len(waiting)) or 1
    with _interrupts() as seen:
        while running or (waiting and not stopped):
            while waiting and not stopped and len(running) < at_once:
                job = next((j for j in waiting if not held(j.folder)), None)
                if job is None:
                    if not told:
                        log.info("%s: another process trains there; waiting", waiting[0].name)
                        told = True
                    break
                waiting.remove(job)
                slot = min(set(range(at_once)) - {r.slot for r in running})
                running.append(_start(job, slot, at_once))
                log.info("%s: started (%d of %d)", job.name, len(codes) + len(running), len(jobs))
            time.sleep(POLL_S)
            while seen:
                number, stopped = seen.pop(), True
                for one in running:
                    one.process.send_signal(number)
            for one in [r for r in running if r.process.poll() is not None]:
                running.remove(one)
                codes[one.job.name] = _finish(one)
    return codes, stopped


def shares(cores: Sequence[int], at_once: int) -> list[list[int]]:
    """The cores of each slot; with more slots than cores they share."""
    return [list(cores[slot::at_once]) or [cores[slot % len(cores)]] for slot in range(at_once)]


def _start(job: Job, slot: int, at_once: int) -> Running:
    allowed = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
    mine = shares(allowed, at_once)[slot]
    variables = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        variables.setdefault(name, str(len(mine)))
    job.log.parent.mkdir(parents=True, exist_ok=True)
    output = job.log.open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "gnnscale.reproduce.child", str(os.getpid()),
         ",".join(map(str, mine)), *job.words],
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=variables,
        start_new_session=True,  # Ctrl-C reaches it through us, once
    )  # fmt: skip
    return Running(job, slot, process, output, time.monotonic())


def _finish(one: Running) -> int:
    """The exit code, and a word about it."""
    one.output.close()
    code, took = one.process.returncode, time.monotonic() - one.began
    if code == 0:
        log.info("%s: finished in %.0f s, %s", one.job.name, took, last_line(one.job.log, "test "))
    elif code == 130:
        log.info("%s: stopped; the same command goes on", one.job.name)
    else:
        why = f"killed by signal {-code}" if code < 0 else last_line(one.job.log)
        log.error("%s: failed (exit code %d): %s\n  all it said: %s", one.job.name, code, why,
                  one.job.log)  # fmt: skip
    return code


def last_line(path: Path, start: str = "") -> str:
    """The last line of a log that begins so; "" if there is none."""
    lines = [s.strip() for s in path.read_text(errors="replace").splitlines() if s.strip()]
    return next((s for s in reversed(lines) if s.startswith(start)), "")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list instead of ending us; children get a SIGINT."""
    seen: list[int] = []
    before = {
        number: signal.signal(number, lambda *_: seen.append(signal.SIGINT))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
