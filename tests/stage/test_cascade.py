import json

import pytest
import torch
from compositions import plan, toy, train

from gnnscale import compose, session
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.site import sites
from gnnscale.quantization.binary import BinaryInput, BinaryWeight
from gnnscale.stage.cascade import STAGES, Cascade
from gnnscale.stage.evaluate import Evaluate
from gnnscale.stage.fit import Fit
from gnnscale.stage.teacher import kept
from gnnscale.train import checkpoint

TEACHER = {"run": None, "architecture": "sage", "overrides": ["trainer.epochs=2"]}


def cascade(changes=None, **chosen):
    changes = {"teacher": TEACHER, "architecture": {"stem": True, "hidden": 16}, **(changes or {})}
    chosen = {"architecture": "sage", "distillation": ["logit"], **chosen}
    return toy(changes, quantization="binary", recipe="cascade", **chosen)


class Traced(Cascade):
    """Notes what every stage starts from and what it leaves."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.starts, self.parts = [], []

    def part(self, run, k, before):
        made = super().part(run, k, before)
        if before is not None:
            self.check_start(before, made)
        self.starts.append({n: v.clone() for n, v in made.model.state_dict().items()})
        self.parts.append(made)
        return made

    def check_start(self, before, part):
        """With the settings of the stage before restored, the student is its teacher exactly."""
        everyone = torch.arange(60)

        def logits(part):
            return part.inference(part.model, part.data, everyone, part.device)

        wanted = logits(before)
        assert torch.equal(wanted, part.teacher.logits)
        assert not torch.equal(logits(part), wanted), "the stage changes something"
        k = len(self.parts)
        part.quantizer.relax(part.model, *STAGES[k - 1])
        assert torch.equal(logits(part), wanted)
        part.quantizer.relax(part.model, *STAGES[k])
        part.quantizer.relax(
            part.model, *(("real", "sign"), ("binary", "sign"))[len(self.parts) - 1]
        )


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    checked = cascade({"trainer": {"epochs": 3}, "optimizer": {"weight_decay": 0.01}})
    run = compose.build(checked, 0, folder, lambda data: session.teach(checked, 0, data))
    compose.stages(checked)[0](run)
    stage = Traced([1.0, 0.25, 0.5])
    stage(run)
    return run, stage


def test_each_stage_starts_as_the_one_before_and_is_taught_by_it(traced):
    run, stage = traced
    assert len(stage.parts) == 3
    assert torch.equal(stage.parts[0].teacher.logits, run.teacher.logits)
    for before, start in zip(stage.parts, stage.starts[1:], strict=False):
        selected = before.model.state_dict()
        assert all(torch.equal(v, selected[n]) for n, v in start.items())
    for part in stage.parts[1:]:
        assert part.teacher.source.endswith(f"stage-{stage.parts.index(part) - 1}")


def test_stages_relax_what_the_quantizer_fills(traced):
    run, stage = traced
    for part, (binary, mode) in zip(
        [*stage.parts, run], [(False, "tanh"), (False, "sign"), (True, "sign"), (True, "sign")],
        strict=True,
    ):  # fmt: skip
        found = [s.quantizer for _, s in sites(part.model)]
        assert {q.binary for q in found if isinstance(q, BinaryWeight)} == {binary}
        assert {q.mode for q in found if isinstance(q, BinaryInput)} == {mode}


def test_rates_and_decay_of_each_stage(traced):
    _, stage = traced
    groups = [part.optimizer.param_groups[0] for part in stage.parts]
    assert [g["lr"] for g in groups] == [0.01, 0.0025, 0.005]
    assert [g["weight_decay"] for g in groups] == [0.01, 0.01, 0.0]


def test_the_run_is_its_last_stage(traced):
    run, stage = traced
    last = stage.parts[-1].model.state_dict()
    assert all(torch.equal(v, last[n]) for n, v in run.model.state_dict().items())
    lines = [json.loads(s) for s in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [s["epoch"] for s in lines] == list(range(9))
    assert [s["stage"] for s in lines] == [0] * 3 + [1] * 3 + [2] * 3
    assert 6 <= run.patience.best_epoch < 9
    assert len(run.meter.epochs) == 9
    assert run.epoch == 9
    assert not any((run.folder / f"stage-{k}" / "checkpoint.pt").exists() for k in range(3))


def test_the_record_and_the_finished_run_agree(tmp_path):
    checked = cascade()
    (record,) = train(checked, tmp_path)
    assert record.time_s["epochs"] == 6
    run = session.reopened(checked, 0, tmp_path)
    test = run.data.splits["test"]
    logits = run.inference(run.model, run.data, test, run.device)
    assert run.data.task.score(logits, run.data.y[test]) == record.metric["test"]


def killed_in(stage, folder, checked):
    """Run a recipe until an epoch of a stage has been saved, then stop as if killed."""

    class Killed(Exception):
        pass

    class Dies(Cascade):
        def part(self, run, k, before):
            made = super().part(run, k, before)
            if k == stage:
                save = made.save

                def once():
                    save()
                    raise Killed

                made.save = once
            return made

    run = compose.build(checked, 0, folder, lambda data: session.teach(checked, 0, data))
    compose.stages(checked)[0](run)
    with pytest.raises(Killed):
        Dies()(run)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("sampler", ["full", "neighbor"])
def test_resumed_bit_identically_in_any_stage(stage, sampler, tmp_path):
    checked = cascade(sampler=sampler, distillation=["logit", "gcrd"])
    (whole,) = train(checked, tmp_path / "whole")
    killed_in(stage, tmp_path / "killed/seed-0", checked)
    (again,) = train(checked, tmp_path / "killed")
    a, b = (checkpoint.load(tmp_path / f / "seed-0/checkpoint.pt") for f in ("whole", "killed"))
    for name, weight in a["model"].items():
        assert torch.equal(weight, b["model"][name]), name
    assert whole.metric == again.metric
    assert again.time_s["epochs"] == whole.time_s["epochs"] == 6
    taps = [(-1, "items")]
    said = [kept(tmp_path / f / "seed-0/stage-2/teacher", taps) for f in ("whole", "killed")]
    assert torch.equal(said[0].logits, said[1].logits)
    assert torch.equal(said[0].hidden[taps[0]], said[1].hidden[taps[0]])


def test_training_learns(tmp_path):
    checked = cascade({
        "dataset": {"nodes": 200}, "trainer": {"epochs": 25}, "architecture": {
            "stem": True, "hidden": 32, "dropout": 0.0},
        "teacher": {**TEACHER, "overrides": ["trainer.epochs=25"]},
    })  # fmt: skip
    (record,) = train(checked, tmp_path)
    lines = [json.loads(s) for s in (tmp_path / "seed-0/metrics.jsonl").read_text().splitlines()]
    loss = [[s["loss"] for s in lines if s["stage"] == k] for k in range(3)]
    assert all(each[-1] < 0.8 * each[0] for each in loss[::2])
    assert record.metric["valid"] > 0.6, "of three classes"


def test_it_needs_what_can_be_relaxed_and_a_teacher_that_is_there():
    with pytest.raises(CompositionError, match=r"recipe=cascade needs .* and 'staged'") as refused:
        plan(recipe="cascade")
    assert "quantization=binary" in str(refused.value)
    with pytest.raises(CompositionError, match=r"recipe=cascade needs .* and 'staged'"):
        plan(recipe="cascade", quantization="qat")


@pytest.mark.parametrize("key", ["weights", "inputs"])
def test_it_ends_with_signs(key, tmp_path):
    checked = cascade({"quantization": {key: "real"}})
    with pytest.raises(UsageError, match=f"quantization.{key}=real.*ends with signs of both"):
        train(checked, tmp_path)


def test_a_factor_for_every_stage():
    with pytest.raises(UsageError, match=r"lr=\[1.0, 2.0\]: there are 3 stages"):
        Cascade([1.0, 2.0])
    assert [type(s) for s in compose.stages(cascade())][1:] == [Cascade, Evaluate]
    assert Fit not in [type(s) for s in compose.stages(cascade())]
