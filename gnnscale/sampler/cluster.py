"""Cluster-GCN: train on the subgraphs induced by a few parts of the graph.

Chiang et al., KDD 2019, arXiv:1905.07953; details follow the authors' code.

Departs from them:
- The operator is the one that the model asks for; the paper's (D + I)^-1 (A + I) is that of
  ``architecture=cluster_gcn``, and the code's variant without self entries (``diag_lambda=-1``,
  D^-1 A) that of ``architecture.self_loops=false``. Either way degrees are those inside the batch.
- On transductive data unlabelled nodes are divided too and take part in propagation.
- With ``precalc`` the authors' first layer is dense and has no hop, and so it is in
  ``architecture=cluster_gcn``. The first layer of any other model reads [A X || X] as features.
- Validation and test are exact on the whole graph, never by parts.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnscale.core import ops
from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData, Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, NonNegative
from gnnscale.graph.induce import induce
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.partition import Parts, grouped, partition
from gnnscale.graph.walk import take
from gnnscale.sampler._base import Sampler


class Cluster(Sampler):
    """Batches of ``batch_parts`` parts: all edges among their nodes, those between parts included.

    The operator is normalised after the union (sec. 3.2), then its diagonal is enhanced,
    A^ + lambda diag(A^) (sec. 3.3, eq. 11): lambda / (d + 1) more per node for the row operator; in
    inference likewise, as in the authors' code.
    All nodes of a batch are seeds; the loss is the mean over labelled ones. Groups of parts without
    a seed are no step.

    Args:
        parts: p, parts of the training graph.
        batch_parts: q, parts per batch.
        method: metis, or random parts (the paper's table 2 compares them), or order: runs of
            consecutive nodes.
        diagonal: lambda, 0 for none.
        precalc: the model reads [A X || X], A raw and unnormalised: of the training graph in
            training, of the whole graph when it predicts.

    Raises: UsageError if batch_parts exceeds parts; in ``check`` for a diagonal that the model's
    operator does not have; in ``prepare`` if parts exceeds the number of training nodes.
    """

    gives = traits(Trait.HOPS, Trait.SQUARE, Trait.SHARDS)
    needs = (traits(Trait.NODE),)

    def __init__(
        self,
        parts: Count = 10,
        batch_parts: Count = 2,
        method: Literal["metis", "random", "order"] = "metis",
        diagonal: NonNegative = 0.0,
        precalc: bool = False,
    ):
        grouped(parts, batch_parts)
        self.parts, self.batch_parts, self.method = parts, batch_parts, method
        self.diagonal, self.precalc = diagonal, precalc
        self._views: OrderedDict[int, tuple[GraphData, GraphData]] = OrderedDict()

    def widen(self, shape: Shape) -> Shape:
        """Twice the features with ``precalc``, and what they are."""
        shape = super().widen(shape)
        if not self.precalc:
            return shape
        return replace(shape, features=2 * shape.features, aggregated=True)

    def refine(self, need: Need) -> Need:
        """With the diagonal enhanced."""
        return replace(need, diagonal=self.diagonal)

    def check(self, need: Need) -> None:
        """Refuse a diagonal enhancement where there is no diagonal."""
        attention = need.loops == "edges" and need.operator == "none"
        if self.diagonal and (need.loops == "none" or attention):
            raise UsageError(
                f"sampler.diagonal={self.diagonal:g}: the model's operator has no diagonal to "
                "enhance; choose sampler.diagonal=0, or a model with a normalised self entry: "
                "architecture=cluster_gcn or gcn, or architecture=sage architecture.aggr=gcn"
            )

    def view(self, data: GraphData) -> GraphData:
        """[A X || X] in place of X with ``precalc``; the last two graphs asked for are kept."""
        if not self.precalc:
            return data
        if id(data) not in self._views:
            self._views[id(data)] = (data, data.with_(x=precalculated(data)))
            while len(self._views) > 2:
                self._views.popitem(last=False)
        return self._views[id(data)][1]

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Divide the training graph."""
        self.check(need)
        self.data, self.need = self.view(data), self.refine(need)
        self.divided: Parts = partition(data.graph, self.parts, self.method, key)
        self.labeled = data.mask("train")

    def facts(self) -> list[str]:
        """Parts, sizes and cut edges."""
        return [self.divided.said(self.data.graph, self.method)]

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Numbers of the parts of each step."""
        return self.divided.groups(self.batch_parts, seeds, key)

    def state(self) -> Mapping[str, Any]:
        """The division, so that a resumed run has it whatever METIS says then."""
        return {"parts": self.divided.of.int()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.divided = Parts(state["parts"].long(), self.parts)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The subgraph of the parts ``index``; its nodes ascend."""
        data, nodes = self.data, self.divided.nodes(index)
        rows = torch.arange(len(nodes))
        return Batch(
            x=take(data.x, nodes), nodes=nodes, rows=rows, ids=nodes,
            hops=(self._hop(nodes),) * self.need.depth if self.need.depth else (),
            y=take(data.y, nodes), labeled=take(self.labeled, nodes),
            key=(key.seed, key.epoch, key.step),
        )  # fmt: skip

    def _hop(self, nodes: Tensor) -> Hop:
        data, graph = self.data, induce(self.data.graph, nodes)
        weight = None if data.weight is None else take(data.weight, graph.edges)
        hop = whole_hop(graph, self.need, data.x.dtype, weight)
        return replace(hop, degree=take(data.graph.in_degree, nodes))


def precalculated(data: GraphData) -> Tensor | SparseRows:
    """[A X || X] with the raw adjacency, weighted if the edges are: [N, 2 F], sparse where X is."""
    x, graph = data.x, data.graph
    if isinstance(x, Tensor):
        return torch.cat([ops.total(graph, x, data.weight), x], 1)
    ones = np.ones(graph.n_edges, x.values.numpy().dtype)
    entries = ones if data.weight is None else data.weight.to(x.dtype).numpy()
    a = sp.csr_array((entries, graph.indices.numpy(), graph.indptr.numpy()), (len(x), len(x)))
    rows = x.rows
    own = sp.csr_array((x.values.numpy(), rows.indices.numpy(), rows.indptr.numpy()), x.shape)
    both = sp.csr_array(sp.hstack([a @ own, own], format="csr"))
    indptr = torch.from_numpy(both.indptr.astype(np.int64))
    indices = torch.from_numpy(both.indices.astype(np.int32))
    return SparseRows(indptr, indices, torch.from_numpy(both.data), both.shape[1])
