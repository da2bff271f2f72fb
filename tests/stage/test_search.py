import json

import pytest
import torch
from compositions import CATALOG, toy, train

from gnnscale import compose, finished
from gnnscale.core.choice import MixedLayer, choices
from gnnscale.core.errors import UsageError
from gnnscale.core.site import sites
from gnnscale.stage import search
from gnnscale.stage._bill import Bill
from gnnscale.stage.evaluate import Evaluate, model_bytes
from gnnscale.stage.fit import Fit
from gnnscale.stage.search import HELD, Search, Searching, divided
from gnnscale.train import checkpoint

FAR = 1e4
ACTS = {"act": ["relu", "elu"]}
SHORT = {"epochs": 4, "warmup": 1}


def plan(stage=None, how=None, changes=None, **chosen):
    """A toy composition that searches; ``stage`` are options of the search, ``how`` of mixed."""
    first, *rest = CATALOG.options("recipe")["search"].content["stages"]
    chosen = {"architecture": "gcn", "quantization": "mixed", "recipe": "search", **chosen}
    changes = {
        "recipe": {"stages": [{**first, **SHORT, **(stage or {})}, *rest]},
        **(changes or {}),
    }
    if how:
        changes["quantization"] = how
    return toy(changes, **chosen)


def built(folder, stage=None, how=None, changes=None, **chosen):
    """(run, its search stage), the validation split divided."""
    checked = plan(stage, how, changes, **chosen)
    run, how_ = compose.build(checked, 0, folder), compose.stages(checked)[0]
    run.read(divided(run.data, how_.share, run.seed))
    return run, how_


def opened(folder, stage=None, how=None, changes=None, **chosen):
    """(run, stage, model in which everything is open), with some theta."""
    run, how_ = built(folder, stage, how, changes, **chosen)
    space = how_.space
    values = [{}]
    for name, each in space.items():
        values = [{**v, name: e} for v in values for e in each]
    mixed = how_.mixed(run, values)
    torch.manual_seed(1)
    for choice in choices(mixed):
        torch.nn.init.normal_(choice.theta)
    return run, how_, mixed, values


def harden(mixed):
    """Gates that are one-hot at the best options."""
    for choice in choices(mixed):
        best = choice.best
        with torch.no_grad():
            choice.theta.fill_(-FAR)
            choice.theta[best] = FAR


def chosen(mixed, values):
    return {"layers": search.chosen_layers(mixed, values), "bits": search.chosen_bits(mixed)}


def logits(run, model=None):
    model = run.model if model is None else model
    return run.inference(model, run.valid_data, torch.arange(run.valid_data.items), run.device)


def result(folder):
    return json.loads((folder / "seed-0/search.json").read_text())


# -- what is searched is what is chosen ------------------------------------------------------------


CASES = {
    "gcn": {},
    "operations": {"stage": {"space": {"act": ["relu", "elu"], "norm": ["none", "batch"]}}},
    "float": {"stage": {"space": ACTS}, "quantization": "none"},
    "heads": {"stage": {"space": {"heads": [1, 4]}}, "architecture": "gat"},
    "softmax_or_max": {"stage": {"space": {"aggr": ["softmax", "max"]}}, "architecture": "gen"},
    "graphs": {"sampler": "graphs", "architecture": "gin"},
}


