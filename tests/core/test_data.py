import math

import pytest
import torch
from sklearn.metrics import f1_score

from gnnscale.core.data import GraphData, Task
from gnnscale.core.ops.adjacency import Adjacency


def test_accuracy_counts_the_largest_logit():
    task = Task(classes=3)
    logits = torch.tensor([[3.0, 1, 2], [0, 5, 1], [1, 2, 9], [4, 0, 0]])
    assert task.metric == "accuracy"
    assert task.score(logits, torch.tensor([0, 1, 1, 2])) == 0.5
    assert task.score(logits[:0], torch.tensor([], dtype=torch.int64)) != 0  # NaN, not zero


def test_micro_f1_is_scikit_learns():
    torch.manual_seed(0)
    task = Task(kind="multi", classes=5)
    logits, y = torch.randn(40, 5), (torch.rand(40, 5) > 0.6).float()
    expected = f1_score(y.numpy(), (logits > 0).numpy(), average="micro")
    assert task.metric == "micro_f1"
    assert task.score(logits, y) == pytest.approx(expected)
    assert task.score(torch.full((3, 5), -1.0), torch.zeros(3, 5)) == 0


def test_losses_per_row():
    torch.manual_seed(1)
    logits = torch.randn(6, 4, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    single = Task(classes=4).losses(logits, y)
    torch.testing.assert_close(single, -logits.log_softmax(-1)[torch.arange(6), y])
    many = torch.nn.functional.one_hot(y, 4).double()
    p = logits.sigmoid()
    by_hand = -(many * p.log() + (1 - many) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(Task(kind="multi", classes=4).losses(logits, many), by_hand)


def test_masks_and_shape():
    graph = Adjacency.from_edges(torch.tensor([0, 1]), torch.tensor([1, 0]), 4)
    data = GraphData("toy", graph, torch.zeros(4, 7), torch.zeros(4, dtype=torch.int64),
                     {"train": torch.tensor([2, 0])}, Task(classes=3))  # fmt: skip
    assert data.mask("train").tolist() == [True, False, True, False]
    assert (data.shape.features, data.shape.classes, data.nodes) == (7, 3, 4)
    assert data.with_(name="other").name == "other"


def test_roc_auc_of_two_classes_ranks_by_the_margin():
    from sklearn.metrics import roc_auc_score

    draw = torch.Generator().manual_seed(0)
    logits, y = torch.randn(200, 2, generator=draw), torch.randint(0, 2, (200,), generator=draw)
    logits[y == 1, 1] += 0.5
    task = Task(kind="single", classes=2, metric="roc_auc")
    wanted = roc_auc_score(y.numpy(), (logits[:, 1] - logits[:, 0]).numpy())
    assert task.score(logits, y) == pytest.approx(wanted)
    assert math.isnan(task.score(logits, torch.ones(200, dtype=torch.int64)))
    with pytest.raises(ValueError, match="roc_auc"):
        Task(kind="single", classes=3, metric="roc_auc")
