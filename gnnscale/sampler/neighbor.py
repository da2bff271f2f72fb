"""Neighbour sampling: every layer reads a few drawn neighbours of each node.

Hamilton et al., NeurIPS 2017, arXiv:1706.02216 (GraphSAGE), Algorithm 2.

Departs from it: neighbours are drawn without replacement unless ``replace`` is set (the authors
cut the adjacency to 128 neighbours once and draw columns of that); "sum" is scaled by degree over
drawn neighbours, so that it estimates the operator of the whole graph without bias.
"""

import numba
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
from gnnscale.core.values import Count
from gnnscale.graph.induce import scratch
from gnnscale.graph.norm import entries, factors
from gnnscale.graph.walk import below, draw, take
from gnnscale.sampler._base import Sampler, seed_batches


@numba.njit(cache=True, nogil=True)
def _choose(stream, d, k, replace, taken, edges):
    """Fill ``edges`` [k] with numbers in [0, d), all subsets alike (Floyd's algorithm).

    ``taken`` [>= d] is all false before and after.
    """
    for i in range(k):
        if replace:
            edges[i] = below(stream, i, d)
            continue
        top = d - k + i
        t = below(stream, i, top + 1)
        edges[i] = top if taken[t] else t
        taken[edges[i]] = True
    if not replace:
        for i in range(k):
            taken[edges[i]] = False


@numba.njit(cache=True, nogil=True)
def _block(indptr, indices, targets, fanout, replace, loop, word, local):
    """One bipartite block: (starts, columns, edges, sources, scale).

    The targets are the first sources; new ones stand in the order of first appearance. A loop, if
    asked for, stands last in its row with edge -1. ``scale`` is degree / drawn neighbours: per row,
    or with loops per edge, 1 for the loops. ``local`` [N] int32 is all -1 before and after.
    """
    n, widest = len(targets), 0
    starts = np.zeros(n + 1, np.int64)
    for i in range(n):
        d = indptr[targets[i] + 1] - indptr[targets[i]]
        k = d if fanout < 0 or (d < fanout and not replace) or d == 0 else fanout
        starts[i + 1] = starts[i] + k + loop
        widest = max(widest, d)
        local[targets[i]] = i
    edges = np.empty(starts[n], np.int64)
    columns = np.empty(starts[n], np.int32)
    taken = np.zeros(widest, np.bool_)
    scale = np.ones(starts[n] if loop else n)
    for i in range(n):
        first = indptr[targets[i]]
        d = indptr[targets[i] + 1] - first
        at, end = starts[i], starts[i + 1] - loop
        if fanout < 0 or d == 0 or (d <= fanout and not replace):
            for e in range(end - at):
                edges[at + e] = first + e
        else:
            _choose(draw(word, targets[i]), d, end - at, replace, taken, edges[at:end])
            edges[at:end] += first
            if loop:
                scale[at:end] = d / (end - at)
            else:
                scale[i] = d / (end - at)
        if loop:
            edges[end] = -1
            columns[end] = i
    sources = np.empty(n + starts[n], np.int64)
    sources[:n] = targets
    found = n
    for e in range(starts[n]):
        if edges[e] >= 0:
            columns[e] = indices[edges[e]]
    for i in range(n):
        for e in range(starts[i], starts[i + 1] - loop):
            j = columns[e]
            if local[j] < 0:
                local[j] = found
                sources[found] = j
                found += 1
            columns[e] = local[j]
    for i in range(found):
        local[sources[i]] = -1
    return starts, columns, edges, sources[:found].copy(), scale


