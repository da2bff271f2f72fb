"""Random graphs whose class is their density: graph-level data without files, of any number."""

from typing import Literal

import numpy as np
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Positive, Share, Whole
from gnnscale.dataset._base import Dataset
from gnnscale.dataset._splits import share_split
from gnnscale.graph.simple import simple


class SyntheticGraphs(Dataset):
    """Graphs of ``nodes_min`` to ``nodes_max`` nodes; one of class c has mean degree d (1 + c / 2).

    Node i of a graph gets as many random partners within it as its class says, so degrees differ;
    features are standard normal and say nothing. With ``target=density`` the label is not the class
    but the number of edges per node, a regression.

    Args:
        graphs: how many. classes: of density. degree: d, of class 0. features: per node.
        nodes_min, nodes_max: sizes, drawn uniformly. edge_features: normal numbers per edge, 0 for
            none. target: class or density. train, valid: shares; the rest tests.
        data_seed: of everything; None: the run's seed.

    Raises: UsageError if nodes_min is above nodes_max.
    """

    gives = traits(Trait.GRAPH)

    def __init__(
        self,
        graphs: Count = 1000,
        classes: Count = 3,
        degree: Positive = 3.0,
        features: Count = 8,
        nodes_min: Count = 10,
        nodes_max: Count = 30,
        edge_features: Whole = 0,
        target: Literal["class", "density"] = "class",
        train: Share = 0.6,
        valid: Share = 0.2,
        data_seed: Whole | None = 0,
    ):
        if nodes_min > nodes_max:
            raise UsageError(
                f"dataset.nodes_min={nodes_min}: above dataset.nodes_max={nodes_max}; choose "
                f"dataset.nodes_min={nodes_max} or less"
            )
        self.graphs, self.classes, self.degree, self.features = graphs, classes, degree, features
        self.nodes_min, self.nodes_max, self.edge_features = nodes_min, nodes_max, edge_features
        self.target, self.train, self.valid, self.data_seed = target, train, valid, data_seed

    def load(self, seed: int) -> GraphData:
        """Make the graphs; the split is drawn by the run's seed."""
        rng = Key(seed if self.data_seed is None else self.data_seed, "dataset.graphs").numpy()
        sizes = rng.integers(self.nodes_min, self.nodes_max + 1, self.graphs)
        c = rng.integers(0, self.classes, self.graphs)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        wanted = np.round(sizes * self.degree * (1 + c / 2) / 2).astype(np.int64)
        owner = np.repeat(np.arange(self.graphs), wanted)
        ends = (rng.random((2, len(owner))) * sizes[owner]).astype(np.int64) + offsets[owner]
        graph, facts = simple(ends[0], ends[1], int(offsets[-1]))
        starts = torch.from_numpy(offsets)
        y = torch.from_numpy(c)
        task = Task("graph", "single", self.classes)
        if self.target == "density":
            edges = graph.indptr[starts].diff().float()
            y = (edges / 2 / torch.from_numpy(sizes)).unsqueeze(1)
            task = Task("graph", "regression", 1)
        key = Key(seed, "dataset.graphs.split")
        f = self.edge_features
        return GraphData(
            name="synthetic_graphs",
            graph=graph,
            x=torch.from_numpy(rng.standard_normal((graph.n_dst, self.features), np.float32)),
            y=y,
            splits=share_split(y, self.train, self.valid, key),
            task=task,
            facts={**facts, "graphs": self.graphs, "edges": graph.n_edges // 2},
            offsets=starts,
            edge=torch.from_numpy(rng.standard_normal((graph.n_edges, f), np.float32))
            if f else None,
        )  # fmt: skip
