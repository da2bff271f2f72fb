"""Binary networks: weights and inputs of linear maps are -1 or +1."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from gnnscale.core.batch_norm import RowNorm
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop
from gnnscale.core.ops import full
from gnnscale.core.ops.bits import sign
from gnnscale.core.site import Site, sites
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Share
from gnnscale.quantization._base import Quantizer, owner

Weights = Literal["binary", "real"]
Inputs = Literal["sign", "tanh", "real"]
Rescale = Literal["learned", "mean", "none"]


class BinaryWeight(nn.Module):
    """W -> s * sign(W), s one number per output channel; with ``binary`` off: s * W.

    Gradients of W are clipped straight-through, g 1[|W| <= 1]. In training mode the latent W is
    first clamped to [-1, 1] in place, as in the authors' code: the gradient of what lies beyond is
    0, so that it could never come back. s is applied to the weight where the paper applies it to
    the product, which for a linear map is the same.

    Args:
        weight: W. channel: its axis of outputs. rescale: ``learned``: s starts from 1; ``mean``:
            s = mean |W| over the channel (XNOR-Net, Rastegari et al., ECCV 2016, eq. 6), of real
            weights 1; ``none``: 1. binary: see above.

    Shapes: W -> the same.
    """

    def __init__(self, weight: Tensor, channel: int, rescale: Rescale, binary: bool = True):
        super().__init__()
        self.channel, self.rescale, self.binary = channel % weight.dim(), rescale, binary
        self.channels, self.real_bits = weight.shape[channel], 8 * weight.element_size()
        learned = rescale == "learned"
        self.scale = nn.Parameter(weight.detach().new_ones(self.channels)) if learned else None

    @property
    def bits(self) -> int:
        """Width of a stored weight."""
        return 1 if self.binary else self.real_bits

    @property
    def beside(self) -> int:
        """Numbers that are stored beside the weights and are no parameters."""
        return self.channels if self.binary and self.rescale == "mean" else 0

    def forward(self, w: Tensor, hop: Hop | None = None) -> Tensor:
        """What takes the place of ``w``."""
        if self.binary and self.training:
            w.data.clamp_(-1, 1)  # not seen by autograd, for which a layer may be called twice
        coded = sign(w) if self.binary else w
        shape = [1] * w.dim()
        shape[self.channel] = -1
        if self.scale is not None:
            return coded * self.scale.view(shape)
        if self.beside:
            rest = [d for d in range(w.dim()) if d != self.channel]
            return coded * w.abs().mean(rest).view(shape)
        return coded


class BinaryInput(nn.Module):
    """x -> sign(centre(x)), tanh(centre(x)) or centre(x), by ``mode``; centre is batch norm.

    Args:
        mode: sign, tanh or real. width: D, where rows are centred; None: they are not. momentum: of
            batch norm's statistics.

    Shapes: x [..., D] -> the same.
    """

    takes_factor = (
        False  # of a product with the source's factor, the sign would be all that is left
    )

    def __init__(self, mode: Inputs, width: int | None, momentum: float):
        super().__init__()
        self.mode = mode
        self.center = None if width is None else RowNorm(width, momentum=momentum)

    @property
    def bits(self) -> int | None:
        """Width of what is handed on; None where it is real."""
        return 1 if self.mode == "sign" else None

    def forward(self, x: Tensor, hop: Hop | None = None) -> Tensor:
        """What takes the place of ``x``."""
        x = full(x) if self.center is None else self.center(x)
        if self.mode == "real":
            return x
        return sign(x) if self.mode == "sign" else x.tanh()


@dataclass(eq=False, repr=False)
class Binary(Quantizer):
    """Binary GNNs: y = s * (sign(centre(x)) sign(W)^T) + b for the linear maps of any architecture.

    Bahri, Bahl & Zafeiriou, CVPR 2021, arXiv:2012.15823, and the authors' code: latent weights,
    clipped straight-through gradients, a learned rescaling, real inputs of the first layer, a real
    last layer. With ``inputs: tanh`` and ``weights: real`` it is a stage of the cascade that
    ``recipe=cascade`` runs. PReLU behind a layer is architecture.act=prelu.

    What is aggregated stays real: the mean of neighbours' rows is no binary operation, there or
    here. So do attention vectors, and attention itself. A biased map keeps its real bias.

    Departs from it: the rescaling is a vector over channels, the only dimension that all maps have
    (theirs is a product of vectors, by default of this one alone). Where a layer aggregates the
    narrower side, the sign is taken of what its linear map reads, before or after the aggregation.

    Products are computed in float, where sums of -1 and +1 are exact; ``gnnscale convert`` makes a
    model whose signs are bits and whose products are XNOR and popcount (``core.ops.bits``).

    Args:
        weights: binary or real (as they are, but rescaled). inputs: sign, tanh or real. roles:
            whose signs are taken: inputs of linear maps, messages. rescale: see ``BinaryWeight``.
        center: batch norm in front of inputs' signs; messages have none. momentum: of its
            statistics (the authors: 0.999). first: inputs of the first layer. last: the last
            layer, inputs and weights.
    """

    weights: Weights = "binary"
    inputs: Inputs = "sign"
    roles: list[Literal["input", "message"]] = field(default_factory=lambda: ["input"])
    rescale: Rescale = "learned"
    center: bool = True
    momentum: Share = 0.1
    first: Literal["real", "binary"] = "real"
    last: Literal["real", "binary"] = "real"

    gives = traits(Trait.STAGED)

    def attach(self, model: nn.Module) -> None:
        """Fill the sites, those of the ends left as the options say.

        Raises: UsageError if nothing would be binary.
        """
        first, last = ends(model)
        self.widths: dict[str, int] = {}
        self.left_out: set[str] = set()
        for name, site in sites(model):
            parent: Any = owner(model, name)
            own = {id(p) for p in parent.parameters()}
            at_first = bool(own) and own <= first and site.role != "weight"
            if (self.last == "real" and own and own <= last) or (self.first == "real" and at_first):
                self.left_out.add(name)
            if site.role == "input":
                self.widths[name] = site.width or width(parent)
        super().attach(model)
        if not any(isinstance(site.quantizer, BinaryWeight) for _, site in sites(model)):
            raise UsageError(
                "quantization=binary: this architecture has no linear map but its last, which "
                f"quantization.last={self.last} is about; change to quantization.last=binary, or "
                "to an architecture with more of them, e.g. architecture=sage"
            )

    def make(self, site: Site, name: str, weight: nn.Parameter | None) -> nn.Module | None:
        """Signs for a linear map's weight, and for its input or a message."""
        if name in self.left_out:
            return None
        if weight is not None:
            if site.of != "weight":  # attention
                return None
            return BinaryWeight(weight, site.channel, self.rescale, self.weights == "binary")
        if site.role not in self.roles or self.inputs == "real":
            return None
        found = self.widths[name] if self.center and site.role == "input" else None
        return BinaryInput(self.inputs, found, self.momentum)

    def relax(self, model: nn.Module, weights: Weights, inputs: Inputs) -> None:
        """Let a model that this has filled compute as under other options, its parameters kept."""
        for _, site in sites(model):
            if isinstance(site.quantizer, BinaryWeight):
                site.quantizer.binary = weights == "binary"
            elif isinstance(site.quantizer, BinaryInput):
                site.quantizer.mode = inputs


def ends(model: nn.Module) -> tuple[set[int], set[int]]:
    """The ids of the parameters of the first layer, and of the last; of a chain: its last map."""
    whole: Any = model
    parts = [m for m in (whole.head, *reversed(whole.layers), whole.encoder) if maps(m)]
    last = parts[0] if parts else owner(model, (maps(model) or [""])[-1])
    while isinstance(last, nn.Sequential):
        last = next(m for m in reversed(last) if maps(m))
    return {id(p) for p in whole.first()}, {id(p) for p in last.parameters()}


def maps(part: nn.Module) -> list[str]:
    """The names of the sites of its linear maps' weights."""
    return [name for name, s in sites(part) if s.role == "weight" and s.of == "weight"]


def width(parent: nn.Module) -> int:
    """Columns that a linear map reads, by the shape of its weight."""
    mine: Any = parent
    return mine.weight.numel() // mine.weight.shape[mine.q_weight.channel]
