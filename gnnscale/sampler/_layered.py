"""What samplers share that draw a bipartite block per layer, from the seeds to the input."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gnnscale.core import ops
from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.graph.drawn import neighbors
from gnnscale.graph.induce import scratch
from gnnscale.graph.norm import entries, factors
from gnnscale.graph.walk import draw, take
from gnnscale.sampler._base import Sampler, seed_batches


@dataclass(frozen=True)
class Estimate(Hop):
    """A hop over drawn edges whose linear aggregators all estimate those over every edge.

    scale: [E] what multiplies an edge (``weight`` has it as well, for "sum"); None: it is in
    ``row``. row: [n_dst] the same per row (``dst`` has it as well). count: [n_dst] in-degree of the
    destinations in the whole graph. Maximum, minimum, variance and attention are plain on the
    sample.
    """

    scale: Tensor | None = None
    row: Tensor | None = None
    count: Tensor | None = None

    own = frozenset({"add", "mean"})

    def _reduce(self, m: Tensor, op: str, weight: Tensor | None) -> Tensor:
        if op not in ("add", "mean"):
            return super()._reduce(m, op, weight)
        z = ops.total(self.graph, m, self.scale)
        if self.row is not None:
            z = z * self.row.unsqueeze(1)
        if op == "add":
            return z
        assert self.count is not None
        return z / self.count.clamp(min=1).to(m.dtype).unsqueeze(1)


class Layered(Sampler):
    """A batch of seeds and, layer by layer, a block under what the layer above needs.

    A subclass draws one block in ``hop``; factors come from the degrees of the training graph.

    Args:
        counts: how much is drawn, from the input layer to the seeds (the last entry is nearest the
            seeds), or one number for every layer; -1: everything. ``key`` is the option's name.
        batch_size: seeds per step.

    Raises: UsageError for a count that is 0 or below -1, and in ``check`` if there is not one per
    layer.
    """

    gives = traits(Trait.HOPS, Trait.SHARDS)
    needs = (traits(Trait.NODE),)
    purpose: ClassVar[str]
    """Names the sampler's random streams."""
    key: ClassVar[str] = "fanouts"
    what: ClassVar[tuple[str, str]] = ("fan-out", "number of neighbours")

    def __init__(self, counts: list[int] | int, batch_size: int):
        self.counts, self.batch_size = counts, batch_size
        for f in [counts] if isinstance(counts, int) else counts:
            if f == 0 or f < -1:
                raise UsageError(
                    f"sampler.{self.key}={plain(counts)}: {f} is no {self.what[1]}; "
                    f"choose 1 or more, or -1 for all, e.g. sampler.{self.key}=10"
                )

    def check(self, need: Need) -> None:
        """One count per layer."""
        given, depth = self.counts, need.depth
        if isinstance(given, int) or depth in (0, len(given)):
            return
        better = (list(given) + [(given or [10])[-1]] * depth)[:depth]
        raise UsageError(
            f"sampler.{self.key}={plain(given)}: the model has {depth} message-passing layers; "
            f"give one {self.what[0]} per layer, e.g. sampler.{self.key}={plain(better)}"
        )

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Compute the operator's factors and match counts to layers."""
        self.check(need)
        one = isinstance(self.counts, int)
        self.per_layer = [self.counts] * need.depth if one else self.counts
        self.data, self.need = data, need
        self.factors = factors(data.graph, need, data.x.dtype, data.weight)
        self.labeled = data.mask("train")

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every seed once, in random order; the last batch may be smaller."""
        return seed_batches(seeds, self.batch_size, key)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The blocks under the seeds ``index``."""
        word = np.uint64(key.at(self.purpose, key.epoch, key.step).word)
        nodes, hops = index.long(), []
        for layer in reversed(range(self.need.depth)):
            hop, nodes = self.hop(layer, nodes, self.stream(word, layer))
            hops.append(hop)
        data = self.data
        return Batch(
            x=take(data.x, nodes), hops=tuple(reversed(hops)), nodes=nodes,
            rows=torch.arange(len(index)), ids=index, y=take(data.y, index),
            labeled=take(self.labeled, index), key=(key.seed, key.epoch, key.step),
        )  # fmt: skip

    def stream(self, word: np.uint64, layer: int) -> np.uint64:
        """The random stream of one layer of the step that ``word`` names."""
        return np.uint64(draw(word, layer))

    def hop(self, layer: int, targets: Tensor, word: np.uint64) -> tuple[Hop, Tensor]:
        """One drawn step into ``targets`` [n] and the nodes of its sources [n_src]."""
        raise NotImplementedError

    @property
    def loop(self) -> bool:
        """Whether every node is its own neighbour by an edge."""
        return self.need.loops == "edges"

    def everything(self, targets: Tensor) -> tuple:
        """The block of all in-edges."""
        adj = self.data.graph
        return neighbors(
            adj.indptr.numpy(), adj.indices.numpy(), targets.numpy(), -1, False, self.loop,
            np.uint64(0), scratch(adj.n_src),
        )  # fmt: skip

    def assemble(
        self, targets: Tensor, block: tuple, kind: type[Hop] = Hop, scaled: str = "none"
    ) -> tuple[Hop, Tensor]:
        """A block as a hop of the operator; its scale counts by ``rows``, ``edges`` or not at all.

        With ``kind`` Estimate the hop keeps its scale for the other linear aggregators.
        """
        indptr, columns, edges, nodes, scale = (torch.from_numpy(a) for a in block)
        graph, scale = Adjacency(indptr, columns, len(nodes), edges), scale.to(self.data.x.dtype)
        src, dst, diag = self.factors
        src = None if src is None else take(src, nodes)
        dst, diag = (None if f is None else take(f, targets) for f in (dst, diag))
        weight = entries(graph, self.data.weight, self.data.x.dtype)
        if scaled == "rows":
            dst = scale if dst is None else dst * scale
        elif scaled == "edges":
            weight = scale if weight is None else weight * scale
        more = {}
        if kind is Estimate:
            count = take(self.data.graph.in_degree, targets) + self.loop
            more = {"rows": {"row": scale}, "edges": {"scale": scale}}.get(scaled, {})
            more["count"] = count
        degree = take(self.data.graph.in_degree, nodes)
        return kind(graph, src, dst, weight, diag, degree=degree, **more), nodes


def plain(counts: list[int] | int) -> str:
    """A list as it is typed."""
    return str(counts).replace(" ", "")
