import pytest
import torch

from gnnscale.architecture.mlp import MLP
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch

ARXIV, PRODUCTS = Shape(128, 40), Shape(100, 47)


def test_counts_of_the_ogb_baselines(parameters):
    # 128*256+256 + 2*256 + 256*256+256 + 2*256 + 256*40+40
    assert parameters(MLP(ARXIV, hidden=256, depth=3, norm="batch")) == 110_120
    assert parameters(MLP(PRODUCTS, hidden=256, depth=3, norm="none")) == 103_727


def test_depth_counts_linear_maps(parameters):
    assert parameters(MLP(Shape(5, 3), hidden=7, depth=1)) == 5 * 3 + 3
    assert parameters(MLP(Shape(5, 3), hidden=7, depth=2)) == 5 * 7 + 7 + 7 * 3 + 3


def test_equals_the_formula(sixty):
    model = MLP(sixty.shape, hidden=8, depth=3, norm="layer", act="gelu").double().eval()
    h = sixty.x
    for block in model.hidden:
        _, linear, norm, _ = block
        h = h @ linear.weight.T + linear.bias
        h = torch.nn.functional.layer_norm(h, (8,), norm.weight, norm.bias)
        h = torch.nn.functional.gelu(h)
    head = model.head[1]
    out = model(whole_batch(sixty, model.need))
    torch.testing.assert_close(out.logits, h @ head.weight.T + head.bias)
    torch.testing.assert_close(out.hidden(-1), h)
    assert [level.shape[1] for level in out.levels] == [7, 8, 8]


def test_never_looks_at_the_graph(sixty):
    model = MLP(sixty.shape, hidden=8, depth=2).double().eval()
    assert model.need == Need(0)
    assert Trait.HOPS not in {t for alternative in model.needs for t in alternative}
    batch = whole_batch(sixty, model.need)
    assert batch.hops == ()
    nothing = torch.empty(0, dtype=torch.int64)
    bare = sixty.with_(graph=Adjacency.from_edges(nothing, nothing, 60))
    few = whole_batch(bare, model.need)
    assert torch.equal(model(batch).logits, model(few).logits)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("depth", [1, 3])
def test_model(check_model, norm, depth):
    check_model(lambda shape: MLP(shape, hidden=8, depth=depth, norm=norm))


def test_dropout_stands_where_it_should(sixty):
    batch = whole_batch(sixty, Need(0))
    quiet = MLP(sixty.shape, hidden=64, depth=2, dropout=0.0, input_dropout=0.0).double().train()
    assert torch.equal(quiet(batch).logits, quiet(batch).logits)
    # input_dropout 0: the first hidden level is exact, only the logits move
    late = MLP(sixty.shape, hidden=64, depth=2, dropout=0.5).double().train()
    a, b = late(batch), late(batch)
    assert torch.equal(a.levels[1], b.levels[1])
    assert not torch.equal(a.logits, b.logits)
    early = MLP(sixty.shape, hidden=64, depth=2, dropout=0.0, input_dropout=0.5).double().train()
    assert not torch.equal(early(batch).levels[1], early(batch).levels[1])
    # one map is the first map: the features, and nothing else, stand before it
    single = MLP(sixty.shape, depth=1, dropout=0.9, input_dropout=0.0).double().train()
    assert torch.equal(single(batch).logits, single(batch).logits)


def test_first_is_the_first_map():
    model = MLP(Shape(5, 3), hidden=7, depth=3, norm="batch")
    assert [tuple(p.shape) for p in model.first()] == [(7, 5), (7,)]
    assert [tuple(p.shape) for p in MLP(Shape(5, 3), depth=1).first()] == [(3, 5), (3,)]
