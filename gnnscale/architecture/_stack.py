"""The stack of convolutions that most models are, with its options defined once for all of them."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS, Block, Dropout, Model
from gnnscale.architecture._encoder import encoder
from gnnscale.architecture._readout import Pool, Virtual
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops import full
from gnnscale.core.site import Dense
from gnnscale.core.traits import Trait, Traits, traits
from gnnscale.core.values import Count, Rate

Act = Literal["relu", "elu", "leaky_relu", "gelu", "prelu"]
Norm = Literal["none", "batch", "layer", "graph"]


@dataclass(eq=False, repr=False)
class Stack(Model):
    """``depth`` blocks of one convolution; a model says which (``conv``) and over what (``asks``).

    Without a stem the convolutions themselves go F -> hidden -> ... -> C, dropout stands before
    each of them and the last one has neither norm nor activation (Kipf & Welling's order). With a
    stem an encoder and a head surround blocks of constant width, and dropout stands after the
    activation inside the residual branch (EGC's order). Rows of whole graphs, and those of the
    subgraph of a root where the sampler asks for it, are pooled before the head.

    Args:
        shape: input and output sizes.
        hidden: width. depth: number of convolutions.
        dropout: rate before each convolution; with a stem: after each activation.
        input_dropout: rate before the first convolution. None: without a stem, as ``dropout``;
            with one, none. Without a stem, 0 makes OGB's order: dropout behind the activation.
        act, norm: of every block, names in ``ACTIVATIONS`` and ``NORMS``; "graph" is GraphNorm.
        order: ``post``: dropout(act(norm(conv(h)))). ``pre``: conv(dropout(act(norm(h)))) and
            a norm and an activation before the head (He et al., ECCV 2016; "res+" of Li et al.,
            arXiv:2006.07739, eq. 7). With a stem only.
        residual: add a block's input where widths agree.
        jump: what the head reads: the last block's output (none) or those of all blocks side by
            side (concat), their maximum (max) or their sum (sum) (Xu et al., ICML 2018,
            arXiv:1806.03536, sec. 4). With a stem only.
        virtual_node: a node joined to all others of a graph, read and written at every block
            (Gilmer et al., ICML 2017, arXiv:1704.01212, sec. 5.2). With a stem only.
        stem: an encoder and a head around blocks of constant width.
        last_act: an activation after the last block, too; with a stem and ``post`` only.
        head_widths: hidden layers of the head: linear, norm, activation. [] : one linear map.
        head_norm: of those layers.

    Raises: UsageError for an option that needs a stem and has none.
    """

    shape: Shape
    hidden: Count = 64
    depth: Count = 2
    dropout: Rate = 0.5
    input_dropout: Rate | None = None
    act: Act = "relu"
    norm: Norm = "none"
    order: Literal["post", "pre"] = "post"
    residual: bool = False
    jump: Literal["none", "concat", "max", "sum"] = "none"
    virtual_node: bool = False
    stem: bool = False
    last_act: bool = True
    head_widths: list[Count] = field(default_factory=list)
    head_norm: Literal["none", "batch", "layer"] = "none"

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)

    @classmethod
    def declare(cls, **parameters: object) -> tuple[Traits, tuple[Traits, ...]]:
        """What the options take from, or ask beside, what the model states of itself.

        Levels that a jump, a virtual node or GraphNorm ties together can't be computed apart, nor
        can batch norm in front of ``Hop.lift``, which would see rows from outside the batch.
        """
        said: Any = parameters
        graph_wide = said.get("virtual_node") or said.get("norm") == "graph"
        ahead = said.get("order") == "pre" and said.get("norm") == "batch"
        tied = graph_wide or ahead or said.get("jump", "none") != "none"
        gives = cls.gives if cls.linear(**parameters) else cls.gives - {Trait.LINEAR}
        needs = tuple(n | {Trait.SQUARE} for n in cls.needs) if graph_wide else cls.needs
        return (gives - {Trait.LAYERS} if tied else gives), needs

    @classmethod
    def linear(cls, **parameters: object) -> bool:
        """Whether aggregation is linear in the messages, under these parameters."""
        return Trait.LINEAR in cls.gives

    def asks(self) -> Need:
        """What the hops must be."""
        raise NotImplementedError

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """The convolution of a block; ``last``: it gives the logits."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        super().__init__()
        self.need = self.asks()
        if self.stem:
            self._around()
        else:
            self._bare()

    def _bare(self) -> None:
        for name, off in (("order", "post"), ("jump", "none"), ("virtual_node", False),
                          ("last_act", True), ("head_widths", [])):  # fmt: skip
            if getattr(self, name) != off:
                self._stemless(name)
        if self.shape.categories:
            self._stemless(None)
        widths = [self.shape.features, *[self.hidden] * (self.depth - 1), self.shape.classes]
        given = self.input_dropout
        for i, (d_in, d_out) in enumerate(pairwise(widths)):
            last = i == self.depth - 1
            self.layers.append(
                Block(
                    self.conv(d_in, d_out, last),
                    d_out,
                    drop_in=self.dropout if i or given is None else given,
                    act="none" if last else self.act,
                    norm="none" if last else self.norm,
                    residual=self.residual and d_in == d_out,
                )
            )

    def _stemless(self, name: str | None) -> None:
        said = str(getattr(self, name)).lower() if name else ""
        what = f"architecture.{name}={said}" if name else "features that are codes"
        raise UsageError(f"{what}: only with an encoder and a head; type architecture.stem=true")

    def _around(self) -> None:
        shape, width, pre = self.shape, self.hidden, self.order == "pre"
        self.need = replace(self.need, stem=True)
        entry = encoder(shape, width)
        self.encoder = entry if not self.input_dropout else nn.Sequential(
            entry, Dropout(self.input_dropout)
        )  # fmt: skip
        wide = width * self.depth if self.jump == "concat" else width
        self.head = self._head(wide)
        if shape.readout != "center":
            self.pool = Pool(shape.readout, wide, self.dropout, self.act, self.norm)
        for i in range(self.depth):
            last = i == self.depth - 1
            plain = last and not self.last_act and not pre
            block: nn.Module = Block(
                self.conv(width, width, False), width, self.dropout if pre else 0.0,
                0.0 if pre else self.dropout, "none" if plain else self.act, self.norm,
                self.residual, pre, pre and last,
            )  # fmt: skip
            if self.virtual_node:
                block = Virtual(block, width, i == 0, last, self.dropout)
            self.layers.append(block)

    def _head(self, d: int) -> nn.Module:
        steps: list[nn.Module] = []
        for width in self.head_widths:
            steps += [Dense(d, width, rows="dst"), NORMS[self.head_norm](width),
                      ACTIVATIONS[self.act]()]  # fmt: skip
            d = width
        last = Dense(d, self.shape.classes, rows="dst")
        return nn.Sequential(*steps, last) if steps else last

    @property
    def reads_all(self) -> bool:
        """With a jump."""
        return self.jump != "none"

    def read(self, levels: list[Tensor]) -> Tensor:
        """Of the levels, encoder's first, what the readout is made of: [n_last, D or depth D]."""
        if self.jump == "none":
            return levels[-1]
        n = len(levels[-1])
        each = [full(level)[:n] for level in levels[1:]]
        if self.jump == "concat":
            return torch.cat(each, 1)
        both = torch.stack(each)
        return both.amax(0) if self.jump == "max" else both.sum(0)
