import pytest
import torch
import torch.nn.functional as F
from compositions import toy, train
from matched import randn, ring

from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.core.hop import Hop
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.distillation.self import GNNSD, discrepancy, retention
from gnnscale.graph.whole import whole_batch


def test_discrepancy_by_hand(six, dense):
    h = randn(6, 4, seed=0)
    near = dense(six).double() @ h
    want = [1 - F.cosine_similarity(near[v], h[v], dim=0) for v in range(5)]
    found = discrepancy(Hop(six), h, loops=False)
    torch.testing.assert_close(found[:5], torch.stack(want))
    assert found[5] == 0, "node 5 has no neighbours"
    own = torch.arange(6)
    src, dst = torch.cat([six.indices.long(), own]), torch.cat([six.dst.long(), own])
    torch.testing.assert_close(discrepancy(Hop(Adjacency.from_edges(src, dst, 6)), h, True), found)


def test_limits_of_discrepancy():
    graph = Hop(ring(6))
    h = randn(6, 4, seed=0)
    same = h[:1].expand(6, 4)
    torch.testing.assert_close(discrepancy(graph, same, False), torch.zeros(6).double())
    signs = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(discrepancy(graph, signs * same, False), 2 * torch.ones(6).double())
    torch.testing.assert_close(discrepancy(graph, 7 * h, False), discrepancy(graph, h, False))
    assert not discrepancy(graph, torch.zeros(6, 4), False).any()


def test_retention_by_hand():
    s = [torch.tensor(v, dtype=torch.float64, requires_grad=True)
         for v in ([0.2, 0.1], [1.0, 0.5], [0.4, 0.6], [0.5, 0.7], [0.1, 0.1])]  # fmt: skip
    # norms .22, 1.12, .72, .86, .14: from layer 2 on; 2 > 3 and 4 > 5 lose
    found = retention(s)
    want = ((0.4 - 1.0) ** 2 + (0.6 - 0.5) ** 2 + (0.1 - 0.5) ** 2 + (0.1 - 0.7) ** 2) / 2
    torch.testing.assert_close(found.item(), want)
    grads = torch.autograd.grad(found, s, allow_unused=True)
    assert [g is not None for g in grads] == [False, False, True, False, True], "targets are fixed"
    first = retention(s, start=4)
    torch.testing.assert_close(first.item(), ((0.1 - 0.5) ** 2 + (0.1 - 0.7) ** 2) / 2)
    assert retention(s[:2]) == 0.0
    assert retention(s[:1]) == 0.0


@pytest.mark.parametrize("cls", [GCN, GAT])
def test_layers_are_those_that_pass_messages_and_logits_stand_for_the_last(sixty, cls):
    torch.manual_seed(0)
    model = cls(sixty.shape, hidden=8, depth=3).double().eval()
    batch = whole_batch(sixty, model.need)
    term = GNNSD(weight=3.0)
    term.attach(model, sixty, None)
    out = model(batch)
    hidden = [*out.levels[1:], out.logits]
    assert len(hidden) == 3
    loops = cls is GAT
    found = [discrepancy(batch.hops[0], h, loops) for h in hidden]
    torch.testing.assert_close(
        term(out, batch), torch.as_tensor(3.0 * retention(found)), check_dtype=False
    )


def test_it_trains_and_moves_weights(tmp_path):
    plain = toy({"architecture": {"depth": 4}})
    kept = toy({"architecture": {"depth": 4}}, distillation=["self"])
    kept.parts["distillation"][0].arguments["weight"] = 10.0
    losses = [train(p, tmp_path / n)[0] for p, n in ((plain, "plain"), (kept, "self"))]
    assert losses[0].parameters == losses[1].parameters
    first, second = ((tmp_path / n / "seed-0/metrics.jsonl").read_text() for n in ("plain", "self"))
    assert first != second
