"""The workloads: each a small class that turns a subject into requests, one per scope."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnnscale.bench.request import Laps, Local
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Subject
from gnnscale.core.batch import Batch
from gnnscale.core.random import Key
from gnnscale.train.loop import Run
from gnnscale.train.query import Query as Blocks

PREPARED = 16
"""Batches that the ``model`` scope of queries and steps goes round in: no cache keeps one."""
Make = Callable[[Tensor, Callable[[str], None]], list[Batch]]
"""Makes the batches of some rows, telling after each stage which one it was."""
LISTED = 512
"""Requests after which the list of asked nodes starts again."""


class Unfit(Exception):
    """A workload that does not apply to a subject, for the stated reason."""


class Workload:
    """One kind of request. ``trains``: it changes the weights, which are put back afterwards."""

    name: str
    trains: ClassVar[bool] = False

    def request(self, subject: Subject, scope: str) -> Local:
        """The request in a scope. Raises Unfit with a reason."""
        raise NotImplementedError


@contextmanager
def evaluating(run: Run) -> Iterator[None]:
    """As ``Inference`` computes: evaluation mode, no gradients, the run's precision."""
    training = run.model.training
    run.model.eval()
    try:
        with torch.no_grad(), run.inference.scope():
            yield
    finally:
        run.model.train(training)


def _local(
    subject: Subject, work: Callable[[Laps], Any], size: dict[str, float] | None = None
) -> Local:
    return Local(work, subject.run.device, subject.run.hardware.apply, size)


class Full(Workload):
    """One inference pass over every node or graph, as the composition's ``inference`` makes it."""

    name = "full"

    def request(self, subject: Subject, scope: str) -> Local:
        """model: the pass. end2end: operator, copy, pass, logits on the host."""
        run = subject.run
        everyone = torch.arange(run.data.items)
        inference = copy.copy(run.inference)  # each scope keeps a prepared graph of its own
        size: dict[str, float] = {"nodes": run.data.nodes, "seeds": run.data.items}
        size["edges"] = run.data.graph.n_edges

        def model(laps: Laps) -> None:
            inference(run.model, run.data, everyone, run.device)
            laps.lap("forward")

        def end2end(laps: Laps) -> None:
            fresh = run.data.with_()  # another object: what was prepared for the last is not used
            inference.ready(run.model, fresh, run.device)
            laps.lap("prepare")
            logits = inference(run.model, fresh, everyone, run.device)
            laps.lap("forward")
            logits.cpu()
            laps.lap("result")

        return _local(subject, model if scope == "model" else end2end, size)


def asked(data: Any, batch: int, seed: int, count: int = LISTED) -> list[Tensor]:
    """``count`` seeded draws of ``batch`` distinct test nodes, or test graphs at graph level.

    Raises Unfit if there are fewer.
    """
    test = data.splits["test"]
    if len(test) < batch:
        raise Unfit(f"asks for {batch} test {data.task.level}s, {data.name} has {len(test)}")
    draw = Key(seed, "queries", batch).numpy()
    return [test[torch.from_numpy(draw.permutation(len(test))[:batch])] for _ in range(count)]


class Query(Workload):
    """The logits of a few test nodes, or of a batch of whole test graphs at graph level.

    Exact inference of nodes works on blocks of all in-edges under them. Where predictions are the
    sampler's own (whole graphs, shaDow's subgraphs, PPRGo's rows), its batches are what is made.

    Args:
        batch: nodes or graphs per request. seed: of the list.
    """

    def __init__(self, batch: int, seed: int):
        self.batch, self.seed, self.name = batch, seed, f"query_{batch}"

    def request(self, subject: Subject, scope: str) -> Local:
        """model: the prepared batch. end2end: sample, gather, copy, forward, result."""
        run, primed = subject.run, subject.run.sampler.primed
        make = self.own(run) if run.sampler.inference == "own" else self.exact(subject)
        lists = asked(run.data, self.batch, self.seed, LISTED if scope == "end2end" else PREPARED)

        def end2end(laps: Laps) -> None:
            ready = make(next(wanted), laps.lap)
            with evaluating(run):
                logits = torch.cat([run.model(primed(batch, run.model)).logits for batch in ready])
            laps.lap("forward")
            logits.cpu()
            laps.lap("result")

        def model(laps: Laps) -> None:
            with evaluating(run):
                for batch in next(turns):
                    run.model(primed(batch, run.model))
            laps.lap("forward")

        prepared = [make(chosen, lambda name: None) for chosen in lists[:PREPARED]]
        parts = [means(ready) for ready in prepared]
        each = [{n: s * len(ready) for n, s in part.items()}
                for part, ready in zip(parts, prepared, strict=True)]  # fmt: skip
        size = {n: sum(e[n] for e in each) / len(each) for n in each[0]}
        if scope == "end2end":
            wanted, prepared = cycle(lists), []
            return _local(subject, end2end, size)
        turns = cycle(prepared)
        return _local(subject, model, size)

    def exact(self, subject: Subject) -> Make:
        """Blocks of all in-edges."""
        run = subject.run
        if not subject.layered():
            raise Unfit("the architecture can't be computed on blocks of nodes")
        query = Blocks(self.batch)
        whole = query.whole(run.model, run.data, torch.device("cpu"))

        def make(nodes: Tensor, lap: Callable[[str], None]) -> list[Batch]:
            hops, below = query.blocks(whole, nodes)
            lap("sample")
            batch = query.gather(whole, hops, below, nodes)
            lap("gather")
            batch = batch.to(run.device)
            lap("copy")
            return [batch]

        return make

    def own(self, run: Run) -> Make:
        """What the sampler predicts from."""
        data, need = run.inference.view(run.data), run.model.need

        def make(rows: Tensor, lap: Callable[[str], None]) -> list[Batch]:
            found = list(run.sampler.batches(data, need, rows))
            lap("sample")
            found = [batch.to(run.device) for batch in found]
            lap("copy")
            return found

        return make


