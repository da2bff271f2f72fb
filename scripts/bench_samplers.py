"""Samplers beside DGL's and PyG's own, in turn, on a heavy-tailed graph of 169k nodes.

usage: python scripts/bench_samplers.py [ROUNDS]

The graph is that of heavy_tailed.py; PyG's samplers are those of the interpreter that
GNNSCALE_PYG_PYTHON names, if it is set, and run in a process of their own. Each round runs every
sampler for some batches, one after the other, so that the load of the machine falls on all of them
alike; the first round is thrown away. A node is a row of the batch's input. "structure" makes the
batch's graphs only, "features" also gathers the input rows (PyG's loaders gather in any case: of
one column). At last the push of personalised PageRank beside the algorithm written down plainly,
one thread. Prints markdown tables of the medians over rounds.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numba
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from heavy_tailed import FEATURES, NODES, TRAIN, heavy_tailed

from gnnscale.core.compiled import compiled
from gnnscale.core.data import GraphData, Task
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.core.random import Key
from gnnscale.graph.push import push
from gnnscale.sampler.cluster import Cluster
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
ROOTS, LENGTH, DRAWN = 2000, 4, 8000
PARTS, AT_ONCE = 1000, 20
ALPHA, EPS, TOP = 0.25, 1e-4, 32


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

    def plan(self, number):
        """What its batches are drawn for."""
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(number))
        return self.seeds[order].split(SEEDS)

    def nodes(self, index):
        """A batch's input."""
        if self.seeded:
            return self.sampler.sample(self.graph, index)[0]
        return self.sampler.sample(self.graph, 0).ndata[dgl.NID]

    def run(self, number, gather):
        """As ``Mine.run``."""
        plan, nodes = self.plan(number)[:BATCHES], 0
        start = time.perf_counter()
        for index in plan:
            ids = self.nodes(index)
            nodes += len(ids)
            if gather:
                self.x[ids]
        return time.perf_counter() - start, nodes, len(plan)


class Pyg:
    """One of PyG's samplers, asked over a pipe that all of them share."""

    prepare_s = 0.0

    def __init__(self, pipe, name):
        self.pipe, self.name = pipe, name

    def run(self, number, gather):
        """As ``Mine.run``."""
        asked = {"name": self.name, "gather": gather, "batches": BATCHES, "number": number}
        print(json.dumps(asked), file=self.pipe.stdin, flush=True)
        told = json.loads(self.pipe.stdout.readline())
        return told["s"], told["nodes"], told["batches"]


