"""One message-passing step, and what a model states about the steps it needs."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core import ops
from gnnscale.core.ops import full, mixing
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.coded import Coded, Heads
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.ops.fused import Factors, several

AGGREGATORS = ("sum", "add", "mean", "max", "min", "var", "std")
STD_EPS = 1e-5
"""Under the root of ``std`` (EGC, sec. 3.1)."""
PRODUCTS = {"sum", "add"}
TOGETHER = {"max", "min", "var", "std"}
"""Any of them makes one pass for all faster than a sparse product for each."""


@dataclass(frozen=True)
class Need:
    """What a model asks of its hops.

    depth: how many. operator: the matrix that "sum" multiplies by: ``sym`` D^-1/2 A D^-1/2, ``row``
    D^-1 A, ``none`` A. loops: where the self entry goes: ``diag`` (A + I, kept apart from the
    edges, which is faster), ``edges`` (A + I as real edges, for attention) or ``none``. stem:
    whether the first hop reads learned rows (an encoder's) in place of the raw features. diagonal:
    lambda, by which the normalised self entries are enhanced, S + lambda diag(S).
    """

    depth: int
    operator: Literal["sym", "row", "none"] = "none"
    loops: Literal["diag", "edges", "none"] = "none"
    stem: bool = False
    diagonal: float = 0.0


class Scaled:
    """Messages whose rows are multiplied by the hop's ``src`` already, for "sum" alone.

    Quantizers that code the product of a message and its factor leave integers to be summed.
    """

    def __init__(self, rows: Any):
        self.rows = rows


@dataclass(frozen=True)
class Hop:
    """One step src -> dst; the dst nodes are the first src nodes.

    The operator entry of edge j -> i is dst_i * weight_ij * src_j. Symmetric and row norms factor
    into ``src`` and ``dst`` and so use the fast unweighted kernel; ``weight`` holds only what does
    not factor (SAINT's 1/alpha). ``diag`` is the self entry. ``degree`` is the in-degree in the
    full graph, ``segment`` the owner graph of each source.

    Shapes: src [n_src], dst [n_dst], weight [E], diag [n_dst], edge [E, F_e], degree [n_src],
    segment [n_src].
    """

    graph: Adjacency
    src: Tensor | None = None
    dst: Tensor | None = None
    weight: Tensor | None = None
    diag: Tensor | None = None
    edge: Tensor | None = None
    degree: Tensor | None = None
    segment: Tensor | None = None

    scales = True  # no annotation: it is no field
    """Whether "sum" takes ``Scaled`` messages."""
    own = frozenset[str]()
    """Aggregators that a subclass computes in its own way: none of them joins a common pass."""

    drops = True
    """Whether dropout is plain, so that other passes may take it along, that of the level below
    also: neither ``drop`` nor ``lift`` is a subclass's own."""
    attends = True
    """Whether attention may take one pass: softmax and weighted sums are no subclass's own."""

    def lift(self, h: Tensor) -> Tensor:
        """Rows of the previous level to source rows, [n_prev, D] -> [n_src, D].

        The identity here; historical hops push the batch's rows and append pulled ones.
        """
        return h

    def drop(self, h: Tensor, p: float, inside: bool = False) -> Tensor:
        """Dropout with rate ``p``, a fresh mask per call.

        inside: it stands within a layer, maps of the same layer follow.
        """
        return dropout(h, p)

    def reduce(
        self,
        message: Callable[[Tensor], Tensor],
        h: Tensor,
        op: str | tuple[str, ...] = "sum",
        weight: Tensor | None = None,
    ):
        """Aggregate ``message(h)`` over the in-edges of every destination.

        "sum" carries the operator: out_i = sum_j w_ij m_j + diag_i m_i; with ``weight`` [E, heads]
        (attention) that replaces the operator. "add", "mean", "max", "min", "var", "std" are plain
        set aggregators, 0 on the empty set; var = mean(m^2) - mean(m)^2.

        Shapes: message(h) [n_src, D] (or [n_src, heads, D] with weight) -> [n_dst, D]; a tuple of
        names gives a tuple of results, computed in one pass over the edges where that is faster.
        """
        if weight is not None and op != "sum":
            raise ValueError(f"aggregator '{op}' takes no edge weights; only 'sum' does")
        names = (op,) if isinstance(op, str) else op
        m = _messages(message, h, names)
        if self._in_one_pass(m, names):
            found = self._several(m, names).unbind(1)
        else:
            found = tuple(self._reduce(m, name, weight) for name in names)
        return found[0] if isinstance(op, str) else found

    def beside(
        self, message: Callable[[Tensor], Tensor], h: Tensor, names: tuple[str, ...]
    ) -> Tensor:
        """What ``reduce`` gives for every name, side by side.

        Shapes: message(h) [n_src, D] -> [n_dst, len(names) D].
        """
        return self._beside(_messages(message, h, names), names)

    def _beside(self, m: Any, names: tuple[str, ...]) -> Tensor:
        if self._in_one_pass(m, names):
            return self._several(m, names).flatten(1)
        found = [self._reduce(m, name, None) for name in names]
        return torch.cat(found, 1) if len(found) > 1 else found[0]

    def mixed(
        self,
        message: Callable[[Tensor], Tensor],
        h: Tensor,
        names: tuple[str, ...],
        w: Tensor,
        by: Tensor,
        within: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """sum_k w_ihk u_ik plus a bias, u_i being row i of ``beside`` cut into its bases.

        within: what happens to u before it is mixed.

        Shapes: message(h) [n_src, B L], w [n_dst, H, len(names) B], by [H L] -> [n_dst, H L].
        """
        if within is None and set(names) & TOGETHER:
            m = _messages(message, h, names)
            if self._in_one_pass(m, names) and mixing.fits(w, m, by):
                return self._several(m, names, (w, by))
            u = self._beside(m, names)
        else:
            u = self.beside(message, h, names)
        u = u if within is None else within(u)
        return mixing.mixed(w, u.view(len(w), w.shape[2], -1), by)

    def _in_one_pass(self, m: Any, names: tuple[str, ...]) -> bool:
        wanted = set(names)
        if (
            isinstance(m, Coded | Heads)
            or not wanted & TOGETHER
            or wanted & self.own
            or not wanted <= set(AGGREGATORS)
        ):
            return False
        learned = any(f is not None and f.requires_grad for f in self._factors())
        return m.dim() == 2 and not learned and ops.fuses(m.device)

    def _factors(self) -> Factors:
        return Factors(self.src, self.dst, self.weight, self.diag)

    def _several(self, m: Tensor, names: tuple[str, ...], *mix: tuple[Tensor, Tensor]) -> Tensor:
        """Every aggregator at once, [n_dst, len(names), D]; mixed, if ``mix`` says how."""
        return several(self.graph, m, names, self._factors(), STD_EPS, *mix)

    def _reduce(self, m: Any, op: str, weight: Tensor | None) -> Tensor:
        if op == "sum":
            if isinstance(m, Scaled):
                return self._rest(m.rows)
            return ops.total(self.graph, m, weight) if weight is not None else self._operator(m)
        if op == "add":
            return ops.total(self.graph, m)
        if op == "mean":
            count = self.graph.in_degree.clamp(min=1).to(m.dtype)
            return ops.total(self.graph, m) / count.unsqueeze(1)
        if op in ("max", "min"):
            return ops.extreme(self.graph, m, 1 if op == "max" else -1)
        if op in ("var", "std"):
            variance = self._reduce(m * m, "mean", None) - self._reduce(m, "mean", None).square()
            return variance if op == "var" else (F.relu(variance) + STD_EPS).sqrt()
        raise ValueError(f"aggregator '{op}' does not exist; valid: {', '.join(AGGREGATORS)}")

    def collect(self, values: Tensor, op: str | tuple[str, ...] = "add"):
        """Aggregate values of edges over the in-edges of every destination.

        "add", "mean", "max", "min", "var", "std" as in ``reduce``; an operator's entries, where
        they are wanted, are multiplied in by the caller (``entries``).

        Shapes: values [E, D] -> [n_dst, D]; a tuple of names gives a tuple of results.
        """
        if "sum" in ((op,) if isinstance(op, str) else op):
            raise ValueError("aggregator 'sum' is an operator over sources; edges take 'add'")
        return Hop(self.graph.edgewise).reduce(lambda m: m, values, op)

    def _operator(self, m: Tensor) -> Tensor:
        return ops.operator(self.graph, m, self._factors())

    def _rest(self, scaled: Tensor) -> Tensor:
        """The operator without its sources' factors, which the rows have."""
        assert self.src is not None
        z = ops.total(self.graph, scaled, self.weight)
        z = z if self.dst is None else z * self.dst.unsqueeze(1)
        if self.diag is None:
            return z
        return torch.addcmul(z, scaled[: len(z)], self._diagonal)

    @cached_property
    def _diagonal(self) -> Tensor:
        """What ``diag`` is of rows that have their factor already, [n_dst, 1]."""
        assert self.src is not None
        assert self.diag is not None
        src = self.src[: self.graph.n_dst]
        own = torch.where(src != 0, self.diag / torch.where(src != 0, src, 1), 0)
        return own.unsqueeze(1)

    def entries(self, dtype: torch.dtype) -> Tensor:
        """The operator's entry of every edge, dst_i * weight_ij * src_j, [E]."""
        w = self.weight
        w = torch.ones(self.graph.n_edges, device=self.graph.device) if w is None else w
        if self.src is not None:
            w = w * self.src.index_select(0, self.graph.indices)
        if self.dst is not None:
            w = w * self.dst.index_select(0, self.graph.dst)
        return w.to(dtype)

    def edges(self, fn: Callable[[Tensor, Tensor], Tensor], h_src: Tensor, h_dst: Tensor) -> Tensor:
        """Values per edge, fn(h_src[j], h_dst[i]).

        Shapes: h_src [n_src, ...], h_dst [n_dst, ...] -> [E, ...].
        """
        return fn(ops.at_sources(self.graph, h_src), ops.at_targets(self.graph, h_dst))

    def sources(self, h: Tensor) -> Tensor:
        """The row of every edge's source, [n_src, ...] -> [E, ...]."""
        return ops.at_sources(self.graph, h)

    def attend(
        self,
        z: Tensor,
        source: Tensor,
        target: Tensor,
        slope: float,
        p: float = 0.0,
        scores: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """sum_j drop(a_ij) z_j with a_ij = softmax_j LeakyReLU(e_ij), the self entry an edge.

        e_ij = source_h . z_jh + target_h . z_ih, passed through ``scores`` where it is given;
        without it one pass computes all, where the device has one.

        Shapes: z [n_src, heads, D], source, target [heads, D] -> [n_dst, heads, D].
        """
        if scores is None and self.attends and isinstance(z, Tensor) and ops.fuses(z.device):
            return self._attention(z, source, target, slope, p)
        left = (z * source).sum(-1)  # [n_src, heads]
        right = (first(z, self.graph.n_dst) * target).sum(-1)  # [n_dst, heads]
        e = self.edges(torch.add, left, right)  # [E, heads]
        a = self.softmax(F.leaky_relu(e if scores is None else scores(e), slope))
        return self.reduce(lambda z: z, z, weight=dropout(a, p))

    def _attention(
        self, z: Tensor, source: Tensor, target: Tensor, slope: float, p: float
    ) -> Tensor:
        return ops.attention(self.graph, z, source, target, slope, p)

    def scores(self, x: Tensor, y: Tensor, a: Tensor, slope: float) -> Tensor:
        """sum_d a_hd LeakyReLU(x_jhd + y_ihd) per edge: additive attention, one value per head.

        Shapes: x [n_src, heads, D], y [n_dst, heads, D], a [heads, D] -> [E, heads].
        """
        return ops.additive(self.graph, x, y, a, slope)

    def softmax(self, e: Tensor) -> Tensor:
        """Softmax over the in-edges of each destination, [E, heads] -> [E, heads]."""
        return ops.softmax(self.graph, e)

    def parts(self) -> dict[str, Any]:
        """What of it lives on a device, by field; subclasses add fields and change nothing here."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v for n, v in values.items() if isinstance(v, (Tensor, Adjacency, Hop))}

    def pinned(self) -> "Hop":
        """The same hop in page-locked memory."""
        held: dict[str, Any] = {n: v.pinned() if isinstance(v, Hop) else v.pin_memory()
                for n, v in self.parts().items()}  # fmt: skip
        return replace(self, **held)

    def to(self, device: torch.device | str) -> "Hop":
        """The same hop on another device."""
        if self.graph.device == torch.device(device):
            return self
        return replace(self, **{n: v.to(device) for n, v in self.parts().items()})


def first(h: Any, n: int) -> Any:
    """The first ``n`` rows; h itself if it has no more, since a slice copies its gradient."""
    return h if len(h) == n else h[:n]


def _messages(message: Callable[[Any], Any], h: Any, names: tuple[str, ...]) -> Any:
    """message(h) in at least float32, unless products alone take them, who add up in that."""
    m = message(h)
    return m if isinstance(m, Coded | Heads) or set(names) <= PRODUCTS else full(m)
