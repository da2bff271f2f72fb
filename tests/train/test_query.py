import pytest
import torch
from test_predict import CPU, MODELS, trained

from gnnscale.core.traits import Trait
from gnnscale.graph.block import cut
from gnnscale.graph.norm import whole_hop
from gnnscale.train.predict import Full
from gnnscale.train.query import Query


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_query_equals_full(sixty, name, chunk, weighted):
    if weighted:
        draw = torch.Generator().manual_seed(5)
        w = torch.rand(sixty.graph.n_edges, generator=draw, dtype=torch.float64) + 0.1
        sixty = sixty.with_(weight=w)
    model = trained(name, sixty)
    # out of order, one twice, one without neighbours
    rows = torch.tensor([59, 0, 31, 31, 2, 58, 7, 8, 9, 10, 3, 44])
    want = Full()(model, sixty, torch.arange(60), CPU)
    got = Query(chunk)(model, sixty, rows, CPU)
    assert want.std() > 0.01
    torch.testing.assert_close(got, want[rows], rtol=1e-10, atol=1e-10)


def test_every_need_is_among_the_models(sixty):
    """Loops on the diagonal, as edges and none; each operator: else the test above proves less."""
    needs = [MODELS[name](sixty.shape).need for name in MODELS]
    assert {n.loops for n in needs if n.depth} == {"diag", "edges", "none"}
    assert {n.operator for n in needs if n.depth} == {"sym", "row", "none"}


def test_only_the_neighbourhood_is_computed(sixty):
    """A node without neighbours reads one row of features, whatever the depth."""
    model, query = trained("gcn", sixty), Query()
    whole = query.whole(model, sixty, CPU)
    hops, nodes = query.blocks(whole, torch.tensor([58]))
    assert nodes.tolist() == [58]
    assert len(hops) == 3
    asked = torch.tensor([4, 4, 1])
    hops, nodes = query.blocks(whole, asked)
    assert hops[-1].graph.n_dst == 2  # asked for twice, computed once
    near = {1, 4}
    bounds, sources = sixty.graph.indptr.tolist(), sixty.graph.indices.tolist()
    for _ in range(3):
        near |= {j for i in near for j in sources[bounds[i] : bounds[i + 1]]}
    assert set(nodes.tolist()) == near
    batch = query.gather(whole, hops, nodes, asked)
    assert torch.equal(batch.x, sixty.x[nodes])
    assert torch.equal(batch.ids, asked)


def test_a_cut_keeps_the_factors_of_the_whole_graph(six):
    hop = whole_hop(six, trained_need(), torch.float64)
    nodes = torch.tensor([2, 0])
    part, src = cut(hop, nodes)
    assert src[:2].tolist() == [2, 0]
    assert torch.equal(part.dst, hop.dst[nodes])
    assert torch.equal(part.src, hop.src[src])
    x = torch.arange(12, dtype=torch.float64).view(6, 2)
    want = hop.reduce(lambda h: h, x)[nodes]
    torch.testing.assert_close(part.reduce(lambda h: h, x[src]), want)


def trained_need():
    from gnnscale.core.hop import Need

    return Need(1, "sym", "diag")


def test_nobody_is_asked_for(sixty):
    nothing = torch.empty(0, dtype=torch.int64)
    assert Query()(trained("gcn", sixty), sixty, nothing, CPU).shape == (0, 4)


def test_needs():
    assert Query.needs == ({Trait.LAYERS},)
