"""GNNAutoScale: every edge is kept; neighbours outside the batch speak through their histories.

Fey, Lenssen, Weichert & Leskovec, ICML 2021, arXiv:2106.05609, Algorithm 1; details follow the
authors' code.

Departs from them:
- In models with a stem the dropout stands inside the residual branch. What is pushed is the level
  as it is before that layer's own dropout; a pulled row is therefore not dropped out again.
- A batch's rows are written after the optimizer's step. That changes nothing: pulled rows lie
  outside the batch.
- Exact levels come from the same inference that validates, which may be a full pass or layer-wise.
- On inductive data parts, halo and histories are of the training graph; theirs see every node.
"""

import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops import full
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count
from gnnscale.graph.block import block
from gnnscale.graph.norm import factors, with_loops
from gnnscale.graph.partition import Parts, grouped, partition
from gnnscale.graph.walk import take
from gnnscale.sampler._base import Sampler


class Histories:
    """One table [N, D] per level but the first, in host memory or in a mapped file.

    Tables come into being, filled with zeros, when a level is first seen. Writes wait until
    ``commit``, so that nothing that a step reads changes while the step runs.

    Args:
        nodes: N. half: keep float16. folder: of the mapped files; None: memory. A mapped file has
            no name, so it goes when the process does, however that ends.
    """

    def __init__(self, nodes: int, half: bool, folder: Path | None):
        self.nodes, self.half, self.folder = nodes, half, folder
        self.tables: dict[int, Tensor] = {}
        self.waiting: dict[int, tuple[Tensor, Tensor, Any]] = {}

    def table(self, level: int, width: int, dtype: torch.dtype) -> Tensor:
        """The table of a level, made if there is none."""
        if level not in self.tables:
            kept = torch.float16 if self.half else dtype
            if self.folder is None:
                self.tables[level] = torch.zeros(self.nodes, width, dtype=kept)
            else:
                like = torch.empty(0, dtype=kept).numpy().dtype
                with tempfile.TemporaryFile(dir=self.folder, prefix="history-") as file:
                    mapped = np.memmap(file, like, "w+", shape=(self.nodes, width))  # type: ignore[call-overload]
                self.tables[level] = torch.from_numpy(mapped)
        return self.tables[level]

    def write(self, level: int, ids: Tensor, rows: Tensor) -> None:
        """Put rows [n, D] into a table at once."""
        rows = full(rows)
        table = self.table(level, rows.shape[1], rows.dtype)
        table[ids] = rows.to(table.dtype)

    def push(self, level: int, ids: Tensor, rows: Tensor) -> None:
        """Keep rows of any device for ``commit``; from a GPU they are copied meanwhile."""
        arrived = None
        if rows.device.type == "cuda":
            arrived = torch.cuda.Event()
            there = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            rows = there.copy_(rows, non_blocking=True)
            arrived.record()
        self.waiting[level] = (ids, rows, arrived)

    def commit(self) -> None:
        """Write what was pushed."""
        for level, (ids, rows, arrived) in self.waiting.items():
            if arrived is not None:
                arrived.synchronize()
            self.write(level, ids, rows)
        self.waiting.clear()

    def pull(self, level: int, ids: Tensor) -> Tensor:
        """Rows of an existing table. [n] -> [n, D] on the CPU, in the type of the table."""
        return take(self.tables[level], ids)


class Pulls:
    """The rows that a batch pulls: from a GPU's step they are gathered and copied ahead of need.

    A thread gathers into page-locked memory and queues the copy on a stream of its own; ``get``
    makes the computing stream wait for it. On the CPU, and for a table that has yet to be made,
    ``get`` gathers on the spot.

    Args:
        histories: the tables. ids: [n] the halo. levels: to be pulled. device: where to.
    """

    _threads: ThreadPoolExecutor | None = None

    def __init__(self, histories: Histories, ids: Tensor, levels: range, device: torch.device):
        self.histories, self.ids, self.device = histories, ids, device
        self.ahead: dict[int, Future] = {}
        if device.type == "cuda":
            if Pulls._threads is None:
                Pulls._threads = ThreadPoolExecutor(1, thread_name_prefix="pull")
            stream = torch.cuda.Stream(device)
            for level in levels:
                if level in histories.tables:
                    self.ahead[level] = Pulls._threads.submit(self._fetch, level, stream)

    def _fetch(self, level: int, stream: Any) -> tuple[Tensor, Any]:
        rows = self.histories.pull(level, self.ids).pin_memory()
        with torch.cuda.stream(stream):
            there = rows.to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return there, arrived

    def get(self, level: int, dtype: torch.dtype) -> Tensor:
        """The rows of a level, without gradient. [n, D] on the device."""
        if level in self.ahead:
            rows, arrived = self.ahead[level].result()
            now = torch.cuda.current_stream(self.device)
            now.wait_event(arrived)
            rows.record_stream(now)
        else:
            rows = self.histories.pull(level, self.ids).to(self.device)
        return rows.to(dtype)


