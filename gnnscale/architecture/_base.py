"""A model is a list of layers between an encoder and a head; the forward pass is written once."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from gnnscale.architecture._epilogue import finished
from gnnscale.core.batch import Batch, Memo, Output
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops import full
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.segment import reduced
from gnnscale.core.sparse import SparseRows, dense
from gnnscale.core.traits import Component

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "prelu": nn.PReLU,
    "none": nn.Identity,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "graph": lambda d: GraphNorm(d),
    "none": lambda d: nn.Identity(),
}
GRAPH_NORM_EPS = 1e-5
"""Under the root of GraphNorm."""


class Dropout(nn.Module):
    """Dropout of rate ``p`` in training mode, by the project's own fast kernel."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: any -> the same."""
        return dropout(x, self.p) if self.training else x


class GraphNorm(nn.Module):
    """y = w (h - a mean) / sqrt(mean of (h - a mean)^2 + eps) + b over the nodes of each graph.

    Cai et al., ICML 2021, arXiv:2009.03294, eq. 6; a, w, b per column, a and w from 1, b from 0.
    Statistics are those of the batch's graphs, in training and inference alike.

    Args:
        width: D.

    Shapes: h [n, D] -> [n, D].
    """

    def __init__(self, width: int):
        super().__init__()
        self.shift, self.weight = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, segment: Tensor, graphs: int) -> Tensor:
        """``segment`` [n] is the graph of each row."""
        h = full(h)
        h = h - self.shift * reduced("mean", h, segment, graphs)[segment]
        spread = (reduced("mean", h * h, segment, graphs) + GRAPH_NORM_EPS).rsqrt()
        return self.weight * h * spread[segment] + self.bias


