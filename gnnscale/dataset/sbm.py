"""Community detection on many small graphs of a stochastic block model.

Chen, Chen & Bruna, ICLR 2021, arXiv:2010.15116, sec. 5; the task is that of Chen, Li & Bruna,
ICLR 2019, arXiv:1705.08415.
"""

import numpy as np
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.values import Count, NonNegative, Whole
from gnnscale.dataset._base import Dataset
from gnnscale.graph.simple import simple


class SBM(Dataset):
    """Graphs of n nodes in communities of equal size (up to one), side by side in one.

    Two nodes are joined with probability p / n within a community, q / n between two. The only
    feature is 1. Communities have no names: loss and score of a graph are those under its best
    renaming (``Task.group``); the score is the overlap, (accuracy - 1 / K) / (1 - 1 / K).

    Args:
        nodes: n, of every graph. communities: K. within, between: p and q, at most n.
        train, valid, test: how many graphs. data_seed: of everything; None: the run's seed.

    Shapes: x [N, 1] float32, y [N] int64, N = n (train + valid + test); graph g is nodes g n to
    (g + 1) n - 1.
    Raises: UsageError if the numbers contradict each other.
    """

    def __init__(
        self,
        nodes: Count = 250,
        communities: Count = 2,
        within: NonNegative = 5.0,
        between: NonNegative = 1.0,
        train: Count = 60,
        valid: Count = 20,
        test: Count = 20,
        data_seed: Whole | None = 0,
    ):
        if not 2 <= communities <= min(nodes, 6):
            raise UsageError(
                f"dataset.communities={communities}: graphs have {nodes} nodes, and every renaming "
                "of the communities is tried; valid: 2 to 6; type dataset.communities=2"
            )
        for name, rate in (("within", within), ("between", between)):
            if rate > nodes:
                raise UsageError(
                    f"dataset.{name}={rate}: divided by dataset.nodes={nodes} it is a probability; "
                    f"valid: 0 to {nodes}; type dataset.{name}={nodes}"
                )
        self.nodes, self.communities = nodes, communities
        self.within, self.between = within, between
        self.graphs, self.data_seed = (train, valid, test), data_seed

    def load(self, seed: int) -> GraphData:
        """Make the graphs; which of them train is their number."""
        rng = Key(seed if self.data_seed is None else self.data_seed, "dataset.sbm").numpy()
        n, total = self.nodes, sum(self.graphs)
        one, two = np.triu_indices(n, 1)
        labels, ends = np.empty((total, n), np.int64), []
        for g in range(total):
            y = labels[g] = rng.permutation(np.arange(n) * self.communities // n)
            rate = np.where(y[one] == y[two], self.within, self.between)
            there = np.flatnonzero(rng.random(len(one)) < rate / n)
            ends.append(np.stack([one[there], two[there]]) + g * n)
        graph, facts = simple(*np.concatenate(ends, 1), n * total)
        bounds = np.cumsum([0, *self.graphs]) * n
        return GraphData(
            name="sbm",
            graph=graph,
            x=torch.ones(n * total, 1),
            y=torch.from_numpy(labels.reshape(-1)),
            splits={
                name: torch.arange(start, end)
                for name, start, end in zip(
                    ("train", "valid", "test"), bounds[:-1].tolist(), bounds[1:].tolist(),
                    strict=True,
                )
            },
            task=Task("node", "single", self.communities, "overlap", n),
            facts={**facts, "graphs": total, "edges": graph.n_edges // 2},
        )  # fmt: skip