def means(batches: Sequence[Batch]) -> dict[str, float]:
    """Mean seeds, nodes and edges of some batches."""
    n = max(len(batches), 1)
    return {
        "seeds": sum(len(b.rows) for b in batches) / n,
        "nodes": sum(len(b.nodes) for b in batches) / n,
        "edges": sum(h.graph.n_edges for b in batches for h in b.hops) / n,
    }


STAGES = ("sample", "wait", "transfer", "forward", "backward")


def _train(run: Run, laps: Laps, work: Callable[[], None]) -> None:
    """Training work, its stages being those that the run's own meter adds up."""
    before = dict(run.meter.seconds)
    work()
    spent = {n: s - before.get(n, 0.0) for n, s in run.meter.seconds.items()}
    spent["optimizer"] = spent.get("step", 0.0) - spent.get("forward", 0.0) - spent.get(
        "backward", 0.0)  # fmt: skip
    for name in (*STAGES, "optimizer"):
        if spent.get(name):
            laps.add(name, spent[name])
    run.losses.clear()


def _ready(subject: Subject) -> Run:
    """The run, prepared and with an optimizer; once per subject."""
    reason = subject.trainable()
    if reason is not None:
        raise Unfit(reason)
    run = subject.run
    if not hasattr(run, "optimizer"):
        with run.meter.phase("prepare"):
            run.prepare()
        run.start()
    run.model.train()
    return run


def _forever(run: Run) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from run.batches(epoch)
        epoch += 1


class Step(Workload):
    """One optimizer step of the composition's own training."""

    name, trains = "step", True

    def request(self, subject: Subject, scope: str) -> Local:
        """model: a prepared batch. end2end: sampling and copying it, too."""
        run = _ready(subject)
        stream = _forever(run)

        def end2end(laps: Laps) -> None:
            _train(run, laps, lambda: run.step(next(stream)))

        kept = [batch for batch, _ in zip(run.batches(0), range(PREPARED), strict=False)]
        size = means(kept)
        if scope == "end2end":
            return _local(subject, end2end, size)
        batches = cycle(kept)
        return _local(subject, lambda laps: _train(run, laps, lambda: run.step(next(batches))),
                      size)  # fmt: skip


class Epoch(Workload):
    """One epoch of the composition's own training; evaluation is not part of it."""

    name, trains = "epoch", True

    def request(self, subject: Subject, scope: str) -> Local:
        """model: an epoch's batches prepared beforehand. end2end: sampled and copied as it runs."""
        run = _ready(subject)
        epochs = iter(range(10**9))

        def over(batches: Callable[[], Any]) -> Callable[[Laps], None]:
            def work() -> None:
                for batch in batches():
                    run.step(batch)

            return lambda laps: _train(run, laps, work)

        if scope == "end2end":
            steps = len(run.sampler.plan(run.seeds, Key(run.seed, "plan", 0)))
            work = over(lambda: run.batches(next(epochs)))
            return _local(subject, work, {"seeds": len(run.seeds), "steps": steps})
        kept = list(run.batches(0))
        size = {n: s * len(kept) for n, s in means(kept).items()} | {"steps": len(kept)}
        return _local(subject, over(lambda: kept), size)


def chosen(settings: Bench) -> list[Workload]:
    """The workloads that were asked for, inference before training."""
    found: list[Workload] = []
    if "full" in settings.workloads:
        found.append(Full())
    if "query" in settings.workloads:
        found += [Query(batch, settings.seed) for batch in settings.queries]
    if "step" in settings.workloads:
        found.append(Step())
    if "epoch" in settings.workloads:
        found.append(Epoch())
    return found
