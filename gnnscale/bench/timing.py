"""Requests of one or several subjects, made in turn: warm-up, then counted."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gnnscale.bench.calibration import Calibration
from gnnscale.bench.request import Request
from gnnscale.bench.settings import Bench


@dataclass
class Timed:
    """What came of it: nanoseconds per subject in the order of the rounds.

    first: the very first request of each, before any warm-up. complete: whether the asked number
    of requests and seconds was reached before the time limit.
    """

    first: list[int]
    samples: list[list[int]] = field(default_factory=list)
    complete: bool = True


@contextmanager
def quiet() -> Iterator[None]:
    """Without the garbage collector."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def rounds(requests: Sequence[Request], rules: Bench, calibration: Calibration) -> Timed:
    """A B, B A, A B, ...: every round makes one request of each subject, forwards or backwards.

    Rounds go on until every subject has ``rules.requests`` requests and ``rules.seconds`` of
    request time; where ``rules.limit_s`` passes first, what there is by then is returned. Nothing
    is logged and no garbage is collected inside. Who comes first in a round finds other caches than
    who follows, hence the two directions. The calibration kernel runs once per round, after
    another subject every two rounds, so that it meets everybody alike too.
    """
    first = [request() for request in requests]
    begun = time.perf_counter()

    def late() -> bool:
        return time.perf_counter() - begun > rules.limit_s

    warm, spent = 1, [ns / 1e9 for ns in first]
    while (warm < rules.warmup or min(spent) < rules.warmup_s) and not late():
        spent = [s + request() / 1e9 for s, request in zip(spent, requests, strict=True)]
        warm += 1
    samples: list[list[int]] = [[] for _ in requests]
    total, order = [0] * len(requests), range(len(requests))
    for request in requests:
        request.forget()
    with quiet():
        while True:
            number = len(samples[0])
            for k in order if number % 2 == 0 else reversed(order):
                ns = requests[k]()
                samples[k].append(ns)
                total[k] += ns
                if k == number // 2 % len(requests):  # it empties caches: each in its turn
                    calibration.between()
            done = len(samples[0]) >= rules.requests and min(total) >= rules.seconds * 1e9
            if done or late():
                return Timed(first, samples, done)
