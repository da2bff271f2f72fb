import numpy as np
import pytest
import torch

from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.dataset._splits import known, per_class_split, share_split, shchur_split


def test_per_class_split_skips_unlabelled_and_refuses_small_classes():
    y = torch.tensor([0, 0, 0, -1, 2, 2, 2, 2])
    splits = per_class_split(y, 1, 1, Key(0, "test"))
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 2, "valid": 2, "test": 3}
    assert 3 not in torch.cat(list(splits.values()))
    with pytest.raises(
        UsageError, match=r"dataset\.train_per_class=3: class 0 has 3 .*type dataset"
    ):
        per_class_split(y, 3, 1, Key(0, "test"))
    with pytest.raises(UsageError, match="no node is left to test"):
        per_class_split(torch.tensor([0, 0]), 1, 1, Key(0, "test"))


def test_shares_are_drawn_from_labelled_nodes_only():
    y = torch.tensor([0, 1, -1, 0, 1, 0, 1, -1, 0, 1, 0, 1])
    splits = share_split(y, 0.5, 0.2, Key(0, "test"))
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 5, "valid": 2, "test": 3}
    everyone = torch.cat(list(splits.values()))
    assert everyone.sort().values.tolist() == (y >= 0).nonzero().squeeze(1).tolist()
    again = share_split(y, 0.5, 0.2, Key(0, "test"))
    assert all(splits[n].equal(again[n]) for n in splits)
    drawn = {tuple(share_split(y, 0.5, 0.2, Key(s, "test"))["train"].tolist()) for s in range(20)}
    assert len(drawn) > 5


@pytest.mark.parametrize(("train", "valid"), [(1.0, 0.0), (0.8, 0.2), (0.0, 0.5), (0.6, 0.6)])
def test_an_empty_share_is_refused(train, valid):
    with pytest.raises(UsageError, match=r"dataset\.train=.*type dataset\.train=0\.6"):
        share_split(torch.zeros(10, dtype=torch.int64), train, valid, Key(0, "test"))


def test_rows_of_nan_have_no_label():
    y = torch.tensor([[0.0, 1.0], [float("nan"), float("nan")], [0.0, 0.0]])
    assert known(y).tolist() == [True, False, True]
    splits = share_split(y.repeat(6, 1), 0.5, 0.25, Key(0, "test"))
    assert sum(map(len, splits.values())) == 12
    with pytest.raises(UsageError, match=r"several labels each; type dataset\.split=shares"):
        per_class_split(y, 1, 1, Key(0, "test"))


def test_the_split_of_published_work_is_drawn_as_there():
    """Numbers of ``RandomState(0)`` by hand: three classes' training nodes, then validation."""
    y = torch.tensor([1, 0, 2, 1, 0, 2, -1, 1, 0, 2, 0, 1, 2])
    rng = np.random.RandomState(0)
    of_class = {c: [i for i in range(len(y)) if y[i] == c] for c in range(3)}
    train = [of_class[c][rng.permutation(4)[0]] for c in range(3)]
    left = [[i for i in of_class[c] if i not in train] for c in range(3)]
    valid = [left[c][j] for c in range(3) for j in rng.permutation(3)[:2]]
    splits = shchur_split(y, 1, 2, 0)
    assert splits["train"].tolist() == sorted(train)
    assert splits["valid"].tolist() == sorted(valid)
    assert splits["test"].tolist() == sorted(set(range(13)) - {6, *train, *valid})
    with pytest.raises(UsageError, match=r"dataset\.train_per_class=3: with .*no node is left"):
        shchur_split(y, 3, 1, 0)
    with pytest.raises(UsageError, match=r"dataset\.split=shchur: nodes carry several labels"):
        shchur_split(torch.zeros(4, 2), 1, 1, 0)
