"""Counting attributed walks on a random regular graph: what fixed operators on features can't do.

Chen, Chen & Bruna, ICLR 2021, arXiv:2010.15116, sec. 5 and its authors' code (``RRG``).
"""

import numpy as np
import scipy.sparse as sp
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.values import Count, Whole
from gnnscale.dataset._base import Dataset
from gnnscale.graph.simple import simple

TYPES = 2


def regular(nodes: int, degree: int, rng: np.random.Generator) -> np.ndarray:
    """Edges [2, nodes degree / 2] of a simple graph whose nodes all have ``degree`` neighbours.

    Half-edges are paired at random (the configuration model); pairs that are loops or repeats trade
    ends with random others until there are none.
    """
    ends = rng.permutation(np.repeat(np.arange(nodes), degree)).reshape(2, -1)
    while True:
        _, first = np.unique(ends.min(0) * nodes + ends.max(0), return_index=True)
        wrong = ends[0] == ends[1]
        wrong |= ~np.isin(np.arange(len(wrong)), first)
        if not wrong.any():
            return ends
        at = np.flatnonzero(wrong)
        for i, j in zip(at, rng.integers(0, len(wrong), len(at)), strict=True):
            ends[1, [i, j]] = ends[1, [j, i]]


def walk_counts(a: sp.csr_matrix, types: np.ndarray, pattern: list[int]) -> np.ndarray:
    """How many walks i, v_1, .., v_k start at each node i with types[v_t] = pattern_t.

    With P_c the projection on the nodes of type c, A P_c1 A P_c2 .. A P_ck 1 (so that the counts of
    all patterns sum to A^k 1), from the right: k products with a vector.

    Shapes: a [N, N], types [N] -> [N].
    """
    count = np.ones(a.shape[0])
    for c in reversed(pattern):
        count = a @ (count * (types == c))
    return count


class Walks(Dataset):
    """One random regular graph; a node's type is the parity of its number, its target a count.

    x_i is the type's one-hot code, y_i the number of walks from i that visit nodes of the types
    ``pattern``, less its mean and divided by its standard deviation over the training nodes: the
    square of the rmse is then the squared error divided by the labels' variance, as the paper
    tells it. Departs from it: training minimises the absolute error, as for every regression here;
    which walk is counted is not stated there (the first of their list: all of type 0, we take it).

    Args:
        nodes: N. degree: of every node. pattern: types of the nodes behind the first, 0 or 1; their
            number is the length of the walks. train, valid: how many nodes; the others test.
        graph_seed: of the graph; None: the run's seed. split_seed: of the split; None: likewise.

    Shapes: x [N, 2] float32, y [N, 1] float32.
    Raises: UsageError if there is no such graph, pattern, or split.
    """

    def __init__(
        self,
        nodes: Count = 1000,
        degree: Count = 6,
        pattern: list[Whole] | None = None,
        train: Count = 300,
        valid: Count = 200,
        graph_seed: Whole | None = 0,
        split_seed: Whole | None = None,
    ):
        self.nodes, self.degree, self.train, self.valid = nodes, degree, train, valid
        self.pattern = [0, 0, 0] if pattern is None else list(pattern)
        self.graph_seed, self.split_seed = graph_seed, split_seed
        if nodes * degree % 2 or degree > nodes // 4:
            most = max(nodes // 4, 1)
            most -= nodes * most % 2
            raise UsageError(
                f"dataset.degree={degree}: {nodes} nodes of this degree need an even number of "
                f"ends, and at most a quarter of the nodes as neighbours; type "
                f"dataset.degree={max(min(degree - 1, most), 1)} or another dataset.nodes"
            )
        if not self.pattern or not set(self.pattern) <= set(range(TYPES)):
            raise UsageError(
                f"dataset.pattern={self.pattern}: types are 0 and 1, one per step of the walk; "
                "type e.g. dataset.pattern=[0,0,0]"
            )
        if train + valid >= nodes:
            raise UsageError(
                f"dataset.train={train}: with dataset.valid={valid} none of {nodes} nodes is left "
                f"to test; type dataset.train={max(nodes * 3 // 10, 1)} "
                f"dataset.valid={max(nodes // 5, 1)}"
            )

    def load(self, seed: int) -> GraphData:
        """Make the graph, count, split and standardise."""
        key = Key(seed if self.graph_seed is None else self.graph_seed, "dataset.walks")
        src, dst = regular(self.nodes, self.degree, key.numpy())
        graph, facts = simple(src, dst, self.nodes)
        ones = np.ones(graph.n_edges)
        a = sp.csr_matrix((ones, graph.indices.numpy(), graph.indptr.numpy()))
        types = np.arange(self.nodes) % TYPES
        count = walk_counts(a, types, self.pattern)
        key = Key(seed if self.split_seed is None else self.split_seed, "dataset.walks.split")
        order = key.numpy().permutation(self.nodes)
        parts = np.split(order, np.cumsum([self.train, self.valid]))
        mean, std = count[parts[0]].mean(), count[parts[0]].std() or 1.0
        return GraphData(
            name="walks",
            graph=graph,
            x=torch.eye(TYPES)[torch.from_numpy(types)],
            y=torch.from_numpy((count - mean) / std).float().unsqueeze(1),
            splits={
                name: torch.from_numpy(np.sort(part))
                for name, part in zip(("train", "valid", "test"), parts, strict=True)
            },
            task=Task("node", "regression", 1, "rmse"),
            facts={**facts, "edges": graph.n_edges // 2, "mean": mean, "std": std},
        )
