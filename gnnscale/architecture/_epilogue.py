"""Norm, activation and dropout as modules, computed in one pass where the device has one."""

import torch
from torch import Tensor, nn

from gnnscale.core import ops
from gnnscale.core.ops import epilogue

KINDS = (torch.float32, torch.float64, torch.bfloat16)


def slope(act: nn.Module) -> float | None:
    """Of an activation that is linear on either side of 0 with slopes 1 and this; None: another."""
    if type(act) is nn.LeakyReLU:
        return act.negative_slope if act.negative_slope >= 0 else None
    return {nn.ReLU: 0.0, nn.Identity: 1.0}.get(type(act))


def finished(norm: nn.Module, act: nn.Module, z: Tensor, p: float) -> Tensor | None:
    """drop(act(norm(z))) in one pass, with the norm's running statistics brought up to date.

    None, and nothing done, where the steps have to be taken one by one: other norms than
    ``BatchNorm1d`` and ``LayerNorm`` or other activations, devices without such a pass, modules
    that are listened to; and where there is one step at most. Norms of bfloat16 rows are float32.

    Args:
        norm, act: the modules. z: [n, D]. p: rate of dropout, 0 in evaluation.
    """
    leak = slope(act)
    plain = isinstance(z, Tensor) and z.dim() == 2 and z.dtype in KINDS and ops.fuses(z.device)
    if leak is None or not plain or heard(norm) or heard(act):
        return None
    z = ops.full(z)
    if type(norm) is nn.LayerNorm and norm.bias is not None:
        return epilogue.by_row(z, norm.weight, norm.bias, norm.eps, leak, p)
    if type(norm) is nn.BatchNorm1d and norm.affine:
        return by_column(norm, z, leak, p)
    if type(norm) is nn.Identity and leak != 1 and p:
        return epilogue.plain(z, leak, p)
    return None


def heard(module: nn.Module) -> bool:
    """Whether somebody listens to what goes in or out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def by_column(norm: nn.BatchNorm1d, z: Tensor, leak: float, p: float) -> Tensor | None:
    """With a batch norm; its statistics follow those of the rows as ``nn.BatchNorm1d``'s do."""
    n, mean, var = len(z), norm.running_mean, norm.running_var
    own = norm.training or mean is None or var is None
    if own:
        if n < 2:
            return None  # torch's own error
        with torch.no_grad():
            of_rows = epilogue.moments(z)
            if norm.training and norm.track_running_stats:
                follow(norm, *of_rows, n)
        mean, var = of_rows
    assert mean is not None
    assert var is not None
    return epilogue.by_column(z, norm.weight, norm.bias, mean, var, norm.eps, leak, p, own)


def follow(norm: nn.BatchNorm1d, mean: Tensor, var: Tensor, n: int) -> None:
    """Running statistics: a moving average, or with momentum None the mean over all batches."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    share = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_((var * (n / (n - 1))).to(norm.running_var.dtype), share)
