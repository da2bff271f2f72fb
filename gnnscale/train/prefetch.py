"""Loading ahead of compute: a window of batches made by threads, handed out in order."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

AHEAD = 2
"""Batches in the making or ready, per worker."""


def ahead(
    make: Callable[[A], B], tasks: Iterable[A], workers: int, clock: Callable[[str, float], None]
) -> Iterator[B]:
    """``make(task)`` for every task, in the order of the tasks, at most 2 x ``workers`` ahead.

    ``make`` must depend on nothing but its task; the results are then the same for any number of
    workers, 0 meaning that the caller's own thread makes each when it is asked for. Threads serve,
    not processes: compiled samplers run without the interpreter's lock, nothing is copied, and
    nothing is forked after a parallel kernel. An error comes out where its batch would have.
    Leaving the iterator early ends the workers after the task they are at.

    Args:
        clock: called with ("sample", seconds of making) and ("wait", seconds the caller waited).
    """
    if workers == 0:
        for task in tasks:
            start = time.perf_counter()
            made = make(task)
            clock("sample", time.perf_counter() - start)
            yield made
        return

    def timed(task: A) -> tuple[B, float]:
        start = time.perf_counter()
        return make(task), time.perf_counter() - start

    queue: deque[Future[tuple[B, float]]] = deque()
    rest = iter(tasks)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sample")
    try:
        while True:
            for task in islice(rest, AHEAD * workers - len(queue)):
                queue.append(pool.submit(timed, task))
            if not queue:
                return
            start = time.perf_counter()
            made, seconds = queue.popleft().result()
            clock("wait", time.perf_counter() - start)
            clock("sample", seconds)
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
