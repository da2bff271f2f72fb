import pytest
import torch
from torch import nn

from gnnscale.architecture.gat import GAT, GATConv
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.graph.whole import whole_batch

NEED = Need(1, loops="edges")


def random_bias(conv):
    nn.init.normal_(conv.bias)
    return conv


def test_count_of_the_paper_network_on_cora(parameters):
    # 8 heads of 8: 1433*64 + 2*64 + 64; one head of 7: 64*7 + 2*7 + 7
    assert parameters(GAT(Shape(1433, 7), hidden=64, heads=8)) == 91_904 + 469
    # PubMed: 8 averaged output heads, one bias
    pubmed = GAT(Shape(500, 3), hidden=64, heads=8, out_heads=8)
    assert parameters(pubmed) == (500 * 64 + 3 * 64) + (64 * 24 + 2 * 24 + 3)


@pytest.mark.parametrize(("heads", "size"), [(1, 4), (3, 4), (8, 1)])
def test_concatenated_layer_equals_gatconv(six_dgl, layer, features, heads, size):
    torch.manual_seed(0)
    conv = random_bias(GATConv(5, heads * size, heads, True, 0.0).double())
    oracle = dgl.nn.GATConv(5, size, heads).double()
    oracle.load_state_dict(
        {
            "fc.weight": conv.weight.T,
            "attn_l": conv.left.unsqueeze(0),
            "attn_r": conv.right.unsqueeze(0),
            "bias": conv.bias,
        }
    )
    want = oracle(dgl.add_self_loop(six_dgl), features).flatten(1)
    torch.testing.assert_close(layer(conv, NEED, features), want, rtol=1e-10, atol=1e-10)


def test_averaged_layer_equals_gatconv(six_dgl, layer, features):
    torch.manual_seed(0)
    conv = random_bias(GATConv(5, 4, 3, False, 0.0).double())
    oracle = dgl.nn.GATConv(5, 4, 3).double()
    oracle.load_state_dict(
        {
            "fc.weight": conv.weight.T,
            "attn_l": conv.left.unsqueeze(0),
            "attn_r": conv.right.unsqueeze(0),
            "bias": conv.bias.repeat(3),
        }
    )
    want = oracle(dgl.add_self_loop(six_dgl), features).mean(1)
    torch.testing.assert_close(layer(conv, NEED, features), want, rtol=1e-10, atol=1e-10)


def test_zero_attention_vectors_give_the_mean(layer, features, six, dense):
    conv = GATConv(5, 6, 2, True, 0.0).double()
    nn.init.zeros_(conv.left)
    nn.init.zeros_(conv.right)
    a = dense(six) + torch.eye(6, dtype=torch.float64)
    want = a / a.sum(1, keepdim=True) @ features @ conv.weight
    torch.testing.assert_close(layer(conv, NEED, features), want)


@pytest.mark.parametrize("concat", [True, False])
def test_layer_gradient(check_gradient, features, concat):
    check_gradient(GATConv(5, 4, 2, concat, 0.0).double(), NEED, features)


def test_attention_dropout_drops_whole_neighbours(layer, features):
    # node 5 has only itself: its one attention weight is kept (and doubled) or dropped
    conv = GATConv(5, 4, 1, True, 0.5).double().train()
    whole = features[5] @ conv.weight
    seen = set()
    torch.manual_seed(0)
    for _ in range(40):
        got = layer(conv, NEED, features)[5]
        kept = bool(got.abs().sum() > 0)
        torch.testing.assert_close(got, 2 * whole * kept)
        seen.add(kept)
    assert seen == {True, False}
    assert torch.equal(layer(conv.eval(), NEED, features), layer(conv, NEED, features))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": 2, "out_heads": 3, "depth": 3, "norm": "layer", "residual": True},
        {"heads": 4, "stem": True, "norm": "batch"},
    ],
)
def test_model(check_model, options):
    check_model(lambda shape: GAT(shape, hidden=8, **options))


def test_heads_of_the_layers(sixty):
    model = GAT(sixty.shape, hidden=12, heads=3, out_heads=2, depth=3)
    assert [(b.conv.heads, b.conv.size, b.conv.concat) for b in model.layers] == [
        (3, 4, True),
        (3, 4, True),
        (2, 4, False),
    ]
    stem = GAT(sixty.shape, hidden=12, heads=3, depth=2, stem=True)
    assert [(b.conv.heads, b.conv.size, b.conv.concat) for b in stem.layers] == [(3, 4, True)] * 2
    batch = whole_batch(sixty, stem.need)
    assert batch.hops[0].graph.n_edges == sixty.graph.n_edges + 60


def test_heads_must_divide_hidden():
    message = r"architecture\.hidden=10: must be divisible by architecture\.heads=4; choose .*=12"
    with pytest.raises(UsageError, match=message):
        GAT(Shape(5, 3), hidden=10, heads=4)
