"""Splits drawn by seed: so many nodes per class, or shares of all labelled nodes."""

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key


def known(y: Tensor) -> np.ndarray:
    """[N] bool: which nodes have a label. Shapes: y [N] int64, -1 unknown, or [N, C], NaN there."""
    if y.dim() == 1:
        return (y >= 0).numpy()
    return (~torch.isnan(y).any(1)).numpy()


def per_class_split(
    y: Tensor, train_per_class: int, valid_per_class: int, key: Key
) -> dict[str, Tensor]:
    """Training and validation nodes drawn per class, every other labelled node for testing.

    The habit since Shchur et al., arXiv:1811.05868, sec. 3 (20 and 30 per class).

    Shapes: y [N] int64, -1 where unknown -> ``train`` [n C], ``valid`` [m C], ``test``: node ids,
    int64, ascending.
    Raises: UsageError if a class has fewer than n + m labelled nodes, or none is left to test.
    """
    rng, each = key.numpy(), train_per_class + valid_per_class
    train, valid = [], []
    for members in _members(y, train_per_class, valid_per_class, "per_class"):
        ids = rng.permutation(members)
        train.append(ids[:train_per_class])
        valid.append(ids[train_per_class:each])
    return _rest_tests(y, train, valid)


def shchur_split(
    y: Tensor, train_per_class: int, valid_per_class: int, seed: int
) -> dict[str, Tensor]:
    """The same kind of split, as published work drew it with this seed.

    numpy's ``RandomState(seed)`` chooses, class by class in ascending order, the training nodes
    without replacement from the ascending ids, then for all classes the validation nodes from the
    others (Shchur et al., arXiv:1811.05868; CPF with seed 0; GLNN with seeds 0 to 9). The numbers
    of ``RandomState`` are the same in every version of numpy.

    Shapes and errors: as ``per_class_split``.
    """
    rng = np.random.RandomState(seed)
    members = _members(y, train_per_class, valid_per_class, "shchur")
    train = [rng.choice(ids, train_per_class, replace=False) for ids in members]
    left = [np.setdiff1d(ids, own) for ids, own in zip(members, train, strict=True)]
    valid = [rng.choice(ids, valid_per_class, replace=False) for ids in left]
    return _rest_tests(y, train, valid)


def _members(y: Tensor, train_per_class: int, valid_per_class: int, split: str) -> list[np.ndarray]:
    """The ids of every class, ascending; each has enough of them, and some are left to test."""
    if y.dim() > 1:
        raise UsageError(
            f"dataset.split={split}: nodes carry several labels each; type dataset.split=shares"
        )
    labels = y.numpy()
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    each, least = train_per_class + valid_per_class, counts.min()
    if least < each:
        half = max(least // 2, 1)
        raise UsageError(
            f"dataset.train_per_class={train_per_class}: class {classes[counts.argmin()]} has "
            f"{least} labelled nodes, fewer than train_per_class + valid_per_class = {each}; "
            f"type dataset.train_per_class={half} dataset.valid_per_class={max(least - half, 1)}"
        )
    if counts.sum() == each * len(classes):
        raise UsageError(
            f"dataset.train_per_class={train_per_class}: with dataset.valid_per_class="
            f"{valid_per_class} no node is left to test; lower either"
        )
    return [np.flatnonzero(labels == c) for c in classes]


def _rest_tests(y: Tensor, train: list[np.ndarray], valid: list[np.ndarray]) -> dict[str, Tensor]:
    parts = {"train": np.concatenate(train), "valid": np.concatenate(valid)}
    parts["test"] = np.setdiff1d(np.flatnonzero(known(y)), np.concatenate(list(parts.values())))
    return {name: torch.from_numpy(np.sort(ids).astype(np.int64)) for name, ids in parts.items()}


def share_split(y: Tensor, train: float, valid: float, key: Key) -> dict[str, Tensor]:
    """Shares of the labelled nodes, drawn uniformly; what is left is for testing.

    Raises: UsageError if one of the three would be empty.
    """
    ids = key.numpy().permutation(np.flatnonzero(known(y)))
    sizes = [round(train * len(ids)), round(valid * len(ids))]
    if min(*sizes, len(ids) - sum(sizes)) < 1:
        raise UsageError(
            f"dataset.train={train}: with dataset.valid={valid} and {len(ids)} labelled nodes a "
            "split would be empty; choose shares above 0 that sum to less than 1; "
            "type dataset.train=0.6 dataset.valid=0.2"
        )
    parts = np.split(ids, np.cumsum(sizes))
    return {
        name: torch.from_numpy(np.sort(part).astype(np.int64))
        for name, part in zip(("train", "valid", "test"), parts, strict=True)
    }


def fold_split(y: Tensor, folds: int, fold: int, key: Key) -> dict[str, Tensor]:
    """One round of a stratified cross-validation: a fold tests, the next validates, others train.

    Every class is spread over the folds as evenly as can be; the partition depends on ``key`` only.

    Shapes: y [n] int64. fold: taken modulo ``folds``.
    Raises: UsageError for fewer than three folds, more than there are items, or several labels.
    """
    if y.dim() > 1:
        raise UsageError("dataset.split=folds: needs one class per item; type dataset.split=shares")
    if not 3 <= folds <= len(y):
        raise UsageError(
            f"dataset.folds={folds}: one fold tests, one validates, the others train; choose 3 to "
            f"{len(y)}, e.g. dataset.folds=10"
        )
    labels, rng = y.numpy(), key.numpy()
    place, start = np.empty(len(labels), np.int64), 0
    for c in np.unique(labels):
        ids = rng.permutation(np.flatnonzero(labels == c))
        place[ids] = (start + np.arange(len(ids))) % folds  # go on where the last class ended
        start += len(ids)
    test, valid = fold % folds, (fold + 1) % folds
    parts = {"train": (place != test) & (place != valid), "valid": place == valid,
             "test": place == test}  # fmt: skip
    return {name: torch.from_numpy(np.flatnonzero(chosen)) for name, chosen in parts.items()}
