"""GraphSAINT: train on random induced subgraphs, with the bias of the draw divided out.

Zeng et al., ICLR 2020, arXiv:1907.04931; defaults and details follow the authors' code.

Departs from them:
- Subgraph k is a function of (seed, k). The first S subgraphs give the counts and are the first S
  training steps, as in the authors' code, yet no pool is kept: each is drawn again when needed.
- Roots and nodes come from the whole training graph, and all nodes of a subgraph are in the batch.
  On inductive data that is the paper's V_train; on transductive data unlabelled nodes take part in
  propagation, and the loss is still the mean over labelled ones.
- The correction multiplies whatever operator the model asks for; the paper's is D^-1 A ("row").
- The pool stops at the first subgraph that reaches the coverage, not at the next multiple of 200.
"""

import math
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Positive
from gnnscale.graph import walk
from gnnscale.graph.induce import induce
from gnnscale.graph.norm import factors, with_loops
from gnnscale.sampler._base import Sampler

BLOCK = 64
"""Subgraphs counted at a time, one bit each."""


class Saint(Sampler):
    """What the four samplers share: counts over a pool of subgraphs, and the weights they give.

    With S subgraphs in the pool, C_v of them holding node v and C_vu holding edge u -> v:
        edge weight 1 / alpha_vu = min(C_v / C_vu, 1e4)                 (eq. 2: unbiased sums)
        loss weight S / (C_v |V_train|), C_v = 0 taken as 0.1           (eq. 3: unbiased mean loss)
    An edge that the pool never held counts as held once when a later subgraph holds it (a node
    without a count then gives 0.1). The authors' code gives 1e4, and their runs mostly end before
    their pool does; trained beyond the pool, that multiplies the error of the aggregate by 30 to
    160 (measured: 169k nodes, 2.4M edges, coverage 50), where counting it once adds 20 to 41 %.
    A self entry needs no correction: v is in every subgraph that v is in. Attention and plain
    aggregators (mean, max) see the induced edges uncorrected.

    Args:
        budget: nodes per subgraph, counted with repetition; sets the steps per epoch.
        width: draws per subgraph.
        coverage: the pool grows until its subgraphs hold more than coverage * N nodes in all.
        steps: per epoch; None: ceil(N / budget).
    """

    gives = traits(Trait.HOPS, Trait.SQUARE, Trait.SHARDS)
    needs = (traits(Trait.NODE),)
    one: ClassVar
    """Compiled draw of one subgraph."""
    many: ClassVar
    """The same for a block of them, in parallel."""

    def __init__(self, budget: int, width: int, coverage: float, steps: int | None):
        self.budget, self.width, self.coverage, self.steps = budget, width, coverage, steps

    def tables(self, adj: Adjacency) -> tuple:
        """The first arguments of ``one`` and ``many``."""
        raise NotImplementedError

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Draw the pool and keep only its counts: S, C_v [N] and C_e [E]."""
        adj = data.graph
        self.data, self.need, self.word = data, need, np.uint64(Key(key.seed, "saint").word)
        self.arguments = self.tables(adj)
        self.factors = factors(adj, need, data.x.dtype, data.weight)
        self.labeled = data.mask("train")
        self.per_epoch = self.steps or math.ceil(data.nodes / self.budget)
        indptr, indices = adj.indptr.numpy(), adj.indices.numpy()
        c_v = np.zeros(data.nodes, np.int32)
        c_e = np.zeros(adj.n_edges if need.depth else 0, np.int32)
        marks = np.zeros(data.nodes, np.uint64)
        out = np.empty((BLOCK, self.width), np.int32)
        size, total, limit = 0, 0, self.coverage * data.nodes
        while total <= limit:
            self.many(*self.arguments, self.word, size, out)
            marks[:] = 0
            drawn, total = walk.mark(out, marks, total, limit)
            walk.count(indptr, indices, marks, c_v, c_e)
            size += drawn
        self.size, self.c_v, self.c_e = size, torch.from_numpy(c_v), torch.from_numpy(c_e)

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """The numbers of the epoch's subgraphs: they go on counting from epoch to epoch."""
        first = key.epoch * self.per_epoch
        return list(torch.arange(first, first + self.per_epoch).split(1))

    def nodes(self, k: int) -> Tensor:
        """The nodes of subgraph k, ascending. [n] int64."""
        out = np.empty(self.width, np.int32)
        self.one(*self.arguments, np.uint64(walk.draw(self.word, k)), out)
        out.sort()
        first = np.append(True, out[1:] != out[:-1])
        return torch.from_numpy(out[first].astype(np.int64))

    def sample(self, index: Tensor, key: Key) -> Batch:
        """Subgraph ``index``; all its nodes are seeds."""
        data, nodes = self.data, self.nodes(int(index))
        c_v, rows = walk.take(self.c_v, nodes), torch.arange(len(nodes))
        seen = c_v.to(data.x.dtype).masked_fill(c_v == 0, walk.UNSEEN)
        labeled_nodes = max(len(data.splits["train"]), 1)
        return Batch(
            x=walk.take(data.x, nodes), nodes=nodes, rows=rows, ids=nodes,
            hops=(self._hop(nodes, c_v),) * self.need.depth if self.need.depth else (),
            y=walk.take(data.y, nodes), labeled=walk.take(self.labeled, nodes),
            weight=self.size / (seen * labeled_nodes), key=(key.seed, key.epoch, key.step),
        )  # fmt: skip

    def _hop(self, nodes: Tensor, c_v: Tensor) -> Hop:
        graph = induce(self.data.graph, nodes)
        assert graph.edges is not None
        weight = torch.empty(graph.n_edges, dtype=self.data.x.dtype)
        walk.correction(
            graph.indptr.numpy(), graph.edges.numpy(), c_v.numpy(), self.c_e.numpy(),
            weight.numpy(),
        )  # fmt: skip
        if self.data.weight is not None:
            weight = weight * walk.take(self.data.weight, graph.edges)
        if self.need.loops == "edges":
            graph = with_loops(graph)
            weight = weight.new_ones(graph.n_edges).masked_scatter(graph.edges >= 0, weight)
        src, dst, diag = (None if f is None else walk.take(f, nodes) for f in self.factors)
        degree = walk.take(self.data.graph.in_degree, nodes)
        return Hop(graph, src=src, dst=dst, weight=weight, diag=diag, degree=degree)


