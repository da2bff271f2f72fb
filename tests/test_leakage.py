"""What training must not see: hidden rows hold NaN, other labels and edges; it trains alike."""

import json

import pytest
import torch
from compositions import CATALOG, representative, toy, train

from gnnscale import session
from gnnscale.core.data import GraphData
from gnnscale.core.errors import CompositionError
from gnnscale.core.record import Record
from gnnscale.dataset.synthetic import Synthetic
from gnnscale.dataset.synthetic_graphs import SyntheticGraphs
from gnnscale.graph.simple import simple
from gnnscale.graph.whole import training_graph
from gnnscale.stage.teacher import kept
from gnnscale.train import checkpoint

LOADS = {source: source.load for source in (Synthetic, SyntheticGraphs)}


def hidden_labels(data: GraphData) -> GraphData:
    """Every label outside the training split is another class."""
    y = (data.y + 1) % data.task.classes
    return data.with_(y=torch.where(data.mask("train"), data.y, y))


def hidden_rows(data: GraphData) -> GraphData:
    """Outside the training split: NaN features, other labels, and no edge that there was."""
    train_ = data.mask("train")
    x = data.x.masked_fill(~train_.unsqueeze(1), float("nan"))
    dst, src = data.graph.dst, data.graph.indices
    inside = train_[dst] & train_[src]
    outside = (~train_).nonzero().squeeze(1)
    chain = torch.stack([outside[:-1], outside[1:]])  # test nodes now form a path of their own
    first = data.splits["train"][:1].expand(len(outside))  # and all of them reach a training node
    graph, _ = simple(
        torch.cat([src[inside], chain[0], outside]),
        torch.cat([dst[inside], chain[1], first]),
        data.nodes,
    )
    return hidden_labels(data).with_(graph=graph, x=x)


def hidden_graphs(data: GraphData) -> GraphData:
    """Graphs outside the training split: NaN features, other labels, a path in place of edges."""
    owner = torch.repeat_interleave(torch.arange(data.items), data.offsets.diff())
    hidden = ~data.mask("train")[owner]
    inside = ~hidden[data.graph.dst]
    path = (hidden[1:] & (owner[1:] == owner[:-1])).nonzero().squeeze(1)
    src = torch.cat([data.graph.indices[inside].long(), path])
    dst = torch.cat([data.graph.dst[inside].long(), path + 1])
    graph, _ = simple(src, dst, data.nodes)
    return hidden_labels(data).with_(
        graph=graph, x=data.x.masked_fill(hidden.unsqueeze(1), float("nan")),
        edge=torch.ones(graph.n_edges, data.edge.shape[1]),
    )  # fmt: skip


def trained(monkeypatch, folder, plan, change):
    """(weights, losses) after training on the changed data."""
    for source, load in LOADS.items():
        monkeypatch.setattr(source, "load", lambda self, seed, load=load: change(load(self, seed)))
    train(plan, folder)
    lines = (folder / "seed-0/metrics.jsonl").read_text().splitlines()
    return (
        checkpoint.load(folder / "seed-0/checkpoint.pt")["model"],
        [json.loads(s)["loss"] for s in lines],
    )


def compositions() -> list:
    """Every sampler with each kind of input, every architecture, every term."""
    few = ("gcn", "gat", "sgc", "pprgo")
    architectures = CATALOG.options("architecture")
    samplers = [{"sampler": s, "architecture": a} for s in CATALOG.options("sampler")
                for a in (architectures if s == "full" else few)]  # fmt: skip
    samplers.append({"sampler": "shadow_ensemble", "architecture": "shadow_gnn"})
    terms = [{"sampler": s, "architecture": "gcn", "distillation": [d], "recipe": "distill"}
             for s in ("full", "cluster", "neighbor", "shadow", "gas", "graphs")  # kinds of batches
             for d in CATALOG.options("distillation")
             if d != "none" and representative(d)]  # fmt: skip
    most = ("full", "neighbor", "graphs")
    return [
        pytest.param(c, marks=pytest.mark.process)  # make test-processes
        if c["sampler"] != "full" and (c["architecture"] == "gat" or (c["sampler"] not in most
                                       and "distillation" in c))
        else c
        for c in samplers + terms
    ]  # fmt: skip


def fitting(chosen: dict):
    # selection reads validation labels, as it may; without it nothing does
    overrides = ["trainer.epochs=2", "trainer.selection=last"]
    teacher = {"run": None, "architecture": "gcn", "overrides": overrides}
    try:
        return toy({"teacher": teacher}, **chosen)
    except CompositionError:
        pytest.skip("these do not fit together")