def in_pyg(data):
    """PyG's samplers by name; none without its interpreter."""
    python = os.environ.get("GNNSCALE_PYG_PYTHON")
    if not python:
        return {}
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        arrays = {"indptr": data.graph.indptr, "indices": data.graph.indices, "x": data.x,
                  "train": data.splits["train"]}  # fmt: skip
        np.savez(file.name, **{name: array.numpy() for name, array in arrays.items()})
        words = [file.name, SEEDS, ",".join(map(str, FANOUTS)), ROOTS, LENGTH, DRAWN, PARTS,
                 AT_ONCE]  # fmt: skip
        pipe = subprocess.Popen(
            [python, Path(__file__).with_name("pyg_samplers.py"), *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        names = json.loads(pipe.stdout.readline())
    return {f"PyG {name}": Pyg(pipe, name) for name in names}


def in_dgl(data):
    """DGL's samplers by name."""
    loading = dgl.dataloading
    made = {
        "DGL NeighborSampler 10,10,10": loading.NeighborSampler(FANOUTS),
        "DGL LaborSampler 10,10,10": loading.LaborSampler(FANOUTS),
        "DGL LaborSampler, importance -1": loading.LaborSampler(FANOUTS, importance_sampling=-1),
        "DGL ShaDowKHopSampler 10,10": loading.ShaDowKHopSampler(FANOUTS[:2]),
    }
    drawn = {
        f"DGL SAINTSampler walk {ROOTS} x {LENGTH}": loading.SAINTSampler("walk", (ROOTS, LENGTH)),
        f"DGL SAINTSampler node {DRAWN}": loading.SAINTSampler("node", DRAWN),
    }
    return {name: Theirs(sampler, data) for name, sampler in made.items()} | {
        name: Theirs(sampler, data, False) for name, sampler in drawn.items()
    } | {f"DGL ClusterGCNSampler {AT_ONCE} of {PARTS}": DglCluster(data)}  # fmt: skip


class DglCluster(Theirs):
    """Its parts are kept in a file; the batch's parts are asked for by number."""

    def __init__(self, data):
        super().__init__(None, data)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            kept = str(Path(folder) / "parts.pkl")
            with contextlib.redirect_stdout(sys.stderr):  # it prints
                self.sampler = dgl.dataloading.ClusterGCNSampler(self.graph, PARTS, cache_path=kept)
        self.prepare_s = time.perf_counter() - start

    def plan(self, number):
        """Parts."""
        return torch.randperm(PARTS, generator=torch.Generator().manual_seed(number)).split(AT_ONCE)

    def nodes(self, index):
        """A batch's input."""
        return self.sampler.sample(self.graph, index).ndata[dgl.NID]


def ours(data):
    """Our samplers by name."""
    need = Need(3, "row")
    made = {
        "neighbor 10,10,10": lambda: Neighbor(FANOUTS, SEEDS),
        "labor-0 10,10,10": lambda: Labor(FANOUTS, SEEDS),
        "labor-* 10,10,10": lambda: Labor(FANOUTS, SEEDS, importance=-1),
        "ladies 5000": lambda: Ladies(5000, SEEDS),
        "fastgcn 5000": lambda: FastGCN(5000, SEEDS),
        "vrgcn 2": lambda: VRGCN(2, SEEDS),
        f"saint walk {ROOTS} x {LENGTH}": lambda: SaintWalk(ROOTS, LENGTH),
        f"saint node {DRAWN}": lambda: SaintNode(DRAWN),
        "shadow_khop 2 hops, 10 draws": lambda: ShadowKhop(2, 10, SEEDS),
        f"cluster {AT_ONCE} of {PARTS}": lambda: Cluster(PARTS, AT_ONCE),
    }
    return {name: Mine(make, data, need) for name, make in made.items()}


KINDS = ("neighbor", "labor-0", "labor-*", "ladies", "fastgcn", "vrgcn", "walk", "node", "shadow",
         "cluster")  # fmt: skip
"""The table's order, by what names hold."""


def kind(name):
    """Where in the table, ours before the others'."""
    plain = name.lower().replace("laborsampler, importance -1", "labor-*")
    plain = plain.replace("laborsampler", "labor-0")
    return next(k for k, word in enumerate(KINDS) if word in plain)


@compiled()
def plainly(indptr, indices, sources, alpha, eps, k):
    """Andersen, Chung and Lang's push, a queue of one node at a time; sums of the k best scores."""
    n = len(indptr) - 1
    p, r, waits = np.zeros(n), np.zeros(n), np.zeros(n, np.bool_)
    queue, touched = np.empty(n, np.int64), np.empty(n, np.int64)
    out = np.zeros(len(sources))
    for s in range(len(sources)):
        r[sources[s]], waits[sources[s]] = 1.0, True
        queue[0], touched[0] = sources[s], sources[s]
        head, waiting, seen = 0, 1, 1
        while waiting:
            u = queue[head % n]
            head, waiting, waits[u] = head + 1, waiting - 1, False
            held, d = r[u], indptr[u + 1] - indptr[u]
            p[u], r[u] = p[u] + alpha * held, 0.0
            for e in range(indptr[u], indptr[u + 1]):
                v = indices[e]
                if r[v] == 0 and p[v] == 0:
                    touched[seen] = v
                    seen += 1
                r[v] += (1 - alpha) * held / d
                if not waits[v] and r[v] >= eps * (indptr[v + 1] - indptr[v]):
                    queue[(head + waiting) % n], waits[v] = v, True
                    waiting += 1
        scores = np.sort(p[touched[:seen]])
        out[s] = scores[-k:].sum()
        p[touched[:seen]], r[touched[:seen]] = 0.0, 0.0
    return out


def pushes(data):
    """The push of ``SEEDS`` roots and the plain one in turn, on one thread."""
    adj, threads = data.graph, numba.get_num_threads()
    numba.set_num_threads(1)
    took, sums = ([], []), [0.0, 0.0]
    for number in range(ROUNDS + 1):
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(number))
        roots = data.splits["train"][order[:SEEDS]]
        start = time.perf_counter()
        ranks = push(adj, roots, ALPHA, EPS, TOP)
        middle = time.perf_counter()
        plain = plainly(adj.indptr.numpy(), adj.indices.numpy(), roots.numpy(), ALPHA, EPS, TOP)
        end = time.perf_counter()
        sums = [float(ranks.scores.sum()) / SEEDS, plain.mean()]
        if number:
            took[0].append(middle - start)
            took[1].append(end - middle)
    numba.set_num_threads(threads)
    print(f"\nPush of {SEEDS} roots, alpha {ALPHA}, eps {EPS:g}, the {TOP} best, one thread\n")
    print("| push | ms | (quartiles) | sum of the scores kept, per root |\n|---|---|---|---|")
    for name, times, total in zip(("ours", "plain"), took, sums, strict=True):
        low, middle, high = (1e3 * t for t in statistics.quantiles(times, method="inclusive"))
        print(f"| {name} | {middle:.0f} | {low:.0f} to {high:.0f} | {total:.4f} |")


def main():
    """Time, and print the table."""
    data = dataset()
    everyone = ours(data) | in_dgl(data) | in_pyg(data)
    everyone = {name: everyone[name] for name in sorted(everyone, key=kind)}
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
    pushes(data)


if __name__ == "__main__":
    main()
