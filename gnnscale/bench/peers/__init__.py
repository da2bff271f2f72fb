"""The same model in other libraries: their layers, their loaders, the same graph and sizes."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Subject
from gnnscale.bench.workloads import Unfit
from gnnscale.core.errors import UsageError

PEERS = ("dgl", "pyg")
LAYERS = ("gcn", "sage", "gat", "gin", "mlp")
"""Architectures, by module, that both peers have layers for."""
LOADED = ("full", "neighbor")
"""Samplers, by module, that both peers have a loader for."""


def connect(name: str, subject: Subject, settings: Bench, scratch: Path) -> Any:
    """The peer, built. Raises UsageError if it has no layer for the model, or can't be run."""
    specified = specification(name, subject)
    if name == "dgl":
        from gnnscale.bench.peers.with_dgl import DglPeer

        return DglPeer(subject, specified, settings)
    from gnnscale.bench.peers.with_pyg import PygPeer

    return PygPeer(subject, specified, settings, scratch)


PLAIN = {"order": "post", "jump": "none", "virtual_node": False, "last_act": True,
         "head_widths": []}  # fmt: skip
"""Options of the shared stack that the peers' stacks have no counterpart of, at their defaults."""


def specification(name: str, subject: Subject) -> dict[str, Any]:
    """The model in plain words: what ``stack.Stack`` is built from."""
    bound = subject.plan.one("architecture")
    assert bound is not None
    kind = bound.cls.__module__.rpartition(".")[2]
    if kind not in LAYERS:
        raise UsageError(
            f"peer={name}: has no layer for architecture={bound.option}; valid: "
            f"{', '.join(LAYERS)}; leave peer out, or choose e.g. architecture=gcn"
        )
    for option, plain in PLAIN.items():
        value = bound.arguments.get(option, plain)
        if value != plain:
            said = str(plain).lower().replace(" ", "")
            raise UsageError(
                f"peer={name}: builds plain stacks only, and architecture.{option}={value} makes "
                f"another one; type architecture.{option}={said}"
            )
    defaults = {
        n: p.default for n, p in inspect.signature(bound.cls).parameters.items() if n != "shape"
    }
    run = subject.run
    if bound.arguments.get("norm") == "graph":
        raise UsageError(f"peer={name}: has no GraphNorm here; type architecture.norm=batch")
    if run.data.offsets is not None:
        raise UsageError(f"peer={name}: compares on nodes of one graph only, not on whole graphs")
    if run.device.type != "cpu":
        raise UsageError(f"peer={name}: compares on the CPU only; type hardware=cpu")
    if run.data.weight is not None:
        raise UsageError(f"peer={name}: compares on unweighted graphs only")
    about = run.data.task
    return {
        **defaults, **bound.arguments, "kind": kind,
        "features": run.data.x.shape[1], "classes": about.classes, "multi": about.kind == "multi",
        "threads": run.hardware.threads,
    }  # fmt: skip


def training(name: str, subject: Subject) -> Mapping[str, Any]:
    """The sampler in plain words. Raises Unfit where the peer has no loader for it."""
    bound = subject.plan.one("sampler")
    assert bound is not None
    kind = bound.cls.__module__.rpartition(".")[2]
    if kind not in LOADED:
        raise Unfit(f"peer={name} has no loader for sampler={bound.option} here")
    if len(subject.run.objective.each):
        raise Unfit(f"peer={name} has no distillation")
    need: Any = subject.run.model.need
    depth = need.depth
    if kind == "full":
        return {"loader": "full"}
    fanouts = bound.arguments.get("fanouts", 10)
    fanouts = [fanouts] * depth if isinstance(fanouts, int) else list(fanouts)
    return {
        "loader": "neighbor", "fanouts": fanouts,
        "batch_size": bound.arguments.get("batch_size", 1024),
        "replace": bound.arguments.get("replace", False),
    }  # fmt: skip
