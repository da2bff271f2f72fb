import math

import pytest
import torch
from matched import gradient, nodes, randn, said
from torch import nn

from gnnscale.distillation.gcrd import GCRD


@pytest.fixture
def bare(attached):
    """A term without heads: rows reach the loss as they are."""

    def make(table, **options):
        term = attached(GCRD, table, weight=1.0, **options)
        term.heads = nn.ModuleList([nn.Identity(), nn.Identity()])
        return term

    return make


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_closed_forms(bare, tau):
    s = 6
    eye = torch.eye(s, dtype=torch.float64)
    found = bare(eye, temperature=tau)(said(3 * eye), nodes(range(s)))
    torch.testing.assert_close(found.item(), math.log(1 + (s - 1) * math.exp(-1 / tau)))
    ones = torch.ones(s, 4, dtype=torch.float64)
    found = bare(ones, temperature=tau)(said(ones), nodes(range(s)))
    torch.testing.assert_close(found.item(), math.log(s))


def test_value_by_the_formula_with_the_student_as_anchor(bare):
    t, h = randn(5, 4, seed=0), randn(5, 4, seed=1)
    p, q = h / h.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
    e = torch.exp(p @ q.T / 0.3)
    want = -(e.diag() / e.sum(1)).log().mean()
    torch.testing.assert_close(bare(t, temperature=0.3)(said(h), nodes(range(5))), want)


def test_the_order_matters_only_between_the_two(bare):
    t = randn(8, 4, seed=0)
    term, order = bare(t), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    h = t + 0.1 * randn(8, 4, seed=1)
    matched = term(said(h), nodes(range(8)))
    torch.testing.assert_close(term(said(h[order]), nodes(order)), matched)
    assert term(said(h[order]), nodes(range(8))) > matched + 1


def test_negatives_are_the_rows_drawn(bare):
    t = randn(40, 6, seed=0)
    h = t + 0.5 * randn(40, 6, seed=1)
    few = [bare(t, samples=5)(said(h), nodes(range(40), key=(0, 0, s))).item() for s in range(200)]
    assert len(set(few)) == 200
    assert sum(few) / 200 < bare(t, samples=0)(said(h), nodes(range(40))).item()


def test_heads_of_both_are_trained(attached):
    t = randn(6, 4, seed=0).requires_grad_()
    term = attached(GCRD, t, 3, projection=5)
    loss, grad = gradient(term, randn(6, 3, seed=1), nodes(range(6)))
    assert loss > 0
    assert grad.any()
    term(said(randn(6, 3, seed=1)), nodes(range(6))).backward()
    assert all(p.grad.any() for p in (term.heads[0][0].weight, term.heads[1][0].weight))
    assert t.grad is None
    assert sum(p.numel() for p in term.parameters()) == 3 * 5 + 5 + 4 * 5 + 5 + 4 * 5
