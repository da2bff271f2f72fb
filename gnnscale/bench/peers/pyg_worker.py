"""Runs in PyG's own environment: ``python pyg_worker.py DATA.npz``; a line in, a line out.

Knows nothing of gnnscale but ``stack.py`` beside it. Asked ``build``, ``prepare`` (a workload in a
scope), ``request`` (once, timed here), ``logits`` (of the whole graph), ``peak`` and ``forget``.
"""

import gc
import json
import math
import sys
import time
import traceback
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from stack import Sign, Stack, gin_mlp, loss
from torch import nn
from torch.utils.data import DataLoader

AGGREGATORS = {"symadd": "symnorm", "add": "sum"}
"""Of EGC, whose names differ there."""


def convolution(spec):
    """make(d_in, d_out, last) of PyG's layer for ``spec["kind"]``."""
    from torch_geometric import nn as layers

    kind = spec["kind"]

    def make(d_in, d_out, last):
        if kind == "gcn":
            return layers.GCNConv(d_in, d_out, cached=False, add_self_loops=False, normalize=False)
        if kind == "sage":
            if spec["aggr"] == "gcn":
                raise ValueError("PyG has no SAGEConv with aggr=gcn; valid: mean, max")
            return layers.SAGEConv(d_in, d_out, spec["aggr"], project=spec["aggr"] == "max")
        if kind == "gat":
            heads = spec["out_heads"] if last else spec["heads"]
            size = d_out if last else d_out // heads
            rate = spec["attention_dropout"]
            return layers.GATConv(d_in, size, heads, not last, dropout=rate, add_self_loops=False)
        if kind == "egc":
            names = [AGGREGATORS.get(a, a) for a in spec["aggregators"]]
            heads = spec["out_heads"] if last else spec["heads"]
            loops = "symnorm" in names or spec["self_loops"] == "all"
            return layers.EGConv(d_in, d_out, names, heads, spec["bases"], add_self_loops=loops)
        if kind == "gin":
            mlp = gin_mlp(d_in, spec["hidden"], d_out, spec["mlp_norm"])
            return layers.GINConv(mlp, train_eps=spec["train_eps"])
        return nn.Linear(d_in, d_out)

    return make


