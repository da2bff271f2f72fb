from dataclasses import replace

import pytest
import torch

from gnnscale.architecture.ogb_gcn import OGBGCN, OGBGCNConv
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.dataset.ogbg import ATOMS, BONDS
from gnnscale.graph.norm import whole_hop

MOLECULES = Shape(9, 1, level="graph", categories=ATOMS, edge_categories=BONDS)
NEED = Need(1, "sym", "diag")


def test_published_count(parameters):
    """OGB's GCN on ogbg-molhiv, and the students of Joshi et al. (arXiv:2111.04964)."""
    assert parameters(OGBGCN(MOLECULES, hidden=300, depth=5)) == 527_701
    assert parameters(OGBGCN(MOLECULES, hidden=100, depth=2)) == 40_801
    assert parameters(OGBGCN(MOLECULES, hidden=50, depth=2)) == 15_401


@pytest.mark.parametrize("edges", [0, 2])
def test_layer_by_a_loop_over_edges(six, features, edges):
    torch.manual_seed(0)
    conv = OGBGCNConv(5, 4, Shape(5, 4, edge_features=edges)).double()
    edge = torch.randn(six.n_edges, edges, dtype=torch.float64) if edges else None
    hop = replace(whole_hop(six, NEED, torch.float64), edge=edge)
    z = features @ conv.linear.weight.T + conv.linear.bias
    d_in, d_out = six.in_degree.double() + 1, six.out_degree.double() + 1
    want = (z + conv.root).relu() / (d_in * d_out).sqrt().unsqueeze(1)
    for e, (j, i) in enumerate(zip(six.indices.tolist(), six.dst.tolist(), strict=True)):
        m = z[j] if edge is None else z[j] + conv.edge.weight @ edge[e] + conv.edge.bias
        want[i] = want[i] + m.relu() / (d_out[j] * d_in[i]).sqrt()
    torch.testing.assert_close(conv(hop, features, None), want, rtol=1e-10, atol=1e-10)


def test_layer_gradient(check_gradient, features):
    check_gradient(OGBGCNConv(5, 4, Shape(5, 4)).double(), NEED, features)


def test_model(check_model):
    check_model(lambda shape: OGBGCN(shape, hidden=8))
