"""What a module draws and remembers, so that it can be evaluated again as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Held:
    """A module's trained parameters and its buffers, looked up once (its tree is not walked again).

    Args:
        module: any; modules and tensors that it holds twice count once.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        weights: dict[int, Tensor] = {}
        buffers: dict[int, Tensor] = {}
        queue = [module]
        for part in queue:
            for p in part._parameters.values():
                if p is not None and p.requires_grad:
                    weights[id(p)] = p
            for b in part._buffers.values():
                if b is not None:
                    buffers[id(b)] = b
            queue += [child for child in part._modules.values() if child is not None]
        self.weights, self.buffers = list(weights.values()), list(buffers.values())


def put(buffers: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    """Give buffers the values that they had."""
    with torch.no_grad():
        for buffer, value in zip(buffers, state, strict=True):
            buffer.copy_(value)


def generators(device: torch.device) -> list[torch.Generator]:
    """Torch's own generators that a computation on ``device`` draws from: the CPU's is always one.

    ``torch.manual_seed`` would seed those of all devices and, before CUDA is initialised, format a
    stack trace at every call, which costs more than a small convolution.
    """
    found = [torch.default_generator]
    if device.type == "cuda":
        found.append(torch.cuda.default_generators[device.index or 0])
    return found


@contextmanager
def forked(drawing: Sequence[torch.Generator]) -> Iterator[None]:
    """Leave generators as they are now, whatever is drawn inside."""
    states = [generator.get_state() for generator in drawing]
    try:
        yield
    finally:
        for generator, state in zip(drawing, states, strict=True):
            generator.set_state(state)