class Worker:
    """The model, its graph, and the request that was prepared last."""

    def __init__(self, path):
        self.path = path
        self.work = None
        self.prepare_s = 0.0

    def build(self, optimizer, clip, seed):
        """Model, graph with torch-sparse's fast path if it is there, optimizer."""
        import torch_geometric

        stored = dict(np.load(self.path))
        self.spec = spec = json.loads(str(stored.pop("spec")))
        torch.set_num_threads(spec["threads"])
        torch.manual_seed(seed)
        arrays = {name: torch.from_numpy(value) for name, value in stored.items()}
        self.whole = self.part(arrays, "")
        self.train = self.part(arrays, "train_") if "train_x" in arrays else self.whole
        if spec["kind"] == "sign":
            self.model = Sign(spec)
        else:
            self.model = Stack(spec, convolution(spec), self.call, self.own)
        name, arguments = optimizer
        self.optimizer = getattr(torch.optim, name)(self.model.parameters(), **arguments)
        self.clip = clip
        fast = "torch_sparse" in sys.modules
        notes = [] if fast else ["torch-sparse is not installed there: the slower edge_index path"]
        known = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
        if fast:
            import torch_sparse

            known["torch_sparse"] = torch_sparse.__version__
        return {"notes": notes, "versions": known,
                "parameters": sum(p.numel() for p in self.model.parameters())}  # fmt: skip

    def call(self, conv, graph, h):
        """One convolution."""
        return conv(h) if self.spec["kind"] == "mlp" else conv(h, graph)

    @staticmethod
    def own(graph, h):
        """Square graphs only: every row is a destination."""
        return h

    def part(self, arrays, prefix):
        """Graph (adjacency with what the operator needs, PyG's transposed form), x, y, seeds."""
        indptr, indices = arrays[prefix + "indptr"], arrays[prefix + "indices"].long()
        n = len(indptr) - 1
        dst = torch.repeat_interleave(torch.arange(n), indptr[1:] - indptr[:-1])
        edges = torch.stack([indices, dst])
        x, y, graph = arrays[prefix + "x"], arrays[prefix + "y"], None
        if self.spec["kind"] == "sign":
            x = self.table(edges, x)
        else:
            graph = self.operator(edges, n)
        return {"edges": edges, "x": x, "y": y, "seeds": arrays[prefix + "seeds"], "graph": graph}

    def table(self, edges, x):
        """X, S X, S^2 X, .. [n, powers + 1, F] by PyG's transform, self-loops added before."""
        from torch_geometric import transforms
        from torch_geometric.data import Data

        start = time.perf_counter()
        powers, made = self.spec["powers"], Data(x=x, edge_index=edges)
        made = transforms.SIGN(powers)(transforms.AddSelfLoops()(made))
        table = torch.stack([x, *(made[f"x{k}"] for k in range(1, powers + 1))], 1)
        self.prepare_s = time.perf_counter() - start  # the last one is the training graph's
        return table

    def operator(self, edges, n, weight=None):
        """What the convolutions take: loops where the model has them, for GCN its norm.

        weight: of the edges, where the loader gives one; GCN's has loops and norm in it already,
        EGC's norm counts it, GAT, GIN and means read edges without it.
        """
        from torch_geometric.nn.conv.gcn_conv import gcn_norm
        from torch_geometric.utils import add_self_loops

        kind = self.spec["kind"]
        try:
            from torch_sparse import SparseTensor
        except ImportError:
            if kind == "gcn":
                raise ValueError("peer=pyg needs torch-sparse for a GCN normalised once") from None
            return add_self_loops(edges, num_nodes=n)[0] if kind == "gat" else edges
        if kind == "gat":
            edges = add_self_loops(edges, num_nodes=n)[0]
        value = weight if kind in ("gcn", "egc") else None
        made = SparseTensor(row=edges[1], col=edges[0], value=value, sparse_sizes=(n, n))
        if kind == "gcn" and weight is None:
            made = gcn_norm(made, num_nodes=n, add_self_loops=True)
        made.storage.rowptr(), made.storage.csr2csc(), made.storage.colptr()
        return made

    # -- loaders, by their name: epoch(), batches of (graph, x, rows, y[, weights]) ----------------

    def full(self, part, training):
        """The whole graph."""
        if part is self.whole and self.spec["kind"] == "egc":
            for conv in self.model.convs:  # one graph: its norm is made once
                conv.cached = True
        whole = (part["graph"], part["x"], part["seeds"], part["y"][part["seeds"]])
        return lambda: [whole]

    def rows(self, part, training):
        """Rows of a table, in random order."""
        loader = DataLoader(part["seeds"], training["batch_size"], shuffle=True)

        def epoch():
            for rows in loader:
                yield None, part["x"][rows], slice(None), part["y"][rows]

        return epoch

    def neighbor(self, part, training):
        """PyG's NeighborLoader."""
        from torch_geometric.data import Data
        from torch_geometric.loader import NeighborLoader

        loader = NeighborLoader(
            Data(x=part["x"], y=part["y"], edge_index=part["edges"]),
            num_neighbors=training["fanouts"][::-1],  # PyG counts from the seeds outwards
            input_nodes=part["seeds"], replace=training["replace"],
            batch_size=training["batch_size"], shuffle=True, num_workers=0,
        )  # fmt: skip

        def epoch():
            for b in loader:
                rows = slice(0, b.batch_size)
                yield self.operator(b.edge_index, b.num_nodes), b.x, rows, b.y[rows]

        return epoch

    def saint(self, part, training):
        """PyG's GraphSAINT loader, its counts made."""
        from torch_geometric.data import Data
        from torch_geometric.loader import GraphSAINTRandomWalkSampler
        from torch_geometric.nn.conv.gcn_conv import gcn_norm

        start = time.perf_counter()
        n, seeds, edges = len(part["x"]), part["seeds"], part["edges"]
        factor = {}
        if self.spec["kind"] == "gcn":
            edges, factor["factor"] = gcn_norm(edges, num_nodes=n)
        labeled = torch.zeros(n, dtype=torch.bool).index_fill_(0, seeds, True)
        data = Data(x=part["x"], y=part["y"], edge_index=edges, labeled=labeled, **factor)
        loader = GraphSAINTRandomWalkSampler(
            data, training["roots"], training["length"], training["steps"],
            math.ceil(training["coverage"]), log=False, num_workers=0,
        )  # fmt: skip
        self.prepare_s = time.perf_counter() - start

        def epoch():
            for b in loader:
                weight = b.edge_norm * b.factor if factor else b.edge_norm
                operator, rows = self.operator(b.edge_index, b.num_nodes, weight), b.labeled
                yield operator, b.x, rows, b.y[rows], b.node_norm[rows] * (n / len(seeds))

        return epoch

    # -- requests ---------------------------------------------------------------------------------

    def prepare(self, workload, scope, prepared, asked=None, training=None):
        """Set up ``self.work``."""
        depth = len(self.model.convs)
        if workload == "full":
            self.work = self.infer
            return {}
        if workload == "query":
            return {"unfit": "PyG's loaders are compared in training only"}
        loaders = {"full": self.full, "rows": self.rows, "neighbor": self.neighbor,
                   "saint": self.saint}  # fmt: skip
        epoch = loaders[training["loader"]](self.train, training)

        def step(graph, x, rows, y, weight=None):
            self.model.train()
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.model([graph] * depth, x)[rows]
            loss(logits, y, self.spec["multi"], weight).backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()

        def forever():
            while True:
                yield from epoch()

        if scope == "model":
            kept = list(epoch()) if workload == "epoch" else [
                b for b, _ in zip(epoch(), range(prepared), strict=False)]  # fmt: skip
            stream = cycle(kept)
            self.work = (lambda: [step(*b) for b in kept]) if workload == "epoch" else (
                lambda: step(*next(stream)))  # fmt: skip
        else:
            stream = forever()
            self.work = (lambda: [step(*b) for b in epoch()]) if workload == "epoch" else (
                lambda: step(*next(stream)))  # fmt: skip
        return {"prepare_s": self.prepare_s}

    def infer(self):
        """The whole graph, evaluating."""
        self.model.eval()
        with torch.no_grad():
            return self.model([self.whole["graph"]] * len(self.model.convs), self.whole["x"])

    def logits(self, path):
        """Write what ``infer`` gives to a file."""
        np.save(path, self.infer().numpy())
        return {}

    def request(self):
        """One request, timed."""
        gc.disable()
        start = time.perf_counter_ns()
        self.work()
        took = time.perf_counter_ns() - start
        gc.enable()
        return {"ns": took}

    def peak(self):
        """VmHWM of this process."""
        lines = Path("/proc/self/status").read_text().splitlines()
        found = next(line for line in lines if line.startswith("VmHWM"))
        return {"mib": int(found.split()[1]) / 1024}

    def forget(self):
        """Free what was prepared."""
        self.work = None
        gc.collect()
        return {}


def main():
    """Answer until the pipe closes."""
    out, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked.pop("do"))(**asked)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
