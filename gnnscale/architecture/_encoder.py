"""From what a dataset says of nodes and edges to the first level of a model."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.core.data import Shape
from gnnscale.core.site import Dense, Rows, Site


class Codes(nn.Module):
    """z_i = sum_c T_c[x_ic]: a table of learned rows per column of codes, their rows added.

    The encoder of atoms and of bonds of OGB's molecules (Hu et al., NeurIPS 2020,
    arXiv:2005.00687); of one column, an embedding. Tables start Glorot-uniform, each by its own
    size.

    Args:
        categories: size of each column's table. width: D.

    Shapes: x [n, columns] int64, x_c < categories_c -> [n, D].
    """

    def __init__(self, categories: Sequence[int], width: int):
        super().__init__()
        tables = [nn.init.xavier_uniform_(torch.empty(size, width)) for size in categories]
        self.weight = nn.Parameter(torch.cat(tables))  # [sum of sizes, D]
        starts = torch.tensor([0, *categories[:-1]]).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)
        self.q_weight = Site("weight")

    def forward(self, x: Tensor) -> Tensor:
        """The rows of the tables, added."""
        return F.embedding_bag(x + self.starts, self.q_weight(self.weight), mode="sum")


def encoder(shape: Shape, width: int) -> nn.Module:
    """Node features to ``width`` columns: tables for codes, else a linear map."""
    if shape.categories:
        return Codes(shape.categories, width)
    return Dense(shape.features, width)


def edge_encoder(shape: Shape, width: int, rows: Rows = "edges") -> nn.Module | None:
    """Edge features to ``width`` columns, as for nodes; None if edges have none."""
    if shape.edge_categories:
        return Codes(shape.edge_categories, width)
    return Dense(shape.edge_features, width, rows=rows) if shape.edge_features else None
