"""Integer inference: codes in place of weights, and sites that hand on codes."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop
from gnnscale.core.ops.coded import Coded, Codes, SparseCodes
from gnnscale.core.ops.codes import Grid, centred, encode
from gnnscale.core.site import Site, sites
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count
from gnnscale.quantization._base import Quantizer
from gnnscale.quantization._fake import Coding, FakeQuant
from gnnscale.quantization._signs import SignInput, SignWeight
from gnnscale.quantization.binary import BinaryInput, BinaryWeight


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes 0 .. 2^bits - 1, 8 / bits of them in a byte, the first one lowest. bits: 1, 2, 4, 8."""
    flat, each = codes.flatten().to(torch.uint8), 8 // bits
    flat = torch.cat([flat, flat.new_zeros(-len(flat) % each)]).view(-1, each)
    shifts = torch.arange(each, dtype=torch.uint8) * bits
    return (flat << shifts).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """The first ``n`` codes of ``pack``."""
    shifts = torch.arange(8 // bits, dtype=torch.uint8) * bits
    codes = (packed.unsqueeze(1) >> shifts) & (2**bits - 1 if bits < 8 else 255)
    return codes.flatten()[:n]


class IntegerWeight(nn.Module):
    """A weight as codes, packed in 2, 4 or 8 bits each, with a scale per output or for all.

    Args:
        shape: of the weight. bits: of a code. symmetric: signed codes. channels: scales; None: one.
        axis: along which they run.
    """

    integer = True

    def __init__(
        self, shape: torch.Size, bits: int, symmetric: bool, channels: int | None, axis: int
    ):
        super().__init__()
        self.shape, self.bits, self.symmetric, self.axis = shape, bits, symmetric, axis
        self.channels = channels
        self.width = next(w for w in (2, 4, 8) if w >= bits)
        size = () if channels is None else (channels,)
        self.codes: Tensor
        self.scale: Tensor
        self.zero: Tensor
        self.register_buffer("codes", torch.zeros(-(-shape.numel() * self.width // 8)).byte())
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("zero", torch.zeros(size))
        self._ready: Coded | None = None

    @property
    def entries(self) -> int:
        """How many weights there are."""
        return self.shape.numel()

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(2 ** (self.bits - 1)) if self.symmetric else 0

    def take(self, weight: Tensor, grid: Grid) -> None:
        """Store the codes of a weight."""
        codes = encode(weight, grid, self.axis)
        self.codes.copy_(pack(codes - self.low, self.width))
        self.scale.copy_(grid.scale)
        self.zero.copy_(grid.zero)
        self._ready = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = None

    def forward(self, weight: Any = None, hop: Hop | None = None) -> Any:
        """The stored weight, whatever is given."""
        if self._ready is None:
            offset = 128 if self.bits == 8 and not self.symmetric else 0
            codes = unpack(self.codes, self.width, self.shape.numel()).to(torch.int16)
            q = (codes + self.low - offset).to(torch.int8).view(self.shape)
            axis = self.axis % len(self.shape)
            if len(self.shape) == 2:
                self._ready = Coded(Codes(q, self.scale, self.zero - offset, axis))
            else:
                size = [1] * len(self.shape)
                size[axis] = -1
                scale = self.scale.view(size) if self.scale.dim() else self.scale
                zero = self.zero.view(size) if self.zero.dim() else self.zero
                return (q.float() - (zero - offset)) * scale
        return self._ready


class IntegerActivation(nn.Module):
    """Hands on the codes of what it is given: of values, of integers with steps, of sparse rows.

    Args:
        bits: of a code, 0 .. 2^bits - 1.
    """

    integer = True
    takes_sparse = True

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.scale: Tensor
        self.zero: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero", torch.zeros(()))

    @property
    def grid(self) -> Grid:
        """The numbers that codes stand for."""
        return Grid(self.scale, self.zero, 0, 2**self.bits - 1)

    def take(self, grid: Grid) -> None:
        """Store a range."""
        self.scale.copy_(grid.scale)
        self.zero.copy_(grid.zero)

    def forward(self, x: Any, hop: Hop | None = None) -> Any:
        """Shapes: [n, D] -> codes [n, D]; of other shapes the values of codes."""
        if isinstance(x, SparseRows):
            codes = centred(x.values.float(), self.grid)
            return SparseCodes(x.rows, codes, self.scale, SparseRows)
        if isinstance(x, Coded):
            return x.encode(self.grid)
        if x.device.type != "cpu":
            raise UsageError("quantization=integer: runs on the CPU; type hardware.device=cpu")
        if x.dim() == 2:
            return Coded.of(x.detach().float()).encode(self.grid)
        flat = x.reshape(len(x), -1) if x.dim() else x.reshape(1, 1)
        return Coded.of(flat.detach().float()).encode(self.grid).values().view(x.shape)


class Integer(Quantizer):
    """What ``gnnscale convert`` makes of a run trained with fake quantization.

    Weights are codes in memory and in the checkpoint; products, sums, maxima and minima of codes
    are integers (products in 32 bits, sums of neighbours in 16 and 32), what stands between them is
    done in one pass when the next site asks for codes (``core.ops.coded``). Softmax, norms over
    rows, activations other than ReLU, embedding tables and readouts are float32 of the codes'
    values, as they were in training.

    Args:
        weights, activations: bits of each site by its name; sites without are left in float.
        symmetric: weights whose codes are signed. scales: weights with a scale per output; those of
            1 bit are signs, and the scale is their factor.
        centred: activations of 1 bit, signs, that batch norm stands in front of, and their width.

    Raises: UsageError if there are no sites: it is not trained, it is converted.
    """

    gives = traits(Trait.CODES)

    def __init__(
        self,
        weights: dict[str, Count] | None = None,
        activations: dict[str, Count] | None = None,
        symmetric: list[str] | None = None,
        scales: list[str] | None = None,
        centred: dict[str, Count] | None = None,
    ):
        self.weights, self.activations = dict(weights or {}), dict(activations or {})
        self.symmetric, self.scales = set(symmetric or ()), set(scales or ())
        self.centred = dict(centred or {})
        if not self.weights and not self.activations:
            raise UsageError(
                "quantization=integer: is not trained but made of a finished run that was trained "
                "with quantization=qat, degree, ptq or binary; type gnnscale convert run=<folder>"
            )

    def make(self, site: Site, name: str, weight: nn.Parameter | None) -> nn.Module | None:
        """Empty codes of the right size."""
        if weight is not None and self.weights.get(name) == 1:
            return SignWeight(weight.shape, site.channel, name in self.scales)
        if self.activations.get(name) == 1:
            return SignInput(self.centred.get(name))
        if weight is not None and name in self.weights:
            channels = weight.shape[site.channel] if name in self.scales else None
            return IntegerWeight(
                weight.shape, self.weights[name], name in self.symmetric, channels, site.channel
            )
        return IntegerActivation(self.activations[name]) if name in self.activations else None

    def attach(self, model: nn.Module) -> None:
        """Fill the sites; weights that are codes are no parameters any more."""
        super().attach(model)
        for name, site in sites(model):
            if isinstance(site.quantizer, IntegerWeight | SignWeight):
                owner = name.rpartition(".")[0]
                parent = attrgetter(owner)(model) if owner else model
                parent._parameters[site.of] = None
        model.requires_grad_(False)

    def convert(self, model: nn.Module, trained: Mapping[str, Tensor]) -> None:
        """Fill ``model``, whose sites are this quantizer's, from a state with fake quantization."""
        own = model.state_dict()
        for name, value in own.items():
            if ".quantizer." not in name:
                value.copy_(trained[name])
        for name, site in sites(model):
            module = site.quantizer
            owner = name.rpartition(".")[0]
            kept = f"{owner}.{site.of}" if owner else site.of
            inside = f"{name}.quantizer."
            if isinstance(module, SignWeight):
                weight = trained[kept]
                rest = [d for d in range(weight.dim()) if d != site.channel % weight.dim()]
                module.take(weight, trained.get(f"{inside}scale", weight.abs().mean(rest)))
            elif isinstance(module, SignInput):
                module.take({k.removeprefix(inside): v for k, v in trained.items()
                             if k.startswith(inside)})  # fmt: skip
            elif isinstance(module, IntegerWeight):
                weight = trained[kept]
                coding = Coding(module.bits, module.symmetric)
                coder = FakeQuant(coding, module.channels, site.channel)
                coder.track(weight)
                module.take(weight, coder.grid)
            elif isinstance(module, IntegerActivation):
                low, high = (trained[f"{name}.quantizer.{end}"] for end in ("low", "high"))
                module.take(Coding(module.bits).grid(low, high))


def describe(model: nn.Module, option: str | None) -> dict[str, Any]:
    """The options of ``Integer`` for a model trained with fake quantization.

    option: the quantizer's name. Raises UsageError for sites that have no integer form.
    """
    found: dict[str, Any] = {"weights": {}, "activations": {}, "symmetric": [], "scales": [],
                             "centred": {}}  # fmt: skip
    for name, site in sites(model):
        quantizer = site.quantizer
        if isinstance(quantizer, BinaryWeight | BinaryInput):
            path = name.rpartition(".")[0]
            parent = attrgetter(path)(model) if path else model
            if site.role == "weight" and getattr(parent, site.of).dim() != 2:
                raise UsageError(
                    f"quantization={option}: {name} is a stack of binary matrices, which has no "
                    "integer form; binary runs of architectures whose weights are matrices have, "
                    "e.g. architecture=sage"
                )
            _signs(found, name, quantizer, option)
            continue
        if quantizer is None or (isinstance(quantizer, FakeQuant) and not quantizer.seen):
            continue  # nothing has ever passed it
        if not isinstance(quantizer, FakeQuant):
            raise UsageError(
                f"quantization={option}: {name} has no integer form; runs trained with "
                "quantization=qat, degree, ptq or binary have"
            )
        if quantizer.bits > 8:
            raise UsageError(
                f"quantization={option}: {name} has codes of {quantizer.bits} bits, and integer "
                "models hold at most 8; train with smaller quantization.weight_bits and "
                "quantization.activation_bits"
            )
        if site.role != "weight":
            found["activations"][name] = quantizer.bits
            continue
        found["weights"][name] = quantizer.bits
        if quantizer.coding.symmetric:
            found["symmetric"].append(name)
        if quantizer.low.dim():
            found["scales"].append(name)
    if not found["weights"] and not found["activations"]:
        raise UsageError(
            f"quantization={option or 'none'}: the run has no codes to convert; train it with "
            "quantization=qat, degree, ptq or binary"
        )
    return found


def _signs(found: dict[str, Any], name: str, quantizer: Any, option: str | None) -> None:
    """Describe a site of a binary network. Raises UsageError where it holds no signs."""
    if isinstance(quantizer, BinaryWeight):
        if not quantizer.binary:
            raise UsageError(
                f"quantization={option}: {name} is a real weight, which has no integer form; train "
                "with quantization.weights=binary"
            )
        found["weights"][name] = 1
        if quantizer.rescale != "none":
            found["scales"].append(name)
        return
    if quantizer.mode != "sign":
        raise UsageError(
            f"quantization={option}: {name} hands on {quantizer.mode} values, which have no "
            "integer form; train with quantization.inputs=sign or real"
        )
    found["activations"][name] = 1
    if quantizer.center is not None:
        found["centred"][name] = len(quantizer.center.running_mean)
