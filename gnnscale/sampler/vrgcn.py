"""VR-GCN: a few drawn neighbours, and every neighbour's history as a control variate.

Chen, Zhu & Song, "Stochastic Training of Graph Convolutional Networks with Variance Reduction",
ICML 2018, arXiv:1710.10568; details follow the authors' code.

Departs from it:
- A node's own entry (``diag``) is exact; there, it is one entry of the row that may be drawn.
- Dropout stands before the aggregation (Kipf & Welling's order), not before the linear map after
  it. What a level keeps in its history is what that dropout reads, so that CV's histories hold the
  noise of the layers below, as theirs do, but none of their own level.
- Preprocessing with dropout drops entries of P X, as theirs does.
- Validation and test are exact; there, they run an estimator too (``test_cv``, ``test_degree``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core import ops
from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops import full
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.sparse import cat, dense
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count
from gnnscale.graph.drawn import neighbors
from gnnscale.graph.induce import scratch
from gnnscale.graph.norm import entries
from gnnscale.graph.propagate import propagated
from gnnscale.graph.walk import take
from gnnscale.sampler._channels import Channels, History, Read, doubled
from gnnscale.sampler._layered import Layered


@dataclass(frozen=True, kw_only=True)
class ControlVariateHop(Channels):
    """n_i / D_i times drawn neighbours of m(h) - m(h_old), plus all neighbours of m(h_old).

    With P the operator, S the D_i drawn of n_i neighbours, h_old histories (zero before the first):
        CV:  z_i = n_i / D_i sum_S P_ij (m(h_j) - m(h_old_j)) + sum_N(i) P_ij m(h_old_j)
        CVD: mu_i as z_i with mu for h; h_i = (n_i / D_i)^1/2 sum_S P_ij (m(h_j) - m(mu_j)) + mu_i
    The root keeps the variance of dropout's noise that of the exact sum. ``message`` is applied to
    histories too: that is exact wherever a layer puts its weights, and costs one product with the
    rows of all neighbours where they stand before the aggregation. Weights get their gradient from
    all terms, h only from its own.

    whole: all in-edges of the same destinations. ids: [m] the nodes of its sources. place: [n]
    where the drawn sources stand among these. nodes: [n] the drawn sources. ratio: [n_dst] n / D.
    n counts nodes, not rows. through: let gradients pass through mu as well. ``degree`` goes on
    with that of ``ids``, since the message reads histories below the rows of h.
    """

    whole: Hop
    ids: Tensor
    place: Tensor
    nodes: Tensor
    ratio: Tensor
    through: bool = False
    history: History | None = None
    write: bool = False

    def lift(self, h: Tensor) -> Tensor:
        """Note rows for the history, and cut mu off from the layers below."""
        if self.write:
            assert self.history is not None
            at = slice(None) if self.channels == 1 else torch.arange(1, len(h), 2, device=h.device)
            self.history.note(self.nodes, dense(h[at]).detach())
        if self.channels == 1 or self.through or not isinstance(h, Tensor):
            return h
        noisy, mu = h.reshape(-1, 2, h.shape[1]).unbind(1)
        return torch.stack([noisy, mu.detach()], 1).flatten(0, 1)

    attends = False

    def reduce(
        self,
        message: Callable[[Tensor], Tensor],
        h: Tensor,
        op: str | tuple[str, ...] = "sum",
        weight: Tensor | None = None,
    ):
        """As ``Hop.reduce``, for the linear aggregators "sum", "add" and "mean"."""
        names = (op,) if isinstance(op, str) else op
        if weight is not None or set(names) - {"sum", "add", "mean"}:
            raise ValueError(f"control variates need aggregators that are linear, not {op}")
        assert self.history is not None
        h = dense(h)
        # one call, so that a quantizer in the message sees one tensor and one range
        both = full(message(torch.cat([h, self.history.pull(self.ids, h)])))
        m, old = both.split([len(h), len(self.ids)])
        found = tuple(self._estimate(m, old, name) for name in names)
        return found[0] if isinstance(op, str) else found

    def beside(
        self, message: Callable[[Tensor], Tensor], h: Tensor, names: tuple[str, ...]
    ) -> Tensor:
        """As ``Hop.beside``."""
        found = self.reduce(message, h, names)
        return torch.cat(found, 1) if len(found) > 1 else found[0]

    def _estimate(self, m: Tensor, old: Tensor, op: str) -> Tensor:
        known, past = self.whole._reduce(old, op, None), old.index_select(0, self.place)
        if self.channels == 1:
            return self._drawn(m - past, op, self.ratio) + known
        noisy, mu = m.reshape(-1, 2, m.shape[1]).unbind(1)
        both = torch.stack([noisy - mu, mu - past], 1).flatten(0, 1)
        scale = torch.stack([self.ratio.sqrt(), self.ratio], 1).flatten()
        noise, mean = self._drawn(both, op, scale).view(-1, 2, m.shape[1]).unbind(1)
        mean = mean + known
        return torch.stack([noise + mean, mean], 1).flatten(0, 1)

    def _drawn(self, m: Tensor, op: str, scale: Tensor) -> Tensor:
        """The drawn neighbours' part of an aggregator, scaled by row; own entries unscaled."""
        if op == "sum":
            z = replace(self, diag=None)._operator(m) * scale.unsqueeze(1)
            return z if self.diag is None else torch.addcmul(z, m[: len(z)], self.diag.unsqueeze(1))
        z = ops.total(self.graph, m) * scale.unsqueeze(1)
        if op == "mean":
            count = self.whole.graph.in_degree.clamp(min=1).repeat_interleave(self.channels)
            z = z / count.to(m.dtype).unsqueeze(1)
        return z


