"""The same model from ``dgl.nn``, fed by DGL's own loaders, in this process."""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gnnscale.bench.peers import training
from gnnscale.bench.peers.stack import Sign, Stack, gin_mlp, loss
from gnnscale.bench.request import Laps, Local
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Subject
from gnnscale.bench.workloads import LISTED, PREPARED, Query, Unfit, Workload, asked
from gnnscale.core.environment import versions
from gnnscale.core.host import dgl
from gnnscale.core.sparse import dense

Batches = Callable[[], Iterator[tuple]]


def convolution(spec: dict[str, Any]) -> Callable[[int, int, bool], nn.Module]:
    """make(d_in, d_out, last) of DGL's layer for ``spec["kind"]``."""
    layers, kind = dgl.nn, spec["kind"]

    def make(d_in: int, d_out: int, last: bool) -> nn.Module:
        if kind == "gcn":
            return layers.GraphConv(d_in, d_out, norm="both", allow_zero_in_degree=True)
        if kind == "sage":
            names = {"mean": "mean", "gcn": "gcn", "max": "pool"}
            return layers.SAGEConv(d_in, d_out, names[spec["aggr"]])
        if kind == "gat":
            heads = spec["out_heads"] if last else spec["heads"]
            size = d_out if last else d_out // heads
            return layers.GATConv(d_in, size, heads, attn_drop=spec["attention_dropout"],
                                  allow_zero_in_degree=True)  # fmt: skip
        if kind == "gin":
            mlp = gin_mlp(d_in, spec["hidden"], d_out, spec["mlp_norm"])
            return layers.GINConv(mlp, "sum", learn_eps=spec["train_eps"])
        return nn.Linear(d_in, d_out)

    return make


def _own(graph: Any, h: Tensor) -> Tensor:
    return h[: graph.num_dst_nodes()] if graph is not None else h