@pytest.mark.parametrize("case", CASES)
def test_one_hot_gates_are_the_chosen_network_and_its_cost_is_counted(tmp_path, case):
    run, stage, mixed, values = opened(tmp_path, **CASES[case])
    soft = logits(run, mixed)
    harden(mixed)
    model = stage.settled(run, chosen(mixed, values))
    weights = {}
    for name, value in mixed.state_dict().items():
        steps, layer = name.split("."), getattr(mixed.layers[0], "choice", None)
        if layer is not None and steps[0] == "layers" and steps[2] == "options":
            best = mixed.layers[int(steps[1])].choice.best
            name = ".".join(steps[:2] + steps[4:]) if int(steps[3]) == best else None
        if name is not None and name in model.state_dict():
            weights[name] = value
    model.load_state_dict(weights, strict=False)
    mixed.train()(batch(run, mixed))  # ranges of both
    model.train()(batch(run, model))
    assert torch.equal(logits(run, mixed), logits(run, model))
    assert not torch.equal(logits(run, mixed), soft)
    ours, theirs = Bill(run, mixed, run.data), Bill(run, model, run.data)
    for kind in ("weight", "activation"):
        for cost in ("size", "latency"):
            assert ours.bits(kind, cost) == theirs.bits(kind, cost) > 0
        assert ours.width(kind) == theirs.width(kind)
    assert -(-int(ours.bits("weight")) // 8) == model_bytes(model)


def batch(run, model):
    """The whole graph, dropout silenced where the order of draws differs."""
    for module in model.modules():
        for name in ("drop_in", "drop_out", "attention_dropout", "p"):
            if hasattr(module, name):
                setattr(module, name, 0.0)
    data = run.inference.view(run.valid_data)
    if data.offsets is None:
        return run.inference.whole(model, data, run.device)
    return next(run.sampler.batches(data, model.need, torch.arange(data.items)))


def test_bits_of_a_gcn_by_hand(tmp_path):
    run, _, mixed, _ = opened(tmp_path, changes={"architecture": {"hidden": 16}})
    harden(mixed)
    bits = search.chosen_bits(mixed)
    bill, n, edges = Bill(run, mixed, run.data), 60, run.data.graph.n_edges
    assert bill.bits("weight") == (
        8 * 16 * bits["layers.0.conv.q_weight"] + 16 * 3 * bits["layers.1.conv.q_weight"]
        + 32 * (16 + 3)
    )  # fmt: skip
    # 8 -> 16 aggregates first, 16 -> 3 multiplies first
    width = {"0.q_message": 8, "0.q_aggregate": 8, "0.q_input": 8, "0.q_update": 16,
             "1.q_input": 16, "1.q_message": 3, "1.q_aggregate": 3, "1.q_update": 3}  # fmt: skip
    size = latency = 0
    for name, d in width.items():
        layer, site = name.split(".")
        b = bits[f"layers.{layer}.conv.{site}"]
        size += b * n * d
        latency += b * d * (n + (edges if site == "q_message" else n))
    assert bill.bits("activation") == size
    assert bill.bits("activation", "latency") == latency
    assert bill.bits("weight", "latency") == bill.bits("weight")


@pytest.mark.parametrize("cost", ["size", "latency"])
@pytest.mark.parametrize("per_block", [True, False])
def test_the_price_s_gradient_is_that_of_finite_differences(tmp_path, cost, per_block):
    run, _, mixed, _ = opened(tmp_path, {"space": ACTS | {"norm": ["none", "batch"]}})
    bill = Bill(run, mixed, run.data)
    theta = [choice.double().theta for choice in choices(mixed)]
    grads = torch.autograd.grad(bill.price(cost, per_block), theta)
    assert all(g.abs().max() > 0 for g in grads)
    for t, g in list(zip(theta, grads, strict=True))[::5]:
        for i in range(len(t)):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    t[i] += step
                    ends.append(bill.price(cost, per_block).item())
                    t[i] -= step
            assert abs((ends[0] - ends[1]) / 2e-5 - g[i].item()) < 1e-8


def test_price_by_hand(tmp_path):
    how = {"roles": [], "weight_bits": [2, 8]}
    run, _, mixed, _ = opened(tmp_path, how=how, changes={"architecture": {"hidden": 16}})
    first, second = (c.gates.double() for c in choices(mixed))
    bits = [2 * g[0] + 8 * g[1] for g in (first, second)]
    bill = Bill(run, mixed, run.data)
    torch.testing.assert_close(
        bill.price("size", True), ((bits[0] / 8 + bits[1] / 8) / 2).log().detach(),
        check_dtype=False,
    )  # fmt: skip
    torch.testing.assert_close(
        bill.price("size", False), (128 * bits[0] + 48 * bits[1]).log().detach()
    )


def test_nothing_but_cost_takes_the_cheapest_options(tmp_path):
    gamma = {"gamma": 1e9, "epochs": 8, "lr": 0.5}
    train(plan({**gamma, "space": {"act": ["prelu", "relu"]}}), tmp_path)
    found = result(tmp_path)["model"]
    assert found["layers"][0] == {"act": "relu"}, "a parameter less"
    assert found["layers"][1] == {"act": "prelu"}, "the last layer has neither: the first of equals"
    assert {b for n, b in found["bits"].items() if "weight" in n} == {2}
    assert {b for n, b in found["bits"].items() if "weight" not in n} == {4}


def test_float_everywhere_is_a_search_of_operations_alone(tmp_path):
    stage = {"gamma": 0.0, "space": {"act": ["relu", "elu", "gelu"]}}
    how = {"weight_bits": [32], "activation_bits": [32], "attention_bits": [32]}
    (ours,) = train(plan(stage, how), tmp_path / "float")
    (theirs,) = train(plan(stage, quantization="none"), tmp_path / "none")
    a, b = result(tmp_path / "float"), result(tmp_path / "none")
    assert a == b
    assert a["model"]["bits"] is None
    assert len(a["probabilities"]) == 2
    assert max(abs(p - 1 / 3) for _, p in a["probabilities"]["layers.0"]) > 1e-3
    assert ours.metric == theirs.metric
    assert ours.latency_ms is not None


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["full", "saint", "gas"])
def test_one_option_everywhere_is_plain_quantized_training(tmp_path, sampler):
    how = {"weight_bits": [4], "activation_bits": [6], "attention_bits": [6]}
    (ours,) = train(plan(how=how, sampler=sampler), tmp_path / "mixed")
    changes = {"quantization": {"weight_bits": 4, "activation_bits": 6}}
    run = compose.build(toy(changes, quantization="qat", architecture="gcn", sampler=sampler), 0,
                        tmp_path / "qat")  # fmt: skip
    run.read(divided(run.data, 0.5, 0))
    Fit()(run)
    Evaluate(0.0)(run)
    a = checkpoint.load(tmp_path / "mixed/seed-0/checkpoint.pt")
    b = checkpoint.load(tmp_path / "qat/checkpoint.pt")
    assert a["best"].keys() == b["best"].keys()
    assert all(torch.equal(a["best"][name], b["best"][name]) for name in a["best"])
    record = json.loads((tmp_path / "qat/record.json").read_text())
    assert ours.metric["test"] == record["metric"]["test"]
    assert ours.metric["valid"] == record["metric"]["valid"]
    assert ours.model_bytes == record["model_bytes"]
    assert result(tmp_path / "mixed")["probabilities"] == {}, "there was nothing to search"


