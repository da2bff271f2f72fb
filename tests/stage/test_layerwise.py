import json
from dataclasses import replace

import pytest
import torch
from compositions import toy, train

from gnnscale import compose
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.record import Record
from gnnscale.dataset.synthetic import Synthetic
from gnnscale.graph.norm import whole_hop
from gnnscale.stage.fit import Fit
from gnnscale.stage.layerwise import Layerwise
from gnnscale.train import checkpoint

ARCHITECTURES = {"lgcn": {}, "gcn": {"depth": 3}, "gat": {}, "egc": {"hidden": 16}, "sage": {}}


class Traced(Layerwise):
    """Notes the weights of every layer when each layer has been trained, and what comes out."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.after, self.levels = [], []

    def output(self, part):
        found = super().output(part)
        self.levels.append(found)
        self.after.append({k: v.clone() for k, v in self.run.model.state_dict().items()})
        return found

    def __call__(self, run):
        self.run = run
        super().__call__(run)


def trained(tmp_path, architecture="lgcn", stage=None, **changes):
    checked = toy({"architecture": ARCHITECTURES[architecture], **changes},
                  architecture=architecture, recipe="layerwise")  # fmt: skip
    run = compose.build(checked, 0, tmp_path)
    stage = stage or Traced()
    stage(run)
    return run, stage


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_layers_are_bit_identical_afterwards(tmp_path, architecture):
    run, stage = trained(tmp_path, architecture)
    start = compose.build(run_plan(architecture), 0, tmp_path / "fresh").model.state_dict()
    layers = len(run.model.layers)
    assert len(stage.after) == layers >= 2
    for i in range(layers):
        now = stage.after[i]
        for name in (n for n in start if n.startswith("layers.")):
            at = int(name.split(".")[1])
            if at > i:
                assert torch.equal(now[name], start[name]), f"{name} was touched by layer {i}"
            elif at < i:
                assert torch.equal(now[name], stage.after[at][name]), f"{name} moved in layer {i}"
        moved = [n for n in now if n.startswith(f"layers.{i}.") and now[n].is_floating_point()]
        assert any(not torch.equal(now[n], start[n]) for n in moved)


def run_plan(architecture):
    return toy({"architecture": ARCHITECTURES[architecture]}, architecture=architecture,
               recipe="layerwise")  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stored_levels_are_the_model_truncated(tmp_path, architecture):
    run, stage = trained(tmp_path, architecture)
    everyone, seen = torch.arange(60), {}

    def note(level, ids, h):
        seen[level] = h.clone()

    logits = run.inference.observed(run.model, run.data, everyone, run.device, note)
    for level, (x, train_x) in enumerate(stage.levels[:-1]):
        assert torch.equal(x, train_x), "transductive: one graph"
        torch.testing.assert_close(x, seen[level + 1], rtol=1e-5, atol=1e-5)
    last = stage.levels[-1][0]
    torch.testing.assert_close(run.model.head(last), logits, rtol=1e-5, atol=1e-5)


def test_one_layer_is_a_perceptron_on_propagated_features(tmp_path):
    """L = 1: bit for bit what the loop makes of an MLP without biases on P X."""
    changes = {"architecture": {"depth": 1}, "trainer": {"epochs": 5}}
    checked = toy(changes, architecture="lgcn", recipe="layerwise")
    run = compose.build(checked, 0, tmp_path / "a")
    Layerwise()(run)
    other = compose.build(checked, 0, tmp_path / "b")
    hop = whole_hop(other.data.graph, Need(1, "row", "diag"), torch.float32)
    z = hop.reduce(lambda h: h, other.data.x) + other.data.x
    layer, head = other.model.layers[0].linear, other.model.head
    mlp = torch.nn.Sequential(layer, torch.nn.ReLU(), head)
    optimizer = other.make_optimizer([{"params": list(mlp.parameters())}])
    rows, best = other.data.splits["train"], (-1.0, None)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(mlp(z)[rows], other.data.y[rows]).backward()
        optimizer.step()
        with torch.no_grad():
            valid = other.data.splits["valid"]
            score = (mlp(z).argmax(1)[valid] == other.data.y[valid]).double().mean().item()
        if score > best[0]:
            best = score, {k: v.clone() for k, v in mlp.state_dict().items()}
    torch.testing.assert_close(run.model.layers[0].linear.weight, best[1]["0.weight"])
    torch.testing.assert_close(run.model.head.weight, best[1]["2.weight"])


@pytest.mark.parametrize("architecture", ["lgcn", "gcn"])
def test_inductive_training_never_reads_levels_of_the_whole_graph(
    tmp_path, architecture, monkeypatch
):
    load = Synthetic.load

    def poisoned(self, seed):
        data = load(self, seed)
        x = data.x.clone()
        x[~data.mask("train")] = poisoned.value
        return data.with_(x=x, inductive=True)

    monkeypatch.setattr(Synthetic, "load", poisoned)
    weights = []
    for value in (float("nan"), 3.0):
        poisoned.value = value
        run, _ = trained(tmp_path / str(value), architecture, trainer={"selection": "last"})
        weights.append(run.model.state_dict())
    for name, one in weights[0].items():
        assert torch.equal(one, weights[1][name]), name


def kill_in(part_of, folder, plan):
    """Train until an epoch of a layer has been saved, then stop as if killed."""
    run = compose.build(plan, 0, folder)

    class Killed(Exception):
        pass

    class Dies(Fit):
        def __call__(self, part):
            if part.folder.name == part_of:
                save = part.save

                def once():
                    save()
                    raise Killed

                part.save = once
            super().__call__(part)

    stage = Layerwise()
    run.assemble()
    with pytest.raises(Killed):
        stage.train(run, Dies())


@pytest.mark.parametrize("where", ["layer-0", "layer-1"])
@pytest.mark.parametrize("sampler", ["full", "neighbor", "saint"])
def test_resumed_bit_identically_in_any_layer(tmp_path, where, sampler):
    plan = toy({"trainer": {"epochs": 3}}, architecture="lgcn", recipe="layerwise", sampler=sampler)
    (whole,) = train(plan, tmp_path / "whole")
    folder = tmp_path / "killed"
    kill_in(where, folder / "seed-0", plan)
    (again,) = train(plan, folder)
    a, b = (checkpoint.load(f / "seed-0" / "checkpoint.pt") for f in (tmp_path / "whole", folder))
    for name, weight in a["model"].items():
        assert torch.equal(weight, b["model"][name])
    assert whole.metric == again.metric
    assert again.time_s["epochs"] == whole.time_s["epochs"] == 6


def test_the_record_counts_every_layers_epochs_and_the_run_serves_again(tmp_path):
    plan = toy({"trainer": {"epochs": 4}}, architecture="lgcn", recipe="layerwise")
    (record,) = train(plan, tmp_path)
    lines = [json.loads(s) for s in (tmp_path / "seed-0/metrics.jsonl").read_text().splitlines()]
    assert [s["epoch"] for s in lines] == list(range(8))
    assert [s["layer"] for s in lines] == [0] * 4 + [1] * 4
    assert 4 <= record.metric["best_epoch"] < 8, "of the last layer"
    restored = compose.build(plan, 0, tmp_path / "again")
    restored.restore(tmp_path / "seed-0")
    test = restored.data.splits["test"]
    logits = restored.inference(restored.model, restored.data, test, restored.device)
    assert restored.data.task.score(logits, restored.data.y[test]) == record.metric["test"]
    assert Record.load(tmp_path / "seed-0/record.json") == record


def test_a_shared_classifier_is_one_and_the_same(tmp_path):
    _, stage = trained(tmp_path, stage=Traced("shared"))
    first, last = (a["head.weight"] for a in stage.after)
    assert not torch.equal(first, last)
    _, stage = trained(tmp_path / "fresh", stage=Traced("fresh"))
    start = compose.build(run_plan("lgcn"), 0, tmp_path / "start").model.head.weight
    assert torch.equal(stage.after[0]["head.weight"], start), "layer 0 had one of its own"


def test_refusals(tmp_path):
    mlp = compose.build(toy(architecture="mlp", recipe="layerwise"), 0, tmp_path / "a")
    with pytest.raises(UsageError, match="architecture=mlp: has no message-passing layers"):
        Layerwise()(mlp)
    gcn = compose.build(toy(architecture="gcn", recipe="layerwise"), 0, tmp_path / "b")
    with pytest.raises(UsageError, match=r"architecture\.stem=true"):
        Layerwise("shared")(gcn)


def test_a_level_trains_under_every_precision_of_depth(tmp_path):
    """Propagating once and propagating per batch are the same layer."""
    run, stage = trained(tmp_path)
    part = stage.layer(run, 1, stage.levels[0][0], stage.levels[0][1])
    assert part.model.need == replace(run.model.need, depth=0)
    data = run.data.with_(x=stage.levels[0][0])
    level = run.model.level(1, run.model.head)
    everyone = torch.arange(60)
    a = run.inference(part.model, part.data, everyone, run.device)
    b = run.inference(level, data, everyone, run.device)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
