"""Message-passing products with gradients, over interchangeable kernels.

``hardware.kernel`` picks the backend: ``dgl``, ``native`` (compiled with numba), ``torch``,
``dense`` or ``auto`` (the fastest one measured on that device, per product, and per graph where it
is dense). A backend is a module with ten functions on raw tensors; gradients are written once here.
"""

import math
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.errors import UsageError, unknown
from gnnscale.core.ops import dense_kernels, dgl_kernels, native_kernels, torch_kernels
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.attention import attention as fused_attention
from gnnscale.core.ops.coded import Coded, Heads
from gnnscale.core.ops.fused import Factors
from gnnscale.core.ops.watch import tell

BACKENDS: dict[str, ModuleType] = {
    "dgl": dgl_kernels,
    "native": native_kernels,
    "torch": torch_kernels,
    "dense": dense_kernels,
}
PREFERRED = {"cpu": ("native", "dgl", "torch"), "cuda": ("dgl", "torch")}

_choice = "auto"


def select(kernel: str) -> None:
    """Choose the backend for every later product. Raises UsageError if there is no such one."""
    if kernel != "auto" and kernel not in BACKENDS:
        raise UsageError(unknown("hardware.kernel", kernel, ["auto", *BACKENDS]))
    global _choice
    _choice = kernel


def backend(product: str, device: torch.device, adj: Adjacency | None = None) -> ModuleType:
    """The module that computes ``product`` on ``device``, of this graph if one is given."""
    name = _choice
    if name == "auto" and adj is not None and dense_kernels.pays(adj):
        name = "dense"
    elif name == "auto":
        name = next(b for b in PREFERRED[device.type] if device.type in BACKENDS[b].DEVICES)
    module = BACKENDS[name]
    if device.type not in module.DEVICES:
        raise UsageError(
            f"hardware.kernel={name}: does not run on {device.type}; "
            f"choose hardware.kernel=auto or {PREFERRED[device.type][-1]}"
        )
    return module


def fuses(device: torch.device) -> bool:
    """Whether several aggregators, or factors and their sum, take one pass there."""
    return backend("several", device) is native_kernels


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, x):
        ctx.adj = adj
        return backend("total", x.device, adj).total(adj, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return None, backend("total", g.device, ctx.adj).total(ctx.adj.T, g)


class _Operator(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, x, factors):
        ctx.adj, ctx.factors = adj, factors
        return native_kernels.operator(adj, x, *factors)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        src, dst, weight, diag = ctx.factors
        back = ctx.adj.T
        weight = weight if weight is None else weight[back.edges]
        return None, native_kernels.operator(back, g, dst, src, weight, diag), None


class _WeightedTotal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, x, w):
        ctx.adj = adj
        ctx.save_for_backward(x, w)
        return backend("weighted_total", x.device).weighted_total(adj, x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        kernel, back = backend("weighted_total", g.device), ctx.adj.T
        gx = kernel.weighted_total(back, g, w[back.edges]) if ctx.needs_input_grad[1] else None
        gw = kernel.dot(ctx.adj, g, x) if ctx.needs_input_grad[2] else None
        return None, gx, gw


class _AtEnds(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, h, far):
        ctx.adj, ctx.far, ctx.shape, ctx.dtype = adj, far, h.shape, h.dtype
        return h.index_select(0, adj.indices if far else adj.dst)

    @staticmethod
    def backward(ctx, g):
        back = ctx.adj.T.by_edge if ctx.far else ctx.adj.edgewise
        g = _Total.apply(back, full(g).unsqueeze(-1).flatten(1))
        return None, g.view(ctx.shape).to(ctx.dtype), None


class _Extreme(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, x, sign):
        out, arg = backend("extreme", x.device).extreme(adj, x, sign)
        ctx.adj = adj
        ctx.save_for_backward(arg)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (arg,) = ctx.saved_tensors
        return None, backend("extreme", g.device).extreme_back(ctx.adj, g, arg), None


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, e):
        s = backend("softmax", e.device).softmax(adj, e)
        ctx.adj = adj
        ctx.save_for_backward(s)
        return s

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (s,) = ctx.saved_tensors
        return None, backend("softmax", g.device).softmax_back(ctx.adj, s, g)


