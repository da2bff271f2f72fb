"""Degree-Quant: nodes of high degree are often kept in full precision while training."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop
from gnnscale.core.ops.codes import fake_around
from gnnscale.core.random import Key
from gnnscale.core.site import Rows, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.values import Share
from gnnscale.graph.whole import training_graph
from gnnscale.quantization._fake import Coding, FakeQuant, Tracker
from gnnscale.quantization.qat import QAT


class Protection:
    """Which rows of a step are protected: node i with probability p_i, the same in all layers.

    p_i = p_min + (p_max - p_min) F(d_i), F(d): the share of nodes whose in-degree is at most d, in
    the graph that training sees; of graphs: in the node's own graph. The draw is a function of the
    seed that torch's generator was given for the step and takes nothing from that generator.

    Args:
        p_min, p_max: see above. degrees: [N] of the training graph; None: each graph by itself.
    """

    def __init__(self, p_min: float, p_max: float, degrees: Tensor | None):
        self.p_min, self.p_max = p_min, p_max
        self._last: tuple[Any, ...] = ()
        self.ranked = None if degrees is None else degrees.sort().values

    def probability(self, degree: Tensor, segment: Tensor | None) -> Tensor:
        """p_i of nodes by their in-degree [n], and owner graph [n] where graphs rank apart."""
        if self.ranked is None:
            assert segment is not None
            # by graph, then by degree: ranks within a graph are places behind its first node
            key = segment.long() * (int(degree.max()) + 1 if len(degree) else 1) + degree
            first = torch.searchsorted(segment.sort().values, segment)
            last = torch.searchsorted(segment.sort().values, segment, right=True)
            below = torch.searchsorted(key.sort().values, key, right=True)
            share = (below - first) / (last - first).clamp(min=1)
        else:
            ranked = self.ranked.to(degree.device)
            share = torch.searchsorted(ranked, degree, right=True) / max(len(ranked), 1)
        return self.p_min + (self.p_max - self.p_min) * share

    def mask(self, hop: Hop) -> Tensor:
        """Whether each source is protected, [n_src]."""
        assert hop.degree is not None
        seed, last = torch.initial_seed(), self._last
        if not (last and last[0] == seed and last[1] is hop.degree and last[2] is hop.segment):
            p = self.probability(hop.degree, hop.segment)
            mask = torch.rand(len(p), generator=Key(seed, "protect").torch()).to(p.device) < p
            self._last = last = (seed, hop.degree, hop.segment, mask)
        return last[3]

    def rows(self, hop: Hop, kind: Rows, n: int) -> Tensor | None:
        """Whether each of ``n`` rows is protected, [n]; None: the rows have no degrees."""
        if hop.degree is None or kind == "none":
            return None
        mask = self.mask(hop)
        if kind == "edges":
            return mask[hop.graph.indices.long()]  # by the source, as messages are
        missing = n - len(mask)  # rows of histories, which have been coded already
        return mask[:n] if missing <= 0 else torch.cat([mask, mask.new_zeros(missing)])


class Protected(FakeQuant):
    """Fake quantization that leaves protected rows alone in training, and out of its range.

    Args:
        protection: which rows. kind: whose rows the site's are. Others: ``FakeQuant``.
    """

    def __init__(self, coding: Coding, protection: Protection, kind: Rows):
        super().__init__(coding)
        self.protection, self.kind = protection, kind

    def forward(self, x: Any, hop: Hop | None = None) -> Any:
        """Shapes: [n, ...] -> the same."""
        mask = None
        if self.training and hop is not None and self.protection.p_max > 0:
            mask = self.protection.rows(hop, self.kind, len(x))
        if mask is None:
            return super().forward(x, hop)
        self.track(x, (~mask).nonzero().view(-1))
        if not self.seen:
            return x
        if isinstance(x, SparseRows):
            of_entry = mask[x.rows.dst.long()]
            return SparseRows.of(x.rows, self._coded_around(x.values, of_entry))
        return self._coded_around(x, mask)

    def _coded_around(self, x: Tensor, kept: Tensor) -> Tensor:
        exact = x.dtype in (torch.float32, torch.float64)
        y = fake_around(x if exact else x.float(), kept, self.grid, self.coding.straight)
        return y if exact else y.to(x.dtype)


@dataclass(eq=False, repr=False)
class Degree(QAT):
    """Quantization-aware training with protected nodes (Degree-Quant).

    Tailor, Fernandez-Marques & Lane, ICLR 2021, arXiv:2008.05000, alg. 1 and the authors' code: in
    each training step a node is protected with a probability that rises with its in-degree, its
    rows of inputs, messages, attention, aggregates and updates stay in float; ranges are those of
    percentiles of the other rows. Weights are always quantized, and in evaluation everything is.
    Maps inside a layer that are no message passing (GIN's perceptron) protect nothing.

    Args:
        p_min, p_max: probabilities of the lowest and the highest rank. Others: ``QAT``.

    Raises: UsageError if p_min exceeds p_max.
    """

    range: Tracker = "percentile"
    p_min: Share = 0.0
    p_max: Share = 0.1

    def __post_init__(self) -> None:
        if self.p_min > self.p_max:
            raise UsageError(
                f"quantization.p_min={self.p_min}: must not exceed quantization.p_max={self.p_max}"
            )
        self.protection = Protection(self.p_min, self.p_max, None)

    def prepare(self, data: GraphData) -> None:
        """Rank the degrees of the graph that training sees."""
        degrees = None if data.offsets is not None else training_graph(data)[0].graph.in_degree
        self.protection = Protection(self.p_min, self.p_max, degrees)

    def fill(self, site: Site, coding: Coding, channels: int | None) -> FakeQuant:
        """The module of a site."""
        if site.role == "weight":
            return super().fill(site, coding, channels)
        return Protected(coding, self.protection, site.rows)