def label(chosen: dict) -> str:
    return ",".join(str(v[0] if isinstance(v, list) else v) for v in chosen.values())


@pytest.mark.parametrize("chosen", compositions(), ids=label)
@pytest.mark.parametrize("inductive", [True, False])
def test_training_does_not_see_what_is_hidden(inductive, chosen, tmp_path, monkeypatch):
    def open_(data):
        if data.offsets is not None:  # edges of training graphs keep their places, not their rows
            return data.with_(edge=torch.ones_like(data.edge))
        return data.with_(inductive=inductive)

    def poisoned(data):
        if data.offsets is not None:
            return hidden_graphs(data)
        return open_(hidden_rows(data) if inductive else hidden_labels(data))

    weights, losses = trained(monkeypatch, tmp_path / "a", fitting(chosen), open_)
    other, same = trained(monkeypatch, tmp_path / "b", fitting(chosen), poisoned)
    assert losses == same
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def unseen(data: GraphData) -> GraphData:
    """Half of the test nodes are not seen in training."""
    return data.with_(splits={**data.splits, "unseen": data.splits["test"][::2]})


def hidden_unseen(data: GraphData) -> GraphData:
    """Unseen nodes: NaN features, other labels, and edges to every node in place of their own."""
    data = unseen(data)
    left = data.mask("unseen")
    dst, src = data.graph.dst, data.graph.indices
    inside = ~left[dst] & ~left[src]
    everyone, hub = torch.arange(data.nodes), data.splits["unseen"][:1].expand(data.nodes)
    graph, _ = simple(
        torch.cat([src[inside], everyone, hub]), torch.cat([dst[inside], hub, everyone]), data.nodes
    )
    y = torch.where(left, (data.y + 1) % data.task.classes, data.y)
    return data.with_(graph=graph, x=data.x.masked_fill(left.unsqueeze(1), float("nan")), y=y)


@pytest.mark.parametrize("student", ["mlp", "pna"])
def test_unseen_nodes_reach_neither_teacher_nor_student_nor_selection(
    student, tmp_path, monkeypatch
):
    teacher = {"run": None, "architecture": "sage", "overrides": ["trainer.epochs=3"]}

    def plan():
        return toy({"teacher": teacher, "trainer": {"epochs": 3}}, architecture=student,
                   distillation=["logit", "gcrd"], recipe="distill")  # fmt: skip

    weights, losses = trained(monkeypatch, tmp_path / "a", plan(), unseen)
    other, same = trained(monkeypatch, tmp_path / "b", plan(), hidden_unseen)
    assert losses == same
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    said = [kept(tmp_path / run / "seed-0/teacher", [(-1, "items")]) for run in "ab"]
    assert torch.equal(said[0].logits, said[1].logits)
    a, b = (Record.load(tmp_path / run / "seed-0/record.json").metric for run in "ab")
    assert a["valid"] == b["valid"]
    assert a["train"] == b["train"]
    assert a["extra"]["tran"] == b["extra"]["tran"]
    assert a["extra"]["ind"] != b["extra"]["ind"]


def test_production_score_is_that_of_both_by_their_shares(tmp_path, monkeypatch):
    trained(monkeypatch, tmp_path / "a", toy({}, architecture="gcn"), unseen)
    found = Record.load(tmp_path / "a/seed-0/record.json").metric
    tran, ind, prod = (found["extra"][n] for n in ("tran", "ind", "prod"))
    n = 24  # test nodes of the toy graph, every second one of them unseen
    assert prod == pytest.approx((12 * tran + 12 * ind) / n)
    assert found["test"] == prod
    run = session.reopened(toy({}, architecture="gcn"), 0, tmp_path / "a")
    whole = run.data
    inside, _ = training_graph(whole)
    assert inside.nodes == 60 - 12
    everyone = torch.arange(60)
    logits = run.inference(run.model, whole, everyone, run.device)
    left = whole.splits["unseen"]
    assert ind == whole.task.score(logits[left], whole.y[left])
    logits = run.inference(run.model, inside, everyone[:48], run.device)
    rest = inside.splits["test"]
    assert tran == whole.task.score(logits[rest], inside.y[rest])


def test_the_poison_is_strong_enough_to_be_seen(tmp_path, monkeypatch):
    """In transductive training the same changes do reach the loss."""
    plan = toy({}, architecture="gcn")
    _, losses = trained(monkeypatch, tmp_path / "a", plan, lambda data: data)
    with pytest.raises(Exception, match="loss is nan"):
        trained(monkeypatch, tmp_path / "b", toy({}, architecture="gcn"), hidden_rows)
    assert all(torch.isfinite(torch.tensor(losses)))
