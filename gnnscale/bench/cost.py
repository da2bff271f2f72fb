"""Multiply-accumulates, bytes and times per layer of one pass, counted while it happens."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.watch import watched
from gnnscale.core.sparse import SparseRows
from gnnscale.stage.evaluate import parameter_count

ELSEWHERE = "elsewhere"
"""What happens in no layer."""


@dataclass
class Layer:
    """What one layer did in one pass.

    dense: shapes (batch, m, k, n, dtype) of its matrix products. products: (name, adjacency, values
    per edge, weighted) of its message passing. read, written: bytes of its input and output.
    """

    name: str
    kind: str
    parameters: int = 0
    parameter_bytes: int = 0
    dense: list[tuple] = field(default_factory=list)
    products: list[tuple[str, Adjacency, int, bool]] = field(default_factory=list)
    read: int = 0
    written: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def dense_macs(self) -> int:
        """Of matrix products: m k n each."""
        return sum(b * m * k * n for b, m, k, n, _ in self.dense)

    @property
    def message_macs(self) -> int:
        """Of sums over edges: one per edge and value, weighted or not; extremes count alike."""
        return sum(adj.n_edges * d for name, adj, d, _ in self.products if name != "softmax")

    @property
    def least_bytes(self) -> int:
        """Input, output and parameters moved once, the indices and weights of each graph once."""
        graphs = {id(adj): adj for _, adj, _, _ in self.products}
        index = sum(4 * adj.n_edges + 8 * len(adj.indptr) for adj in graphs.values())
        weights = sum(4 * adj.n_edges for _, adj, _, w in self.products if w)
        return self.read + self.written + self.parameter_bytes + index + weights


class _Dense(TorchDispatchMode):
    """Hears every matrix product of dense tensors."""

    def __init__(self, see: Callable[[tuple], None]):
        super().__init__()
        self.see = see

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            tensors = [a for a in args if isinstance(a, Tensor)][-2:]
            if len(tensors) == 2 and all(t.layout == torch.strided for t in tensors):
                a, b = tensors
                flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
                if a.dim() == b.dim() and a.dim() in (2, 3):
                    batch = 1 if a.dim() == 2 else len(a)
                    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
                    assert flops == 2 * batch * m * k * n
                    self.see((batch, m, k, n, a.dtype))
        return out


def parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model by name: its children, lists opened."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            for k, layer in enumerate(child):
                yield f"{name}.{k}", layer
        elif not isinstance(child, nn.Identity):
            yield name, child


def kind(layer: nn.Module) -> str:
    """The class that does a layer's work: its convolution's, or that of its first dense map."""
    if hasattr(layer, "conv"):
        return type(layer.conv).__name__
    if isinstance(layer, nn.Sequential):
        return next((type(m).__name__ for m in layer if isinstance(m, nn.Linear)), "Sequential")
    return type(layer).__name__


def size(value: Any) -> int:
    """Bytes of a tensor or of sparse rows; 0 of anything else."""
    if isinstance(value, SparseRows):
        rows = value.rows
        return size(value.values) + size(rows.indices) + size(rows.indptr)
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


@contextmanager
def _hooked(model: nn.Module, enter: Callable, leave: Callable) -> Iterator[None]:
    handles = []
    for name, layer in parts(model):
        handles.append(layer.register_forward_pre_hook(
            lambda module, given, name=name: enter(name, given)))  # fmt: skip
        handles.append(layer.register_forward_hook(
            lambda module, given, made, name=name: leave(name, made)))  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def count(model: nn.Module, forward: Callable[[], object]) -> dict[str, Layer]:
    """Every layer of one ``forward`` of ``model``, and what happened outside of them.

    Matrix products are counted by torch's own table of operations, others and message passing where
    ``core.ops`` computes them. Element-wise work (activations, norms, factors, attention scores) is
    counted as bytes only.
    """
    layers = {ELSEWHERE: Layer(ELSEWHERE, ELSEWHERE)}
    for name, module in parts(model):
        own = list(module.parameters())
        layers[name] = Layer(name, kind(module), parameter_count(module), sum(map(size, own)))
    now = [ELSEWHERE]

    def enter(name: str, given: tuple) -> None:
        layers[name].read += sum(size(g) for g in given)
        now.append(name)

    def leave(name: str, made: Any) -> None:
        layers[name].written += size(made)
        now.pop()

    with (
        _hooked(model, enter, leave),
        watched(
            lambda *product: layers[now[-1]].products.append(product),
            lambda shape: layers[now[-1]].dense.append(shape),
        ),
        _Dense(lambda shape: layers[now[-1]].dense.append(shape)),
    ):
        forward()
    return layers


def clock(
    model: nn.Module, forward: Callable[[], object], layers: dict[str, Layer],
    device: torch.device, passes: int = 7,
) -> None:  # fmt: skip
    """Time every layer in passes of their own; ``Layer.seconds`` gets one sum per pass."""
    sums: dict[str, float] = {}
    started: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def leave(name: str, made: Any) -> None:
        sums[name] = sums.get(name, 0.0) + now() - started.pop()

    with _hooked(model, lambda name, given: started.append(now()), leave):
        forward()
        for _ in range(passes):
            sums.clear()
            forward()
            for name, seconds in sums.items():
                layers[name].seconds.append(seconds)


def table(model: nn.Module, layers: dict[str, Layer], model_bytes: int) -> dict[str, Any]:
    """The measurement's ``cost``."""
    shown = [v for v in layers.values() if v.name != ELSEWHERE or v.dense or v.products]
    rows = [
        {
            "name": v.name, "kind": v.kind, "parameters": v.parameters,
            "dense_macs": v.dense_macs, "message_macs": v.message_macs,
            "least_bytes": v.least_bytes,
            "ms": 1e3 * statistics.median(v.seconds) if v.seconds else None,
        }
        for v in shown
    ]  # fmt: skip
    dense, message = sum(v.dense_macs for v in shown), sum(v.message_macs for v in shown)
    return {
        "parameters": parameter_count(model),
        "bytes": model_bytes,
        "macs": dense + message,
        "dense_macs": dense,
        "message_macs": message,
        "of": "one pass over the whole graph",
        "layers": rows,
    }
