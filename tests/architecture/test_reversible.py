import copy
from dataclasses import replace

import pytest
import torch
from torch import distributed, nn

from gnnscale.architecture.reversible import Reversible
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.graph.whole import whole_batch
from gnnscale.quantization.qat import QAT

PROTEINS = Shape(16, 112, edge_features=8)
"""Sums of the 8 features of a node's edges beside its one-hot species."""


def count(shape: Shape, **options) -> int:
    with torch.device("meta"):
        model = Reversible(shape, **options)
    return sum(p.numel() for p in model.parameters())


def test_published_counts():
    """Li et al., ICML 2021; OGB's leaderboard."""
    species = 8 * 8 + 8  # a map of the one-hot species that is ahead of the encoder there
    gen = {"conv": "gen", "groups": 2}
    assert count(PROTEINS, hidden=80, depth=1001, **gen) + species == 20_031_384
    assert count(PROTEINS, hidden=224, depth=448, **gen) + species == 68_471_608
    sage = count(Shape(100, 47), hidden=160, depth=112, conv="sage", self_loops=True)
    assert sage == 2_945_007
    assert count(Shape(128, 40), hidden=128, depth=28, conv="gcn", norm="batch") == 262_056


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conv": "sage", "groups": 4, "norm": "batch", "self_loops": True},
        {"conv": "gat", "heads": 2, "act": "elu"},
        {"conv": "gin"},
        {"conv": "egc", "heads": 2},
        {"conv": "gen", "aggr": "softmax", "self_loops": True},
        {"groups": 1, "keep_activations": True, "norm": "none"},
    ],
)
def test_model(check_model, options):
    check_model(lambda shape: Reversible(shape, hidden=8, depth=3, **options))


def test_gradients_are_those_of_kept_activations(sixty):
    """Of the whole model, encoder, norm and head included, in training mode."""
    torch.manual_seed(0)
    options = {"hidden": 8, "depth": 5, "norm": "batch", "dropout": 0.3, "input_dropout": 0.2}
    model = Reversible(sixty.shape, **options).double()
    plain = copy.deepcopy(model)
    plain.layers[0].steps.keep = True
    batch, found = whole_batch(sixty, model.need), []
    for each in (model, plain):
        torch.manual_seed(1)
        each(batch).logits.square().sum().backward()
        found.append([p.grad for p in each.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert model.layers[0].norm.num_batches_tracked == 1


@pytest.mark.parametrize("bits", [4, 8])
def test_quantizers_see_every_step_once_and_the_same_values_again(bits, sixty):
    torch.manual_seed(0)
    model = Reversible(sixty.shape, hidden=8, depth=4, dropout=0.2).double()
    QAT(weight_bits=bits, activation_bits=bits, momentum=0.3).attach(model)
    plain = copy.deepcopy(model)
    plain.layers[0].steps.keep = True
    batch, found = whole_batch(sixty, model.need), []
    for each in (model, plain):
        for step in range(3):  # ranges that move
            each.zero_grad()
            torch.manual_seed(step)
            each(batch).logits.square().sum().backward()
        found.append([p.grad for p in each.parameters()])
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_distributed_training_has_every_gradient(sixty, tmp_path):
    """One process of DDP, whose reducer waits for a hook of each parameter."""
    torch.manual_seed(0)
    model = Reversible(sixty.shape, hidden=8, depth=3).double()
    alone = copy.deepcopy(model)
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        batch = whole_batch(sixty, model.need)
        shared = nn.parallel.DistributedDataParallel(model)
        for each in (shared, alone):
            for step in range(2):  # the second waits for the first one's reduction
                torch.manual_seed(step)
                each(batch).logits.square().sum().backward()
    finally:
        distributed.destroy_process_group()
    for a, b in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_the_sampler_sees_one_square_hop():
    model = Reversible(Shape(5, 3), depth=300, conv="gat")
    assert model.need == Need(1, "none", "edges", stem=True)
    assert Reversible(Shape(5, 3)).need == Need(1, "sym", "diag", stem=True)
    assert Reversible(Shape(5, 3), conv="sage", self_loops=True).need.loops == "diag"
    assert Reversible(Shape(5, 3), conv="sage", aggr="max", self_loops=True).need.loops == "edges"
    assert {str(t.value) for t in Reversible.needs[0]} == {"hops", "square"}


def test_edge_features_are_read_by_gen_only(sixty):
    data = sixty.with_(x=sixty.x)
    shape = replace(data.shape, edge_features=3)
    for conv in ("gen", "gcn"):
        torch.manual_seed(0)
        model = Reversible(shape, hidden=8, depth=2, conv=conv).double()
        batch = whole_batch(data, model.need)
        found = []
        for edge in (torch.zeros(data.graph.n_edges, 3), torch.ones(data.graph.n_edges, 3)):
            hops = tuple(replace(hop, edge=edge.double()) for hop in batch.hops)
            torch.manual_seed(1)
            found.append(model(replace(batch, hops=hops)).logits)
        assert torch.equal(*found) == (conv == "gcn")
        found[-1].sum().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, r"architecture\.hidden=64: must be divisible by architecture\.groups=3"),
        ({"groups": 1}, r"architecture\.groups=1: .* no inverse .*groups=2, or .*keep_activa"),
        ({"heads": 2}, r"architecture\.heads=2: conv=gcn has no heads"),
        ({"conv": "gat", "heads": 3}, r"architecture\.heads=3: conv=gat works on 32 columns"),
        ({"aggr": "max"}, r"architecture\.aggr=max: conv=gcn has its own aggregator"),
        ({"conv": "sage", "aggr": "power"}, r"conv=sage takes mean or max; type .*aggr=auto"),
        ({"attention_dropout": 0.5}, r"architecture\.attention_dropout=0\.5: conv=gcn has no att"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UsageError, match=message):
        Reversible(Shape(5, 3), **options)
