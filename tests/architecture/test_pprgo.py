import torch

from gnnscale.architecture.pprgo import PPRGo
from gnnscale.core.data import Shape
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait
from gnnscale.sampler.ppr import Ppr

KEY = Key(0, "prepare")


def test_equals_the_formula(sixty, dense):
    """Nothing cut, sym: the logits of PPNP, alpha (I - (1 - alpha) S)^-1 MLP(X)."""
    torch.manual_seed(0)
    model = PPRGo(sixty.shape, hidden=8, depth=3).double().eval()
    sampler = Ppr(0.25, 1e-13, 60, cache=False)
    sampler.prepare(sixty, model.need, KEY)
    h = sixty.x
    for i, part in enumerate(model.maps):
        h = (h.relu() if i else h) @ part[2].weight.T
    a = dense(sixty.graph)
    d = a.sum(1)
    root = torch.where(d > 0, d.clamp(min=1).rsqrt(), 0)
    s = root[:, None] * a * root
    want = 0.25 * torch.linalg.inv(torch.eye(60, dtype=h.dtype) - 0.75 * s) @ h
    seeds = sixty.splits["train"]
    got = model(sampler.sample(seeds, KEY))
    torch.testing.assert_close(got.logits, want[seeds], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.hidden(-1), h[seeds], rtol=1e-10, atol=1e-10)


def test_has_no_biases_and_no_parameters_in_the_sum(parameters):
    assert parameters(PPRGo(Shape(5, 3), hidden=7)) == 5 * 7 + 7 * 3
    assert parameters(PPRGo(Shape(5, 3), depth=1)) == 15
    assert parameters(PPRGo(Shape(5, 3)).layers) == 0
    (weight,) = PPRGo(Shape(5, 3), hidden=7).first()
    assert weight.shape == (7, 5)


def test_dropout_also_on_sparse_features(sixty):
    x = sixty.x.masked_fill(sixty.x.abs() < 1, 0)
    model = PPRGo(sixty.shape, dropout=0.5, depth=1).double()
    rows, w = SparseRows.from_dense(x), model.maps[0][2].weight
    assert not torch.allclose(model.encode(rows)[-1], x @ w.T)
    torch.testing.assert_close(model.eval().encode(rows)[-1], x @ w.T)


def test_needs():
    assert PPRGo.needs == ({Trait.PPR},)
