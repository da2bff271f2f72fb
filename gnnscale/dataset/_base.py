"""What every dataset shares: where its files are, and splits drawn per class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.data import GraphData
from gnnscale.core.errors import DataError, UsageError
from gnnscale.core.random import Key
from gnnscale.core.traits import Component, Trait, Traits, traits


class Dataset(Component):
    """A source of one attributed graph; constructing it reads nothing."""

    gives: ClassVar[Traits] = traits(Trait.NODE)

    def load(self, seed: int) -> GraphData:
        """Read or make the graph; ``seed`` is the run's and decides whatever is drawn at random.

        Raises: DataError if files are missing or malformed.
        """
        raise NotImplementedError


def per_class_split(
    y: Tensor, train_per_class: int, valid_per_class: int, key: Key
) -> dict[str, Tensor]:
    """Training and validation nodes drawn per class, every other labelled node for testing.

    The habit since Shchur et al., arXiv:1811.05868, sec. 3 (20 and 30 per class).

    Shapes: y [N] int64, -1 where unknown -> ``train`` [n C], ``valid`` [m C], ``test``: node ids,
    int64, ascending.
    Raises: UsageError if a class has fewer than n + m labelled nodes, or none is left to test.
    """
    labels, rng = y.numpy(), key.numpy()
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    each, least = train_per_class + valid_per_class, counts.min()
    if least < each:
        half = max(least // 2, 1)
        raise UsageError(
            f"dataset.train_per_class={train_per_class}: class {classes[counts.argmin()]} has "
            f"{least} labelled nodes, fewer than train_per_class + valid_per_class = {each}; "
            f"type dataset.train_per_class={half} dataset.valid_per_class={max(least - half, 1)}"
        )
    train, valid, test = [], [], []
    for c in classes:
        ids = rng.permutation(np.flatnonzero(labels == c))
        train.append(ids[:train_per_class])
        valid.append(ids[train_per_class:each])
        test.append(ids[each:])
    parts = {"train": train, "valid": valid, "test": test}
    splits = {name: np.sort(np.concatenate(ids)) for name, ids in parts.items()}
    if len(splits["test"]) == 0:
        raise UsageError(
            f"dataset.train_per_class={train_per_class}: with dataset.valid_per_class="
            f"{valid_per_class} no node is left to test; lower either"
        )
    return {name: torch.from_numpy(ids.astype(np.int64)) for name, ids in splits.items()}


def roots(root: str | os.PathLike | None = None) -> list[Path]:
    """List data folders in search order: ``dataset.root``, then $GNNSCALE_DATA, then ./data.

    The first two may each list several folders, separated as in $PATH.
    """
    given = [os.fspath(root or ""), os.environ.get("GNNSCALE_DATA", ""), "data"]
    listed = [part for value in given for part in value.split(os.pathsep) if part]
    return list(dict.fromkeys(Path(part).expanduser() for part in listed))


def find(root: str | os.PathLike | None, folder: str, names: Sequence[str]) -> Path:
    """Find the first folder, a data root or its ``folder``, that holds all files ``names``.

    Raises: DataError with the files missing, every folder searched and what to type.
    """
    searched = [place for base in roots(root) for place in (base / folder, base)]
    missing = {place: [n for n in names if not (place / n).is_file()] for place in searched}
    best = min(searched, key=lambda place: len(missing[place]))
    if not missing[best]:
        return best
    partly = f" of {best}" if len(missing[best]) < len(names) else ""
    raise DataError(
        f"dataset.root={'null' if root is None else root}: files{partly} are missing: "
        f"{', '.join(missing[best])}; searched {', '.join(str(p.absolute()) for p in searched)}; "
        f"type dataset.root=DIR or GNNSCALE_DATA=DIR, where DIR or DIR/{folder} holds them"
    )
