import torch
from torch import nn

from gnnscale.core.site import Dense, Site, sites


class Add(nn.Module):
    """Adds a constant and remembers what it was called with."""

    def __init__(self, constant):
        super().__init__()
        self.constant, self.calls = constant, []

    def forward(self, value, hop):
        self.calls.append((value, hop))
        return value + self.constant


def test_an_empty_site_is_the_identity():
    x = torch.randn(3, 2)
    assert Site("message", "src")(x) is x


def test_a_filled_site_hands_value_and_hop_to_its_quantizer():
    site, x, hop = Site("aggregate", "dst"), torch.zeros(3, 2), object()
    site.quantizer = Add(1.0)
    assert torch.equal(site(x, hop), torch.ones(3, 2))
    assert site.quantizer.calls == [(x, hop)]
    assert list(site.children()) == [site.quantizer]  # so that .to() and state_dict() reach it


def test_dense_is_linear_until_its_sites_are_filled():
    torch.manual_seed(0)
    dense = Dense(4, 3)
    x = torch.randn(5, 4)
    assert torch.equal(dense(x), nn.functional.linear(x, dense.weight, dense.bias))
    assert set(dense.state_dict()) == {"weight", "bias"}
    assert set(Dense(4, 3, bias=False).state_dict()) == {"weight"}
    dense.q_input.quantizer, dense.q_weight.quantizer = Add(1.0), Add(2.0)
    want = nn.functional.linear(x + 1, dense.weight + 2, dense.bias)
    hop = object()
    assert torch.equal(dense(x, hop), want)
    assert dense.q_input.quantizer.calls[0][1] is hop


def test_dense_draws_the_same_weights_as_linear():
    torch.manual_seed(3)
    dense = Dense(4, 3)
    torch.manual_seed(3)
    assert torch.equal(dense.weight, nn.Linear(4, 3).weight)


def test_sites_lists_names_in_order():
    model = nn.Sequential(Dense(2, 2), nn.ReLU(), Dense(2, 2, rows="dst"))
    found = list(sites(model))
    assert [name for name, _ in found] == ["0.q_input", "0.q_weight", "2.q_input", "2.q_weight"]
    assert [s.role for _, s in found] == ["input", "weight", "input", "weight"]
    assert [s.rows for _, s in found] == ["src", "none", "dst", "none"]
    assert {s.of for _, s in found} == {"weight"}
    assert repr(found[2][1]) == "Site(input, rows=dst)"


def test_weight_sites_name_a_parameter_of_their_owner():
    from gnnscale.architecture.egc import EGConv
    from gnnscale.architecture.gat import GATConv
    from gnnscale.architecture.gcn import GCNConv
    from gnnscale.architecture.sage import SAGEConv

    layers = [GATConv(4, 6, 2, True, 0.0), GCNConv(4, 6), SAGEConv(4, 6, "max"),
              EGConv(4, 6, 2, 3, ("symadd", "max"))]  # fmt: skip
    owned = 0
    for layer in layers:
        parameters = dict(layer.named_parameters())
        weights = set()
        for name, site in sites(layer):
            if site.role == "weight":
                owner = name.rpartition(".")[0]
                weights.add(f"{owner}.{site.of}".lstrip("."))
        assert weights <= set(parameters)
        # every matrix of the layer has a site of its own, biases have none
        assert weights == {n for n, p in parameters.items() if p.dim() == 2}
        owned += len(weights)
    assert owned == 3 + 1 + 3 + 2
