import json
from dataclasses import replace

import pytest
import torch
from compositions import CATALOG, toy, train
from torch import nn

from gnnscale import compose
from gnnscale.core.batch import Memo
from gnnscale.core.random import Key
from gnnscale.core.teacher import Teacher
from gnnscale.dataset.synthetic import Synthetic
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.full import Full
from gnnscale.train import checkpoint, loop
from gnnscale.train.decay import penalty
from gnnscale.train.objective import Objective

LOGIT = CATALOG.options("distillation")["logit"].content


def built(tmp_path, **changes):
    checked = toy(changes.pop("changes", {}), **changes)
    run = compose.build(checked, 0, tmp_path)
    run.prepare()
    run.start()
    return run


def one_step(run):
    run.model.train()
    (batch,) = run.batches(0)
    run.step(batch)
    return batch


def test_clip_bounds_the_norm_of_all_gradients_together(tmp_path):
    run = built(tmp_path, changes={"trainer": {"clip": 1e-3}})
    one_step(run)
    norms = [p.grad.norm() for p in run.model.parameters()]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-4)


def test_decay_first_puts_weight_decay_on_the_first_layer_only(tmp_path):
    run = built(tmp_path, changes={"trainer": {"decay": "first"}})
    first, rest = run.optimizer.param_groups
    assert {id(p) for p in first["params"]} == {id(p) for p in run.model.layers[0].parameters()}
    assert first["weight_decay"] == 5e-4
    assert rest["weight_decay"] == 0
    assert len(first["params"]) + len(rest["params"]) == len(list(run.model.parameters()))


class Widths(nn.Module):
    """A term that reads levels and notes how wide they are."""

    levels = measures = True
    nodes, hard = "train", 1.0

    def size(self, widths):
        self.found = widths

    def attach(self, model, data, teacher):
        """Nothing."""

    def forward(self, out, batch):
        assert [level.shape[1] for level in out.levels] == list(self.found)
        return out.logits.sum() * 0


def test_levels_are_kept_for_the_terms_of_the_stage_at_hand(tmp_path):
    """A stage without such terms comes first, then one with them, then one without."""
    run = built(tmp_path)
    assert run.model.tapped is False
    plain, term = run.objective, Widths()
    run.objective = Objective(plain.task, {"widths": term})
    run.assemble()
    one_step(run)
    assert term.found == (8, 64)
    run.objective = plain
    run.assemble()
    assert run.model.tapped is False


