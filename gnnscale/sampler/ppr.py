"""PPRGo's batches: every seed beside the nodes of its largest PageRank scores.

Bojchevski et al., KDD 2020, arXiv:2007.01570; defaults and details follow the authors' code.

Departs from it:
- Batches are drawn in a new order every epoch; the authors' code makes them once, in the order of
  the training nodes, and never shuffles (``shuffle=false`` is that).
- Edges with weights are walked by weight (see ``graph.push``).
- Inference of a subset (their ``inf_fraction``) is left out: predictions are of the rows asked for.
- Validation, too, is by ``predict`` (there: by pushed rows, of a part of the split).
- Residuals push round by round, not in a stack's order (see ``graph.push``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.cache import cached, content
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Positive, Whole
from gnnscale.graph.block import block
from gnnscale.graph.push import degrees, normalized, push
from gnnscale.graph.walk import take
from gnnscale.sampler._base import Sampler, seed_batches


@dataclass(frozen=True)
class PowerHop(Hop):
    """Power iteration as one step: Z <- (1 - alpha) A^ Z + alpha H, ``steps`` times from Z = H.

    A^ is the hop's own operator. The limit is alpha (I - (1 - alpha) A^)^-1 H, which is approached
    as (1 - alpha)^steps (arXiv:2007.01570, eq. 6).
    """

    alpha: float = 0.25
    steps: int = 2

    own = frozenset({"sum"})
    scales = False

    def _operator(self, m: Tensor) -> Tensor:
        z = m
        for _ in range(self.steps):
            z = (1 - self.alpha) * super()._operator(z) + self.alpha * m
        return z


@dataclass
class Table:
    """PageRank rows of some nodes of one graph: empty rows elsewhere.

    data: the graph. degree: [N] row sums. done: [N] bool, whose rows are there. rows, scores: the
    rows as edges target -> source, with the normalised score of each.
    """

    data: GraphData
    degree: Tensor
    done: Tensor
    rows: Adjacency
    scores: Tensor


class Ppr(Sampler):
    """Seeds and, per seed s, the k nodes t with the largest approximate PageRank pi_st.

    The one hop has the seeds as destinations and "sum" gives sum_t pi_st h_t, whatever operator the
    model names. Scores are not renormalised after the cut. Rows are pushed once for the training
    nodes (those of other seeds when they are first planned) and kept in the processed cache.

    Args:
        alpha: probability of return (teleport), not of going on. eps: residuals below alpha eps
            degree are left. top_k: k, capped at N.
        normalize: of which operator pi is the PageRank: ``row`` D^-1 A, ``sym`` D^-1/2 A D^-1/2,
            ``col`` A D^-1. No self-loops are added.
        batch_size: seeds per step. shuffle: a new order every epoch.
        predict: ``power``: a few steps of power iteration on the whole graph; ``push``: by the same
            top-k rows as in training, for every node asked for.
        steps: of the power iteration.
        cache: keep rows on disk, found there by the next run.

    Raises: UsageError for an alpha outside (0, 1), and in ``check`` for a model of several hops.
    """

    gives = traits(Trait.PPR, Trait.SHARDS)
    needs = (traits(Trait.NODE),)
    inference = "own"

    def __init__(
        self,
        alpha: float = 0.25,
        eps: Positive = 1e-4,
        top_k: Count = 32,
        normalize: Literal["row", "sym", "col"] = "sym",
        batch_size: Count = 512,
        shuffle: bool = True,
        predict: Literal["power", "push"] = "power",
        steps: Whole = 2,
        cache: bool = True,
    ):
        if not 0 < alpha < 1:
            raise UsageError(
                f"sampler.alpha={alpha}: the probability of return; valid: 0 < alpha < 1, "
                "e.g. sampler.alpha=0.25"
            )
        self.alpha, self.eps, self.top_k, self.normalize = alpha, eps, top_k, normalize
        self.batch_size, self.shuffle, self.predict = batch_size, shuffle, predict
        self.steps, self.cache = steps, cache
        self.predicting: Table | None = None
        self.whole: tuple[GraphData, Need, Batch] | None = None

    def check(self, need: Need) -> None:
        """One block of PageRank, no more."""
        if need.depth > 1:
            raise UsageError(
                f"architecture.depth: asks for {need.depth} hops, and sampler=ppr gives one block "
                "of PageRank; change the architecture to one that reads one, e.g. pprgo"
            )

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Push from the training nodes."""
        self.check(need)
        self.need, self.labeled = need, data.mask("train")
        self.table = self._new(data)
        if need.depth:
            self._extend(self.table, data.splits["train"])

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every seed once; the last batch may be smaller."""
        if self.need.depth:
            self._extend(self.table, seeds)
        if self.shuffle:
            return seed_batches(seeds, self.batch_size, key)
        return list(seeds.split(self.batch_size))

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The block over the seeds ``index``."""
        batch = self._batch(self.table, self.need, self.labeled, index)
        return replace(batch, key=(key.seed, key.epoch, key.step))

    def batches(self, data: GraphData, need: Need, rows: Tensor) -> Iterator[Batch]:
        """The whole graph under power iteration, or blocks of pushed rows."""
        if self.predict == "power" and need.depth:
            yield self._seeded(self._power(data, need), rows)
            return
        if self.predicting is None or self.predicting.data is not data:
            self.predicting = self._new(data)
        if need.depth:
            self._extend(self.predicting, rows)
        labeled = data.mask("train")
        for ids in rows.split(4 * self.batch_size):
            yield self._batch(self.predicting, need, labeled, ids)

    # -- pushed rows ------------------------------------------------------------------------------

    def _new(self, data: GraphData) -> Table:
        n, empty = data.nodes, torch.empty(0, dtype=torch.int32)
        rows = Adjacency(torch.zeros(n + 1, dtype=torch.int64), empty, n)
        done = torch.zeros(n, dtype=torch.bool)
        return Table(
            data, degrees(data.graph, data.weight), done, rows, torch.empty(0, dtype=data.x.dtype)
        )

    def _extend(self, table: Table, seeds: Tensor) -> None:
        """Add the rows of ``seeds`` that are not there."""
        new = seeds[~table.done[seeds]].unique()
        if not len(new):
            return
        indptr, targets, scores = self._pushed(table.data, new)
        sources = torch.repeat_interleave(new, indptr.diff())
        scores = normalized(scores, sources, targets, table.degree, self.normalize)
        counts = table.rows.in_degree.clone()
        counts[new] = indptr.diff()
        # old and new rows one below the other, put into the order of the nodes
        owner = torch.cat([table.rows.dst.long(), sources])
        order = owner.argsort(stable=True)
        starts = torch.zeros(table.data.nodes + 1, dtype=torch.int64)
        torch.cumsum(counts, 0, out=starts[1:])
        columns = torch.cat([table.rows.indices, targets])[order]
        table.scores = torch.cat([table.scores, scores.to(table.scores.dtype)])[order]
        table.rows = Adjacency(starts, columns, table.data.nodes)
        table.done[new] = True

    def _pushed(self, data: GraphData, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(bounds, targets, scores) of D^-1 A's PageRank, from the cache if they are there."""
        options = {"alpha": self.alpha, "eps": self.eps, "top_k": min(self.top_k, data.nodes)}

        def make() -> dict[str, np.ndarray]:
            found = push(data.graph, sources, **options, weight=data.weight)
            return {n: getattr(found, n).numpy() for n in ("indptr", "nodes", "scores")}

        if self.cache:
            adj, weight = data.graph, None if data.weight is None else data.weight.numpy()
            key = {"ppr": 2, **options, "graph": content(
                adj.indptr.numpy(), adj.indices.numpy(), weight, sources.numpy())}  # fmt: skip
            made = cached(f"{data.name}-ppr", key, make)
        else:
            made = make()
        indptr, nodes, scores = (torch.from_numpy(made[n]) for n in ("indptr", "nodes", "scores"))
        return indptr, nodes, scores

    def _batch(self, table: Table, need: Need, labeled: Tensor, index: Tensor) -> Batch:
        index = index.long()
        # one row per node even where a node is asked for twice
        seeds, rows = index.unique(return_inverse=True)
        nodes, hops = seeds, ()
        if need.depth:
            graph, nodes = block(table.rows, seeds)
            degree = take(table.data.graph.in_degree, nodes)
            hops = (Hop(graph, weight=take(table.scores, graph.edges), degree=degree),)
        data = table.data
        return Batch(
            x=take(data.x, nodes), hops=hops, nodes=nodes, rows=rows, ids=index,
            y=take(data.y, index), labeled=take(labeled, index),
        )  # fmt: skip

    # -- power iteration --------------------------------------------------------------------------

    def _power(self, data: GraphData, need: Need) -> Batch:
        """The whole graph with A^ of the chosen norm; kept until another graph is asked for."""
        if self.whole is None or self.whole[0] is not data or self.whole[1] != need:
            d = degrees(data.graph, data.weight)
            inverse = torch.where(d > 0, 1 / d.clamp(min=torch.finfo(d.dtype).tiny), 0)
            half, one = (inverse.pow(p).to(data.x.dtype) for p in (0.5, 1.0))
            src, dst = {"row": (None, one), "sym": (half, half), "col": (one, None)}[self.normalize]
            weight = None if data.weight is None else data.weight.to(data.x.dtype)
            hop = PowerHop(
                data.graph, src, dst, weight, degree=data.graph.in_degree, alpha=self.alpha,
                steps=self.steps,
            )  # fmt: skip
            ids = torch.arange(data.nodes)
            batch = Batch(
                x=data.x, hops=(hop,), nodes=ids, rows=ids, ids=ids, y=data.y,
                labeled=data.mask("train"),
            )  # fmt: skip
            self.whole = (data, need, batch)
        return self.whole[2]

    def _seeded(self, whole: Batch, rows: Tensor) -> Batch:
        return replace(
            whole, rows=rows, ids=rows, y=whole.y[rows], labeled=whole.labeled[rows]
        )  # fmt: skip
