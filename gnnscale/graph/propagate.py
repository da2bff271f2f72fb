"""The operator applied to a matrix of features, dense or sparse, once."""

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from gnnscale.core.data import GraphData
from gnnscale.core.hop import Need
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.norm import whole_hop


def propagated(data: GraphData, need: Need) -> Tensor | SparseRows:
    """P X of the operator that ``need`` names, own entries included; sparse where X is."""
    hop = whole_hop(data.graph, need, data.x.dtype, data.weight)
    if isinstance(data.x, Tensor):
        return hop.reduce(lambda x: x, data.x)

    def ones(n: int, factor: Tensor | None) -> Any:
        return scipy.sparse.diags(np.ones(n) if factor is None else factor.double().numpy())

    n, weight = data.nodes, np.ones(data.graph.n_edges)
    if hop.weight is not None:
        weight = hop.weight.double().numpy()
    a = scipy.sparse.csr_matrix(
        (weight, hop.graph.indices.numpy(), hop.graph.indptr.numpy()), (n, n)
    )
    p = ones(n, hop.dst) @ a @ ones(n, hop.src)
    if hop.diag is not None:
        p = p + ones(n, hop.diag)
    entries = data.x.values.double().numpy()
    columns, rows = data.x.rows.indices.numpy(), data.x.rows.indptr.numpy()
    x = scipy.sparse.csr_matrix((entries, columns, rows), tuple(data.x.shape))
    px = (p @ x).tocsr()
    return SparseRows(
        torch.from_numpy(px.indptr.astype(np.int64)),
        torch.from_numpy(px.indices.astype(np.int32)),
        torch.from_numpy(px.data).to(data.x.dtype), data.x.shape[1],
    )  # fmt: skip
