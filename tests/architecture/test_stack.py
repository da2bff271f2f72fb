"""The options that all stacks share: order, jump, readout, virtual node, GraphNorm, codes."""

from dataclasses import replace

import pytest
import torch
from compositions import toy
from torch import nn

from gnnscale.architecture._base import GraphNorm
from gnnscale.architecture._encoder import Codes, edge_encoder, encoder
from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Need
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch

EACH = [GCN, SAGE, GAT, GIN, EGC]


def made(model, shape, **options):
    torch.manual_seed(0)
    return model(shape, hidden=8, stem=True, **options).double()


def outputs(model, data):
    return model.eval()(whole_batch(data, model.need))


def blocks(model, data):
    """Levels by hand: the encoder's, then every convolution applied to the one before."""
    batch = whole_batch(data, model.need)
    return batch, model.encoder(data.x)


@pytest.mark.parametrize("model", EACH)
def test_pre_activation_by_hand(model, sixty):
    """h + conv(act(norm(h))) per block, then act(norm(h)) before the head."""
    net = made(model, sixty.shape, depth=3, order="pre", norm="layer", residual=True).eval()
    batch, h = blocks(net, sixty)
    for block, hop in zip(net.layers, batch.hops, strict=True):
        h = h + block.conv(hop, block.act(block.norm(h)), None)
    want = net.head(net.layers[-1].act(net.layers[-1].last(h)))
    torch.testing.assert_close(outputs(net, sixty).logits, want, rtol=1e-12, atol=1e-12)
    assert [b.last is None for b in net.layers] == [True, True, False]


@pytest.mark.parametrize(("jump", "join"), [
    ("concat", lambda levels: torch.cat(levels, 1)),
    ("max", lambda levels: torch.stack(levels).amax(0)),
    ("sum", sum),
])  # fmt: skip
def test_jump_reads_every_block(jump, join, sixty):
    net = made(GCN, sixty.shape, depth=3, jump=jump)
    out = outputs(net, sixty)
    want = net.head(join(list(out.levels[1:4])))
    torch.testing.assert_close(out.logits, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.hidden(-1), join(list(out.levels[1:4])))


def test_a_head_of_several_layers(sixty, parameters):
    net = made(GCN, sixty.shape, head_widths=[6, 5], head_norm="batch")
    kinds = [type(m).__name__ for m in net.head]
    assert kinds == ["Dense", "BatchNorm1d", "ReLU"] * 2 + ["Dense"]
    assert parameters(net.head) == (8 * 6 + 6 + 12) + (6 * 5 + 5 + 10) + (5 * 4 + 4)


def test_no_activation_behind_the_last_block(sixty):
    net = made(GCN, sixty.shape, last_act=False)
    assert isinstance(net.layers[-1].act, nn.Identity)
    assert isinstance(net.layers[0].act, nn.ReLU)
    assert (outputs(net, sixty).levels[-1] < 0).any()


def test_with_a_stem_the_input_dropout_stands_behind_the_encoder(sixty):
    net = made(GCN, sixty.shape, input_dropout=0.5, dropout=0.0).train()
    zeros = (net(whole_batch(sixty, net.need)).levels[0] == 0).double().mean()
    assert 0.4 < zeros < 0.6
    assert net.first()[0].shape == (8, 7)


@pytest.mark.parametrize("option", [
    {"order": "pre"}, {"jump": "max"}, {"virtual_node": True}, {"last_act": False},
    {"head_widths": [4]},
])  # fmt: skip
def test_what_needs_a_stem_is_refused_without_one(option):
    name = next(iter(option))
    with pytest.raises(UsageError, match=rf"architecture\.{name}=.*type architecture\.stem=true"):
        GCN(Shape(5, 3), **option)


def test_codes_need_an_encoder():
    with pytest.raises(UsageError, match=r"codes.*architecture\.stem=true"):
        GCN(Shape(2, 3, categories=(4, 5)))


# -- GraphNorm -------------------------------------------------------------------------------------


def test_graph_norm_by_the_formula():
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(7, 3, generator=draw, dtype=torch.float64)
    segment = torch.tensor([0, 0, 0, 2, 2, 2, 2])  # graph 1 has no nodes
    norm = GraphNorm(3).double()
    for p in norm.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    out = norm(h, segment, 3)
    for rows in (slice(0, 3), slice(3, 7)):
        z = h[rows] - norm.shift * h[rows].mean(0)
        want = norm.weight * z / (z.square().mean(0) + 1e-5).sqrt() + norm.bias
        torch.testing.assert_close(out[rows], want, rtol=1e-12, atol=1e-12)


def test_graph_norm_in_a_stack_sees_the_whole_graph(sixty):
    net = made(GCN, sixty.shape, norm="graph", last_act=False)
    h = outputs(net, sixty).levels[-1]
    torch.testing.assert_close(h.mean(0), torch.zeros(8, dtype=h.dtype), atol=1e-6, rtol=0)