class Watch(Searching):
    """Notes theta, weights and buffers around every step of either."""

    log: list

    def loss(self, key):
        self.log.append(("theta", self.snapshot(), key.epoch))
        return super().loss(key)

    def snapshot(self):
        state = {k: v.clone() for k, v in self.model.state_dict().items()}
        mine = {k: v for k, v in state.items() if k.endswith("theta")}
        return mine, {k: v for k, v in state.items() if k not in mine}

    def step(self, batch):
        before = self.snapshot()
        super().step(batch)
        self.log.append(("done", before, self.snapshot(), batch.key[1]))


def test_weights_and_theta_take_turns_and_the_warm_up_leaves_theta_alone(tmp_path, monkeypatch):
    Watch.log = []
    monkeypatch.setattr(search, "Searching", Watch)
    run, stage, mixed, _ = opened(tmp_path, {"epochs": 4, "warmup": 2, "space": ACTS})
    stage.train(run, mixed)
    assert [(what, rest[-1]) for what, *rest in Watch.log] == [
        ("done", 0), ("done", 1), ("theta", 2), ("done", 2), ("theta", 3), ("done", 3)
    ]  # fmt: skip
    warm = [entry for entry in Watch.log if entry[0] == "done"][:2]
    for _, (theta, weights), (later, moved), _ in warm:
        assert all(torch.equal(theta[k], later[k]) for k in theta)
        assert any(not torch.equal(weights[k], moved[k]) for k in weights)
    (_, (theta, weights), _), (_, _, (later, moved), _) = Watch.log[2:4]
    assert all(not torch.equal(theta[k], later[k]) for k in theta), "every choice moves"
    still = [k for k in weights if "q_weight" not in k]  # whose ranges are those of the weights
    assert all(torch.equal(weights[k], moved[k]) for k in still), "weights and ranges do not"


