"""The graph that speed is measured on: the size of ogbn-arxiv, degrees with a heavy tail.

usage: scripts/heavy_tailed.py FILE.npz     writes it as dataset=custom reads it

169,343 nodes, 1,157,799 pairs whose ends are drawn with p ~ Pareto(1.5) + 1, both directions,
duplicates and self-loops removed; 128 features, 40 classes, 90,941 nodes to train on.
"""

import sys
from pathlib import Path

import numpy as np

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.simple import simple

NODES, PAIRS, FEATURES, CLASSES, TRAIN = 169_343, 1_157_799, 128, 40, 90_941


def heavy_tailed() -> Adjacency:
    """In-edges by destination."""
    p = np.random.default_rng(0).pareto(1.5, NODES) + 1
    draw = np.random.default_rng(1)
    src, dst = (draw.choice(NODES, PAIRS, p=p / p.sum()) for _ in range(2))
    return simple(src, dst, NODES)[0]


def write(path: Path) -> None:
    """Graph, features, classes and split; the file is there as a whole or not at all."""
    graph, draw = heavy_tailed(), np.random.default_rng(2)
    parts = np.searchsorted([TRAIN, TRAIN + 30_000], draw.permutation(NODES), side="right")
    scratch = path.with_name(f"part.{path.name}")
    np.savez(
        scratch,
        edges=np.stack([graph.indices.numpy(), graph.dst.numpy()], 1),
        x=draw.standard_normal((NODES, FEATURES), dtype=np.float32),
        y=draw.integers(0, CLASSES, NODES),
        train_mask=parts == 0, valid_mask=parts == 1, test_mask=parts == 2,
    )  # fmt: skip
    scratch.rename(path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