class Neighbor(Sampler):
    """A batch of seeds and, layer by layer, drawn in-neighbours of what the layer above needs.

    "sum" estimates sum_j w_ij m_j by d_i / k_i times the sum over the k_i drawn of d_i neighbours:
    unbiased per layer for every operator, with factors from the degrees of the training graph. Mean
    and the other set aggregators are plain on the sample. Fan-out -1 is exact.

    Args:
        fanouts: neighbours per node, from the input layer to the seeds (the last entry is nearest
            the seeds), or one number for every layer; -1: all.
        batch_size: seeds per step.
        replace: draw with replacement, exactly the fan-out per node that has neighbours.

    Raises: UsageError for a fan-out that is 0 or below -1, and in ``check`` if there is not one
    fan-out per layer.
    """

    gives = traits(Trait.HOPS, Trait.SHARDS)
    needs = (traits(Trait.NODE),)

    def __init__(
        self, fanouts: list[int] | int = 10, batch_size: Count = 1024, replace: bool = False
    ):
        self.fanouts, self.batch_size, self.replace = fanouts, batch_size, replace
        for f in [fanouts] if isinstance(fanouts, int) else fanouts:
            if f == 0 or f < -1:
                raise UsageError(
                    f"sampler.fanouts={_plain(fanouts)}: {f} is no number of neighbours; "
                    "choose 1 or more, or -1 for all, e.g. sampler.fanouts=10"
                )

    def check(self, need: Need) -> None:
        """One fan-out per layer."""
        given, depth = self.fanouts, need.depth
        if isinstance(given, int) or depth in (0, len(given)):
            return
        better = (list(given) + [(given or [10])[-1]] * depth)[:depth]
        raise UsageError(
            f"sampler.fanouts={_plain(given)}: the model has {depth} message-passing layers; "
            f"give one fan-out per layer, e.g. sampler.fanouts={_plain(better)}"
        )

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Compute the operator's factors and match fan-outs to layers."""
        self.check(need)
        one = isinstance(self.fanouts, int)
        self.per_layer = [self.fanouts] * need.depth if one else self.fanouts
        self.data, self.need = data, need
        self.factors = factors(data.graph, need, data.x.dtype, data.weight)
        self.labeled = data.mask("train")

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every seed once, in random order; the last batch may be smaller."""
        return seed_batches(seeds, self.batch_size, key)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The blocks under the seeds ``index``."""
        word = np.uint64(key.at("neighbor", key.epoch, key.step).word)
        nodes, hops = index.long(), []
        for layer in reversed(range(self.need.depth)):
            hop, nodes = self._hop(nodes, self.per_layer[layer], np.uint64(draw(word, layer)))
            hops.append(hop)
        data = self.data
        return Batch(
            x=take(data.x, nodes), hops=tuple(reversed(hops)), nodes=nodes,
            rows=torch.arange(len(index)), ids=index, y=take(data.y, index),
            labeled=take(self.labeled, index), key=(key.seed, key.epoch, key.step),
        )  # fmt: skip

    def _hop(self, targets: Tensor, fanout: int, word: np.uint64) -> tuple[Hop, Tensor]:
        adj, loop = self.data.graph, self.need.loops == "edges"
        arrays = _block(
            adj.indptr.numpy(), adj.indices.numpy(), targets.numpy(), fanout, self.replace,
            loop, word, scratch(adj.n_src),
        )  # fmt: skip
        indptr, columns, edges, nodes, scale = (torch.from_numpy(a) for a in arrays)
        graph, scale = Adjacency(indptr, columns, len(nodes), edges), scale.to(self.data.x.dtype)
        src, dst, diag = self.factors
        src = None if src is None else take(src, nodes)
        dst, diag = (None if f is None else take(f, targets) for f in (dst, diag))
        weight = entries(graph, self.data.weight, self.data.x.dtype)
        if fanout > 0 and not loop:
            dst = scale if dst is None else dst * scale
        elif fanout > 0:  # with loops the scale is per edge: a loop is always there
            weight = scale if weight is None else weight * scale
        hop = Hop(
            graph, src=src, dst=dst, weight=weight,
            diag=diag, degree=take(self.data.graph.in_degree, nodes),
        )  # fmt: skip
        return hop, nodes


def _plain(fanouts: list[int] | int) -> str:
    return str(fanouts).replace(" ", "")
