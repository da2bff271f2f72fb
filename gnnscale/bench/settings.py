"""What is measured and how long: the parameters of ``gnnscale bench``."""

from typing import Literal

from gnnscale.core.errors import UsageError
from gnnscale.core.traits import Component
from gnnscale.core.values import Count, NonNegative, Positive, Whole

Kind = Literal["full", "query", "step", "epoch"]
Scope = Literal["model", "end2end"]


class Bench(Component):
    """The protocol of a measurement.

    Args:
        workloads: full (one pass over all nodes or graphs), query (``queries`` of them at a time),
            step and epoch (of training); [] counts parameters, bytes and multiply-accumulates only.
        scopes: model (inputs resident, batch prepared) and end2end (sample, gather, copy, forward,
            result on the host).
        queries: batch sizes of queries: test nodes, or whole test graphs at graph level.
        requests, seconds: at least so many requests and so much time in them, per workload.
        limit_s: give up on ``requests`` after so long, and say so.
        warmup, warmup_s: at least so many requests and seconds before anything counts.
        memory: peak memory per phase, each in a fresh process.
        roofline: measure the machine and say how far each kind of layer is from its bound.
        trace: folder for chrome traces, one per workload and scope; None: none.
        seed: of the list of asked nodes.
        pyg_python: interpreter that has torch-geometric, for peer=pyg; None: $GNNSCALE_PYG_PYTHON.

    Raises: UsageError if a workload, scope or batch size is named twice, or one that is none.
    """

    def __init__(
        self,
        workloads: list[Kind] = ("full", "query", "step", "epoch"),  # type: ignore[assignment]
        scopes: list[Scope] = ("model", "end2end"),  # type: ignore[assignment]
        queries: list[Count] = (1, 32, 1024),  # type: ignore[assignment]
        requests: Count = 200,
        seconds: NonNegative = 5.0,
        limit_s: Positive = 300.0,
        warmup: Whole = 10,
        warmup_s: NonNegative = 1.0,
        memory: bool = True,
        roofline: bool = True,
        trace: str | None = None,
        seed: Whole = 0,
        pyg_python: str | None = None,
    ):
        for name, values in (("workloads", workloads), ("scopes", scopes), ("queries", queries)):
            if len(set(values)) < len(values):
                raise UsageError(
                    f"bench.{name}={list(values)}: names something twice; "
                    f"type bench.{name}=[{','.join(map(str, dict.fromkeys(values)))}]"
                )
        if workloads and not scopes:
            raise UsageError("bench.scopes=[]: nothing to measure in; valid: model, end2end; "
                             "type bench.scopes=[model,end2end]")  # fmt: skip
        self.workloads, self.scopes, self.queries = list(workloads), list(scopes), list(queries)
        self.requests, self.seconds, self.limit_s = requests, seconds, limit_s
        self.warmup, self.warmup_s = warmup, warmup_s
        self.memory, self.roofline, self.trace = memory, roofline, trace
        self.seed, self.pyg_python = seed, pyg_python