class _Additive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, x, y, a, slope):
        ctx.adj, ctx.slope = adj, slope
        ctx.save_for_backward(x, y, a)
        return backend("additive", x.device).additive(adj, x, y, a, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        kernel = backend("additive", g.device)
        return None, *kernel.additive_back(ctx.adj, *ctx.saved_tensors, ctx.slope, g), None


def full(x: Tensor) -> Tensor:
    """At least float32: sums over thousands of neighbours are not taken in half precision."""
    if isinstance(x, Coded | Heads):
        return x.values()
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _stored(x: Tensor) -> Tensor:
    """Rows as a product takes them: bfloat16 where it is widened on the way, else ``full``."""
    if isinstance(x, Tensor) and x.dtype == torch.bfloat16 and fuses(x.device):
        return x
    return full(x)


def operator(adj: Adjacency, x: Tensor, factors: Factors) -> Tensor:
    """sum_e dst_i weight_e src_j x_j + diag_i x_i: the product with a graph's matrix.

    On the CPU in one pass over the edges, forwards and backwards, unless factors have gradients.

    Shapes: x [n_src, D] -> [n_dst, D].
    """
    learned = any(f is not None and f.requires_grad for f in factors)
    plain = isinstance(x, Tensor) and x.dim() == 2 and not learned
    if plain and backend("total", x.device, adj) is native_kernels:
        tell("total", adj, x.shape[1], factors.weight is not None)
        return _Operator.apply(adj, _stored(x), factors)
    x = full(x) if isinstance(x, Tensor) else x
    z = x if factors.src is None else x * factors.src.unsqueeze(1)
    z = total(adj, z, factors.weight)
    if factors.dst is not None:
        z = z * factors.dst.unsqueeze(1)
    if factors.diag is None:
        return z
    return z + full(x[: len(z)]) * factors.diag.unsqueeze(1)


def total(adj: Adjacency, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """sum over in-edges e = (j -> i) of weight_e x_j.

    Shapes: x [n_src, D], weight None or [E] -> [n_dst, D]; x [n_src, H, D], weight [E, H] ->
    [n_dst, H, D]. Destinations without in-edges get 0.
    """
    matrix = weight is None and backend("total", adj.device, adj) is dense_kernels
    if not matrix:  # a product of matrices gathers nothing
        tell("total", adj, math.prod(x.shape[1:]), weight is not None)
    if isinstance(x, Coded | Heads) and (found := x.total(adj, weight)) is not None:
        return found
    x = full(x) if matrix else _stored(x)
    weight = weight if weight is None else full(weight)
    if weight is None:
        flat = x.flatten(1)  # [n_src, H * D]
        return _Total.apply(adj, flat).reshape(adj.n_dst, *x.shape[1:])
    if weight.dim() == 1:
        return _WeightedTotal.apply(adj, x.unsqueeze(1), weight.unsqueeze(1)).squeeze(1)
    return _WeightedTotal.apply(adj, x, weight)


def at_sources(adj: Adjacency, h: Tensor) -> Tensor:
    """h_j of every edge j -> i. Shapes: h [n_src, ...] -> [E, ...].

    On the CPU the gradient is a sum over the edges of a row: torch adds them up one by one, which
    takes two to ten times as long.
    """
    return _at_ends(adj, h, True)


def at_targets(adj: Adjacency, h: Tensor) -> Tensor:
    """h_i of every edge j -> i, likewise. Shapes: h [n_dst, ...] -> [E, ...]."""
    return _at_ends(adj, h, False)


def _at_ends(adj: Adjacency, h: Tensor, far: bool) -> Tensor:
    if h.requires_grad and h.device.type == "cpu" and h.is_floating_point():
        return _AtEnds.apply(adj, h, far)
    return h.index_select(0, adj.indices if far else adj.dst)


def extreme(adj: Adjacency, x: Tensor, sign: int) -> Tensor:
    """Largest (sign 1) or smallest (-1) value over in-edges, 0 where there are none.

    Shapes: x [n_src, D] -> [n_dst, D]. The gradient goes to one edge per value.
    """
    tell("extreme", adj, x.shape[1])
    if isinstance(x, Coded) and (found := x.extreme(adj, sign)) is not None:
        return found
    return _Extreme.apply(adj, full(x), sign)


def softmax(adj: Adjacency, e: Tensor) -> Tensor:
    """Softmax over the in-edges of each destination. Shapes: [E, H] -> [E, H]."""
    tell("softmax", adj, e.shape[1])
    return _Softmax.apply(adj, full(e))


def attention(
    adj: Adjacency, z: Tensor, source: Tensor, target: Tensor, slope: float, p: float
) -> Tensor:
    """sum_j drop(softmax_j LeakyReLU(source_h . z_jh + target_h . z_ih)) z_jh, where it ``fuses``.

    Shapes: z [n_src, H, D], source, target [H, D] -> [n_dst, H, D].
    """
    tell("softmax", adj, z.shape[1])
    tell("total", adj, z[0].numel() if len(z) else 0, True)
    return fused_attention(adj, _stored(z), full(source), full(target), slope, p)


def additive(adj: Adjacency, x: Tensor, y: Tensor, a: Tensor, slope: float) -> Tensor:
    """sum_d a_hd LeakyReLU(x_jhd + y_ihd) of every edge j -> i, without a value per edge and d.

    Shapes: x [n_src, H, D], y [n_dst, H, D], a [H, D] -> [E, H].
    """
    tell("additive", adj, x[0].numel() if len(x) else 0)
    return _Additive.apply(adj, full(x), full(y), full(a), slope)