class Exchange:
    """What the hops of one batch share: the tables, its nodes, and what dropout took away.

    Args:
        histories: the tables. nodes: [n_src] ids of the block's sources on the CPU. inside: how
            many of them are the batch's own, which come first. depth: hops. device: of the batch.
        write: whether its rows may be pushed.
    """

    def __init__(
        self, histories: Histories, nodes: Tensor, inside: int, depth: int, device: torch.device,
        write: bool,
    ):  # fmt: skip
        self.histories, self.write = histories, write
        self.inside, self.outside = nodes[:inside], nodes[inside:]
        self.pulls = Pulls(histories, self.outside, range(1, depth), device)
        self.aggregated = False
        self.taken: Tensor | None = None

    def enter(self, level: int, h: Tensor) -> Tensor:
        """Push the batch's rows of a level and append the halo's. [n_dst, D] -> [n_src, D]."""
        taken, self.aggregated, self.taken = self.taken, False, None
        if level == 0:
            return h
        rows = full(h.detach())
        self.histories.table(level, rows.shape[1], rows.dtype)
        if self.write:
            self.histories.push(level, self.inside, rows if taken is None else rows + taken)
        if not len(self.outside):
            return h
        return torch.cat([h, self.pulls.get(level, h.dtype)])

    def dropped(self, before: Tensor, after: Tensor) -> None:
        """Note a dropout that stands between the aggregation and the next level."""
        if self.aggregated and self.write:
            self.taken = full(before.detach()) - full(after.detach())


@dataclass(frozen=True)
class HistoryHop(Hop):
    """A hop over a block whose halo rows above the first level come from histories.

    level: its number; level 0 has the true features of all sources and no history.
    """

    level: int = 0
    exchange: Exchange | None = None

    def lift(self, h: Tensor) -> Tensor:
        """The batch's rows pushed, the halo's appended: [n_dst, D] -> [n_src, D]."""
        assert self.exchange is not None
        return self.exchange.enter(self.level, h)

    drops = False

    def drop(self, h: Tensor, p: float, inside: bool = False) -> Tensor:
        """Dropout; after the layer's last map it is kept out of what is pushed."""
        assert self.exchange is not None
        out = super().drop(h, p)
        if p and isinstance(h, Tensor) and not inside:
            self.exchange.dropped(h, out)
        return out

    def _reduce(self, m: Tensor, op: str, weight: Tensor | None) -> Tensor:
        assert self.exchange is not None
        self.exchange.aggregated = True
        return super()._reduce(m, op, weight)

    def _several(self, m: Tensor, names: tuple[str, ...], *mix: Any) -> Tensor:
        assert self.exchange is not None
        self.exchange.aggregated = True
        return super()._several(m, names, *mix)

    def _attention(self, *given: Any) -> Tensor:
        assert self.exchange is not None
        self.exchange.aggregated = True
        return super()._attention(*given)