class VRGCN(Layered):
    """Neighbour sampling whose error vanishes as the histories h_old approach h.

    A level's history holds what every node last brought into its aggregation during training, zero
    at first, and is written after the optimizer's step with the values of the step's forward pass.
    Only aggregators that are linear in the messages can be estimated so.

    Args:
        fanouts: D, neighbours drawn without replacement besides the node itself, from the input to
            the seeds or one number (under preprocessing the first is not used); -1: all.
        batch_size: seeds per step.
        mode: ``cv`` (histories of h, dropout's noise in them) or ``cvd`` (histories of mu, which
            the same weights compute without dropout; twice the work per drawn node). Batch norm
            takes its statistics over both channels.
        preprocess: P X once, in place of the first layer's sampling, where the first layer reads
            raw features: ``auto``; ``always`` refuses other models; ``never``. Memory: as X.
        fill: ``zero``, or ``exact``: from inference before training and again at every evaluation.
        through_mu: let gradients pass through mu as well. The authors stop them, which leaves the
            gradient of h short by a factor (D / n)^1/2; with them it is unbiased.

    Raises: as ``Layered``; UsageError for a model whose self-loops are edges, and for ``always``
    with a model that has a stem.
    """

    gives = traits(Trait.HOPS)
    needs = (traits(Trait.NODE, Trait.LINEAR),)
    purpose = "vrgcn"

    def __init__(
        self,
        fanouts: list[int] | int = 2,
        batch_size: Count = 1000,
        mode: Literal["cv", "cvd"] = "cvd",
        preprocess: Literal["auto", "always", "never"] = "auto",
        fill: Literal["zero", "exact"] = "zero",
        through_mu: bool = False,
    ):
        super().__init__(fanouts, batch_size)
        self.channels, self.preprocess = 2 if mode == "cvd" else 1, preprocess
        self.histories, self.through_mu = fill == "exact", through_mu

    def check(self, need: Need) -> None:
        """Own entries apart from the edges; preprocessing only of raw features."""
        super().check(need)
        if need.loops == "edges":
            raise UsageError(
                "sampler=vrgcn: the model's self-loops are edges, which would be drawn; type "
                "architecture.self_loops=symadd, or choose another sampler, e.g. sampler=neighbor"
            )
        if self.preprocess == "always" and need.stem:
            raise UsageError(
                "sampler.preprocess=always: the model's first aggregation reads learned rows "
                "(architecture.stem=true); type sampler.preprocess=auto or architecture.stem=false"
            )

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Also P X, and empty histories."""
        super().prepare(data, need, key)
        self.reads = need.depth > 0 and self.preprocess != "never" and not need.stem
        self.px = propagated(data, need) if self.reads else None
        self.tables = [History(data.nodes) for _ in range(need.depth)]

    def sample(self, index: Tensor, key: Key) -> Batch:
        """Blocks with all in-edges beside the drawn ones."""
        batch = super().sample(index, key)
        nodes, times = batch.nodes, self.channels
        if times == 2:
            nodes = nodes.repeat_interleave(2)
            batch = replace(batch, x=take(self.data.x, nodes), rows=2 * batch.rows)
        x = batch.x
        if self.reads:
            x, nodes = cat([x, take(self.px, nodes)]), torch.cat([nodes, nodes])
        return replace(batch, x=x, nodes=nodes)

    def hop(self, layer: int, targets: Tensor, word: np.uint64) -> tuple[Hop, Tensor]:
        """Drawn neighbours and all of them, or rows of P X."""
        n, times, adj = len(targets), self.channels, self.data.graph
        if layer == 0 and self.reads:
            graph = Adjacency(
                torch.arange(times * n + 1),
                torch.arange(times * n, 2 * times * n, dtype=torch.int32), 2 * times * n,
            )  # fmt: skip
            degree = take(adj.in_degree, targets).repeat_interleave(times).repeat(2)
            return Read(graph, degree=degree, channels=times), targets
        block = neighbors(
            adj.indptr.numpy(), adj.indices.numpy(), targets.numpy(), self.per_layer[layer], False,
            False, word, scratch(adj.n_src),
        )  # fmt: skip
        drawn, nodes = self.assemble(targets, block)
        whole, ids = self.assemble(targets, self.everything(targets))
        rows = {n: getattr(drawn, n) for n in ("src", "dst", "diag", "degree")}
        graph, weight = drawn.graph, drawn.weight
        if times == 2:
            graph = doubled(graph)
            weight = entries(graph, self.data.weight, self.data.x.dtype)
            rows = {n: None if v is None else v.repeat_interleave(2) for n, v in rows.items()}
        rows["degree"] = torch.cat([rows["degree"], take(adj.in_degree, ids)])
        place = places(ids.numpy(), nodes.numpy(), scratch(adj.n_src))
        hop = ControlVariateHop(
            graph, weight=weight, **rows, channels=times, whole=whole, ids=ids,
            place=torch.from_numpy(place),
            nodes=nodes, ratio=torch.from_numpy(block[-1]).to(self.data.x.dtype),
            through=self.through_mu,
        )  # fmt: skip
        return hop, nodes

    def bind(self, batch: Batch, device: torch.device, write: bool) -> Batch:
        """Move a batch and give its hops their histories, and P X's hop the features."""
        batch = batch.to(device)
        hops = tuple(
            replace(hop, raw=batch.x)
            if isinstance(hop, Read)
            else replace(hop, history=table, write=write)
            for hop, table in zip(batch.hops, self.tables, strict=True)
        )
        return replace(batch, hops=hops)

    def commit(self) -> None:
        """Write what the step's forward pass brought into its aggregations."""
        for table in self.tables:
            table.commit()

    def refresh(self, level: int, ids: Tensor, h: Tensor) -> None:
        """Exact rows of a level that is sampled."""
        if level > 0 or not self.reads:
            self.tables[level].write(ids, full(dense(h)))

    def state(self) -> Mapping[str, Any]:
        """The histories."""
        return {"histories": [table.table for table in self.tables]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the histories back."""
        for table, rows in zip(self.tables, state["histories"], strict=True):
            table.table = rows


def places(ids: np.ndarray, nodes: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Where each of ``nodes`` stands among ``ids``, of which they are some."""
    local[ids] = np.arange(len(ids), dtype=np.int32)
    found = local[nodes].astype(np.int64)
    local[ids] = -1
    return found
