import pytest
import torch
from torch import nn

from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN, GCNConv
from gnnscale.architecture.sage import SAGE
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.graph.whole import whole_batch

NEED = Need(1, "sym", "diag")


def test_published_counts(parameters):
    arxiv = GCN(Shape(128, 40), hidden=256, depth=3, norm="batch")
    assert parameters(arxiv) == 110_120
    assert parameters(GCN(Shape(100, 47), hidden=256, depth=3)) == 103_727
    # Kipf & Welling on Cora: 1433*16+16 + 16*7+7
    assert parameters(GCN(Shape(1433, 7), hidden=16, depth=2)) == 23_063


@pytest.mark.parametrize("d_out", [2, 5, 9])
@pytest.mark.parametrize("loops", ["diag", "edges"])
def test_layer_equals_graphconv(six_dgl, layer, features, d_out, loops):
    torch.manual_seed(0)
    conv = GCNConv(5, d_out).double()
    nn.init.normal_(conv.bias)
    oracle = dgl.nn.GraphConv(5, d_out, norm="both").double()
    oracle.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    want = oracle(dgl.add_self_loop(six_dgl), features)
    got = layer(conv, Need(1, "sym", loops), features)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d_out", [2, 9])
def test_layer_gradient(check_gradient, features, d_out):
    check_gradient(GCNConv(5, d_out).double(), NEED, features)


def test_two_layers_are_kipf_and_welling(sixty, dense):
    torch.manual_seed(0)
    model = GCN(sixty.shape, hidden=16, depth=2).double().eval()
    a = dense(sixty.graph) + torch.eye(60, dtype=torch.float64)
    d = a.sum(1) ** -0.5
    s = d.unsqueeze(1) * a * d
    first, second = (block.conv for block in model.layers)
    h = (s @ sixty.x @ first.weight + first.bias).relu()
    want = s @ h @ second.weight + second.bias
    out = model(whole_batch(sixty, model.need))
    torch.testing.assert_close(out.logits, want, rtol=1e-10, atol=1e-10)
    # without a head, what the classifier reads is the level below the last layer
    torch.testing.assert_close(out.hidden(-1), h)
    assert len(out.levels) == 2


def test_stem_and_residual_by_the_formula(sixty):
    torch.manual_seed(0)
    model = GCN(sixty.shape, hidden=8, depth=2, norm="layer", act="elu", residual=True, stem=True)
    model = model.double().eval()
    batch = whole_batch(sixty, model.need)
    h = model.encoder(sixty.x)
    for block in model.layers:
        z = block.conv(batch.hops[0], h, None)
        z = nn.functional.layer_norm(z, (8,), block.norm.weight, block.norm.bias)
        h = h + nn.functional.elu(z)
    out = model(batch)
    torch.testing.assert_close(out.logits, model.head(h))
    torch.testing.assert_close(out.hidden(-1), h)


def test_residual_only_where_widths_agree():
    model = GCN(Shape(5, 3), hidden=8, depth=4, residual=True)
    assert [block.residual for block in model.layers] == [False, True, True, False]
    assert [block.residual for block in GCN(Shape(8, 8), hidden=8, residual=True).layers] == [
        True,
        True,
    ]
    assert not any(block.residual for block in GCN(Shape(8, 8), hidden=8).layers)


def test_residual_adds_the_undropped_input(sixty):
    model = GCN(
        sixty.shape, hidden=8, depth=1, dropout=0.999, residual=True, stem=True, norm="none"
    )
    model = model.double().train()
    out = model(whole_batch(sixty, model.need))
    # nearly everything after the activation is dropped, what remains is the encoder's output
    same = (out.levels[1] == out.levels[0]).double().mean()
    assert same > 0.9
    assert (model.encoder(sixty.x) == out.levels[0]).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"norm": "batch", "depth": 3}, {"norm": "layer", "stem": True, "residual": True}],
)
def test_model(check_model, options):
    check_model(lambda shape: GCN(shape, hidden=8, **options))


def test_dropout_only_in_training(sixty):
    model = GCN(sixty.shape, hidden=8, dropout=0.5).double()
    batch = whole_batch(sixty, model.need)
    assert not torch.equal(model.train()(batch).logits, model(batch).logits)
    assert torch.equal(model.eval()(batch).logits, model(batch).logits)


def test_need_and_first():
    model = GCN(Shape(5, 3), hidden=8, depth=3)
    assert model.need == Need(3, "sym", "diag")
    assert [tuple(p.shape) for p in model.first()] == [(5, 8), (8,)]
    stem = GCN(Shape(5, 3), hidden=8, depth=3, stem=True)
    assert [tuple(p.shape) for p in stem.first()] == [(8, 5), (8,)]


@pytest.mark.parametrize("model", [GCN, SAGE, GAT])
@pytest.mark.parametrize("rate", [None, 0.0, 0.9])
def test_dropout_of_the_features_is_that_of_the_other_layers_unless_said(model, rate, sixty):
    """With 0 the first convolution reads the features; all others read what they would have."""
    made = model(sixty.shape, hidden=40, depth=3, dropout=0.5, input_dropout=rate).double()
    zeros = []
    for block in made.layers:
        block.conv.register_forward_pre_hook(
            lambda conv, given: zeros.append((given[1] == 0).double().mean().item())
        )
    made(whole_batch(sixty, made.need))
    first = {None: 0.5, 0.0: 0.0, 0.9: 0.9}[rate]
    assert zeros[0] == pytest.approx(first, abs=0.1)
    assert all(share > 0.4 for share in zeros[1:])
