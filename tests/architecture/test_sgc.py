from dataclasses import replace

import pytest
import torch

from gnnscale.architecture.sgc import SGC
from gnnscale.core.data import Shape
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.neighbor import Neighbor
from gnnscale.sampler.precompute import Precompute

KEY = Key(0, "prepare")


def twins(data, depth=2, **more):
    """The same weights by hops and on a table."""
    torch.manual_seed(0)
    by_hops = SGC(data.shape, depth, **more).double()
    on_table = SGC(replace(data.shape, operators=1), depth, **more).double()
    on_table.load_state_dict(by_hops.state_dict())
    return by_hops, on_table


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
@pytest.mark.parametrize("keep", ["all", "last"])
@pytest.mark.parametrize(("operator", "self_loops"), [("sym", True), ("row", False)])
def test_both_ways_give_equal_logits_loss_and_gradients(depth, keep, operator, self_loops, sixty):
    hops, table = twins(sixty, depth, operator=operator, self_loops=self_loops)
    sampler = Precompute(depth, operator, self_loops, keep, batch_size=None)
    sampler.prepare(sixty, table.need, KEY)
    seeds = sixty.splits["train"]
    (index,) = sampler.plan(seeds, KEY)
    whole = whole_batch(sixty, hops.need)
    found = []
    for model, batch in ((hops, replace(whole, rows=index)), (table, sampler.sample(index, KEY))):
        logits = model(batch).logits
        loss = torch.nn.functional.cross_entropy(logits, sixty.y[index])
        loss.backward()
        found.append([logits, loss, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert found[0][2].abs().max() > 1e-3


def test_equals_the_formula(sixty, dense):
    model, _ = twins(sixty, 3)
    a = dense(sixty.graph) + torch.eye(60, dtype=torch.float64)
    s = a / (a.sum(1, keepdim=True) * a.sum(1)).sqrt()
    want = s @ s @ s @ sixty.x @ model.encoder.weight.T + model.head.bias
    torch.testing.assert_close(model(whole_batch(sixty, model.need)).logits, want)


def test_published_counts(parameters):
    for sizes, count in {(1433, 7): 10_038, (3703, 6): 22_224, (500, 3): 1_503,
                         (602, 41): 24_723}.items():  # fmt: skip
        assert parameters(SGC(Shape(*sizes))) == parameters(SGC(Shape(*sizes, 3))) == count


def test_sparse_features_stay_sparse(sixty):
    x = sixty.x.masked_fill(sixty.x.abs() < 1, 0)
    model, _ = twins(sixty)
    dense, sparse = (model(whole_batch(sixty.with_(x=f), model.need)).logits
                     for f in (x, SparseRows.from_dense(x)))  # fmt: skip
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)


def test_all_neighbours_are_the_whole_graph(sixty):
    model, _ = twins(sixty, 2)
    sampler = Neighbor(-1)
    sampler.prepare(sixty, model.need, KEY)
    seeds = torch.tensor([59, 0, 4])
    want = model(whole_batch(sixty, model.need)).logits[seeds]
    torch.testing.assert_close(model(sampler.sample(seeds, KEY)).logits, want)


def test_holds_what_every_model_holds(check_model):
    check_model(SGC)


def test_initial_weights_are_those_of_a_linear_layer():
    torch.manual_seed(3)
    model = SGC(Shape(50, 4))
    torch.manual_seed(3)
    linear = torch.nn.Linear(50, 4)
    assert torch.equal(model.encoder.weight, linear.weight)
    assert torch.equal(model.head.bias, linear.bias)
    assert len(model.first()) == 2


def test_needs():
    assert SGC.needs == ({Trait.STACK}, {Trait.HOPS})
