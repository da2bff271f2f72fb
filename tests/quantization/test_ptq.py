import json

import pytest
import torch
from compositions import plan, toy, train

from gnnscale import compose
from gnnscale.core.errors import UsageError
from gnnscale.core.site import sites
from gnnscale.stage.calibrate import Calibrate
from gnnscale.train import checkpoint


def ptq(bits=8, changes=None, **chosen):
    how = {"weight_bits": bits, "activation_bits": bits}
    chosen = {"architecture": "gcn", **chosen}
    return toy({"quantization": how, **(changes or {})}, quantization="ptq", recipe="ptq", **chosen)


def state(folder):
    return checkpoint.load(folder / "seed-0/checkpoint.pt")


def taken_up(checked, folder):
    run = compose.build(checked, 0, folder / "again")
    compose.take_up(checked, run, folder / "seed-0")
    return run


def logits(run):
    return run.inference(run.model, run.data, torch.arange(run.data.items), run.device)


@pytest.mark.parametrize("sampler", ["full", "saint", "gas", "shadow", "graphs"])
def test_training_is_that_of_the_float_model(tmp_path, sampler):
    chosen = {"sampler": sampler, "architecture": "gin"}
    train(ptq(**chosen), tmp_path / "ptq")
    train(toy(**chosen), tmp_path / "float")
    ours, theirs = state(tmp_path / "ptq"), state(tmp_path / "float")
    for name, value in theirs["best"].items():
        assert torch.equal(ours["best"][name], value), name
    assert ours["kept"]["calibrated"]
    ranged = {k: bool(v) for k, v in ours["best"].items() if k.endswith(".seen")}
    assert ranged
    assert all(ranged.values())


def test_the_ranges_are_those_of_the_selected_weights_pass_in_float(tmp_path):
    checked = ptq()
    train(checked, tmp_path)
    run = taken_up(checked, tmp_path)
    coded = logits(run)
    seen = {}
    for name, site in sites(run.model):
        site.quantizer.idle = True
        site.register_forward_hook(
            lambda _, given, out, name=name: seen.setdefault(name, getattr(out, "rows", out))
        )
    exact = logits(run)
    assert not torch.equal(exact, coded)
    for name, site in sites(run.model):
        if site.role != "weight":
            low, high = seen[name].aminmax()
            assert site.quantizer.low == low.clamp(max=0), name
            assert site.quantizer.high == high.clamp(min=0), name


def test_more_bits_come_closer_to_float(tmp_path):
    errors = []
    for bits in (3, 8, 16):
        checked = ptq(bits)
        train(checked, tmp_path / str(bits))
        run = taken_up(checked, tmp_path / str(bits))
        coded = logits(run)
        for _, site in sites(run.model):
            site.quantizer = None
        errors.append((logits(run) - coded).abs().max().item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0


def test_a_finished_run_predicts_as_it_scored_and_keeps_its_ranges(tmp_path):
    checked = ptq(4)
    (record,) = train(checked, tmp_path)
    run = taken_up(checked, tmp_path)
    test = run.data.splits["test"]
    assert run.data.task.score(logits(run)[test], run.data.y[test]) == record.metric["test"]
    before = (tmp_path / "seed-0/checkpoint.pt").read_bytes()
    (tmp_path / "seed-0/record.json").unlink()
    (again,) = train(checked, tmp_path)  # killed before its record was written
    assert again.metric == record.metric
    assert (tmp_path / "seed-0/checkpoint.pt").read_bytes() == before


def test_graphs_are_calibrated_on_training_graphs_alone(tmp_path):
    """The ranges do not move when features of the other graphs do."""
    found = []
    for factor in (1, 100):
        checked = ptq(sampler="graphs", architecture="gin")
        run = compose.build(checked, 0, tmp_path / str(factor))
        owner = torch.repeat_interleave(torch.arange(run.data.items), run.data.offsets.diff())
        others = ~torch.isin(owner, run.data.splits["train"])
        x = run.data.x.clone()
        x[others] *= factor
        run.data = run.train_data = run.valid_data = run.data.with_(x=x)
        run.prepare()
        run.save = lambda: None
        run.model.eval()
        Calibrate()(run)
        found.append({n: (s.quantizer.low, s.quantizer.high) for n, s in sites(run.model)})
    for name in found[0]:
        assert all(map(torch.equal, found[0][name], found[1][name])), name


def test_model_bytes_and_latency_are_those_of_codes(tmp_path):
    (record,) = train(ptq(4), tmp_path)
    assert record.latency_ms is None
    assert (
        json.loads((tmp_path / "seed-0/record.json").read_text())["model_bytes"]
        < 4 * record.parameters
    )


@pytest.mark.parametrize(
    ("quantization", "recipe", "said"),
    [("ptq", "supervised", "recipe=ptq"), ("none", "ptq", "quantization=ptq"),
     ("qat", "ptq", "quantization=ptq")],
)  # fmt: skip
def test_ranges_need_a_calibration_and_the_other_way_round(quantization, recipe, said):
    with pytest.raises(UsageError, match=said):
        plan(quantization=quantization, recipe=recipe, architecture="gcn", dataset="synthetic")
