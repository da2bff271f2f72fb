"""A stack of a peer's convolutions, in the order in which gnnscale's models are stacked.

Imports torch only: PyG's environment runs this file without gnnscale.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import nn

ACTS = {"relu": F.relu, "elu": F.elu, "gelu": F.gelu, "leaky_relu": F.leaky_relu}
NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": lambda d: nn.Identity()}


class Stack(nn.Module):
    """drop, convolve, norm, act, repeated; or linear, (convolve, norm, act, drop), linear (stem).

    Args:
        spec: kind, features, classes, hidden, depth, dropout, act, norm, and the layers' own.
        make: make(d_in, d_out, last) -> convolution. call: call(convolution, graph, h) -> rows.
        own: own(graph, h) -> the rows of h that are destinations of ``graph``.
    """

    def __init__(self, spec, make, call, own):
        super().__init__()
        self.spec, self.call, self.own = spec, call, own
        hidden, depth, norm = spec["hidden"], spec["depth"], NORMS[spec["norm"]]
        self.stem = spec.get("stem", False)
        self.residual = spec.get("residual", False)
        inner = [hidden] * (depth - 1)
        widths = [hidden, *inner, hidden] if self.stem else [spec["features"], *inner,
                                                            spec["classes"]]  # fmt: skip
        if self.stem:
            self.encoder = nn.Linear(spec["features"], hidden)
            self.head = nn.Linear(hidden, spec["classes"])
        pairs = list(pairwise(widths))
        ends = [not self.stem and k == depth - 1 for k in range(depth)]
        self.convs = nn.ModuleList(make(a, b, end) for (a, b), end in zip(pairs, ends, strict=True))
        self.norms = nn.ModuleList(nn.Identity() if end else norm(b)
                                   for (_, b), end in zip(pairs, ends, strict=True))  # fmt: skip
        self.adds = [self.residual and a == b for a, b in pairs]
        self.ends = ends

    def forward(self, graphs, x):
        """Logits; ``graphs``: one per layer."""
        p, act = self.spec["dropout"], ACTS[self.spec["act"]]
        first = self.spec.get("input_dropout")
        h = self.encoder(x) if self.stem else x
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            before = h
            if not self.stem:
                rate = p if k or first is None else first
                h = F.dropout(h, rate, self.training) if rate else h
            h = norm(self.call(conv, graphs[k], h))
            h = h if self.ends[k] else act(h)
            if self.stem and p:
                h = F.dropout(h, p, self.training)
            if self.adds[k]:
                h = h + self.own(graphs[k], before)
        return self.head(h) if self.stem else h


def loss(logits, y, multi):
    """The supervised loss."""
    if multi:
        return F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(-1).mean()
    return F.cross_entropy(logits, y)


def gin_mlp(d_in, width, d_out, norm):
    """GIN's inner map: linear, norm, ReLU, linear."""
    return nn.Sequential(nn.Linear(d_in, width), NORMS[norm](width), nn.ReLU(),
                         nn.Linear(width, d_out))  # fmt: skip
