import copy

import pytest
import torch
import torch.nn.functional as F

from gnnscale.architecture.gcn import GCN
from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import Task
from gnnscale.core.random import Key
from gnnscale.core.teacher import Teacher
from gnnscale.core.traits import Trait
from gnnscale.distillation.logit import Logit
from gnnscale.graph.whole import whole_batch
from gnnscale.train.objective import Objective

N, C = 9, 4


def randn(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(ids, labeled=None, weight=None) -> Batch:
    ids = torch.as_tensor(ids)
    n = len(ids)
    return Batch(
        x=torch.empty(n, 0),
        hops=(),
        nodes=ids,
        rows=torch.arange(n),
        ids=ids,
        y=torch.zeros(n, dtype=torch.int64),
        labeled=torch.ones(n, dtype=torch.bool) if labeled is None else torch.as_tensor(labeled),
        weight=weight,
    )


@pytest.fixture
def attached(sixty):
    """attached(table, kind, **options): a term that has its teacher."""

    def make(table, kind="single", **options):
        term = Logit(**options)
        data = sixty.with_(task=Task(kind=kind, classes=C))
        term.attach(torch.nn.Identity(), data, Teacher(logits=table))
        return term

    return make


def loss_and_gradient(term, z, batch):
    z = z.clone().requires_grad_()
    loss = term(Output(z), batch)
    (grad,) = torch.autograd.grad(loss, z)
    return loss.detach(), grad


def by_hand(z, table, t):
    """T^2 KL(p_T || p_S) per node, from its definition."""
    p, q = (table / t).softmax(-1), (z / t).softmax(-1)
    return t * t * (p * (p.log() - q.log())).sum(-1)


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_student_equal_to_teacher_has_no_gradient(attached, kind, temperature):
    table = 3 * randn(N, C, seed=0)
    term = attached(table, kind, alpha=0.7, temperature=temperature)
    loss, grad = loss_and_gradient(term, table, batch_of(range(N)))
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-15, rtol=0)
    other, _ = loss_and_gradient(term, table + randn(N, C, seed=1), batch_of(range(N)))
    assert other > loss + 1e-3
    if kind == "single":
        assert abs(loss) < 1e-14


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_value_and_gradient_by_the_formula(attached, temperature, alpha):
    table, z = randn(N, C, seed=0), 2 * randn(N, C, seed=1)
    term = attached(table, alpha=alpha, temperature=temperature)
    loss, grad = loss_and_gradient(term, z, batch_of(range(N)))
    torch.testing.assert_close(loss, alpha * by_hand(z, table, temperature).mean())
    p_s, p_t = ((v / temperature).softmax(-1) for v in (z, table))
    torch.testing.assert_close(grad, alpha / N * temperature * (p_s - p_t), rtol=1e-12, atol=1e-14)


def test_high_temperature_matches_centred_logits(attached):
    table, z = randn(N, C, seed=0), randn(N, C, seed=1)
    term = attached(table, alpha=1.0, temperature=1e5)
    _, grad = loss_and_gradient(term, z, batch_of(range(N)))

    def centred(v):
        return v - v.mean(-1, keepdim=True)

    torch.testing.assert_close(grad * N, (centred(z) - centred(table)) / C, rtol=1e-3, atol=1e-4)


def test_a_constant_added_to_a_row_changes_nothing(attached):
    table, z = randn(N, C, seed=0), randn(N, C, seed=1)
    shift = 5 * randn(N, 1, seed=2)
    found = [
        loss_and_gradient(attached(t, alpha=0.5, temperature=2.0), s, batch_of(range(N)))
        for t, s in ((table, z), (table + shift, z), (table, z - shift))
    ]
    for loss, grad in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(grad, found[0][1])


def test_extreme_logits_stay_finite(attached):
    table = torch.tensor([[1000.0, -1000.0, 0.0, 0.0]])
    loss, grad = loss_and_gradient(attached(table), -table, batch_of([0]))
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()


def test_rows_are_looked_up_by_node_id(attached):
    table, z = randn(60, C, seed=0), randn(3, C, seed=1)
    ids = [41, 7, 7]
    loss, _ = loss_and_gradient(attached(table, alpha=1.0), z, batch_of(ids))
    torch.testing.assert_close(loss, by_hand(z, table[ids], 1.0).mean())


def test_which_nodes_carry_the_term(attached):
    table, z = randn(4, C, seed=0), randn(4, C, seed=1)
    labeled = [True, False, False, True]
    each = by_hand(z, table, 1.0)
    batch = batch_of(range(4), labeled)
    observed, grad = loss_and_gradient(attached(table, alpha=1.0, nodes="observed"), z, batch)
    torch.testing.assert_close(observed, each.mean())
    assert (grad.abs().sum(1) > 0).all()
    train, grad = loss_and_gradient(attached(table, alpha=1.0, nodes="train"), z, batch)
    torch.testing.assert_close(train, each[[0, 3]].mean())
    assert (grad.abs().sum(1) > 0).tolist() == labeled
    nothing = batch_of(range(4), [False] * 4)
    none, grad = loss_and_gradient(attached(table, alpha=1.0, nodes="train"), z, nothing)
    assert none == 0
    assert torch.equal(grad, torch.zeros_like(grad))


