import pytest
import torch
from matched import nodes, randn

from gnnscale.core.batch import Output
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.distillation.cpf import CPF


def loss_and_gradient(term, z, batch):
    z = z.clone().requires_grad_()
    loss = term(Output(z), batch)
    (grad,) = torch.autograd.grad(loss, z)
    return loss.detach(), grad


def test_one_norm_over_the_nodes_without_a_label(attached):
    t, z = randn(6, 3, seed=0), randn(6, 3, seed=1)
    labeled = [True, False, False, True, False, False]
    loss, grad = loss_and_gradient(attached(CPF, t), z, nodes(range(6), labeled))
    squares = sum(
        ((z[i].softmax(0) - t[i].softmax(0)) ** 2).sum() for i in range(6) if not labeled[i]
    )
    torch.testing.assert_close(loss, squares.sqrt(), rtol=1e-5, atol=1e-6)
    assert (grad.abs().sum(1) > 0).tolist() == [not here for here in labeled]


def test_zero_with_a_finite_gradient_at_the_teacher(attached):
    t = randn(6, 3, seed=0)
    loss, grad = loss_and_gradient(attached(CPF, t), t + 5, nodes(range(6), [False] * 6))
    assert loss.abs() < 1e-9
    assert grad.abs().max() < 1e-6
    none, grad = loss_and_gradient(attached(CPF, t), t + 1, nodes(range(6)))
    assert none == 0
    assert not grad.any()


def test_there_is_no_supervised_loss():
    assert CPF().hard == 0
    assert CPF().nodes == "unlabeled"


def test_other_tasks_are_refused(attached, six):
    data = GraphData("m", six, torch.zeros(6, 1), torch.zeros(6, 3), {}, Task(kind="multi",
                     classes=3))  # fmt: skip
    with pytest.raises(UsageError, match="kind multi; change to distillation=logit"):
        attached(CPF, randn(6, 3, seed=0), data=data)
