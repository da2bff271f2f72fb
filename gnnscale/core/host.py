"""The one door to DGL: ``from gnnscale.core.host import dgl``.

DGL 2.1 (the newest wheel on PyPI) imports ``dgl.graphbolt`` unconditionally, and that part needs
a native library built for one exact torch version and datapipes that torchdata has removed. We
use neither. While DGL is imported here, a finder lets the real ``dgl.graphbolt`` load; only where
that raises does an empty stand-in take its place, and the stand-in says so when it is used.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType

NAME = "dgl.graphbolt"


class MissingGraphBolt(AttributeError):
    """GraphBolt was asked for, but this installation can't load it."""


def _stand_in(module: ModuleType, cause: BaseException) -> None:
    """Turn a half-loaded module into one that explains itself on every attribute access."""
    for part in [name for name in sys.modules if name.startswith(NAME + ".")]:
        del sys.modules[part]
    for name in [n for n in vars(module) if not n.startswith("__")]:
        delattr(module, name)
    reason = f"{type(cause).__name__}: {cause}".splitlines()[0]

    def __getattr__(name: str):
        if name.startswith("__"):  # introspection (inspect, copy, doctest) must keep working
            raise AttributeError(name)
        raise MissingGraphBolt(
            f"dgl.graphbolt.{name}: GraphBolt does not load with the installed torch ({reason}); "
            "gnnscale does not need it. Use dgl.ops, dgl.sampling or gnnscale's own samplers."
        )

    module.__getattr__ = __getattr__  # type: ignore[method-assign]
    module.stand_in_for = cause  # type: ignore[attr-defined]


class _Guard(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the real GraphBolt and falls back to the stand-in only when that fails."""

    def find_spec(self, fullname, path=None, target=None):
        """Wrap the true loader of ``dgl.graphbolt``; every other module is none of our business."""
        if fullname != NAME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        """Let Python make the module object."""
        return self.loader.create_module(spec)

    def exec_module(self, module):
        """Run the real package; on any failure leave the stand-in."""
        try:
            self.loader.exec_module(module)
        except Exception as cause:  # OSError, FileNotFoundError, ModuleNotFoundError: all one here
            _stand_in(module, cause)


def load() -> ModuleType:
    """Import DGL, guarding GraphBolt for the length of the import only."""
    os.environ.setdefault("DGLBACKEND", "pytorch")  # else DGL writes a file into the user's home
    guard = _Guard()
    sys.meta_path.insert(0, guard)
    try:
        import dgl
    finally:
        sys.meta_path.remove(guard)
    return dgl


dgl = load()


def graphbolt_missing() -> str | None:
    """Why GraphBolt is stood in for, or None if the real one was loaded (for ``doctor``)."""
    cause = vars(sys.modules[NAME]).get("stand_in_for") if NAME in sys.modules else None
    return None if cause is None else f"{type(cause).__name__}: {cause}"