def test_mean_is_weighted_by_the_sampler(attached):
    table, z = randn(4, C, seed=0), randn(4, C, seed=1)
    w = torch.tensor([0.5, 2.0, 0.0, 1.0])
    each = by_hand(z, table, 1.0)
    loss, _ = loss_and_gradient(attached(table, alpha=0.5), z, batch_of(range(4), weight=w))
    torch.testing.assert_close(loss, 0.5 * (w.double() * each).sum() / 3.5)
    half = batch_of(range(4), [True, True, False, False], weight=w)
    loss, _ = loss_and_gradient(attached(table, alpha=0.5, nodes="train"), z, half)
    torch.testing.assert_close(loss, 0.5 * (0.5 * each[0] + 2 * each[1]) / 2.5)


def test_sampled_batches_estimate_the_mean_over_all_nodes(attached):
    # node i is drawn with probability p_i and carries weight 1 / p_i: the ratio is consistent
    table, z = randn(60, C, seed=0), randn(60, C, seed=1)
    term = attached(table, alpha=1.0)
    p = torch.linspace(0.2, 1, 60)
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2000):
        ids = (torch.rand(60, generator=draw) < p).nonzero().flatten()
        found.append(term(Output(z[ids]), batch_of(ids, weight=1 / p[ids])))
    found = torch.stack(found)
    want = by_hand(z, table, 1.0).mean()
    error = (found.mean() - want).abs()
    assert error < 0.01 * want
    plain = torch.stack([by_hand(z, table, 1.0)[torch.rand(60, generator=draw) < p].mean()
                         for _ in range(200)])  # fmt: skip
    assert (plain.mean() - want).abs() > 2 * error, "the weights make no difference here"


def test_multi_label_is_binary_cross_entropy_with_soft_targets(attached):
    table, z = randn(N, C, seed=0), randn(N, C, seed=1)
    term = attached(table, "multi", alpha=0.25, temperature=3.0)
    loss, grad = loss_and_gradient(term, z, batch_of(range(N)))
    q, p = z.sigmoid(), table.sigmoid()
    want = -(p * q.log() + (1 - p) * (1 - q).log()).sum(-1).mean()
    torch.testing.assert_close(loss, 0.25 * want)
    torch.testing.assert_close(grad, 0.25 / N * (q - p))


def test_the_teacher_gets_no_gradient_and_is_not_saved(attached):
    table = randn(N, C, seed=0).requires_grad_()
    term = attached(table, alpha=1.0)
    z = randn(N, C, seed=1).requires_grad_()
    term(Output(z), batch_of(range(N))).backward()
    assert z.grad.abs().sum() > 0
    assert table.grad is None
    assert not term.table.rows.requires_grad
    assert list(term.parameters()) == []
    assert dict(term.state_dict()) == {}


def test_hard_factor_and_needs():
    assert Logit(alpha=0.25).hard == 0.75
    assert Logit(nodes="train").nodes == "train"
    assert Logit.needs == ({Trait.TEACHER},)


def test_total_loss_is_the_papers(attached, sixty):
    table, z = randn(60, C, seed=0), randn(60, C, seed=1)
    batch = whole_batch(sixty, GCN(sixty.shape).need)
    term = attached(table, alpha=0.3, temperature=2.0)
    objective = Objective(sixty.task, {"logit": term})
    rows = sixty.mask("train")
    want = 0.7 * F.cross_entropy(z[rows], sixty.y[rows]) + 0.3 * by_hand(z, table, 2.0).mean()
    torch.testing.assert_close(objective(Output(z), batch), want)
    assert objective.wants_unlabeled
    only = Objective(sixty.task, {"logit": attached(table, nodes="train")})
    assert not only.wants_unlabeled


@pytest.mark.parametrize("nodes", ["train", "observed"])
def test_alpha_zero_is_plain_training_bit_for_bit(attached, sixty, nodes):
    torch.manual_seed(0)
    data = sixty.with_(x=sixty.x.float())
    plain = GCN(data.shape, hidden=16, depth=3, norm="batch")
    distilled = copy.deepcopy(plain)
    batch = whole_batch(data, plain.need)
    table = randn(60, C, seed=0).float()
    terms = {"logit": attached(table, alpha=0.0, temperature=2.0, nodes=nodes)}
    losses = []
    for model, terms_ in ((plain, {}), (distilled, terms)):
        objective = Objective(data.task, terms_)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=1e-3)
        losses.append([])
        for step in range(8):
            Key(0, "dropout", 0, step).seed_torch()
            optimizer.zero_grad()
            loss = objective(model(batch), batch)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    for (name, a), b in zip(
        plain.state_dict().items(), distilled.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_alpha_one_pulls_the_student_to_the_teacher(attached, sixty):
    torch.manual_seed(0)
    data = sixty.with_(x=sixty.x.float())
    model = GCN(data.shape, hidden=32, depth=2, dropout=0.0)
    batch = whole_batch(data, model.need)
    with torch.no_grad():
        table = GCN(data.shape, hidden=32, depth=2).eval()(batch).logits * 3
    objective = Objective(data.task, {"logit": attached(table, alpha=1.0)})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = objective(model(batch), batch).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = objective(model(batch), batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * first
    assert (model(batch).logits.argmax(1) == table.argmax(1)).double().mean() > 0.9
