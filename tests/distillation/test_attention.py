import torch
from matched import gradient, nodes, randn, rotation, said

from gnnscale.distillation.attention import Attention


def test_value_by_hand(attached):
    t = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)  # 1, 4, 2
    h = torch.tensor([[2.0], [0.0], [1.0]], dtype=torch.float64)  # 4, 0, 1
    a, b = torch.tensor([4.0, 0.0, 1.0]) / 17**0.5, torch.tensor([1.0, 4.0, 2.0]) / 21**0.5
    found = attached(Attention, t, 1, weight=3.0)(said(h), nodes(range(3)))
    torch.testing.assert_close(found, 3 * (a - b).square().mean().double())


def test_only_the_lengths_of_rows_count_up_to_one_factor(attached):
    t = randn(9, 4, seed=0)
    term = attached(Attention, t)
    loss, grad = gradient(term, 7 * t @ rotation(4), nodes(range(9)))
    assert loss < 1e-28
    assert grad.abs().max() < 1e-13
    longer = t.clone()
    longer[0] *= 2
    assert gradient(term, longer, nodes(range(9)))[0] > 1


def test_names_of_nodes_do_not_matter_and_rows_are_looked_up(attached):
    t, h = randn(9, 4, seed=0), randn(9, 3, seed=1)
    term = attached(Attention, t, 3)
    order = torch.tensor([4, 2, 8, 0, 1, 3, 5, 7, 6])
    want = term(said(h), nodes(range(9)))
    torch.testing.assert_close(term(said(h[order]), nodes(order)), want)
    assert (term(said(h[order]), nodes(range(9))) - want).abs() > 1e-3
    assert list(term.parameters()) == []


def test_its_scale_falls_with_the_number_of_nodes(attached):
    t, h = randn(9, 4, seed=0), randn(9, 3, seed=1)
    once = attached(Attention, t, 3)(said(h), nodes(range(9)))
    four = attached(Attention, t.repeat(4, 1), 3)(said(h.repeat(4, 1)), nodes(range(36)))
    torch.testing.assert_close(four, once / 4)