class GAS(Sampler):
    """Batches of parts with their halo of neighbours; L - 1 histories for L layers.

    All in-edges of the batch's nodes are there, with the operator of the whole training graph
    (degrees are never those of the block). Sources are the batch's nodes, then the halo; the first
    level is computed from true features of both. Above it the halo's rows are pulled, without
    gradient, and the batch's own are pushed. Normalisation layers that stand behind the aggregation
    see the batch's rows only. All nodes of the batch are seeds; groups of parts without a seed are
    no step. Exact levels are taken in before training and at every evaluation.

    Args:
        parts: of the training graph.
        batch_parts: parts per batch.
        method: metis, or random parts, whose halo is larger and staler.
        max_steps: per epoch; None: until every part was seen.
        store: histories in host memory, or mapped from files in the run's folder.
        dtype: of the histories: full, that of the levels, or float16 (half the memory; relative
            rounding 2^-11, magnitudes up to 65504).

    Raises: UsageError if batch_parts exceeds parts, and in ``prepare`` if parts exceeds nodes.
    """

    gives = traits(Trait.HOPS)
    needs = (traits(Trait.NODE, Trait.LAYERS),)
    histories = True

    def __init__(
        self,
        parts: Count = 10,
        batch_parts: Count = 2,
        method: Literal["metis", "random"] = "metis",
        max_steps: Count | None = None,
        store: Literal["memory", "disk"] = "memory",
        dtype: Literal["full", "float16"] = "full",
    ):
        grouped(parts, batch_parts)
        self.parts, self.batch_parts, self.method = parts, batch_parts, method
        self.max_steps, self.store, self.dtype = max_steps, store, dtype

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Divide the graph, compute the operator's factors once, open the store."""
        self.data, self.need = data, need
        self.divided: Parts = partition(data.graph, self.parts, self.method, key)
        self.factors = factors(data.graph, need, data.x.dtype, data.weight)
        self.labeled = data.mask("train")
        place = Path(tempfile.gettempdir()) if self.folder is None else self.folder
        self.kept = Histories(
            data.nodes, self.dtype == "float16", place if self.store == "disk" else None
        )

    def facts(self) -> list[str]:
        """Parts, sizes and cut edges."""
        return [self.divided.said(self.data.graph, self.method)]

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Numbers of the parts of each step."""
        return self.divided.groups(self.batch_parts, seeds, key)[: self.max_steps]

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The parts ``index`` and their halo; ``bind`` attaches the histories."""
        data, inside = self.data, self.divided.nodes(index)
        nodes, hops = inside, ()
        if self.need.depth:
            hop, nodes = self._hop(inside)
            hops = (hop,) * self.need.depth
        return Batch(
            x=take(data.x, nodes), hops=hops, nodes=nodes, rows=torch.arange(len(inside)),
            ids=inside, y=take(data.y, inside), labeled=take(self.labeled, inside),
            key=(key.seed, key.epoch, key.step),
        )  # fmt: skip

    def _hop(self, inside: Tensor) -> tuple[Hop, Tensor]:
        data = self.data
        graph, nodes = block(data.graph, inside)
        weight = None if data.weight is None else take(data.weight, graph.edges).to(data.x.dtype)
        if self.need.loops == "edges":
            graph = with_loops(graph)
            if weight is not None:
                ones = weight.new_ones(graph.n_edges)
                weight = ones.masked_scatter(graph.edges >= 0, weight)
        src, dst, diag = self.factors
        hop = Hop(
            graph,
            src=None if src is None else take(src, nodes),
            dst=None if dst is None else take(dst, inside),
            weight=weight,
            diag=None if diag is None else take(diag, inside),
            degree=take(data.graph.in_degree, nodes),
        )
        return hop, nodes

    def bind(self, batch: Batch, device: torch.device, write: bool) -> Batch:
        """Move the batch and give its hops the histories; on CUDA the pulls start here."""
        nodes, moved = batch.nodes.cpu(), batch.to(device)
        if not batch.hops:
            return moved
        shared = Exchange(self.kept, nodes, len(batch.rows), len(batch.hops), device, write)
        hop = moved.hops[0]
        parts = {f.name: getattr(hop, f.name) for f in fields(Hop)}
        hops = (HistoryHop(**parts, level=i, exchange=shared) for i in range(len(batch.hops)))
        return replace(moved, hops=tuple(hops))

    def commit(self) -> None:
        """Write the rows that the step pushed."""
        self.kept.commit()

    def refresh(self, level: int, ids: Tensor, h: Tensor) -> None:
        """Take in exact rows; the first level has no history."""
        if level:
            self.kept.write(level, ids.cpu(), h.detach().cpu())

    def state(self) -> Mapping[str, Any]:
        """The division and the tables, whole."""
        return {"parts": self.divided.of.int(), "levels": dict(self.kept.tables)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put them back, in whichever store this run has."""
        self.divided = Parts(state["parts"].long(), self.parts)
        for level, table in state["levels"].items():
            self.kept.table(int(level), table.shape[1], table.dtype)[:] = table
