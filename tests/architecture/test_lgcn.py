import pytest
import torch

from gnnscale.architecture.lgcn import LGCN, LGCNConv
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.whole import whole_batch

NEED = Need(1, "row", "diag")


def operator(adj, dense):
    a = dense(adj) + torch.eye(adj.n_dst, dtype=torch.float64)
    return a / a.sum(1, keepdim=True) + torch.eye(adj.n_dst, dtype=torch.float64)


def test_rows_of_the_operator_sum_to_two(six, dense):
    hop = whole_hop(six, NEED, torch.float64)
    ones = torch.ones(6, 1, dtype=torch.float64)
    got = LGCNConv(1, 1, "relu").double().propagate(hop, ones)
    torch.testing.assert_close(got, 2 * ones)
    torch.testing.assert_close(operator(six, dense).sum(1, keepdim=True), 2 * ones)


def test_two_layers_by_dense_algebra(sixty, dense):
    torch.manual_seed(0)
    model = LGCN(sixty.shape, hidden=5, depth=2).double()
    p, h = operator(sixty.graph, dense), sixty.x
    for layer in model.layers:
        h = (p @ h @ layer.linear.weight.T).relu()
    want = h @ model.head.weight.T
    got = model(whole_batch(sixty, model.need)).logits
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_layer_gradient(check_gradient, features):
    torch.manual_seed(0)
    check_gradient(LGCNConv(5, 3, "elu").double(), NEED, features)


def test_no_biases(parameters):
    # the authors' configuration on Cora: 1433*16 + 16*16 + 16*7
    assert parameters(LGCN(Shape(1433, 7), hidden=16, depth=2)) == 23_296


@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_sparse_rows_give_the_same(sixty, act):
    torch.manual_seed(0)
    model = LGCN(sixty.shape, act=act).double()
    x = sixty.x * (sixty.x > 1)
    sparse = sixty.with_(x=SparseRows.from_dense(x))
    want = model(whole_batch(sixty.with_(x=x), model.need)).logits
    torch.testing.assert_close(model(whole_batch(sparse, model.need)).logits, want)


def test_a_level_is_a_model_of_its_own(sixty):
    torch.manual_seed(0)
    model = LGCN(sixty.shape, hidden=5, depth=3).double()
    whole = model(whole_batch(sixty, model.need))
    h = sixty.x
    for i in range(3):
        part = model.level(i, torch.nn.Identity())
        assert part.need.depth == 1
        assert {id(p) for p in part.parameters()} == {id(model.layers[i].linear.weight)}
        h = part(whole_batch(sixty.with_(x=h), part.need)).logits
        torch.testing.assert_close(h, whole.levels[i + 1], rtol=1e-12, atol=1e-12)
    assert len(model.layers) == 3, "the model itself is as it was"
