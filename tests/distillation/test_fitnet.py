import pytest
import torch
import torch.nn.functional as F
from matched import gradient, nodes, randn, said

from gnnscale.distillation.fitnet import FitNet


@pytest.fixture
def term(attached):
    def make(table, width=None, **options):
        made = attached(FitNet, table, width, projection=5, weight=2.0, **options)
        return made.eval()  # running statistics: rows don't meet

    return make


def test_value_by_hand(term):
    t, h = randn(6, 4, seed=0), randn(6, 3, seed=1)
    made = term(t, 3)
    p, q = made.heads[0](h), made.heads[1](t)
    want = sum(
        ((p[i] / p[i].norm() - q[i] / q[i].norm()) ** 2).sum() / 5 for i in range(6)
    ) / 6  # fmt: skip
    torch.testing.assert_close(made(said(h), nodes(range(6))), 2 * want)


def test_equal_rows_and_heads_cost_nothing_and_have_no_gradient(term):
    t = randn(6, 4, seed=0)
    made = term(t)
    made.heads[1].load_state_dict(made.heads[0].state_dict())
    loss, grad = gradient(made, t, nodes(range(6)))
    assert loss == 0
    assert not grad.any()
    assert gradient(made, t + 1, nodes(range(6)))[0] > 0.01


def test_both_heads_are_trained_and_the_teacher_is_not(term):
    t = randn(6, 4, seed=0).requires_grad_()
    made = term(t)
    made(said(randn(6, 4, seed=1)), nodes(range(6))).backward()
    assert all(p.grad is not None and p.grad.any() for p in made.heads[0][0].parameters())
    assert all(p.grad is not None and p.grad.any() for p in made.heads[1][0].parameters())
    assert t.grad is None


def test_rows_are_those_that_are_named_and_weighted(term):
    t, h = randn(20, 4, seed=0), randn(4, 4, seed=1)
    made = term(t)
    ids = torch.tensor([17, 3, 5, 11])
    p, q = (F.normalize(head(v)) for head, v in zip(made.heads, (h, t[ids]), strict=True))
    each = 2 * (p - q).square().mean(1)
    w = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    batch = nodes(ids, [True, False, True, True], w)
    want = (each[0] + 0.5 * each[2] + 3 * each[3]) / 4.5
    torch.testing.assert_close(made(said(h), batch), want)
    torch.testing.assert_close(
        term(t, nodes="observed")(said(h), batch), (each * w).sum() / w.sum()
    )
    torch.testing.assert_close(term(t, nodes="observed")(said(h), nodes(ids)), each.mean())


def test_fewer_than_two_rows_give_nothing(attached):
    made = attached(FitNet, randn(6, 4, seed=0)).train()
    loss, grad = gradient(made, randn(2, 4, seed=1), nodes([0, 1], [True, False]))
    assert loss == 0
    assert not grad.any()
