"""One full-batch GCN epoch on Cora: gnnscale beside a plain DGL script, interleaved in one process.

usage: python scripts/bench_cora_dgl.py [PAIRS]     (GNNSCALE_DATA says where the files are)

Both train Kipf & Welling's model (2 layers of 16, dropout 0.5, Adam, weight decay) on the same
features and split; an epoch is one step and one evaluation of the validation nodes. Prints the
medians over the pairs and the median of the ratios pair by pair.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from gnnscale.catalog import Catalog
from gnnscale.compose import build, check, compose
from gnnscale.core.host import dgl

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
EPOCHS = 20  # timed together


class Plain(nn.Module):
    """Two of DGL's own layers."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.first = dgl.nn.GraphConv(features, 16)
        self.second = dgl.nn.GraphConv(16, classes)

    def forward(self, graph, x):
        """Logits of all nodes."""
        h = F.relu(self.first(graph, F.dropout(x, 0.5, self.training)))
        return self.second(graph, F.dropout(h, 0.5, self.training))


def plain(data):
    """A function that trains the plain script's model for some epochs."""
    graph = dgl.graph((data.graph.indices.long(), data.graph.dst.long()), num_nodes=data.nodes)
    graph = dgl.add_self_loop(graph)
    x = data.x.dense() if hasattr(data.x, "dense") else data.x
    train, valid = data.splits["train"], data.splits["valid"]
    model = Plain(x.shape[1], data.task.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)

    def epochs(n):
        for _ in range(n):
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(graph, x)[train], data.y[train]).backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                (model(graph, x)[valid].argmax(1) == data.y[valid]).float().mean().item()

    return epochs


def ours(folder):
    """(data, a function that trains the same model in gnnscale's loop for some epochs)."""
    catalog = Catalog.load()
    typed = ["dataset=cora", "architecture=gcn", "architecture.hidden=16", "trainer.decay=all"]
    plan = check(*compose(typed, catalog), catalog)
    run = build(plan, 0, folder)
    run.prepare()
    run.start()

    def epochs(n):
        for _ in range(n):
            run.model.train()
            for batch in run.batches(run.epoch):
                run.step(batch)
            run.validate()

    return run.data, epochs


def seconds(epochs):
    """Seconds per epoch."""
    start = time.perf_counter()
    epochs(EPOCHS)
    return (time.perf_counter() - start) / EPOCHS


with tempfile.TemporaryDirectory() as name:
    data, mine = ours(Path(name))
    theirs = plain(data)
    seconds(mine), seconds(theirs)
    pairs = [(seconds(mine), seconds(theirs)) for _ in range(PAIRS)]
    a, b = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    ratio = statistics.median(x / y for x, y in pairs)
    quarter = statistics.quantiles([x / y for x, y in pairs])
    print(
        f"{PAIRS} pairs of {EPOCHS} epochs, {torch.get_num_threads()} threads: "
        f"gnnscale {a:.2f} ms, plain DGL {b:.2f} ms, "
        f"ratio {ratio:.3f} (quartiles {quarter[0]:.3f} to {quarter[2]:.3f})"
    )