# -- virtual node ----------------------------------------------------------------------------------


def test_virtual_node_by_hand(sixty):
    net = made(GCN, sixty.shape, depth=3, virtual_node=True).eval()
    nn.init.normal_(net.layers[0].start)
    batch, h = blocks(net, sixty)
    v = net.layers[0].start
    for layer, hop in zip(net.layers, batch.hops, strict=True):
        h = h + v
        if layer.write is not None:
            v = layer.write(h.sum(0, keepdim=True) + v)
        h = layer.block(hop, h, Memo(batch))
    torch.testing.assert_close(outputs(net, sixty).logits, net.head(h), rtol=1e-12, atol=1e-12)
    assert [layer.write is None for layer in net.layers] == [False, False, True]


def test_virtual_node_parameters(sixty, parameters):
    plain = made(GCN, sixty.shape, depth=3)
    d, each = 8, (8 * 16 + 16 + 32) + (16 * 8 + 8 + 16)
    assert parameters(made(GCN, sixty.shape, depth=3, virtual_node=True)) == (
        parameters(plain) + d + 2 * each
    )


# -- what the options take from the lattice --------------------------------------------------------


@pytest.mark.parametrize("option", [
    {"norm": "graph"}, {"jump": "sum"}, {"virtual_node": True}, {"order": "pre", "norm": "batch"},
])  # fmt: skip
def test_levels_that_hang_together_are_not_layers(option):
    gives, needs = GCN.declare(**option)
    assert Trait.LAYERS not in gives
    assert (Trait.SQUARE in needs[0]) == ("jump" not in option and "order" not in option)
    assert Trait.LAYERS in GCN.declare(order="pre", norm="layer")[0]


def test_histories_refuse_batch_norm_in_front():
    """It would count rows from outside the batch."""
    pre = {"stem": True, "order": "pre", "norm": "batch"}
    with pytest.raises(CompositionError, match=r"sampler=gas needs .*'layers'"):
        toy({"architecture": pre}, sampler="gas")
    toy({"architecture": {**pre, "norm": "layer"}}, sampler="gas")


@pytest.mark.parametrize("option", [{"norm": "graph"}, {"virtual_node": True}])
def test_blocks_of_sampled_neighbours_are_no_whole_graph(option):
    with pytest.raises(CompositionError, match=r"needs .*'square'"):
        toy({"architecture": {"stem": True, **option}}, sampler="neighbor")
    toy({"architecture": {"stem": True, **option}}, sampler="saint")


# -- codes -----------------------------------------------------------------------------------------


def test_codes_add_one_row_per_column():
    made = Codes((3, 5), 4)
    assert made.weight.shape == (8, 4)
    x = torch.tensor([[0, 0], [2, 4], [1, 3]])
    tables = made.weight.split([3, 5])
    want = torch.stack([tables[0][a] + tables[1][b] for a, b in x.tolist()])
    torch.testing.assert_close(made(x), want)
    bounds = [(6 / (n + 4)) ** 0.5 for n in (3, 5)]
    assert all(t.abs().max() <= b for t, b in zip(tables, bounds, strict=True))


def test_codes_equal_a_linear_map_of_one_hot_columns():
    made = Codes((3, 5), 4).double()
    x = torch.tensor([[0, 0], [2, 4], [1, 3]])
    wide = torch.cat([nn.functional.one_hot(x[:, 0], 3), nn.functional.one_hot(x[:, 1], 5)], 1)
    torch.testing.assert_close(made(x), wide.double() @ made.weight)


def test_which_encoder():
    assert isinstance(encoder(Shape(2, 3, categories=(4, 5)), 8), Codes)
    assert encoder(Shape(6, 3), 8).weight.shape == (8, 6)
    assert edge_encoder(Shape(6, 3), 8) is None
    assert edge_encoder(Shape(6, 3, edge_features=2), 8).weight.shape == (8, 2)
    assert isinstance(edge_encoder(Shape(6, 3, edge_categories=(4,)), 8), Codes)


def test_whole_graphs_pool_before_the_head(sixty):
    """All of one graph: the head reads the mean of the last level."""
    net = made(GCN, replace(sixty.shape, level="graph"))
    assert net.need == Need(2, "sym", "diag", stem=True)
    batch = whole_batch(sixty, net.need)
    one = replace(
        batch, rows=torch.zeros(1, dtype=torch.int64), readout="mean",
        segment=torch.zeros(60, dtype=torch.int64),
    )  # fmt: skip
    out = net.eval()(one)
    want = net.head(out.levels[-1].mean(0, keepdim=True))
    torch.testing.assert_close(out.logits, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.hidden(-1), out.levels[-1].mean(0, keepdim=True))
    with pytest.raises(ValueError, match="level 0"):
        out.hidden(0)