def test_the_nodes_that_decide_are_not_those_that_select(tmp_path):
    run, _ = built(tmp_path)
    whole = compose.build(plan(), 0, tmp_path).data.splits["valid"]
    held, rest = run.data.splits[HELD], run.data.splits["valid"]
    assert len(held) == len(rest) == 9
    assert torch.equal(torch.cat([held, rest]).sort().values, whole.sort().values)
    other = divided(run.data.with_(splits={**run.data.splits, "valid": whole}), 0.5, 1)
    assert not torch.equal(other.splits[HELD], held), "the seed chooses"

    def outcome(name, rows):
        """The search's result and the training's metrics under other labels of some nodes."""
        checked = plan({"space": ACTS, "epochs": 3})
        run, stages = compose.build(checked, 0, tmp_path / name), compose.stages(checked)
        y = run.data.y.clone()
        y[rows] = (y[rows] + 1) % 3
        run.read(run.data.with_(y=y))
        stages[0](run)
        stages[1](run)
        found = json.loads((run.folder / "search.json").read_text())
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()
        scores = [json.loads(s)["valid"] for s in lines]
        return found["probabilities"], found["model"], scores

    plain = outcome("plain", torch.empty(0, dtype=torch.int64))
    by_rest, by_held = outcome("rest", rest), outcome("held", held)
    assert by_rest[:2] == plain[:2], "labels that select have no part in the search"
    assert by_rest[2] != plain[2]
    assert by_held[0] != plain[0], "labels that decide have one"
    test = outcome("test", run.data.splits["test"])
    assert test == plain


def test_selection_scores_only_the_rest(tmp_path):
    how = {"weight_bits": [8], "activation_bits": [8], "attention_bits": [8]}
    (record,) = train(plan(how=how), tmp_path)
    run = compose.build(plan(how=how), 0, tmp_path / "again")
    compose.take_up(plan(how=how), run, tmp_path / "seed-0")
    rest = run.data.splits["valid"]
    assert run.data.task.score(logits(run)[rest], run.data.y[rest]) == record.metric["valid"]
    best = max(json.loads(s)["valid"]
               for s in (tmp_path / "seed-0/metrics.jsonl").read_text().splitlines())  # fmt: skip
    assert best == record.metric["valid"]


def test_theta_inside_reversible_layers_has_its_gradient(tmp_path):
    found = []
    for keep in (True, False):
        sizes = {"hidden": 16, "depth": 3, "dropout": 0.0, "keep_activations": keep}
        run, _, mixed, _ = opened(tmp_path, architecture="reversible",
                                  changes={"architecture": sizes})  # fmt: skip
        mixed.train()(batch(run, mixed))
        rows = run.data.splits[HELD]
        loss = run.inference.logits(mixed.eval(), run.data, rows, run.device).square().sum()
        theta = {c.name: c.theta for c in choices(mixed) if "steps" in c.name}
        found.append(dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True)))
    kept, recomputed = found
    assert len(kept) > 10
    for name, grad in kept.items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(recomputed[name], grad, rtol=1e-3, atol=1e-4)


# -- resuming --------------------------------------------------------------------------------------


