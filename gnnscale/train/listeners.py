"""The loggers of a run, none of which can harm it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnnscale.core.record import Record

log = logging.getLogger("gnnscale")


class Listeners:
    """Passes everything on to every logger; one that raises is told of once and switched off."""

    def __init__(self, each: Sequence[Any]):
        self.each = list(each)
        self.opened = False

    def _tell(self, call: Callable[[Any], None]) -> None:
        for listener in list(self.each):
            try:
                call(listener)
            except Exception as error:  # whatever a foreign service comes up with
                name = type(listener).__name__.lower()
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                log.warning("logger=%s failed and is switched off: %s", name, reason)
                self.each.remove(listener)

    def open(self, folder: Path, config: Mapping[str, Any], seed: int, epoch: int) -> None:
        """A seed starts or goes on; once per seed."""
        if not self.opened:
            self.opened = True
            self._tell(lambda listener: listener.open(folder, config, seed, epoch))

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch's metrics."""
        self._tell(lambda listener: listener.log(metrics))

    def record(self, record: Record) -> None:
        """The seed's result."""
        self._tell(lambda listener: listener.record(record))

    def close(self, finished: bool) -> None:
        """The seed has ended; nobody is told who was not told of its start."""
        if self.opened:
            self._tell(lambda listener: listener.close(finished))
        self.opened = False
