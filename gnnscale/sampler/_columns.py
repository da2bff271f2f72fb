"""What LADIES and FastGCN share: nodes drawn once for a whole layer."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop, Need
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count
from gnnscale.graph.drawn import among, races, units
from gnnscale.graph.induce import scratch
from gnnscale.graph.walk import take
from gnnscale.sampler._layered import Estimate, Layered

NONE = np.empty(0)
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


class Columns(Layered):
    """A layer's sources are s nodes v drawn with probability p_v for all targets together.

    L is the operator of the model, L_iv = dst_i w_iv src_v, without the self entries where the
    model keeps these apart (``loops="diag"``) or as edges: they are exact and never drawn. For the
    same reason the targets are always among the sources.

    unbiased: s draws with replacement; an edge from v has L_iv n_v / (s p_v), n_v the number of
        times that v was drawn. Every linear aggregator is estimated without bias.
    authors: what acbull/LADIES runs: s draws without replacement, L_iv / p_v, then every row
        scaled to what it sums to in the whole graph (there: to 1, self entry included). Biased.

    At least as many nodes as there are candidates, or -1, takes all of them and is exact.

    Args:
        nodes: s per layer, from the input to the seeds, or one number; -1: all.
        batch_size: seeds per step.
        estimator: unbiased or authors.
    """

    needs = (traits(Trait.NODE, Trait.LINEAR),)
    key = "nodes"
    what = ("number of nodes", "number of nodes")

    def __init__(
        self,
        nodes: list[int] | int = 512,
        batch_size: Count = 512,
        estimator: Literal["unbiased", "authors"] = "unbiased",
    ):
        super().__init__(nodes, batch_size)
        self.unbiased = estimator == "unbiased"

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Also the factors of L as arrays, and what each of its rows sums to."""
        super().prepare(data, need, key)
        self.entries = tuple(
            NONE if f is None else f.double().numpy()
            for f in (self.factors.src, self.factors.dst, data.weight)
        )
        if not self.unbiased:
            mass = self._mass(data.graph.indices, None)
            dst = data.graph.dst.numpy()
            self.sums = np.bincount(dst, weights=mass, minlength=data.nodes)

    def _mass(self, columns: Tensor, edges: Tensor | None) -> np.ndarray:
        """[E] L_iv / dst_i of edges of the whole graph whose sources are ``columns``."""
        src, _, weight = self.entries
        mass = src[columns.numpy()] if len(src) else np.ones(len(columns))
        if len(weight):
            mass = mass * (weight if edges is None else weight[edges.numpy()])
        return mass

    def draws(self, targets: Tensor, s: int, word: np.uint64) -> Drawn | None:
        """(nodes drawn [U], gain of each, gain of targets not drawn [n]); None: all nodes."""
        raise NotImplementedError

    def hop(self, layer: int, targets: Tensor, word: np.uint64) -> tuple[Hop, Tensor]:
        """The edges into ``targets`` from the layer's nodes."""
        adj, s = self.data.graph, self.per_layer[layer]
        drawn = None if s < 0 else self.draws(targets, s, word)
        if drawn is None:
            return self.assemble(targets, self.everything(targets), Estimate)
        block = among(
            adj.indptr.numpy(), adj.indices.numpy(), targets.numpy(), *drawn, self.loop,
            scratch(adj.n_src),
        )  # fmt: skip
        if not self.unbiased:
            block = self._normalised(targets, block)
        return self.assemble(targets, block, Estimate, "edges")

    def _normalised(self, targets: Tensor, block: tuple) -> tuple:
        """The same edges, scaled so that every row sums to its sum in the whole graph."""
        starts, columns, edges, nodes, scale = block
        real = edges >= 0
        mass = np.zeros(len(edges))
        at = torch.from_numpy(nodes[columns[real]]), torch.from_numpy(edges[real])
        mass[real] = self._mass(*at) * scale[real]
        row = np.repeat(np.arange(len(targets)), np.diff(starts))
        found = np.bincount(row, weights=mass, minlength=len(targets)).astype(float)  # int if empty
        wanted = take(torch.from_numpy(self.sums), targets).numpy()
        factor = np.divide(wanted, found, out=np.zeros_like(found), where=found != 0)
        return starts, columns, edges, nodes, np.where(real, scale * factor[row], scale)


def weighted_draw(
    mass: np.ndarray, names: np.ndarray, s: int, unbiased: bool, word: np.uint64
) -> tuple[np.ndarray, np.ndarray]:
    """(places of the nodes drawn, gain of each), p = mass / sum(mass); s < the number of places.

    Unbiased: gain n / (s p), n being how often it was drawn with replacement. Otherwise s distinct
    ones of those with p > 0, with gain 1 / p. ``names``: the node of each place, by which the
    second kind is drawn.
    """
    total = mass.sum()
    if unbiased:
        edge = np.cumsum(mass)
        at = np.searchsorted(edge, units(word, s) * edge[-1], side="right")
        places, times = np.unique(np.minimum(at, len(edge) - 1), return_counts=True)
        return places, times * total / (s * mass[places])
    s = min(s, int(np.count_nonzero(mass)))
    places = np.sort(np.argpartition(races(mass, names, word), s - 1)[:s])
    return places, total / mass[places]
