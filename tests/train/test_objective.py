import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import Task
from gnnscale.distillation._base import Term
from gnnscale.train.objective import Objective

N, C = 6, 3
Y = torch.tensor([0, 2, -1, 1, -1, 0])
LABELED = torch.tensor([True, True, False, True, False, False])


def batch_of(y=Y, labeled=LABELED, weight=None) -> Batch:
    ids = torch.arange(len(y))
    return Batch(torch.empty(len(y), 0), (), ids, ids, ids, y, labeled, weight)


def logits(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(N, C, generator=draw, dtype=torch.float64).requires_grad_()


class Constant(Term):
    def __init__(self, value, hard=1.0, nodes="train"):
        super().__init__()
        self.value, self.hard, self.nodes = nn.Parameter(torch.tensor(value)), hard, nodes
        self.heard = []

    def forward(self, out, batch):
        self.heard.append((out, batch))
        return self.value * 1.0


def plain(**terms) -> Objective:
    return Objective(Task(classes=C), terms)


def test_mean_over_labeled_seeds():
    z = logits()
    loss = plain()(Output(z), batch_of())
    want = F.cross_entropy(z[[0, 1, 3]], Y[[0, 1, 3]])
    torch.testing.assert_close(loss, want)
    loss.backward()
    # rows without a label, whose y may be anything, take no part
    assert torch.equal(z.grad.abs().sum(1) > 0, LABELED)


def test_sampler_weights_make_a_sum():
    z, w = logits(), torch.tensor([0.5, 2.0, 9.0, 0.25, 9.0, 9.0])
    each = F.cross_entropy(z, Y.clamp(min=0), reduction="none")
    loss = plain()(Output(z), batch_of(weight=w))
    torch.testing.assert_close(loss, 0.5 * each[0] + 2 * each[1] + 0.25 * each[3])


def test_rows_that_the_model_leaves_out():
    z = logits()
    supervised = torch.tensor([True, False, True, True, True, True])
    loss = plain()(Output(z, supervised=supervised), batch_of())
    torch.testing.assert_close(loss, F.cross_entropy(z[[0, 3]], Y[[0, 3]]))


@pytest.mark.parametrize("weight", [None, torch.ones(N)])
def test_a_batch_without_labels_costs_nothing_but_has_a_gradient(weight):
    z = logits()
    nobody = torch.zeros(N, dtype=torch.bool)
    loss = plain()(Output(z), batch_of(labeled=nobody, weight=weight))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_multi_label_sums_over_classes():
    z = logits()
    y = (torch.arange(N * C).view(N, C) % 2).double()
    loss = Objective(Task(kind="multi", classes=C), {})(Output(z), batch_of(y=y))
    p, t = z[LABELED].sigmoid(), y[LABELED]
    want = -(t * p.log() + (1 - t) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(loss, want)


def test_hard_factors_multiply_and_terms_add():
    z, batch = logits(), batch_of()
    out = Output(z)
    bare = plain()(out, batch)
    a, b = Constant(0.5, hard=0.5), Constant(0.125, hard=0.25)
    objective = plain(a=a, b=b)
    torch.testing.assert_close(objective(out, batch), 0.125 * bare + 0.5 + 0.125)
    assert a.heard == [(out, batch)]
    # a term's own parameters are the objective's
    assert {n for n, _ in objective.named_parameters()} == {"terms.a.value", "terms.b.value"}


def test_without_hard_labels_the_supervised_part_has_no_gradient():
    z = logits()
    plain(a=Constant(1.0, hard=0.0))(Output(z), batch_of()).backward()
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_wants_unlabeled():
    assert not plain().wants_unlabeled
    assert not plain(a=Constant(1.0)).wants_unlabeled
    assert plain(a=Constant(1.0), b=Constant(1.0, nodes="observed")).wants_unlabeled
    assert plain(b=Constant(1.0, nodes="all")).wants_unlabeled


def test_log_loss_bounds_each_row():
    """log(eps + l) - log(eps): 0 where l is, slope 1 / eps there, in training's loss alone."""
    z, eps = logits(), 0.30685
    loss = Objective(Task(classes=C), {}, log_eps=eps)(Output(z), batch_of())
    each = F.cross_entropy(z[[0, 1, 3]], Y[[0, 1, 3]], reduction="none")
    torch.testing.assert_close(loss, ((eps + each).log() - torch.tensor(eps).log()).mean())
