import copy

import pytest
import torch

from gnnscale.architecture.reversible import Reversible
from gnnscale.architecture.tied import Tied
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.graph.whole import whole_batch

PROTEINS = Shape(16, 112, edge_features=8)


@pytest.mark.parametrize(("hidden", "published"), [(64, 35.0), (80, 51.4), (224, 337)])
def test_published_counts_at_any_depth(hidden, published, parameters):
    """Li et al., ICML 2021: 35.0K, 51.4K, 337K of 112 layers; two tied layers, exactly."""
    species, each = 8 * 8 + 8, hidden // 2
    f = hidden * each + each + each * hidden + hidden + 2 * hidden + hidden * each + each + hidden
    around = (8 * hidden + hidden) + (16 * hidden + hidden) + (hidden * 112 + 112) + 2 * hidden
    for depth in (2, 112):
        count = parameters(Tied(PROTEINS, hidden=hidden, depth=depth, conv="gen")) + species
        assert count == 2 * 2 * f + around + species
        assert f"{count / 1000:.3g}" == f"{published:.3g}"


@pytest.mark.parametrize("options", [{"groups": 2}, {"groups": 1, "keep_activations": True}])
@pytest.mark.parametrize("unit", [1, 2, 3])
def test_gradient_is_the_sum_of_the_untied_ones(unit, options, sixty):
    torch.manual_seed(0)
    shared = {"hidden": 8, "depth": 6, "dropout": 0.3, **options}
    tied = Tied(sixty.shape, unit=unit, **shared).double()
    apart = Reversible(sixty.shape, **shared).double()
    weights = tied.state_dict()
    names = {}  # of the untied network -> of the tied one
    for name in apart.state_dict():
        head, _, rest = name.partition("steps.units.")
        layer, _, tail = rest.partition(".")
        names[name] = f"{head}steps.units.{int(layer) % unit}.{tail}" if rest else name
    apart.load_state_dict({name: weights[source] for name, source in names.items()})
    batch = whole_batch(sixty, tied.need)
    out = []
    for model in (tied, apart):
        torch.manual_seed(1)
        out.append(model(batch).logits)
        out[-1].square().sum().backward()
    torch.testing.assert_close(*out, rtol=0, atol=0)
    sums = {name: torch.zeros_like(p) for name, p in tied.named_parameters()}
    for name, p in apart.named_parameters():
        sums[names[name]] += p.grad
    for name, p in tied.named_parameters():
        torch.testing.assert_close(p.grad, sums[name], rtol=1e-10, atol=1e-10)
        assert p.grad.abs().max() > 0, name


def test_gradients_are_those_of_kept_activations(sixty):
    torch.manual_seed(0)
    options = {"hidden": 8, "depth": 12, "norm": "batch", "conv": "gat", "attention_dropout": 0.3}
    model = Tied(sixty.shape, **options).double()
    plain = copy.deepcopy(model)
    plain.layers[0].steps.keep = True
    batch = whole_batch(sixty, model.need)
    for each in (model, plain):
        torch.manual_seed(1)
        each(batch).logits.square().sum().backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)
    assert model.layers[0].steps.units[0][0].norm.num_batches_tracked == 6  # applications


@pytest.mark.parametrize(
    "options", [{}, {"unit": 1, "groups": 4}, {"groups": 1, "keep_activations": True}]
)
def test_model(check_model, options):
    check_model(lambda shape: Tied(shape, hidden=8, depth=4, **options))


def test_unit_must_divide_depth():
    message = r"architecture\.depth=28: must be divisible by architecture\.unit=3; choose .*=30"
    with pytest.raises(UsageError, match=message):
        Tied(Shape(5, 3), unit=3)