@pytest.mark.parametrize("decay", ["all", "first"])
def test_l2_is_the_weight_decay_of_sgd(decay, tmp_path):
    """The penalty in the loss and optimizer.weight_decay give the same step."""
    weights, losses = [], []
    for k, (l2, weight_decay) in enumerate([(0.3, 0.0), (0.0, 0.3)]):
        changes = {"trainer": {"decay": decay, "l2": l2},
                   "optimizer": {"weight_decay": weight_decay, "lr": 0.5}}  # fmt: skip
        run = built(tmp_path / str(k), changes=changes, optimizer="sgd")
        before = [p.detach().clone() for p in run.model.parameters()]
        one_step(run)
        weights.append([p.detach().clone() for p in run.model.parameters()])
        losses.append(run.losses[0].item())
    for a, b, start in zip(*weights, before, strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.equal(a, start)
    chosen = run.model.first() if decay == "first" else list(run.model.parameters())
    first = {id(p) for p in chosen}
    squares = sum(v.square().sum() for p, v in zip(run.model.parameters(), before, strict=True)
                  if id(p) in first)  # fmt: skip
    assert losses[0] - losses[1] == pytest.approx(0.15 * squares.item(), rel=1e-4)


@pytest.mark.parametrize("decay", ["all", "first"])
def test_lbfgs_falls_step_by_step_to_the_penalised_optimum(decay, tmp_path):
    changes = {"trainer": {"l2": 0.01, "decay": decay}, "sampler": {"batch_size": None}}
    run = built(tmp_path, changes=changes, sampler="precompute", architecture="sgc",
                optimizer="lbfgs")  # fmt: skip
    for _ in range(12):
        batch = one_step(run)
    losses = torch.stack(run.losses)
    assert losses[1] <= losses[0]
    assert losses[-1] < 0.8 * losses[0]
    run.model.zero_grad()
    loss = run.objective(run.model(batch), batch)
    (loss + penalty(run.model, run.trained, run.trainer)).backward()
    gradient = torch.stack([p.grad.norm() for p in run.model.parameters()]).norm()
    assert gradient < 1e-3, "the optimum of a convex loss"


@pytest.mark.parametrize("stem", [False, True])
def test_decay_not_last_leaves_out_the_last_layer_only(stem, tmp_path):
    run = built(
        tmp_path, changes={"trainer": {"decay": "not_last"}, "architecture": {"stem": stem}}
    )
    decayed, rest = run.optimizer.param_groups
    last = run.model.head if stem else run.model.layers[-1]
    assert {id(p) for p in rest["params"]} == {id(p) for p in last.parameters()}
    assert decayed["weight_decay"] == 5e-4
    assert rest["weight_decay"] == 0
    assert len(decayed["params"]) + len(rest["params"]) == len(list(run.model.parameters()))


def test_the_closure_of_one_step_draws_the_same_dropout_each_time(tmp_path):
    run = built(tmp_path)
    seen = []

    class Twice(torch.optim.SGD):
        def step(self, closure):
            seen.extend([closure().item(), closure().item()])
            return torch.tensor(seen[-1])

    run.optimizer = Twice(run.model.parameters(), lr=0.0)
    one_step(run)
    assert seen[0] == seen[1]
    run.model.train()
    batch = next(iter(run.batches(1)))
    run.step(batch)
    assert seen[2] != seen[0], "another epoch has another mask"


def test_gradients_are_those_of_plain_torch(tmp_path):
    """One step equals autograd on a dense two-layer GCN written out here."""
    run = built(tmp_path, changes={"architecture": {"dropout": 0.0}})
    batch = one_step(run)
    adj = run.data.graph
    dense = torch.zeros(60, 60).index_put((adj.dst.long(), adj.indices.long()), torch.ones(()))
    dense = dense + torch.eye(60)
    scale = dense.sum(1).rsqrt()
    dense = scale[:, None] * dense * scale
    fresh = built(tmp_path / "again", changes={"architecture": {"dropout": 0.0}}).model
    w = [p.detach().clone().requires_grad_() for p in fresh.parameters()]
    h = dense @ (dense @ run.data.x @ w[0] + w[1]).relu() @ w[2] + w[3]
    rows = run.data.splits["train"]
    assert batch.labeled.sum() == len(rows)
    nn.functional.cross_entropy(h[rows], run.data.y[rows]).backward()
    for mine, plain in zip(run.model.parameters(), w, strict=True):
        torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_initial_weights_depend_on_the_seed_alone(tmp_path):
    a, b = (compose.build(toy(), 3, tmp_path / f).model.state_dict() for f in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    other = compose.build(toy(), 4, tmp_path / "c").model.state_dict()
    assert not torch.equal(a["layers.0.conv.weight"], other["layers.0.conv.weight"])
    quantized = compose.build(toy(quantization="qat"), 3, tmp_path / "d").model.state_dict()
    assert torch.equal(a["layers.0.conv.weight"], quantized["layers.0.conv.weight"])


def test_schedulers_move_the_learning_rate(tmp_path):
    train(toy({"trainer": {"epochs": 4}, "scheduler": {"step_size": 2, "gamma": 0.1}},
              scheduler="step"), tmp_path)  # fmt: skip
    from compositions import quiet_metrics

    rates = [m["lr"] for m in quiet_metrics(tmp_path / "seed-0")]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_checkpoint_every_writes_no_more_often(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        checkpoint, "save", lambda path, content, **_: written.append(content["epoch"])
    )
    train(toy({"trainer": {"epochs": 7, "checkpoint_every": 3}}), tmp_path)
    assert written == [3, 6, 7]


def test_checkpoints_take_little_of_the_time(tmp_path, monkeypatch):
    """An epoch is a second, a checkpoint half of one: one every ten seconds, and the last."""
    clock, written = [0.0], []

    def save(path, content, **_):
        clock[0] += 0.5
        written.append(content["epoch"])

    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    validate = loop.Run.validate

    def slow(run):
        clock[0] += 1
        return validate(run)

    monkeypatch.setattr(loop.Run, "validate", slow)
    train(toy({"trainer": {"epochs": 25, "checkpoint_every": None}}), tmp_path)
    assert written == [1, 11, 21, 25]


def test_unlabeled_seeds_are_planned_only_for_terms_that_want_them(tmp_path):
    plain = built(tmp_path / "a")
    assert len(plain.seeds) == len(plain.data.splits["train"])
    for nodes, wanted in (("observed", 60), ("train", len(plain.seeds))):
        term = {"distillation": {"logit": {**LOGIT, "nodes": nodes}}}
        checked = toy(term, distillation=["logit"], recipe="distill")
        run = compose.build(checked, 0, tmp_path / nodes)
        run.teacher = Teacher(torch.zeros(60, 3))
        run.prepare()
        run.start()
        assert len(run.seeds) == wanted
        (batch,) = run.batches(0)
        assert len(batch.ids) == wanted
        assert int(batch.labeled.sum()) == len(plain.seeds)


def test_keys_differ_by_every_field():
    keys = [Key(0, "a"), Key(1, "a"), Key(0, "b"), Key(0, "a", 1), Key(0, "a", 0, 1),
            Key(0, "a", 0, 0, 1)]  # fmt: skip
    assert len({k.word for k in keys}) == len(keys)
    assert Key(0, "a").word == Key(0, "a").word


# -- what samplers may ask of the loop -------------------------------------------------------------


class Remembering(Full):
    """Full batch that notes the levels it is offered."""

    histories = True

    def __init__(self):
        self.offered = []

    def refresh(self, level, ids, h):
        self.offered.append((level, ids, h.clone()))


@pytest.mark.parametrize("inductive", [False, True])
@pytest.mark.parametrize("inference", ["full", "layerwise"])
def test_histories_are_offered_before_training_and_at_every_evaluation(
    tmp_path, monkeypatch, inductive, inference
):
    load = Synthetic.load
    monkeypatch.setattr(Synthetic, "load", lambda *a: load(*a).with_(inductive=inductive))
    run = compose.build(toy(inference=inference), 0, tmp_path)
    run.sampler = Remembering()
    run.prepare()
    run.start()
    filled = list(run.sampler.offered)
    assert [level for level, _, _ in filled] == [0, 1]
    assert all(len(ids) == run.train_data.nodes for _, ids, _ in filled)
    one_step(run)
    run.close_epoch(0.0)
    fresh = run.sampler.offered[2:]
    assert [level for level, _, _ in fresh] == [0, 1]
    hop = whole_hop(run.train_data.graph, run.model.need, run.train_data.x.dtype)
    first = run.model.eval().layers[0](
        hop, run.train_data.x, Memo(whole_batch(run.train_data, run.model.need))
    )
    torch.testing.assert_close(fresh[1][2], first, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(filled[1][2], fresh[1][2]), "the weights have moved"


def test_a_resumed_run_keeps_its_histories(tmp_path):
    checked = toy()
    run = compose.build(checked, 0, tmp_path)
    run.sampler = Remembering()
    run.prepare()
    run.start()
    one_step(run)
    run.close_epoch(0.0)
    again = compose.build(checked, 0, tmp_path)
    again.sampler = Remembering()
    again.prepare()
    again.start()
    assert again.sampler.offered == [], "they are in the checkpoint"


def test_a_sampler_with_its_own_inference_predicts_by_it(tmp_path, monkeypatch):
    asked = []

    def batches(self, data, need, rows):
        asked.append(len(rows))
        yield replace(whole_batch(data, need), rows=rows, ids=rows)

    monkeypatch.setattr(Full, "inference", "own")
    monkeypatch.setattr(Full, "batches", batches)
    train(toy(), tmp_path)
    assert asked[0] == int(60 * 0.3), "validation"
    assert set(asked[2:]) == {60}, "evaluation of every node"


def test_the_lowest_validation_loss_is_kept_where_loss_is_monitored(tmp_path):
    changes = {"trainer": {"epochs": 12, "monitor": "loss"}, "optimizer": {"lr": 1.0}}
    (record,) = train(toy(changes), tmp_path)
    lines = (tmp_path / "seed-0/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["valid_loss"] for line in lines]
    assert len(losses) == 12
    assert record.metric["best_epoch"] == losses.index(min(losses)) < 11
    # and it is the loss of the validation rows under the kept weights
    run = compose.build(toy(changes), 0, tmp_path / "seed-0")
    run.restore(tmp_path / "seed-0")
    assert run.validate() == pytest.approx((record.metric["valid"], min(losses)))
