import pytest
import torch
from compositions import permuted
from matched import gradient, nodes, randn, ring, rotation, said

from gnnscale.core.data import GraphData, Task
from gnnscale.distillation._kernels import KERNELS
from gnnscale.distillation.lsp import LSP


def by_hand(kernel, graph, h, t):
    """(1/n) sum_i KL over the neighbours without i, node by node."""
    total, k = 0.0, KERNELS[kernel].matrix
    s_h, s_t = k(h), k(t)
    for i in range(graph.n_dst):
        near = graph.indices[graph.indptr[i] : graph.indptr[i + 1]].long()
        near = near[near != i]
        if len(near):
            q, p = s_h[i, near].softmax(0), s_t[i, near].softmax(0)
            total = total + (p * (p.log() - q.log())).sum()
    return total / graph.n_dst


def data(graph):
    n = graph.n_dst
    return GraphData("g", graph, torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), {},
                     Task(classes=3))  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_value_by_hand_on_six_nodes(attached, six, kernel):
    t, h = randn(6, 4, seed=0), randn(6, 3, seed=1)
    term = attached(LSP, t, 3, kernel=kernel, weight=2.0)
    want = by_hand(kernel, six, h, t)
    assert want > 1e-8
    found = term(said(h), nodes(range(6)))
    torch.testing.assert_close(found, 2 * want, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_zero_where_the_kernel_can_not_tell_student_and_teacher_apart(attached, kernel):
    t = randn(8, 4, seed=0)
    term = attached(LSP, t, data=data(ring(8)), kernel=kernel)
    same = [t]
    same += [t @ rotation(4)] if kernel != "l1_exp" else []
    same += [t + 3] if kernel in ("l1_exp", "rbf", "l2") else []
    same += [5 * t] if kernel.startswith("cosine") else []
    for h in same:
        loss, grad = gradient(term, h, nodes(range(8)))
        assert loss.abs() < 1e-12
        assert grad.abs().max() < 1e-10
    loss, grad = gradient(term, randn(8, 4, seed=2), nodes(range(8)))
    assert loss > 1e-6
    assert grad.any()


def test_names_of_nodes_do_not_matter(attached):
    graph, t, h = ring(8), randn(8, 4, seed=0), randn(8, 3, seed=1)
    want = attached(LSP, t, 3, data=data(graph))(said(h), nodes(range(8)))
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    moved = permuted(data(graph), order)
    found = attached(LSP, t[order], 3, data=moved)(said(h[order]), nodes(range(8)))
    torch.testing.assert_close(found, want)


def test_nodes_with_fewer_than_two_neighbours_add_nothing(attached, six):
    t, h = randn(6, 4, seed=0), randn(6, 4, seed=1)
    term = attached(LSP, t)
    _, grad = gradient(term, h, nodes([0, 3, 4, 5]))  # among these: 0 -> 4, 4 -> 0, 3 -> 4
    want = 100 * by_hand("l1_exp", ring(3), h[:3], t[:3])
    assert want > 0
    assert grad[3].abs().sum() == 0
    lone, grad = gradient(term, h, nodes([1, 3, 5]))
    assert lone == 0
    assert not grad.any()


def test_a_batch_compares_the_edges_that_it_holds(attached, six):
    t, h = randn(6, 4, seed=0), randn(6, 4, seed=1)
    term = attached(LSP, t, kernel="rbf", weight=1.0)
    ids = torch.tensor([4, 2, 0, 3])
    from gnnscale.graph.induce import induce

    want = by_hand("rbf", induce(six, ids), h[ids], t[ids])
    assert want > 0
    torch.testing.assert_close(term(said(h[ids]), nodes(ids)), want)
    labels = [True, False, True, True]
    some = ids[torch.tensor(labels)]
    few = attached(LSP, t, kernel="rbf", weight=1.0, nodes="train")
    torch.testing.assert_close(
        few(said(h[ids]), nodes(ids, labels)), by_hand("rbf", induce(six, some), h[some], t[some])
    )


def test_it_may_stop_after_some_epochs(attached):
    t, h = randn(6, 4, seed=0), randn(6, 4, seed=1)
    term = attached(LSP, t, epochs=30)
    assert term(said(h), nodes(range(6), key=(0, 29, 0))) > 0
    assert term(said(h), nodes(range(6), key=(0, 30, 0))) == 0


def test_similarities_far_apart_stay_finite(attached):
    t = 1e3 * randn(6, 4, seed=0)
    loss, grad = gradient(attached(LSP, t, kernel="linear"), -t, nodes(range(6)))
    assert loss.isfinite()
    assert grad.isfinite().all()
