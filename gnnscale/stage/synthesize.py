"""Distillation without data: graphs that a graph classifier is sure of take the place of any.

Deng & Zhang, IJCAI 2021, arXiv:2105.07519 (GFKD), and the authors' code.
"""

import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.record import write_bytes
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, NonNegative, Positive, Whole
from gnnscale.stage._base import Stage
from gnnscale.stage._fakes import Fakes, Statistics, arm, entropy
from gnnscale.stage.teacher import tabulate
from gnnscale.train.loop import Run

log = logging.getLogger("gnnscale")


class Synthesize(Stage):
    """Replaces what the student trains on by graphs made up with the teacher alone.

    Each of ``graphs`` graphs has a size uniform in [nodes_min, nodes_max], a uniform target class,
    logits phi of all directed edges and logits of its nodes' kinds. In every step:

    - features: Adam on CE(teacher, target) + bn R + one_hot H through the structure
      1[sigmoid(phi) >= 1/2] and the rows softmax(logits); R: ``Statistics``, H: ``entropy``;
    - structure: Adam with the gradient that ``arm`` estimates of CE of the own graph + bn R of all.

    Both rates fall to a tenth every ``decay_every`` steps. What is kept is the step of the lowest
    loss, its rows rounded to one kind each. The teacher's parameters never move; validation and
    test stay the real ones. The graphs are kept in the seed's folder, in ``fakes.npz``.

    Departs from the authors' code, which pairs the best step's structure with the last features,
    has losses read off soft rows only, and drops the self-loops of isolated nodes when it reads its
    graphs again. With steps=0 graphs are as they were drawn: the random baseline.

    Args:
        graphs: how many. nodes_min, nodes_max: sizes. steps: of both. lr, structure_lr: Adam's. bn,
            one_hot: weights of R and H. decay_every: steps.

    Raises: UsageError for data whose nodes have no one-hot kinds, a teacher that reads edge
        features or tasks that are not of one class per graph.
    """

    needs = (traits(Trait.GRAPH, Trait.TEACHER),)

    def __init__(
        self,
        graphs: Count = 131,
        nodes_min: Count = 10,
        nodes_max: Count = 29,
        steps: Whole = 1500,
        lr: Positive = 0.01,
        structure_lr: Positive = 1.0,
        bn: NonNegative = 1e-2,
        one_hot: NonNegative = 1e-6,
        decay_every: Count = 700,
    ):
        if nodes_max < nodes_min:
            raise UsageError(
                f"recipe.stages: nodes_max={nodes_max} is below nodes_min={nodes_min}; choose it "
                "from there up"
            )
        self.graphs, self.nodes_min, self.nodes_max = graphs, nodes_min, nodes_max
        self.steps, self.lr, self.structure_lr = steps, lr, structure_lr
        self.bn, self.one_hot = bn, one_hot
        self.decay_every = decay_every

    def __call__(self, run: Run) -> None:
        """Make the graphs, or read them, and let ``run`` train on them."""
        assert run.make_teacher is not None  # the composition check guarantees it
        self.refuse(run.data)
        teacher = run.make_teacher(run.data)
        if any(name.rpartition(".")[2] == "edge" for name, _ in teacher.model.named_modules()):
            raise UsageError(
                "recipe=gfkd: the teacher reads features of edges, and the graphs that are made up "
                "have none; train one that does not, e.g. teacher.architecture=gin"
            )
        path = run.folder / "fakes.npz"
        with run.meter.phase("prepare"):
            if not path.exists():
                write(path, self.made(run, teacher))
            run.train_data = read(path, run.data)
            run.train_ids = torch.arange(run.train_data.items)
            teacher.model.to(run.device)
            taps = sorted({tap for term in run.objective.each for tap in term.taps})
            run.teacher = tabulate(teacher, run.train_data, taps, run.device)
        run.notes.append(f"trained on {self.graphs} synthesized graphs, {self.steps} steps")

    def refuse(self, data: GraphData) -> None:
        """Raise UsageError for data of another kind."""
        wrong = None
        if data.task.kind != "single":
            wrong = f"labels are of kind {data.task.kind}, not one class per graph"
        elif data.categories or not isinstance(data.x, Tensor) or not one_kind(data.x):
            wrong = "nodes have no one-hot kind, which the rows that are made up must have"
        if wrong:
            raise UsageError(
                f"recipe=gfkd: of {data.name}, {wrong}; choose such a set, e.g. dataset=mutag, or "
                "recipe=distill"
            )

    def made(self, run: Run, teacher: Run) -> dict[str, Tensor]:
        """The graphs of one seed."""
        key = Key(run.seed, "synthesize")
        draw = key.torch()
        sizes = torch.randint(self.nodes_min, self.nodes_max + 1, (self.graphs,), generator=draw)
        fakes = Fakes(sizes, run.data.x.shape[1], run.data.task.classes, draw)
        model = teacher.model.cpu().eval().requires_grad_(False)
        need, readout = model.need, teacher.sampler.readout
        statistics = Statistics(model)

        def losses(there: Tensor, x: Tensor) -> tuple[Tensor, Tensor | float]:
            with statistics:
                logits = model(fakes.batch(there, x, need, readout)).logits
            return F.cross_entropy(logits, fakes.y, reduction="none"), statistics.total

        best, kept = float("inf"), (fakes.phi >= 0, fakes.logits.detach().clone())
        phi = fakes.phi.requires_grad_()
        optimizers = [torch.optim.Adam([fakes.logits], self.lr),
                      torch.optim.Adam([phi], self.structure_lr)]  # fmt: skip
        falling = [torch.optim.lr_scheduler.StepLR(o, self.decay_every, 0.1) for o in optimizers]
        log.info("seed %d: synthesizing %d graphs, %d steps", run.seed, self.graphs, self.steps)
        for step in range(self.steps):
            there = phi.detach() >= 0
            each, far = losses(there, fakes.logits.softmax(1))
            loss = each.mean() + self.bn * far + self.one_hot * entropy(fakes.logits)
            if loss.item() < best:
                best, kept = loss.item(), (there, fakes.logits.detach().clone())
            optimizers[0].zero_grad()
            loss.backward()
            optimizers[0].step()
            x = fakes.logits.detach().softmax(1)

            def own(there: Tensor, x: Tensor = x) -> Tensor:
                each, far = losses(there, x)
                return each + self.bn * far

            u = torch.rand(len(phi), generator=key.at("synthesize", step + 1).torch())
            phi.grad = arm(own, phi.detach(), u, fakes.owner)
            optimizers[1].step()
            for each_rate in falling:
                each_rate.step()
        there, logits = kept
        graph = fakes.graph(there)
        return {"indptr": graph.indptr, "indices": graph.indices, "kind": logits.argmax(1),
                "y": fakes.y, "offsets": fakes.offsets}  # fmt: skip


def one_kind(x: Tensor) -> bool:
    """Whether every row holds one 1 and zeros."""
    return bool(((x == 0) | (x == 1)).all() and (x.sum(1) == 1).all())


def write(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Keep the graphs; the file is there whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in arrays.items()})
    write_bytes(path, buffer.getvalue())


def read(path: Path, real: GraphData) -> GraphData:
    """The kept graphs."""
    with np.load(path, allow_pickle=False) as file:
        a = {name: torch.from_numpy(file[name]) for name in file.files}
    x = F.one_hot(a["kind"], real.x.shape[1]).to(real.x.dtype)
    nothing = torch.empty(0, dtype=torch.int64)
    splits = {"train": torch.arange(len(a["y"])), "valid": nothing, "test": nothing}
    graph = Adjacency(a["indptr"], a["indices"], len(x))
    name = f"{real.name}-fakes"
    return GraphData(name, graph, x, a["y"], splits, real.task, offsets=a["offsets"])
