"""The same model in other libraries: their layers, their loaders, the same graph and sizes."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Subject
from gnnscale.bench.workloads import Unfit
from gnnscale.core.errors import UsageError

PEERS = ("dgl", "pyg")
BOTH = ("gcn", "sage", "gat", "gin", "mlp", "sign")
LAYERS = {"dgl": BOTH, "pyg": (*BOTH, "egc")}
"""Architectures, by module, that a peer has layers (for SIGN, a transform) for."""
LOADED = {"dgl": ("Full", "Neighbor", "PrecomputeSign"),
          "pyg": ("Full", "Neighbor", "PrecomputeSign", "SaintWalk")}  # fmt: skip
"""Samplers, by class, that a peer has a loader for: DGL's of GraphSAINT gives no normalisation."""


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
    if kind not in LAYERS[name]:
        raise UsageError(
            f"peer={name}: has no layer for architecture={bound.option}; valid: "
            f"{', '.join(LAYERS[name])}; leave peer out, or choose e.g. architecture=gcn"
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
    found = {**defaults, **bound.arguments}
    if kind == "sign":
        found["powers"] = _powers(name, subject, found)
    names = found.get("aggregators", ())
    if "symadd" in names and len(names) > 1 and found["self_loops"] != "all":
        raise UsageError(f"peer={name}: beside symadd every aggregator of its EGConv includes the "
                         "node itself; type architecture.self_loops=all")  # fmt: skip
    return {
        **found, "kind": kind,
        "features": run.data.x.shape[1], "classes": about.classes, "multi": about.kind == "multi",
        "threads": run.hardware.threads,
    }  # fmt: skip


def _powers(name: str, subject: Subject, model: Mapping[str, Any]) -> int:
    """Of the table that SIGN reads: the peers make powers of one operator. Raises UsageError."""
    if model["head"] != "paper":
        raise UsageError(f"peer={name}: builds SIGN of one linear map per power only; "
                         "type architecture.head=paper")  # fmt: skip
    sampler, typed = _chosen(subject)
    others = [o for o in ("diffusions", "triangles") if typed.get(o)]
    if sampler != "PrecomputeSign" or others:
        raise UsageError(
            f"peer={name}: makes tables of powers of S only; type sampler=precompute_sign "
            "sampler.diffusions=0 sampler.triangles=0"
        )
    return typed["powers"]


def _chosen(subject: Subject) -> tuple[str, dict[str, Any]]:
    """Class and all arguments of the sampler."""
    bound = subject.plan.one("sampler")
    assert bound is not None
    signature = inspect.signature(bound.cls).parameters
    defaults = {n: p.default for n, p in signature.items() if p.default is not p.empty}
    return bound.cls.__name__, {**defaults, **bound.arguments}


def training(name: str, subject: Subject) -> Mapping[str, Any]:
    """The sampler in plain words. Raises Unfit where the peer has no loader for it."""
    sampler, typed = _chosen(subject)
    if sampler not in LOADED[name]:
        raise Unfit(f"peer={name} has no loader for sampler={subject.plan.choices['sampler']} here")
    if len(subject.run.objective.each):
        raise Unfit(f"peer={name} has no distillation")
    need: Any = subject.run.model.need
    train = subject.run.train_data
    if sampler == "Full":
        return {"loader": "full"}
    if sampler == "PrecomputeSign":
        return {"loader": "rows", "batch_size": typed["batch_size"] or len(train.splits["train"])}
    if sampler == "SaintWalk":
        walks = {k: typed[k] for k in ("roots", "length", "coverage")}
        budget = typed["roots"] * typed["length"]
        return {"loader": "saint", **walks, "steps": typed["steps"] or math.ceil(
            train.nodes / budget)}  # fmt: skip
    fanouts = typed["fanouts"]
    fanouts = [fanouts] * need.depth if isinstance(fanouts, int) else list(fanouts)
    return {"loader": "neighbor", "fanouts": fanouts, "batch_size": typed["batch_size"],
            "replace": typed["replace"]}  # fmt: skip
