"""What the peers' models have in common: stacks of convolutions as gnnscale's are, and SIGN.

Imports torch only: PyG's environment runs this file without gnnscale.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

ACTS = {"relu": F.relu, "elu": F.elu, "gelu": F.gelu, "leaky_relu": F.leaky_relu}
MODULES = {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "prelu": nn.PReLU, "none": nn.Identity}
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


class Sign(nn.Module):
    """Linear maps of the powers of a table, side by side, an activation, drop, a linear map.

    Args:
        spec: features, classes, hidden, powers, dropout, input_dropout, act.
    """

    def __init__(self, spec):
        super().__init__()
        self.spec, self.convs = spec, ()
        self.parts = nn.ModuleList(
            nn.Linear(spec["features"], spec["hidden"]) for _ in range(spec["powers"] + 1)
        )
        self.act = MODULES[spec["act"] or "prelu"]()
        self.head = nn.Linear(len(self.parts) * spec["hidden"], spec["classes"])

    def forward(self, graphs, x):
        """Logits of rows of the table, x [n, powers + 1, features]; no graph is read."""
        first, later = self.spec["input_dropout"], self.spec["dropout"]
        parts = [
            part(F.dropout(x[:, k], first, self.training) if first else x[:, k])
            for k, part in enumerate(self.parts)
        ]
        h = self.act(torch.cat(parts, 1))
        return self.head(F.dropout(h, later, self.training) if later else h)


def loss(logits, y, multi, weight=None):
    """The supervised loss: the mean over rows, or their sum by weights."""
    if multi:
        each = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(-1)
    else:
        each = F.cross_entropy(logits, y, reduction="none")
    return each.mean() if weight is None else (each * weight).sum()


def gin_mlp(d_in, width, d_out, norm):
    """GIN's inner map: linear, norm, ReLU, linear."""
    return nn.Sequential(nn.Linear(d_in, width), NORMS[norm](width), nn.ReLU(),
                         nn.Linear(width, d_out))  # fmt: skip
