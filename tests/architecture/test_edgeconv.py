import pytest
import torch
from compositions import plan, toy, train
from torch import nn

from gnnscale.architecture.edgeconv import DGCNN, EdgeConv
from gnnscale.core.errors import CompositionError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.host import dgl
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.nearest import nearest


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_layer_equals_dgl(layer, six, features, norm):
    """DGL's is Theta (x_i - x_j) + Phi x_i (its documentation has the other sign)."""
    torch.manual_seed(0)
    conv = EdgeConv(5, 4, 1, norm, "relu").double()
    theirs = dgl.nn.EdgeConv(5, 4, norm == "batch", allow_zero_in_degree=True).double()
    linear = conv.mlp[0]
    with torch.no_grad():
        theirs.phi.weight.copy_(linear.weight[:, :5])
        theirs.theta.weight.copy_(-linear.weight[:, 5:])
        theirs.theta.bias.copy_(linear.bias)
        theirs.phi.bias.zero_()
    graph = dgl.graph((six.indices.long(), six.dst.long()), num_nodes=6)
    want = theirs(graph, features)
    torch.testing.assert_close(layer(conv, Need(1), features), want, rtol=1e-10, atol=1e-10)


def test_layer_by_hand(layer, six, features):
    torch.manual_seed(0)
    conv = EdgeConv(5, 4, 2, "none", "relu").double()
    found = layer(conv, Need(1), features)
    for i in range(6):
        sources = six.indices[six.indptr[i] : six.indptr[i + 1]].tolist()
        each = [conv.mlp(torch.cat([features[i], features[j] - features[i]])) for j in sources]
        want = torch.stack(each).amax(0) if each else torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(found[i], want)


def test_layer_gradient(check_gradient, features):
    check_gradient(EdgeConv(5, 4, 2, "none", "elu").double(), Need(1), features)


def test_model(check_model):
    check_model(lambda shape: DGCNN(shape, hidden=8))


@pytest.mark.parametrize("edges", [0, 1])
def test_batches_of_one_edge_or_none_train(edges):
    src = torch.zeros(edges, dtype=torch.int64)
    hop = Hop(Adjacency.from_edges(src, src + 1, 3))
    conv = EdgeConv(5, 4, 1, "batch", "relu").train()
    out = conv(hop, torch.randn(3, 5), None)
    assert torch.isfinite(out).all()
    assert (out != 0).any() == bool(edges)


@pytest.mark.parametrize("space", ["euclid", "hamming"])
def test_dynamic_layers_read_the_nearest_rows_and_no_edge(features, space):
    torch.manual_seed(0)
    segment = torch.tensor([0, 0, 0, 0, 1, 1])
    conv = EdgeConv(5, 4, 1, "none", "relu", k=3, space=space).double()
    fixed = EdgeConv(5, 4, 1, "none", "relu").double()
    fixed.load_state_dict(conv.state_dict())
    given = Hop(Adjacency.from_edges(torch.tensor([5]), torch.tensor([0]), 6), segment=segment)
    found = conv(given, features, None)
    own = Hop(nearest(features, 3, segment, space))
    assert torch.equal(found, fixed(own, features, None))
    assert own.graph.in_degree.tolist() == [3, 3, 3, 3, 2, 2]
    moved = features.clone()
    moved[4:] += 9.0  # another graph's rows
    assert torch.equal(conv(given, moved, None)[:4], found[:4])


@pytest.mark.parametrize("quantization", ["none", "binary"])
def test_dynamic_graphs_train(quantization, tmp_path):
    checked = toy(
        {"architecture": {"dynamic": True, "k": 4, "space": "hamming", "hidden": 8}},
        architecture="edgeconv", sampler="graphs", quantization=quantization,
    )  # fmt: skip
    (record,) = train(checked, tmp_path)
    assert record.metric["name"] == "accuracy"


def test_dynamic_is_refused_for_labels_of_nodes():
    with pytest.raises(CompositionError, match="architecture=edgeconv needs 'graph'"):
        plan({"architecture": {"dynamic": True}}, architecture="edgeconv")


def test_the_last_of_bare_layers_has_no_norm(sixty):
    model = DGCNN(sixty.shape, stem=False, hidden=8)
    norms = [[m for m in layer.conv.mlp if isinstance(m, nn.BatchNorm1d)] for layer in model.layers]
    assert [len(n) for n in norms] == [1, 1, 0]
