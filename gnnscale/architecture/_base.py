"""A model is a list of layers between an encoder and a head; the forward pass is written once."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Memo, Output
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops import full
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.site import Dense
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
    "none": lambda d: nn.Identity(),
}


class Dropout(nn.Module):
    """Dropout of rate ``p`` in training mode, by the project's own fast kernel."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: any -> the same."""
        return dropout(x, self.p) if self.training else x


class Block(nn.Module):
    """h' = drop_out(act(norm(conv(drop_in(h))))) (+ h if residual): one layer of a model.

    Args:
        conv: called as conv(hop, h, memo) -> [n_dst, d_out].
        d_out: width after the convolution.
        drop_in, drop_out: dropout rates before the convolution and after the activation.
        act, norm: names in ``ACTIVATIONS`` and ``NORMS``.
        residual: add the layer's undropped input.

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
    ):
        super().__init__()
        self.conv, self.norm, self.act = conv, NORMS[norm](d_out), ACTIVATIONS[act]()
        self.drop_in, self.drop_out, self.residual = drop_in, drop_out, residual

    def forward(self, hop: Hop, h: Tensor | SparseRows, memo: Memo) -> Tensor:
        """One step over ``hop``; a convolution that reads sparse rows says ``takes_sparse``."""
        if self.residual or not getattr(self.conv, "takes_sparse", False):
            h = dense(h)
        z = hop.drop(h, self.drop_in) if self.training else h
        z = self.act(self.norm(self.conv(hop, z, memo)))
        if self.training:
            z = hop.drop(z, self.drop_out)
        return z + h[: len(z)] if self.residual else z


class Pool(nn.Module):
    """z_i = act(norm(W dropout([h_i || pool of h_j over j in the subgraph of i]) + b)).

    Zeng et al., NeurIPS 2021, arXiv:2201.07858 (shaDow-GNN, the pooled readout); the norm stands
    before the activation, as in every block here.

    Args:
        kind: mean, max or sum. width: of h and z. drop, act, norm: as in ``Block``.

    Shapes: h [n_src, width] of a batch with a segment -> [n_seed, width].
    """

    def __init__(self, kind: str, width: int, drop: float, act: str, norm: str):
        super().__init__()
        self.kind = kind
        self.map = Dense(2 * width, width, rows="dst")
        self.drop, self.norm, self.act = Dropout(drop), NORMS[norm](width), ACTIVATIONS[act]()

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        """The seeds' rows and their subgraphs' in one."""
        both = torch.cat([full(h)[batch.rows], pooled(self.kind, h, batch)], 1)
        return self.act(self.norm(self.map(self.drop(both))))


def pooled(kind: str, h: Tensor, batch: Batch) -> Tensor:
    """The ``mean``, ``max`` or ``sum`` of each seed's subgraph, [n_src, D] -> [n_seed, D]."""
    assert batch.segment is not None
    owner, h = batch.segment, full(h)
    if kind == "max":
        return h.new_zeros(len(batch.rows), h.shape[1]).scatter_reduce(
            0, owner.unsqueeze(1).expand_as(h), h, "amax", include_self=False
        )
    total = h.new_zeros(len(batch.rows), h.shape[1]).index_add(0, owner, h)
    if kind == "sum":
        return total
    size = torch.bincount(owner, minlength=len(total))
    return total / size.unsqueeze(1).to(h.dtype)


class Model(nn.Module, Component):
    """Encoder, layers, head; under every sampler the same forward pass.

    ``need`` states what its hops must be. ``encode`` maps features to the first level, ``head``
    maps the last level's seed rows to logits.
    """

    need: Need
    layers: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Identity()
        self.layers = nn.ModuleList()
        self.pool: nn.Module | None = None

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features to the levels below the first layer, the last one being its input."""
        return (self.encoder(x),)

    def readout(self, h: Tensor, batch: Batch) -> Tensor:
        """What the head reads: the seeds' rows, pooled with those of their subgraphs if there is
        a pool. [n_last, D] -> [n_seed, D].
        """
        return h[batch.rows] if self.pool is None else self.pool(h, batch)

    def forward(self, batch: Batch) -> Output:
        """Logits and hidden levels of a batch."""
        levels, memo = list(self.encode(batch.x)), Memo(batch)
        for layer, hop in zip(self.layers, batch.hops, strict=True):
            levels.append(layer(hop, hop.lift(levels[-1]), memo))
        logits = full(self.head(self.readout(levels[-1], batch)))
        # without a head the last layer is the classifier, so what it reads is the level below
        hidden = levels[:-1] if isinstance(self.head, nn.Identity) else levels
        return Output(logits, tuple(hidden), batch.rows)

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

    def stack(
        self,
        shape: Shape,
        conv: Callable[[int, int, bool], nn.Module],
        *,
        hidden: int,
        depth: int,
        dropout: float,
        act: str,
        norm: str,
        residual: bool,
        stem: bool,
        input_dropout: float | None = None,
    ) -> None:
        """Fill in ``depth`` blocks of a convolution.

        Without a stem the convolutions themselves go F -> hidden -> ... -> C, dropout stands before
        each of them and the last one has neither norm nor activation (Kipf & Welling's order). With
        a stem a linear encoder and a linear head surround blocks of constant width, and dropout
        stands after the activation inside the residual branch (EGC's order). A residual is added
        where widths agree. Where the sampler asks for a pooled readout, a pool precedes the head.

        Args:
            shape: input and output sizes.
            conv: conv(d_in, d_out, last) -> module.
            hidden, depth, dropout, act, norm, residual, stem: as in the YAML. input_dropout: rate
                before the first convolution; None: as before the others. 0 makes OGB's order of a
                stack without a stem, where dropout stands behind the activation.

        Raises: UsageError for an input_dropout with a stem, in front of which none stands.
        """
        if not stem:
            widths = [shape.features, *[hidden] * (depth - 1), shape.classes]
            for i, (d_in, d_out) in enumerate(pairwise(widths)):
                last = i == depth - 1
                self.layers.append(
                    Block(
                        conv(d_in, d_out, last),
                        d_out,
                        drop_in=dropout if i or input_dropout is None else input_dropout,
                        act="none" if last else act,
                        norm="none" if last else norm,
                        residual=residual and d_in == d_out,
                    )
                )
            return
        if input_dropout is not None:
            raise UsageError(
                f"architecture.input_dropout={input_dropout:g}: with architecture.stem=true no "
                "dropout stands before the first convolution; type architecture.input_dropout=null"
            )
        self.need = replace(self.need, stem=True)
        self.encoder = Dense(shape.features, hidden)
        self.head = Dense(hidden, shape.classes, rows="dst")
        if shape.readout != "center":
            self.pool = Pool(shape.readout, hidden, dropout, act, norm)
        for _ in range(depth):
            block = Block(
                conv(hidden, hidden, False), hidden, 0.0, dropout, act, norm, residual
            )  # fmt: skip
            self.layers.append(block)


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
