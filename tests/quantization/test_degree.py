import copy

import pytest
import torch
import torch.nn.functional as F

from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.codes import Grid, fake, fake_around
from gnnscale.core.site import Site, sites
from gnnscale.graph.whole import whole_batch
from gnnscale.quantization.degree import Degree, Protected, Protection
from gnnscale.quantization.qat import QAT

MODELS = {
    "gcn": lambda shape: GCN(shape, hidden=16),
    "gat": lambda shape: GAT(shape, hidden=16, heads=4),
    "gin": lambda shape: GIN(shape, hidden=16),
    "sage": lambda shape: SAGE(shape, hidden=16, norm="batch"),
}


@pytest.fixture
def data(sixty):
    return sixty.with_(x=sixty.x.float())


def filled(model, quantizer, data):
    coded = copy.deepcopy(model)
    quantizer.prepare(data)
    quantizer.attach(coded)
    return coded


def steps(model, data, n=4):
    """Losses and final gradients of some steps of training."""
    batch = whole_batch(data, model.need)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for k in range(n):
        torch.manual_seed(k)
        optimizer.zero_grad()
        loss = F.cross_entropy(model.train()(batch).logits, data.y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", MODELS)
def test_nobody_protected_is_plain_training_bit_for_bit(data, name):
    torch.manual_seed(0)
    model = MODELS[name](data.shape)
    plain = steps(filled(model, QAT(4, 4, range="percentile"), data), data)
    found = steps(filled(model, Degree(4, 4, p_min=0.0, p_max=0.0), data), data)
    assert found[0] == plain[0]
    assert all(map(torch.equal, found[1], plain[1]))
    other = steps(filled(model, Degree(4, 4, p_min=0.5, p_max=0.5), data), data)
    assert other[0] != plain[0]


@pytest.mark.parametrize("name", ["gcn", "gat", "sage"])
def test_everybody_protected_is_training_with_coded_weights_alone(data, name):
    torch.manual_seed(0)
    model = MODELS[name](data.shape)
    weights = steps(filled(model, QAT(4, 4, roles=[]), data), data)
    found = steps(filled(model, Degree(4, 4, p_min=1.0, p_max=1.0), data), data)
    # a message times its factor, times the other factor, is not rounded as their product is
    torch.testing.assert_close(found[0], weights[0], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found[1], weights[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_maps_inside_a_layer_protect_nothing(data):
    torch.manual_seed(0)
    model = filled(GIN(data.shape, hidden=16), Degree(4, 4, p_min=1.0, p_max=1.0), data)
    steps(model, data)
    seen = {name: bool(s.quantizer.seen) for name, s in sites(model) if s.role != "weight"}
    assert {n for n, s in seen.items() if s} == {n for n in seen if ".mlp." in n}


# -- probabilities ---------------------------------------------------------------------------------


def test_probabilities_by_hand():
    degree = torch.tensor([3, 1, 4, 1, 1, 0])
    p = Protection(0.1, 0.7, degree).probability(degree, None)
    torch.testing.assert_close(p, 0.1 + 0.6 * torch.tensor([5, 4, 6, 4, 4, 1]) / 6)
    # equal degrees, equal p; higher degrees, never lower p; a regular graph: p_max for all
    assert p[1] == p[3] == p[4]
    order = degree.argsort()
    assert (p[order].diff() >= 0).all()
    regular = torch.full((9,), 5)
    torch.testing.assert_close(
        Protection(0.1, 0.7, regular).probability(regular, None), torch.full((9,), 0.7)
    )


def test_ranks_are_those_of_the_whole_graph_in_a_batch_of_few_nodes():
    degree = torch.arange(100)
    p = Protection(0.0, 1.0, degree).probability(torch.tensor([9, 99, 49]), None)
    torch.testing.assert_close(p, torch.tensor([0.1, 1.0, 0.5]))


def test_graphs_rank_their_own_nodes():
    degree = torch.tensor([1, 2, 2, 50, 60, 70, 70])
    segment = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    p = Protection(0.0, 1.0, None).probability(degree, segment)
    torch.testing.assert_close(p, torch.tensor([1 / 3, 1, 1, 0.25, 0.5, 1, 1]))
    # other graphs of the batch, and the order of nodes, mean nothing
    order = torch.tensor([6, 3, 5, 4])
    again = Protection(0.0, 1.0, None).probability(degree[order], torch.zeros(4).long())
    torch.testing.assert_close(again, p[order])


def some_hop(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, n, (2, 3 * n), generator=draw)
    graph = Adjacency.from_edges(src, dst, n)
    return Hop(graph, degree=graph.in_degree)


def test_the_share_of_protected_nodes_is_p():
    hop = some_hop(2000)
    protection = Protection(0.05, 0.4, hop.degree)
    p, total, draws = protection.probability(hop.degree, None), torch.zeros(2000), 400
    for k in range(draws):
        torch.manual_seed(k)
        total += protection.mask(hop)
    for rank in p.unique():
        rows = p == rank
        n = draws * int(rows.sum())
        spread = (rank * (1 - rank) / n) ** 0.5
        assert abs(total[rows].sum() / n - rank) < 4 * spread
    assert (total > 0).float().mean() > 0.99


def test_the_draw_is_the_steps_and_takes_nothing_from_the_generator():
    hop = some_hop(500)
    protection = Protection(0.2, 0.6, hop.degree)
    torch.manual_seed(3)
    a, b = protection.mask(hop), protection.mask(hop)
    after = torch.rand(3)
    assert torch.equal(a, b), "one mask for all layers of a step"
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), after)
    torch.manual_seed(4)
    assert not torch.equal(protection.mask(hop), a)


def test_edges_are_protected_by_their_source():
    hop = some_hop(200)
    protection = Protection(0.3, 0.6, hop.degree)
    mask = protection.mask(hop)
    assert torch.equal(protection.rows(hop, "edges", hop.graph.n_edges), mask[hop.graph.indices])
    assert torch.equal(protection.rows(hop, "dst", 50), mask[:50])
    assert protection.rows(hop, "none", 7) is None


# -- values ----------------------------------------------------------------------------------------


def test_protected_rows_are_left_alone_and_out_of_the_range():
    hop = some_hop(300)
    quantizer = Degree(4, 4, p_min=0.3, p_max=0.6, range="minmax")
    quantizer.protection = Protection(0.3, 0.6, hop.degree)
    fq = quantizer.make(Site("input", "src"), "q_input", None).train()
    assert isinstance(fq, Protected)
    mask = quantizer.protection.mask(hop)
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    x[mask] *= 100
    y = fq(x, hop)
    assert torch.equal(y[mask], x[mask])
    assert fq.high == x[~mask].max()
    assert len(y[~mask].unique()) <= 16
    # in evaluation all rows are coded, whatever p is
    coded = fq.eval()(x, hop)
    assert len(coded.unique()) <= 16
    assert torch.equal(coded[~mask], y[~mask])


def test_evaluation_depends_on_neither_mask_nor_p(data):
    torch.manual_seed(0)
    model = filled(GCN(data.shape, hidden=16), Degree(4, 4, p_min=0.2, p_max=0.8), data)
    steps(model, data)
    batch = whole_batch(data, model.need)
    torch.manual_seed(1)
    a = model.eval()(batch).logits
    for _, site in sites(model):
        if isinstance(site.quantizer, Protected):
            site.quantizer.protection.p_min = site.quantizer.protection.p_max = 1.0
    torch.manual_seed(2)
    assert torch.equal(model(batch).logits, a)


def test_features_change_no_probability(data):
    quantizer = Degree(p_min=0.1, p_max=0.9)
    quantizer.prepare(data)
    p = quantizer.protection.probability(data.graph.in_degree, None)
    quantizer.prepare(data.with_(x=7 * data.x))
    assert torch.equal(quantizer.protection.probability(data.graph.in_degree, None), p)


def test_an_empty_batch_works(data):
    quantizer = Degree(p_min=0.1, p_max=0.9)
    quantizer.prepare(data)
    nothing = torch.empty(0, dtype=torch.int64)
    hop = Hop(Adjacency.from_edges(nothing, nothing, 0), degree=nothing)
    fq = quantizer.make(Site("input", "src"), "q_input", None).train()
    assert fq(torch.empty(0, 3), hop).shape == (0, 3)
    assert not fq.seen


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(UsageError, match=r"p_min=0.5: must not exceed quantization.p_max=0.2"):
        Degree(p_min=0.5, p_max=0.2)


@pytest.mark.parametrize("straight", [True, False])
@pytest.mark.parametrize("shape", [(40, 7), (40, 3, 5), (40,), (0, 4)])
def test_codes_around_kept_rows_are_a_choice_by_row(shape, straight):
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()
    kept, g = torch.rand(shape[:1], generator=draw) < 0.4, torch.randn(shape, generator=draw)
    grid = Grid(torch.tensor(0.3), torch.tensor(2.0), 0, 7)
    mask = kept.view(-1, *[1] * (x.dim() - 1))
    found = []
    for y in (
        torch.where(mask, x, fake(x, grid, straight=straight)),
        fake_around(x, kept, grid, straight),
    ):
        found.append([y, *torch.autograd.grad(y, x, g.double())])
    for mine, wanted in zip(*found, strict=True):
        assert torch.equal(mine, wanted)
