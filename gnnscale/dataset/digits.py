"""Digits: a nearest-neighbour graph over images that scikit-learn brings along; needs no files.

Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.values import Count, Whole
from gnnscale.dataset._base import Dataset
from gnnscale.dataset._splits import per_class_split
from gnnscale.graph.simple import simple

IMAGES = 1797


def images() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [1797, 64], whole numbers from 0 to 16, and labels [1797], int64.

    Read from scikit-learn's file without importing it, which takes over a second; by its own
    function where another version keeps the file elsewhere.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.exists():
            table = np.loadtxt(path, delimiter=",", dtype=np.int64)
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels.astype(np.int64), labels.astype(np.int64)


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """Of each point the k nearest others, [n, k]; of equally near ones those of lower numbers.

    Args:
        points: [n, F] whole numbers whose squared distances float32 holds exactly (below 2^24).
    """
    x, n = points.astype(np.float32), len(points)
    squares = (x * x).sum(1)
    order = (squares[:, None] + squares - 2 * (x @ x.T)).astype(np.int64) * n + np.arange(n)
    np.fill_diagonal(order, np.iinfo(np.int64).max)
    return np.argpartition(order, k - 1, axis=1)[:, :k]


class Digits(Dataset):
    """1,797 images of 8 x 8 pixels; an edge where one is among the other's k nearest.

    Distances are Euclidean, exact; of equally near images those of lower numbers are taken. The
    graph is the union of both directions. Features are pixels / 16; the 10 classes are the digits.

    Args:
        neighbours: k, from 1 to 1,796.
        train_per_class, valid_per_class: labels drawn per class; all other nodes are for testing.
        split_seed: seed of that draw; None: the run's seed.

    Shapes: x [1797, 64] float32, y [1797] int64.
    Raises: UsageError if k or the labels per class exceed what there is.
    """

    def __init__(
        self,
        neighbours: Count = 10,
        train_per_class: Count = 20,
        valid_per_class: Count = 30,
        split_seed: Whole | None = None,
    ):
        if neighbours >= IMAGES:
            raise UsageError(
                f"dataset.neighbours={neighbours}: there are {IMAGES} images; "
                f"choose 1 to {IMAGES - 1}, e.g. dataset.neighbours=10"
            )
        self.neighbours, self.split_seed = neighbours, split_seed
        self.train_per_class, self.valid_per_class = train_per_class, valid_per_class

    def load(self, seed: int) -> GraphData:
        """Make the graph, split by ``split_seed`` or else ``seed``."""
        pixels, labels = images()
        near = nearest(pixels, self.neighbours)
        ids = np.repeat(np.arange(len(pixels)), self.neighbours)
        graph, facts = simple(near.reshape(-1), ids, len(pixels))
        y = torch.from_numpy(labels)
        key = Key(seed if self.split_seed is None else self.split_seed, "dataset.digits.split")
        return GraphData(
            name="digits",
            graph=graph,
            x=torch.from_numpy((pixels / 16).astype(np.float32)),
            y=y,
            splits=per_class_split(y, self.train_per_class, self.valid_per_class, key),
            task=Task("node", "single", 10),
            facts={**facts, "edges": graph.n_edges // 2, "features": "pixels / 16"},
        )
