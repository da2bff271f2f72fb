"""From rows of nodes to one row per graph, and back: the subgraph pool and the virtual node."""

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS, Dropout, pooled
from gnnscale.core.batch import Batch, Memo
from gnnscale.core.hop import Hop
from gnnscale.core.ops import full
from gnnscale.core.segment import reduced
from gnnscale.core.site import Dense


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


class Virtual(nn.Module):
    """A block around which one more node per graph is read and written.

    h_i <- block(h_i + v_g), then v_g <- drop(f(v_g + sum over the graph of (h_i + v_g))), with f =
    linear, batch norm, ReLU, linear, batch norm, ReLU of widths D, 2 D, D, and v_g = 0 at first.
    Gilmer et al., ICML 2017, arXiv:1704.01212, sec. 5.2, in the form of OGB's molecule models (Hu
    et al., NeurIPS 2020): the start is learned, shared and 0 at first, and nothing is written
    behind the last block. A batch without a segment is one graph.

    Args:
        block: called as block(hop, h, memo). width: D. first: it holds the start. last: write
            nothing. drop: rate on v.

    Shapes: h [n, D] on a square hop -> [n, D].
    """

    def __init__(self, block: nn.Module, width: int, first: bool, last: bool, drop: float):
        super().__init__()
        self.block, self.drop = block, Dropout(drop)
        self.start = nn.Parameter(torch.zeros(1, width)) if first else None
        self.write = None if last else nn.Sequential(
            Dense(width, 2 * width, rows="none"), nn.BatchNorm1d(2 * width), nn.ReLU(),
            Dense(2 * width, width, rows="none"), nn.BatchNorm1d(width), nn.ReLU(),
        )  # fmt: skip

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One block, with the node read before it and written behind it."""
        segment, graphs = memo.segment(len(h))
        if self.start is not None:
            memo.kept["virtual"] = self.start.expand(graphs, -1)
        v = memo.kept["virtual"]
        h = full(h) + v[segment]
        if self.write is not None:
            memo.kept["virtual"] = self.drop(self.write(reduced("sum", h, segment, graphs) + v))
        return self.block(hop, h, memo)
