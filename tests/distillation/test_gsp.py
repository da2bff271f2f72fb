import pytest
import torch
from matched import gradient, nodes, randn, rotation, said

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.distillation._kernels import KERNELS
from gnnscale.distillation.gsp import GSP


def by_hand(kind, a, b):
    """The kernel's definition for two rows."""
    cos = a @ b / (a.norm() * b.norm())
    return {
        "l1_exp": lambda: torch.exp(-(a - b).abs().sum() / 100), "linear": lambda: a @ b,
        "poly": lambda: (a @ b) ** 2, "rbf": lambda: torch.exp(-((a - b) ** 2).sum() / 2),
        "cosine": lambda: cos, "cosine_poly": lambda: cos**2, "l2": lambda: (a - b).norm(),
    }[kind]()  # fmt: skip


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_of_pairs_and_of_edges_are_their_definitions(kind):
    h = randn(5, 3, seed=0)
    want = torch.stack([torch.stack([by_hand(kind, a, b) for b in h]) for a in h])
    torch.testing.assert_close(KERNELS[kind].matrix(h), want, atol=1e-6, rtol=1e-10)
    adj = Adjacency(torch.tensor([0, 1, 2, 3, 3, 4]), torch.tensor([3, 1, 4, 0]), 5)
    want = want[adj.dst, adj.indices]
    torch.testing.assert_close(KERNELS[kind].edges(h, adj), want, atol=1e-6, rtol=1e-10)


@pytest.mark.parametrize("kind", KERNELS)
def test_value_is_the_mean_square_over_all_pairs(attached, kind):
    t, h = randn(5, 4, seed=0), randn(5, 3, seed=1)
    found = attached(GSP, t, 3, kernel=kind, weight=2.0)(said(h), nodes(range(5)))
    gaps = [
        (by_hand(kind, h[i], h[j]) - by_hand(kind, t[i], t[j])) ** 2
        for i in range(5) for j in range(5)
    ]  # fmt: skip
    torch.testing.assert_close(found, 2 * torch.stack(gaps).mean(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KERNELS)
def test_zero_with_zero_gradient_at_the_teacher_and_what_a_kernel_can_not_tell_from_it(
    attached, kind
):
    t = randn(7, 4, seed=0)
    term = attached(GSP, t, kernel=kind)
    same = {"rotated": t @ rotation(4)} if kind != "l1_exp" else {}
    if kind in ("l1_exp", "rbf", "l2"):
        same["moved"] = t + 3
    if kind.startswith("cosine"):
        same["scaled"] = 3 * t
    for h in (t, *same.values()):
        loss, grad = gradient(term, h, nodes(range(7)))
        assert loss < 1e-20
        assert grad.isfinite().all()
        assert grad.abs().max() < 1e-8
    assert gradient(term, randn(7, 4, seed=1), nodes(range(7)))[0] > 1e-4


def test_samples_are_drawn_anew_per_step_and_one_set_for_both(attached):
    t = randn(40, 4, seed=0)
    term = attached(GSP, t, samples=10)
    h = t @ rotation(4)
    for step in range(3):  # the same nodes of both: still equal
        assert term(said(h), nodes(range(40), key=(0, 0, step))) < 1e-20
    h = randn(40, 4, seed=1)
    values = [term(said(h), nodes(range(40), key=(0, e, s))).item()
              for e, s in ((0, 0), (0, 0), (0, 1), (1, 0))]  # fmt: skip
    assert values[0] == values[1]
    assert len(set(values)) == 3
    whole = attached(GSP, t, samples=0)(said(h), nodes(range(40)))
    assert attached(GSP, t, samples=40)(said(h), nodes(range(40))) == whole


def test_heads_let_widths_differ_in_rows_of_any_kernel(attached):
    term = attached(GSP, randn(7, 4, seed=0), 3, projection=5, kernel="rbf")
    loss, grad = gradient(term, randn(7, 3, seed=1), nodes(range(7)))
    assert loss > 0
    assert grad.any()
    assert sum(p.numel() for p in term.parameters()) == 3 * 5 + 5 + 4 * 5 + 5 + 4 * 5
