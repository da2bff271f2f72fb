"""Digits: a nearest-neighbour graph over images that scikit-learn brings along; needs no files.

Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

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


class Digits(Dataset):
    """1,797 images of 8 x 8 pixels; an edge where one is among the other's k nearest.

    Distances are Euclidean, exact; the graph is the union of both directions. Features are
    pixels / 16; the 10 classes are the digits.

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
        from sklearn.datasets import load_digits  # here: half a second that others need not wait
        from sklearn.neighbors import NearestNeighbors

        pixels, labels = load_digits(return_X_y=True)
        search = NearestNeighbors(n_neighbors=self.neighbours, algorithm="kd_tree").fit(pixels)
        nearest = search.kneighbors(return_distance=False)  # [N, k], without the image itself
        ids = np.repeat(np.arange(len(pixels)), self.neighbours)
        graph, facts = simple(nearest.reshape(-1), ids, len(pixels))
        y = torch.from_numpy(labels.astype(np.int64))
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