class Block(nn.Module):
    """h' = drop_out(act(norm(conv(drop_in(h))))) (+ h if residual): one layer of a model.

    With ``pre``: h' = conv(drop_in(act(norm(h)))) (+ h), and behind that, if it ``closes`` the
    stack, drop_in(act(norm'(h'))) with a norm of its own.

    Args:
        conv: called as conv(hop, h, memo) -> [n_dst, d_out].
        d_out: width after the convolution.
        drop_in, drop_out: dropout rates before the convolution and after the activation.
        act, norm: names in ``ACTIVATIONS`` and ``NORMS``.
        residual: add the layer's undropped input.
        pre, closes: norm and activation first; widths in and out agree then.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(
        self,
        conv: nn.Module,
        d_out: int,
        drop_in: float = 0.0,
        drop_out: float = 0.0,
        act: str = "none",
        norm: str = "none",
        residual: bool = False,
        pre: bool = False,
        closes: bool = False,
    ):
        super().__init__()
        self.conv, self.norm, self.act = conv, NORMS[norm](d_out), ACTIVATIONS[act]()
        self.drop_in, self.drop_out, self.residual = drop_in, drop_out, residual
        self.pre, self.last = pre, NORMS[norm](d_out) if closes else None

    def forward(self, hop: Hop, h: Tensor | SparseRows, memo: Memo) -> Tensor:
        """One step over ``hop``; a convolution that reads sparse rows says ``takes_sparse``."""
        if self.residual or self.pre or not getattr(self.conv, "takes_sparse", False):
            h = dense(h)
        if self.pre:
            return self._ahead(hop, cast(Tensor, h), memo)
        dropped, memo.dropped = memo.dropped, False
        z = hop.drop(h, self.drop_in) if self.training and not dropped else h
        z = self.conv(hop, z, memo)
        if memo.then and not (self.residual or self.drop_out):
            one = finished(self.norm, self.act, z, memo.then)
            if one is not None:
                memo.dropped = True
                return one
        z = self._behind(hop, self.norm, z, memo, self.drop_out)
        return z + first(h, len(z)) if self.residual else z

    @property
    def entry(self) -> float:
        """The rate of dropout that a block below may take over: 0 if its input is needed whole."""
        return 0.0 if self.residual or self.pre else self.drop_in

    def _behind(
        self, hop: Hop, norm: nn.Module, z: Tensor, memo: Memo, drop: float, inside: bool = False
    ) -> Tensor:
        """drop(act(norm(z))), in one pass if there is one and the dropout is no hop's own."""
        p = drop if self.training else 0.0
        one = finished(norm, self.act, z, p) if p == 0 or hop.drops else None
        if one is not None:
            return one
        z = self.act(normed(norm, z, memo))
        return hop.drop(z, p, inside=inside) if p else z

    def _ahead(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        z = self._behind(hop, self.norm, h, memo, self.drop_in, inside=True)
        z = self.conv(hop, z, memo)
        z = z + first(h, len(z)) if self.residual else z
        return z if self.last is None else self._behind(hop, self.last, z, memo, self.drop_in)


def pooled(kind: str, h: Tensor, batch: Batch) -> Tensor:
    """``kind`` of the rows of each seed's graph or subgraph, [n_src, D] -> [n_seed, D]."""
    assert batch.segment is not None
    return reduced(kind, full(h), batch.segment, len(batch.rows))


def normed(norm: nn.Module, z: Tensor, memo: Memo) -> Tensor:
    """A norm applied to rows; per graph where it is ``GraphNorm``."""
    return norm(z, *memo.segment(len(z))) if isinstance(norm, GraphNorm) else norm(z)


class Model(nn.Module, Component):
    """Encoder, layers, head; under every sampler the same forward pass.

    ``need`` states what its hops must be. ``encode`` maps features to the first level, ``head``
    maps the last level's seed rows to logits.
    """

    need: Need
    layers: nn.ModuleList
    tapped: bool = True
    """Whether the rows of hidden levels are kept for who reads them in what ``forward`` gives."""
    labels: ClassVar[bool] = False
    """Whether it reads training labels by name, which batches must carry as input."""
    apart: ClassVar[bool] = True
    """Whether a layer reads nothing but the level below, so that it can be trained by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Identity()
        self.layers = nn.ModuleList()
        self.pool: nn.Module | None = None

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features to the levels below the first layer, the last one being its input."""
        return (self.encoder(x),)

    @property
    def reads_all(self) -> bool:
        """Whether ``read`` wants more than the last level."""
        return False

    def read(self, levels: list[Tensor]) -> Tensor:
        """Of the levels, the encoder's first, what the readout is made of: the last."""
        return levels[-1]

    def readout(self, h: Tensor, batch: Batch) -> Tensor:
        """What the head reads: the seeds' rows; with a pool, also those of their subgraphs; where
        seeds are whole graphs, one row for all of their nodes.

        Shapes: [n_last, D] -> [n_seed, D].
        """
        if batch.readout:
            return pooled(batch.readout, h, batch)
        return h[batch.rows] if self.pool is None else self.pool(h, batch)

    def forward(self, batch: Batch) -> Output:
        """Logits of a batch, and its hidden levels if it is ``tapped``."""
        levels = list(self.encode(batch.inputs))
        memo = Memo(batch, levels[-1])
        kept = self.tapped or self.reads_all
        for i, (layer, hop) in enumerate(zip(self.layers, batch.hops, strict=True)):
            memo.then = self._following(i, batch) if self.training and not kept else 0.0
            below = hop.lift(levels[-1] if kept else levels.pop())
            levels.append(layer(hop, below, memo))
        h = self.read(levels)
        seeds = self.readout(h, batch)
        logits = full(self.head(seeds))
        if not self.tapped:
            return Output(logits, (), batch.rows)
        if h is not levels[-1]:
            levels.append(h)
        # without a head the last layer is the classifier, so what it reads is the level below
        bare = isinstance(self.head, nn.Identity)
        hidden = levels[:-1] if bare else levels
        whole = seeds if batch.readout else None
        if bare and whole is not None and torch.is_tensor(hidden[-1]):
            whole = pooled(batch.readout, hidden[-1].to(logits.dtype), batch)
        return Output(logits, tuple(hidden), batch.rows, pooled=whole)

    def _following(self, i: int, batch: Batch) -> float:
        """The rate of dropout behind layer ``i`` that it may take along for the next: between two
        blocks, since what surrounds a block does other things with its output.
        """
        pair = self.layers[i : i + 2]
        if len(pair) < 2 or not all(isinstance(layer, Block) for layer in pair):
            return 0.0
        return cast(Block, pair[1]).entry if batch.hops[i + 1].drops else 0.0

    def measured(self) -> Mapping[str, float]:
        """What the model found out about its own work in the last training step, backward pass
        included, by name: iterations, residuals. Its means over the steps are metrics of an epoch,
        and of the last epoch they are in the record.
        """
        return {}

    def level(self, i: int, head: nn.Module) -> "Model":
        """Layer ``i`` as a model of its own, reading what the layer below put out; weights shared.

        Layer 0 brings the encoder along. ``head`` reads its output: nn.Identity for the level
        itself.
        """
        part = copy.copy(self)
        part._modules = {}  # other modules of the model are not this level's to train
        part.encoder = self.encoder if i == 0 else nn.Identity()
        part.layers, part.head = nn.ModuleList([self.layers[i]]), head
        part.need = replace(self.need, depth=1)
        return part

    def first(self) -> list[nn.Parameter]:
        """Parameters of the first transformation, where some papers put all weight decay."""
        stem = [self.encoder, *self.layers, self.head]
        return next(p for p in (list(m.parameters()) for m in stem) if p)

    def last(self) -> list[nn.Parameter]:
        """Parameters of the last transformation, which some papers leave without weight decay."""
        stem = [self.head, *reversed(self.layers), self.encoder]
        return next(p for p in (list(m.parameters()) for m in stem) if p)


def divisible(key: str, value: int, by: str, parts: int) -> None:
    """Raise UsageError unless ``parts`` divides ``value``."""
    if value % parts:
        up = -(-value // parts) * parts
        raise UsageError(
            f"{key}={value}: must be divisible by {by}={parts}; choose {key}={up} or change {by}"
        )


def glorot(*size: int) -> nn.Parameter:
    """A weight with Glorot-uniform initial values."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(*size)))