class Killed(RuntimeError):
    pass


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(plan, record, folder) of a whole run, made once for each sampler."""
    done = {}

    def make(sampler):
        if sampler not in done:
            checked = plan({"space": {} if sampler == "gas" else ACTS}, sampler=sampler)
            folder = tmp_path_factory.mktemp(sampler)
            (record,) = train(checked, folder)
            done[sampler] = checked, record, folder
        return done[sampler]

    return make


@pytest.mark.parametrize(
    ("sampler", "moment"),
    [("full", "searching"), ("saint", "searching"), ("gas", "searching"), ("full", "found"),
     ("gas", "found"), ("full", "fitting")],
)  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_end(
    tmp_path, monkeypatch, uninterrupted, sampler, moment
):
    checked, whole, there = uninterrupted(sampler)
    with monkeypatch.context() as patch:
        if moment == "found":
            patch.setattr(Search, "settled", refuse)
        else:
            owner = Searching if moment == "searching" else compose.Run
            close = owner.close_epoch

            def closing(self, train_s):
                over = close(self, train_s)
                searching = moment == "searching"
                there = searching or type(self) is not Searching
                if there and self.epoch == (3 if searching else 1):
                    raise Killed
                return over

            patch.setattr(owner, "close_epoch", closing)
        with pytest.raises(Killed):
            train(checked, tmp_path / "killed")
    (again,) = train(checked, tmp_path / "killed")
    assert result(tmp_path / "killed") == result(there)
    assert again.metric == whole.metric
    a, b = (checkpoint.load(f / "seed-0/checkpoint.pt") for f in (there, tmp_path / "killed"))
    assert all(torch.equal(a["best"][name], b["best"][name]) for name in a["best"])
    assert a["kept"] == b["kept"]


def refuse(*_):
    raise Killed


def test_a_finished_run_predicts_and_is_scored_again_as_what_was_chosen(tmp_path):
    checked = plan({"space": ACTS, "epochs": 6})
    (record,) = train(checked, tmp_path)
    run = compose.build(checked, 0, tmp_path / "again")
    compose.take_up(checked, run, tmp_path / "seed-0")
    test = run.data.splits["test"]
    assert run.data.task.score(logits(run)[test], run.data.y[test]) == record.metric["test"]
    bits = result(tmp_path)["model"]["bits"]
    assert {n: s.quantizer.bits for n, s in sites(run.model)} == bits
    assert not list(choices(run.model))
    assert not any(isinstance(m, MixedLayer) for m in run.model.modules())
    assert record.model_bytes == model_bytes(run.model)
    assert any("layers.0.conv.q_weight" in note for note in record.notes)
    again, seeds = finished.rescoring(tmp_path, [], CATALOG, frozenset())
    (scored,) = train(again, tmp_path / "scored")
    assert seeds == [0]
    assert scored.metric == record.metric


def test_layers_may_choose_differently(tmp_path):
    run, _ = built(tmp_path, quantization="none", stage={"space": ACTS})
    model = run.make_model(layers=[{"act": "elu"}, {"act": "relu"}])
    plain = run.make_model()
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.manual_seed(0)
    one = run.make_model(layers=[{"act": "relu"}] * 2)
    torch.manual_seed(0)
    same = run.make_model()
    assert all(map(torch.equal, one.state_dict().values(), same.state_dict().values()))
    assert [type(layer.act).__name__ for layer in model.layers] == ["ELU", "Identity"]


# -- refusals --------------------------------------------------------------------------------------


STEM = {"architecture": {"stem": True}}


@pytest.mark.parametrize(
    ("space", "said", "chosen"),
    [
        ({"hidden": [8, 16]}, "put out", {}),
        ({"hidden": [8, 16]}, "alters the encoder or the head", {"changes": STEM}),
        ({"depth": [2, 3]}, "needs other steps", {}),
        ({"aggr": ["mean", "max"]}, "needs other steps", {"architecture": "sage"}),
        ({"jump": ["none", "max"]}, "acts elsewhere than in the layers", {"changes": STEM}),
        ({"act": ["relu", "rleu"]}, "architecture.act=rleu", {}),
        ({"atc": ["relu", "elu"]}, "did you mean 'act'", {}),
        ({"act": ["relu", "elu"]}, "no message-passing layers", {"architecture": "mlp"}),
        ({"act": ["relu", "elu"]}, "sampler=gas keeps", {"sampler": "gas"}),
        ({"norm": ["batch", "layer"]}, "leaves values to layers above",
         {"changes": {"architecture": {"stem": True, "virtual_node": True}}}),
        ({"norm": ["none", "graph"]}, "architecture=gcn needs|needs 'layers'",
         {"inference": "layerwise"}),
        ({"act": []}, "has no values", {}),
    ],
)  # fmt: skip
def test_spaces_that_can_not_be_mixed_are_refused(tmp_path, space, said, chosen):
    with pytest.raises(UsageError, match=said):
        train(plan({"space": space}, **chosen), tmp_path)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_halves_of_the_validation_split_have_nodes(tmp_path, share):
    with pytest.raises(UsageError, match="each needs one"):
        train(plan({"share": share}), tmp_path)


def test_a_draw_of_items_keeps_runs_together():
    rows = torch.arange(100)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    found = search.some(rows, 20, 5, search.Key(0, "x"))
    assert len(found) == 20
    runs = found.sort().values.view(-1, 5)
    assert torch.equal(runs // 5, (runs[:, :1] // 5).expand(-1, 5))
    assert not torch.equal(found, search.some(rows, 20, 5, search.Key(1, "x")))
