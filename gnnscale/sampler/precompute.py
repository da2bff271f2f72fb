"""Features propagated once, before training; every step then reads rows of a table.

SGC (Wu et al., ICML 2019, arXiv:1902.07153), SIGN (Frasca et al., 2020, arXiv:2004.11198), GA-MLP
(Chen, Chen & Bruna, ICLR 2021, arXiv:2010.15116).

Departs from them: the table may be larger than memory (written once to the processed cache, mapped,
read by rows) and half as wide (float16; steps compute in the features' own type). On inductive data
training reads a table of the training graph; predictions read one of the graph they are about.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.cache import cache_folder, content, written
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Positive, Whole
from gnnscale.graph import propagate
from gnnscale.graph.propagate import Chain
from gnnscale.graph.simple import simple
from gnnscale.graph.walk import take
from gnnscale.sampler._base import Sampler, seed_batches

PREDICTED = 16384
"""Rows per batch of predictions."""
FAMILIES = {
    "bethe": propagate.bethe,
    "min_triangle": propagate.two_steps,
    "motif_triangle": propagate.triangle,
}
"""Operators that no model's hop is, of GA-MLP's."""
GIB = 2**30


class Stack(Sampler):
    """What the samplers of propagated features share: the table [N, R, F] and batches of its rows.

    Column 0 is X itself, then come the powers of each chain of ``chains``.

    Args:
        batch_size: seeds per step; None: all of them in one.
        dtype: of the table; None: that of the features (float32).
        storage: ``memory``, or ``disk``: in the processed cache, found there by the next run.
        max_gib: refuse a larger table; None: what is free in memory or on the disk.
    """

    gives = traits(Trait.STACK, Trait.SHARDS)
    needs = (traits(Trait.NODE),)
    inference = "own"
    keep = slice(None)
    """Which columns of the table are kept."""

    def __init__(
        self,
        batch_size: int | None,
        dtype: str | None,
        storage: str,
        max_gib: float | None,
        **options: Any,
    ):
        self.batch_size, self.dtype, self.storage = batch_size, dtype, storage
        self.max_gib, self.options = max_gib, options
        self.tables: list[tuple[GraphData, np.ndarray]] = []

    def chains(self, data: GraphData) -> Sequence[Chain]:
        """The operators and how many powers of each, on the graph of ``data``."""
        raise NotImplementedError

    def check(self, need: Need) -> None:
        """A model that would otherwise propagate itself reads S^K X, which is not all of this."""
        if need.depth:
            raise UsageError(
                f"architecture: would propagate {need.depth} times and reads one operator's power, "
                "and this sampler gives powers of several; change to sampler=precompute"
            )

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Make the table of what training may see."""
        self.check(need)
        self.data, self.labeled = data, data.mask("train")
        self.table(data)

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every seed once, in random order; the last batch may be smaller."""
        return seed_batches(seeds, self.batch_size or max(len(seeds), 1), key)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The rows of the seeds ``index``, as they are stored."""
        batch = self._rows(self.data, self.labeled, index)
        return replace(batch, key=(key.seed, key.epoch, key.step))

    def bind(self, batch: Batch, device: torch.device, write: bool) -> Batch:
        """Moved as stored, then of the type that the features had."""
        batch = batch.to(device)
        return replace(batch, x=batch.x.to(self.data.x.dtype))

    def batches(self, data: GraphData, need: Need, rows: Tensor) -> Iterator[Batch]:
        """Rows of the table of ``data``, which is made if it is another graph than before."""
        labeled = data.mask("train")
        for ids in rows.split(PREDICTED):
            batch = self._rows(data, labeled, ids)
            yield replace(batch, x=batch.x.to(data.x.dtype))

    def _rows(self, data: GraphData, labeled: Tensor, ids: Tensor) -> Batch:
        table, ids = self.table(data), ids.long()
        if isinstance(table, np.memmap):  # in the order of the disk
            order = ids.argsort()
            x = torch.empty((len(ids), *table.shape[1:]), dtype=torch.from_numpy(table[:0]).dtype)
            x[order] = torch.from_numpy(np.take(table, ids[order].numpy(), axis=0))
        else:
            x = torch.from_numpy(np.take(table, ids.numpy(), axis=0))
        return Batch(
            x=x, hops=(), nodes=ids, rows=torch.arange(len(ids)), ids=ids, y=take(data.y, ids),
            labeled=take(labeled, ids),
        )  # fmt: skip

    # -- the table --------------------------------------------------------------------------------

    def table(self, data: GraphData) -> np.ndarray:
        """[N, R, F], made once per graph; those of the last two graphs are kept."""
        for known, table in self.tables:
            if known is data:
                return table
        table = self._make(data)
        self.tables = [*self.tables[-1:], (data, table)]
        return table

    def _make(self, data: GraphData) -> np.ndarray:
        own = torch.empty(0, dtype=data.x.dtype).numpy().dtype
        dtype = np.dtype(self.dtype or own)
        shape = (data.nodes, self.operators, data.x.shape[1])
        self._afford(shape, dtype)

        def fill(out: np.ndarray) -> None:
            try:
                propagate.fill(out, data.x, self.chains(data), self.keep)
            except OverflowError as error:
                raise UsageError(
                    f"sampler.dtype={dtype}: propagated features reach {error}, which it can't "
                    "hold; type sampler.dtype=float32"
                ) from error

        if self.storage == "memory":
            table = np.empty(shape, dtype)
            fill(table)
            return table

        def write(folder: Path) -> None:
            table = np.lib.format.open_memmap(folder / "stack.npy", "w+", dtype, shape)
            fill(table)
            table.flush()

        key = {"stack": type(self).__name__, "dtype": dtype.str, **self.options, **_content(data)}
        return written(f"{data.name}-stack", key, write)["stack"]

    def _afford(self, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        """Refuse a table for which there is no room. Raises UsageError."""
        size = np.prod(shape, dtype=np.int64) * dtype.itemsize / GIB
        room = self.max_gib
        if room is None and self.storage == "memory":
            room = psutil.virtual_memory().available / GIB
        elif room is None:
            place = cache_folder()
            while not place.is_dir():
                place = place.parent
            room = shutil.disk_usage(place).free / GIB
        if size > room:
            remedies = [] if dtype == np.float16 else ["sampler.dtype=float16"]
            if self.options.get("keep") == "all":
                remedies += ["sampler.keep=last"]
            if self.storage == "memory":
                remedies += ["sampler.storage=disk"]
            else:
                remedies += ["GNNSCALE_CACHE=DIR on a larger disk"]
            limit = "is free" if self.max_gib is None else "is allowed by sampler.max_gib"
            raise UsageError(
                f"sampler.storage={self.storage}: the table of propagated features, "
                f"{shape[0]} nodes x {shape[1]} operators x {shape[2]} features x "
                f"{dtype.itemsize} bytes, takes {size:.3g} GiB and {room:.3g} GiB {limit}; "
                f"type {' or '.join(remedies)}"
            )


def _content(data: GraphData) -> dict[str, str]:
    """Digests of what a table is made from."""
    x = data.x
    parts = [x] if isinstance(x, Tensor) else [x.rows.indptr, x.rows.indices, x.values]
    width = None if isinstance(x, Tensor) else np.array(x.shape)
    weight = None if data.weight is None else data.weight.numpy()
    return {
        "graph": content(data.graph.indptr.numpy(), data.graph.indices.numpy(), weight),
        "features": content(*(p.numpy() for p in parts), width),
    }


class Precompute(Stack):
    """X, S X, ..., S^K X for one operator S of the graph.

    Args:
        powers: K. operator: sym D^-1/2 A D^-1/2, row D^-1 A, none A (GA-MLP-A), or one of GA-MLP's
            others: bethe, the shifted Bethe Hessian (GA-MLP-H); min_triangle, min(A^2, 1);
            motif_triangle, A o A^2 with rows summing to 1. self_loops: A + I for A; GA-MLP's others
            have none.
        keep: ``all`` powers, or the ``last``: all that SGC reads.
        batch_size, dtype, storage, max_gib: see ``Stack``.
    """

    def __init__(
        self,
        powers: Whole = 2,
        operator: Literal["sym", "row", "none", "bethe", "min_triangle", "motif_triangle"] = "sym",
        self_loops: bool = True,
        keep: Literal["all", "last"] = "all",
        batch_size: Count | None = 4096,
        dtype: Literal["float32", "float16"] | None = None,
        storage: Literal["memory", "disk"] = "memory",
        max_gib: Positive | None = None,
    ):
        super().__init__(
            batch_size, dtype, storage, max_gib,
            powers=powers, operator=operator, self_loops=self_loops, keep=keep,
        )  # fmt: skip
        self.powers, self.operator, self.self_loops = powers, operator, self_loops
        self.operators = 1 if keep == "last" else powers + 1
        self.keep = slice(-1, None) if keep == "last" else slice(None)

    def check(self, need: Need) -> None:
        """What a model would compute with its own hops must be the last power."""
        loops = need.loops != "none"
        mine = (self.powers, self.operator, self.self_loops)
        if need.depth and mine != (need.depth, need.operator, loops):
            raise UsageError(
                f"sampler.powers={self.powers} operator={self.operator} self_loops="
                f"{str(self.self_loops).lower()}: the architecture reads power {need.depth} of "
                f"the {need.operator} operator with self_loops={str(loops).lower()}; change to "
                f"sampler.powers={need.depth} sampler.operator={need.operator} "
                f"sampler.self_loops={str(loops).lower()}, or the architecture's keys"
            )

    def chains(self, data: GraphData) -> Sequence[Chain]:
        """One."""
        if self.operator in FAMILIES:
            return [Chain(FAMILIES[self.operator](data.graph, data.x.dtype), self.powers)]
        need = Need(1, self.operator, "diag" if self.self_loops else "none")
        step = propagate.one_step(data.graph, need, data.x.dtype, data.weight)
        return [Chain(step, self.powers)]


class PrecomputeSign(Stack):
    """SIGN(p, s, t): X, powers of S, of a PageRank diffusion of S, and of a triangle operator.

    S = D~^-1/2 (A + I) D~^-1/2; P = alpha (I - (1 - alpha) S)^-1, whose power is P again applied,
    not more steps of one; T = A o A^2 with rows summing to 1 (sec. 4).

    Args:
        powers: p, of S. diffusions: s, of P. triangles: t, of T.
        alpha: probability of return (the paper does not state one). tolerance: of the power
            iteration, (1 - alpha)^steps.
        batch_size, dtype, storage, max_gib: see ``Stack``.
    """

    def __init__(
        self,
        powers: Whole = 3,
        diffusions: Whole = 0,
        triangles: Whole = 0,
        alpha: float = 0.2,
        tolerance: float = 1e-6,
        batch_size: Count | None = 4096,
        dtype: Literal["float32", "float16"] | None = None,
        storage: Literal["memory", "disk"] = "memory",
        max_gib: Positive | None = None,
    ):
        for name, value in (("alpha", alpha), ("tolerance", tolerance)):
            if not 0 < value < 1:
                raise UsageError(f"sampler.{name}={value}: valid: 0 < {name} < 1")
        super().__init__(
            batch_size, dtype, storage, max_gib, powers=powers, diffusions=diffusions,
            triangles=triangles, alpha=alpha, tolerance=tolerance,
        )  # fmt: skip
        self.powers, self.diffusions, self.triangles = powers, diffusions, triangles
        self.alpha, self.tolerance = alpha, tolerance
        self.operators = 1 + powers + diffusions + triangles

    def chains(self, data: GraphData) -> Sequence[Chain]:
        """Three, those with powers of which any are asked for."""
        graph, dtype = data.graph, data.x.dtype
        step = propagate.one_step(graph, Need(1, "sym", "diag"), dtype, data.weight)
        found = [Chain(step, self.powers)]
        if self.diffusions:
            diffusion = propagate.diffusion(step, self.alpha, self.tolerance)
            found += [Chain(diffusion, self.diffusions)]
        if self.triangles:
            found += [Chain(propagate.triangle(graph, dtype), self.triangles)]
        return found


class PrecomputeDirected(Stack):
    """X, and powers of D^-1 A, of D^-1 A^T and of the undirected S, for directed graphs.

    The operators of SIGN's authors on ogbn-papers100M. Their random removal of edges before that
    (20 and 40 %) is not made here.

    Args:
        powers: of both directions. undirected: of S = D~^-1/2 (A or A^T, + I) D~^-1/2, which counts
            edges, not their weights.
        batch_size, dtype, storage, max_gib: see ``Stack``.
    """

    def __init__(
        self,
        powers: Whole = 3,
        undirected: Whole = 3,
        batch_size: Count | None = 4096,
        dtype: Literal["float32", "float16"] | None = None,
        storage: Literal["memory", "disk"] = "memory",
        max_gib: Positive | None = None,
    ):
        super().__init__(
            batch_size, dtype, storage, max_gib, powers=powers, undirected=undirected
        )  # fmt: skip
        self.powers, self.undirected = powers, undirected
        self.operators = 1 + 2 * powers + undirected

    def chains(self, data: GraphData) -> Sequence[Chain]:
        """Three: along the edges, against them, and both ways."""
        row, graph, dtype = Need(1, "row"), data.graph, data.x.dtype
        back = graph.T
        weight = None if data.weight is None else data.weight[back.edges]
        both, _ = simple(graph.indices, graph.dst, data.nodes)
        return [
            Chain(propagate.one_step(graph, row, dtype, data.weight), self.powers),
            Chain(propagate.one_step(back, row, dtype, weight), self.powers),
            Chain(propagate.one_step(both, Need(1, "sym", "diag"), dtype), self.undirected),
        ]
