"""torch's compiler, left asleep until something asks it to compile.

``torch.optim`` imports ``torch._dynamo`` (1.5 s of modules) with the first optimizer, only to ask
that its methods be not compiled, and marks a break of the graph around each step. Neither means
anything where nothing is compiled, so ``sleep`` puts a module in its place that answers those two
and becomes the real one at any other question: ``torch.compile`` works as ever.
"""

import importlib
import sys
from collections.abc import Callable
from threading import RLock
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _Asleep(ModuleType):
    """Answers ``disable`` and ``graph_break``; wakes the real module for anything else."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._real: ModuleType | None = None
        self._lock = RLock()

    def _wake(self) -> ModuleType:
        with self._lock:
            if self._real is None:
                if sys.modules.get(NAME) is self:
                    del sys.modules[NAME]
                try:
                    self._real = importlib.import_module(NAME)
                except BaseException:
                    sys.modules[NAME] = self
                    raise
            return self._real

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # who lists modules asks for no compiler
            raise AttributeError(name)
        return getattr(self._wake(), name)

    def disable(self, fn: Callable | None = None, *args: Any, **options: Any) -> Any:
        """``fn`` as it is: nothing is compiled yet; with the real module there, its answer."""
        if self._real is not None:
            return self._real.disable(fn, *args, **options)
        return (lambda fn: fn) if fn is None else fn

    def graph_break(self, *args: Any, **options: Any) -> None:
        """Nothing: no graph is being recorded; with the real module there, its break."""
        if self._real is not None:
            self._real.graph_break(*args, **options)


def sleep() -> None:
    """Keep ``torch._dynamo`` unimported until it is needed; without effect once it is there."""
    if NAME not in sys.modules:
        sys.modules[NAME] = _Asleep()
