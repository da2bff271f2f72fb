"""What training must not see: hidden rows hold NaN, other labels and edges; it trains alike."""

import json

import pytest
import torch
from compositions import CATALOG, toy, train

from gnnscale.core.data import GraphData
from gnnscale.core.errors import CompositionError
from gnnscale.dataset.synthetic import Synthetic
from gnnscale.dataset.synthetic_graphs import SyntheticGraphs
from gnnscale.graph.simple import simple
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


def compositions() -> list[dict]:
    """Every sampler with each kind of input, every architecture, every term."""
    few = ("gcn", "gat", "sgc", "pprgo")
    architectures = CATALOG.options("architecture")
    samplers = [{"sampler": s, "architecture": a} for s in CATALOG.options("sampler")
                for a in (architectures if s == "full" else few)]  # fmt: skip
    samplers.append({"sampler": "shadow_ensemble", "architecture": "shadow_gnn"})
    terms = [{"sampler": s, "architecture": "gcn", "distillation": [d], "recipe": "distill"}
             for s in ("full", "cluster", "neighbor", "shadow", "gas")  # one of each kind of batch
             for d in CATALOG.options("distillation") if d != "none"]  # fmt: skip
    return samplers + terms


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


def test_the_poison_is_strong_enough_to_be_seen(tmp_path, monkeypatch):
    """In transductive training the same changes do reach the loss."""
    plan = toy({}, architecture="gcn")
    _, losses = trained(monkeypatch, tmp_path / "a", plan, lambda data: data)
    with pytest.raises(Exception, match="loss is nan"):
        trained(monkeypatch, tmp_path / "b", toy({}, architecture="gcn"), hidden_rows)
    assert all(torch.isfinite(torch.tensor(losses)))