def _call(kind: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def call(conv: Any, graph: Any, h: Tensor) -> Tensor:
        if kind == "mlp":
            return conv(h)
        out = conv(graph, h)
        if kind != "gat":
            return out
        return out.mean(1) if conv.averaged else out.flatten(1)

    return call


class DglPeer:
    """DGL's layers on the graph of ``subject``, its self-loops added where the model has them.

    prepare_s: seconds that the table of powers took, for SIGN.
    """

    def __init__(self, subject: Subject, spec: dict[str, Any], settings: Bench):
        self.label, self.subject, self.spec, self.settings = "dgl", subject, spec, settings
        self.notes: list[str] = []
        self.prepare_s = 0.0
        run = subject.run
        make = convolution(spec)
        self.tabled = spec["kind"] == "sign"

        def marked(d_in: int, d_out: int, last: bool) -> nn.Module:
            conv = make(d_in, d_out, last)
            if spec["kind"] == "gat":
                conv.averaged = last  # type: ignore[assignment]
            return conv

        self.model: nn.Module = (
            Sign(spec) if self.tabled else Stack(spec, marked, _call(spec["kind"]), _own)
        )
        self.x = dense(run.data.x)
        if self.x is not run.data.x:
            self.notes.append("features are dense here: the peer's layers take no sparse rows")
        self.graph = self._graph(run.data)
        self.train_graph = self.graph if run.train_data is run.data else self._graph(run.train_data)
        self.train_x = self.x if run.train_data is run.data else dense(run.train_data.x)
        if self.tabled:
            self.x = self._table(self.graph, self.x)
            same = self.train_graph is self.graph
            self.train_x = self.x if same else self._table(self.train_graph, self.train_x)
        self.about = {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "versions": {"dgl": versions()["dgl"], "torch": versions()["torch"]},
        }
        self.optimizer: torch.optim.Optimizer | None = None

    def _graph(self, data: Any) -> Any:
        src, dst = data.graph.indices.long(), data.graph.dst.long()
        made = dgl.graph((src, dst), num_nodes=data.nodes)
        if self.spec["kind"] in ("gcn", "gat", "sign"):
            made = dgl.add_self_loop(made)
        made.create_formats_()
        return made

    def _table(self, graph: Any, x: Tensor) -> Tensor:
        """X, S X, S^2 X, .. by DGL's transform. [n, F] -> [n, powers + 1, F]."""
        start, powers = time.perf_counter(), self.spec["powers"]
        with graph.local_scope():
            graph.ndata["feat"] = x
            made = dgl.SIGNDiffusion(powers, diffuse_op="gcn")(graph).ndata
            table = torch.stack([x, *(made[f"out_feat_{k}"] for k in range(1, powers + 1))], 1)
        self.prepare_s = time.perf_counter() - start  # the last one is the training graph's
        return table

    def processes(self) -> list[int]:
        """None."""
        return []

    def peak_mib(self) -> None:
        """It has no process of its own."""

    def close(self) -> None:
        """Nothing to end."""

    def logits(self) -> Tensor:
        """What its model says of the whole graph, evaluating. Shapes: [nodes, classes]."""
        self.model.eval()
        with torch.no_grad():
            return self.model([self.graph] * self.depth, self.x)

    @property
    def depth(self) -> int:
        """Convolutions."""
        return len(self.model.convs)  # type: ignore[arg-type]

    # -- requests -------------------------------------------------------------------------------

    def request(self, workload: Workload, scope: str) -> Local:
        """Its request for a workload. Raises Unfit if there is none."""
        depth = self.depth
        before = self.subject.run.hardware.apply
        device = self.subject.run.device
        if workload.name == "full":
            return Local(self._full(scope), device, before)
        if isinstance(workload, Query):
            return Local(self._query(workload, scope, depth), device, before)
        return Local(self._training(workload.name, scope), device, before)

    def _full(self, scope: str) -> Callable[[Laps], None]:
        def work(laps: Laps) -> None:
            logits = self.logits()
            laps.lap("forward")
            if scope == "end2end":
                logits.cpu()
                laps.lap("result")

        return work

    def _query(self, workload: Query, scope: str, depth: int) -> Callable[[Laps], None]:
        sampler = dgl.dataloading.MultiLayerFullNeighborSampler(max(depth, 1))
        mlp = self.spec["kind"] == "mlp" or self.tabled
        count = LISTED if scope == "end2end" else PREPARED
        lists = asked(self.subject.run.data, workload.batch, workload.seed, count)

        def sample(nodes: Tensor) -> tuple[Any, Any]:
            if mlp:
                return nodes, [None] * depth
            found, _, blocks = sampler.sample(self.graph, nodes)
            return found, blocks

        def forward(blocks: Any, x: Tensor) -> Tensor:
            self.model.eval()
            with torch.no_grad():
                return self.model(blocks, x)

        def end2end(laps: Laps) -> None:
            nodes, blocks = sample(next(stream))
            laps.lap("sample")
            x = self.x[nodes]
            laps.lap("gather")
            logits = forward(blocks, x)
            laps.lap("forward")
            logits.cpu()
            laps.lap("result")

        def model(laps: Laps) -> None:
            forward(*next(stream))
            laps.lap("forward")

        if scope == "end2end":
            stream: Any = cycle(lists)
            return end2end
        made = [sample(nodes) for nodes in lists]
        stream = cycle([(blocks, self.x[nodes]) for nodes, blocks in made])
        return model

    # -- loaders, by their name: epoch(), batches of (blocks, x, rows or None, y) ------------------

    def _whole(self, how: Mapping[str, Any], seeds: Tensor, y: Tensor) -> Batches:
        whole = ([self.train_graph] * self.depth, self.train_x, seeds, y[seeds])
        return lambda: iter([whole])

    def _rows(self, how: Mapping[str, Any], seeds: Tensor, y: Tensor) -> Batches:
        loader: Any = DataLoader(seeds, how["batch_size"], shuffle=True)  # type: ignore[arg-type]
        return lambda: (([], self.train_x[rows], None, y[rows]) for rows in loader)

    def _neighbors(self, how: Mapping[str, Any], seeds: Tensor, y: Tensor) -> Batches:
        if self.spec["kind"] == "mlp":
            raise Unfit("an MLP reads no neighbours; DGL's loader draws some")
        loader = dgl.dataloading.DataLoader(
            self.train_graph, seeds,
            dgl.dataloading.NeighborSampler(how["fanouts"], replace=how["replace"]),
            batch_size=how["batch_size"], shuffle=True, num_workers=0,
        )  # fmt: skip
        return lambda: (
            (blocks, self.train_x[nodes], None, y[out]) for nodes, out, blocks in loader
        )

    def _training(self, name: str, scope: str) -> Callable[[Laps], None]:
        how = training("dgl", self.subject)
        run = self.subject.run
        y = run.train_data.y
        seeds = run.train_data.splits["train"]
        if self.optimizer is None:
            self.optimizer = run.make_optimizer([{"params": list(self.model.parameters())}])
        optimizer = self.optimizer

        def step(blocks: Any, x: Tensor, rows: Tensor | None, target: Tensor) -> None:
            self.model.train()
            optimizer.zero_grad(set_to_none=True)
            logits = self.model(blocks, x)
            logits = logits if rows is None else logits[rows]
            loss(logits, target, self.spec["multi"]).backward()
            clip = run.trainer.clip
            if clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            optimizer.step()

        loaders = {"full": self._whole, "rows": self._rows, "neighbor": self._neighbors}
        epoch = loaders[how["loader"]](how, seeds, y)

        def forever() -> Iterator[tuple]:
            while True:
                yield from epoch()

        kept: list[tuple] = []
        if scope == "model":
            source = epoch()
            kept = list(source if name == "epoch" else islice(source, PREPARED))
        stream: Iterator[tuple] = cycle(kept) if kept else forever()

        def one(laps: Laps) -> None:
            step(*next(stream))

        def every(laps: Laps) -> None:
            for batch in kept or epoch():
                step(*batch)

        return one if name == "step" else every
