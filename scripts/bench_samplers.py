"""Samplers beside DGL's own, interleaved in one process, on a heavy-tailed graph of 169k nodes.

usage: python scripts/bench_samplers.py [ROUNDS]

The graph is that of heavy_tailed.py. Each round runs every sampler for some
batches, one after the other, so that the load of the machine falls on all of them alike; the first
round is thrown away. A node is a row of the batch's input. "structure" makes the batch's graphs
only, "features" also gathers the input rows.
Prints a markdown table of the medians over rounds.
"""

import os
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from heavy_tailed import FEATURES, NODES, TRAIN, heavy_tailed

from gnnscale.core.data import GraphData, Task
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.core.random import Key
from gnnscale.sampler.fastgcn import FastGCN
from gnnscale.sampler.labor import Labor
from gnnscale.sampler.ladies import Ladies
from gnnscale.sampler.neighbor import Neighbor
from gnnscale.sampler.saint import SaintNode, SaintWalk
from gnnscale.sampler.shadow import ShadowKhop
from gnnscale.sampler.vrgcn import VRGCN

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 9
SEEDS, BATCHES = 1024, 5  # batches timed together
FANOUTS = [10, 10, 10]


def dataset() -> GraphData:
    """The graph with random features."""
    x = torch.randn(NODES, FEATURES, generator=torch.Generator().manual_seed(0))
    none = torch.arange(0)
    train = torch.randperm(NODES, generator=torch.Generator().manual_seed(1))[:TRAIN]
    y = torch.zeros(NODES, dtype=torch.int64)
    return GraphData("bench", heavy_tailed(), x, y, {"train": train, "valid": none, "test": none},
                     Task())  # fmt: skip


class Mine:
    """One of our samplers, with features and, for the structure alone, with one column of them."""

    def __init__(self, make, data, need):
        self.samplers, self.seeds = [], data.splits["train"]
        for x in (data.x[:, :1].contiguous(), data.x):
            sampler, start = make(), time.perf_counter()
            sampler.prepare(data.with_(x=x), need, Key(0, "prepare"))
            self.prepare_s = time.perf_counter() - start
            self.samplers.append(sampler)

    def run(self, number, gather):
        """(seconds, input nodes, batches) of at most ``BATCHES`` batches."""
        sampler, nodes = self.samplers[gather], 0
        plan = sampler.plan(self.seeds, Key(0, "plan", number))[:BATCHES]
        start = time.perf_counter()
        for step, index in enumerate(plan):
            nodes += len(sampler.sample(index, Key(0, "sample", number, step)).nodes)
        return time.perf_counter() - start, nodes, len(plan)


class Theirs:
    """One of DGL's samplers on the same graph and seeds."""

    prepare_s = 0.0

    def __init__(self, sampler, data, seeded=True):
        src, dst = data.graph.indices.long(), data.graph.dst.long()
        self.graph = dgl.graph((src, dst), num_nodes=NODES)
        self.graph.create_formats_()
        self.sampler, self.seeds, self.x, self.seeded = (
            sampler,
            data.splits["train"],
            data.x,
            seeded,
        )

    def run(self, number, gather):
        """As ``Mine.run``."""
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(number))
        plan, nodes = self.seeds[order].split(SEEDS)[:BATCHES], 0
        start = time.perf_counter()
        for index in plan:
            if self.seeded:
                ids, *_ = self.sampler.sample(self.graph, index)
            else:
                ids = self.sampler.sample(self.graph, 0).ndata[dgl.NID]
            nodes += len(ids)
            if gather:
                self.x[ids]
        return time.perf_counter() - start, nodes, len(plan)


def contestants(data):
    """Everything that is timed, by name, ours before DGL's."""
    need, loading = Need(3, "row"), dgl.dataloading
    return {
        "neighbor 10,10,10": Mine(lambda: Neighbor(FANOUTS, SEEDS), data, need),
        "DGL NeighborSampler 10,10,10": Theirs(loading.NeighborSampler(FANOUTS), data),
        "labor-0 10,10,10": Mine(lambda: Labor(FANOUTS, SEEDS), data, need),
        "DGL LaborSampler 10,10,10": Theirs(loading.LaborSampler(FANOUTS), data),
        "labor-* 10,10,10": Mine(lambda: Labor(FANOUTS, SEEDS, importance=-1), data, need),
        "DGL LaborSampler, importance -1": Theirs(
            loading.LaborSampler(FANOUTS, importance_sampling=-1), data
        ),
        "ladies 5000": Mine(lambda: Ladies(5000, SEEDS), data, need),
        "fastgcn 5000": Mine(lambda: FastGCN(5000, SEEDS), data, need),
        "vrgcn 2": Mine(lambda: VRGCN(2, SEEDS), data, need),
        "saint walk 2000 x 4": Mine(lambda: SaintWalk(2000, 4), data, need),
        "DGL SAINTSampler walk 2000 x 4": Theirs(
            loading.SAINTSampler("walk", (2000, 4)), data, False
        ),
        "saint node 8000": Mine(lambda: SaintNode(8000), data, need),
        "DGL SAINTSampler node 8000": Theirs(loading.SAINTSampler("node", 8000), data, False),
        "shadow_khop 2 hops, 10 draws": Mine(lambda: ShadowKhop(2, 10, SEEDS), data, need),
        "DGL ShaDowKHopSampler 10,10": Theirs(loading.ShaDowKHopSampler([10, 10]), data),
    }


def main():
    """Time, and print the table."""
    data = dataset()
    everyone = contestants(data)
    found = {(name, gather): [] for name in everyone for gather in (False, True)}
    loads = []
    for number in range(ROUNDS + 1):
        loads.append(os.getloadavg()[0])
        for name, one in everyone.items():
            for gather in (False, True):
                measured = one.run(number, gather)
                if number:
                    found[name, gather].append(measured)
    print(
        f"{ROUNDS} rounds of {BATCHES} batches, {torch.get_num_threads()} torch threads, load "
        f"{min(loads):.1f} to {max(loads):.1f}; {data.graph.n_edges} edges\n"
    )
    print("| sampler | nodes/batch | structure ms | (quartiles) | nodes/s | features ms "
          "| (quartiles) | nodes/s | preparation s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name, one in everyone.items():
        cells = []
        for gather in (False, True):
            ms = [1e3 * s / k for s, _, k in found[name, gather]]
            rate = statistics.median(n / s for s, n, _ in found[name, gather])
            low, _, high = statistics.quantiles(ms, method="inclusive")
            cells += [f"{statistics.median(ms):.2f}", f"{low:.2f} to {high:.2f}",
                      f"{rate / 1e6:.2f} M"]  # fmt: skip
        size = statistics.mean(n / k for _, n, k in found[name, True])
        print(f"| {name} | {size:.0f} | " + " | ".join(cells) + f" | {one.prepare_s:.2f} |")


if __name__ == "__main__":
    main()
