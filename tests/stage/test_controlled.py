import pytest
import torch
from compositions import toy, train

from gnnscale import compose
from gnnscale.core.errors import UsageError
from gnnscale.stage import controlled
from gnnscale.stage._controller import Controller, Decisions, Episode
from gnnscale.stage.controlled import Controlled
from gnnscale.train import checkpoint
from gnnscale.train.progress import Patience

SMALL = {"rounds": 4, "nodes": 40, "decision_step": 2, "decisions": 6, "min_epochs": 2,
         "max_epochs": 8}  # fmt: skip


def small(**changes):
    plan = toy({"architecture": {"hidden": 4}}, architecture="lgcn", recipe="l2gcn")
    plan.parts["recipe"][0].arguments.update({**SMALL, **changes})
    return plan


class Lossy:
    last_loss = 2.0


def decisions(rule, controller=None, episode=None, step=2):
    torch.manual_seed(0)
    controller = controller or Controller(2, 3)
    run = Lossy()
    return Decisions(Patience(None, 0.0), controller, episode or Episode(), run, 0, step, rule), run


def test_it_is_asked_every_step_and_left_when_it_says_so():
    asked = []
    heard, _ = decisions(lambda said, epochs: asked.append(epochs) or epochs == 4)
    answers = [heard.hear(0.5, epoch)[1] for epoch in range(4)]
    assert asked == [2, 4]
    assert answers == [False, False, False, True]
    assert heard.episode.previous == 1
    assert len(heard.episode.log_probabilities) == 2


def test_out_of_decisions_a_layer_is_left():
    heard, _ = decisions(lambda said, epochs: False, step=1)
    assert [heard.hear(0.5, e)[1] for e in range(4)] == [False, False, False, True]
    assert len(heard.episode.log_probabilities) == 3


def test_the_log_probability_is_that_of_the_executed_action():
    for stop in (False, True):
        heard, _ = decisions(lambda said, epochs, stop=stop: stop, step=1)
        torch.manual_seed(0)
        want = Controller(2, 3)(Episode(), 0, 1.0)
        heard.hear(0.5, 0)
        assert heard.episode.log_probabilities[0] == want[int(stop)]
        assert heard.episode.stop_probabilities == [pytest.approx(want[1].exp().item())]


def test_the_controller_is_shown_the_loss_relative_to_the_first():
    heard, run = decisions(lambda said, epochs: False, step=1)
    shown = []
    forward = heard.controller.forward
    heard.controller.forward = lambda e, layer, gain: shown.append(gain) or forward(e, layer, gain)
    for epoch, loss in enumerate((2.0, 1.5, 3.0)):
        run.last_loss = loss
        heard.hear(0.0, epoch)
    assert shown == [1.0, 0.5, 2.0]


def test_constant_cost_has_an_expected_gradient_of_zero():
    """sum_a p(a) grad log p(a) = 0: the mean gradient over both actions, weighted, vanishes."""
    torch.manual_seed(0)
    controller = Controller(2, 3)
    said = controller(Episode(), 0, 1.0)
    expected = (said.detach().exp() * said).sum()
    for g in torch.autograd.grad(expected, list(controller.parameters()), allow_unused=True):
        assert g is None or g.abs().max() < 1e-7


def test_cheaper_actions_become_likelier(tmp_path, monkeypatch):
    """With a cost that only counts epochs, the controller learns to stop at once."""
    run = compose.build(small(), 0, tmp_path)
    stage = Controlled(**{**SMALL, "rounds": 60, "time_ratio": 1.0, "lr": 0.05})
    stage.controller = Controller(2, 6)

    def episode(run, key):
        found, draw = Episode(), key.torch()
        said = stage.controller(found, 0, 1.0)
        stop = bool(torch.rand((), generator=draw) < said[1].detach().exp())
        found.log_probabilities.append(said[int(stop)])
        found.stop_probabilities.append(float(said[1].detach().exp()))
        return (0.0 if stop else 1.0), found

    monkeypatch.setattr(stage, "episode", episode)
    assert stage.learn(run) > 0.8


def test_an_always_stopping_policy_gives_the_minimum_of_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(Controlled, "learn", lambda self, run: 0.0)  # any probability reaches it
    (record,) = train(small(), tmp_path)
    # more than min_epochs = 2, asked every 2: four epochs in each of two layers
    assert record.time_s["epochs"] == 8


def test_a_never_stopping_policy_gives_the_maximum(tmp_path, monkeypatch):
    monkeypatch.setattr(Controlled, "learn", lambda self, run: 2.0)
    (record,) = train(small(decisions=20), tmp_path)
    assert record.time_s["epochs"] == 16


def test_episodes_are_a_function_of_the_seed_and_leave_the_run_alone(tmp_path):
    made = []
    for folder in ("a", "b"):
        run = compose.build(small(), 0, tmp_path / folder)
        before = {k: v.clone() for k, v in run.model.state_dict().items()}
        stage = Controlled(**SMALL)
        stage.controller = Controller(2, 6)
        made.append((stage.learn(run), stage.controller.state_dict()))
        assert all(torch.equal(v, before[k]) for k, v in run.model.state_dict().items())
        assert not list((tmp_path / folder).iterdir())
    assert made[0][0] == made[1][0]
    assert all(torch.equal(v, made[1][1][k]) for k, v in made[0][1].items())


def test_resumed_after_the_controller_was_learnt(tmp_path, monkeypatch):
    (whole,) = train(small(), tmp_path / "whole")
    run = compose.build(small(), 0, tmp_path / "cut" / "seed-0")
    stage = Controlled(**SMALL)
    monkeypatch.setattr(controlled.Layerwise, "__call__", lambda self, run: None)
    stage(run)  # killed right after
    monkeypatch.undo()
    (again,) = train(small(), tmp_path / "cut")
    assert again.metric == whole.metric
    a, b = (checkpoint.load(tmp_path / f / "seed-0" / "checkpoint.pt") for f in ("whole", "cut"))
    assert all(torch.equal(v, b["model"][k]) for k, v in a["model"].items())


def test_decisions_fall_on_evaluations(tmp_path):
    plan = small()
    plan.parts["trainer"][0].arguments["evaluate_every"] = 3
    run = compose.build(plan, 0, tmp_path)
    with pytest.raises(UsageError, match=r"trainer\.evaluate_every=3.*e\.g\. .*=2"):
        Controlled(**SMALL)(run)