class SaintWalk(Saint):
    """Random walks (sec. 3.4, Algorithm 1 "RW"), along in-edges; a walk stays put at a dead end.

    Args:
        roots: walks per subgraph, from uniform nodes drawn with replacement.
        length: steps of each walk.
        coverage, steps: see ``Saint``; the budget is roots * length.
    """

    one, many = staticmethod(walk.walk), staticmethod(walk.walk_pool)

    def __init__(
        self,
        roots: Count = 300,
        length: Count = 4,
        coverage: Positive = 50.0,
        steps: Count | None = None,
    ):
        super().__init__(roots * length, roots * (length + 1), coverage, steps)
        self.roots, self.length = roots, length

    def tables(self, adj: Adjacency) -> tuple:
        """The graph's rows, roots and length."""
        return adj.indptr.numpy(), adj.indices.numpy(), self.roots, self.length


class SaintNode(Saint):
    """Nodes drawn with replacement. Nodes of probability 0 are never drawn.

    Args:
        nodes: draws per subgraph.
        probability: ``degree``: by in-degree (the authors' code); ``column_norm``: by the sum over
            targets i of v of 1 / d_i^2, the squared norm of column v of D^-1 A (the paper,
            sec. 3.4). A graph without edges falls back to uniform nodes.
        coverage, steps: see ``Saint``; the budget is ``nodes``.
    """

    one, many = staticmethod(walk.pick), staticmethod(walk.pick_pool)

    def __init__(
        self,
        nodes: Count = 900,
        probability: Literal["degree", "column_norm"] = "degree",
        coverage: Positive = 50.0,
        steps: Count | None = None,
    ):
        super().__init__(nodes, nodes, coverage, steps)
        self.probability = probability

    def tables(self, adj: Adjacency) -> tuple:
        """Alias tables of the distribution."""
        if self.probability == "degree":
            p = adj.in_degree.double()
        else:
            norms = adj.in_degree.double().clamp(min=1).pow(-2)[adj.dst]
            p = torch.bincount(adj.indices, weights=norms, minlength=adj.n_src)
        return walk.alias((p if p.sum() > 0 else torch.ones_like(p)).numpy())


class SaintEdge(Saint):
    """Both ends of edges drawn with replacement.

    Over directed edges, u -> v has p ~ 1 / d_v, the size of its entry of D^-1 A (Theorem 3.2).
    Where every edge has its reverse, as in the paper, that is p ~ 1 / d_u + 1 / d_v over undirected
    edges. Drawn as a uniform node with in-edges, then a uniform one of its in-edges. The paper's
    analysis keeps every edge independently; the authors' code draws with replacement, as here.

    Args:
        edges: draws per subgraph.
        coverage, steps: see ``Saint``; the budget is 2 * edges.

    Raises: UsageError in ``prepare`` if the training graph has no edges.
    """

    one, many = staticmethod(walk.pairs), staticmethod(walk.pairs_pool)

    def __init__(
        self, edges: Count = 500, coverage: Positive = 50.0, steps: Count | None = None
    ):  # fmt: skip
        super().__init__(2 * edges, 2 * edges, coverage, steps)

    def tables(self, adj: Adjacency) -> tuple:
        """The graph's rows, and which of them are not empty."""
        if adj.n_edges == 0:
            raise UsageError(
                "sampler=saint_edge: the training graph has no edges to draw; "
                "choose a sampler that draws nodes, e.g. sampler=saint_node"
            )
        return adj.indptr.numpy(), adj.indices.numpy(), adj.in_degree.nonzero().squeeze(1).numpy()


class SaintMRW(Saint):
    """Multi-dimensional random walk (frontier sampling; sec. 3.4, Algorithm 1 "MRW").

    A frontier of uniform nodes; at each step one of its nodes, chosen by in-degree, is replaced by
    a uniform in-neighbour, until budget nodes have been in it. As in the authors' code a step adds
    the neighbour; the paper adds the node it replaces.

    Args:
        frontier: nodes in the frontier, drawn with replacement.
        budget: draws per subgraph, the first frontier among them.
        degree_clip: degrees count as at most this in the choice; None: no limit.
        coverage, steps: see ``Saint``.

    Raises: UsageError if the frontier exceeds the budget.
    """

    one, many = staticmethod(walk.frontier), staticmethod(walk.frontier_pool)

    def __init__(
        self,
        frontier: Count = 100,
        budget: Count = 900,
        degree_clip: Count | None = None,
        coverage: Positive = 50.0,
        steps: Count | None = None,
    ):
        if frontier > budget:
            raise UsageError(
                f"sampler.frontier={frontier}: the first frontier counts towards "
                f"sampler.budget={budget}; choose sampler.frontier={budget} or less"
            )
        super().__init__(budget, budget, coverage, steps)
        self.frontier, self.degree_clip = frontier, degree_clip

    def tables(self, adj: Adjacency) -> tuple:
        """The graph's rows, the frontier's size and the clip."""
        clip = self.degree_clip or adj.n_edges
        return adj.indptr.numpy(), adj.indices.numpy(), self.frontier, clip
