"""No preset can rot: each composes, is valid, and trains on a toy graph; published rows hold."""

import os
from pathlib import Path

import pytest
import torch
from compositions import CATALOG, GRAPHS, TOY, configuration, train

from gnnscale import compose
from gnnscale.dataset._files import Remote, locate
from gnnscale.dataset.synthetic_graphs import SyntheticGraphs

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
PRESETS = list(CATALOG.options("experiment"))


def preset(name: str, *overrides: str) -> tuple[dict, dict]:
    return compose.compose([f"experiment={name}", *overrides], CATALOG)


def chosen(name: str) -> set[str]:
    """The options a preset chooses, other than its data."""
    found = set()
    for choice in CATALOG.options("experiment")[name].content["defaults"]:
        if isinstance(choice, str):  # a preset that it starts from
            found |= set() if choice == "_self_" else chosen(choice)
        elif "override /dataset" not in choice:
            found.add(str(choice))
    return found


def with_each_option() -> list:
    """Every preset; by default those that choose an option that none before them has chosen
    (make test-processes: all)."""
    met, found = set(), []
    for name in PRESETS:
        new = chosen(name) - met
        found.append(name if new else pytest.param(name, marks=pytest.mark.process))
        met |= new
    return found


def on_a_toy(config: dict, choices: dict) -> compose.Plan:
    name = "synthetic_graphs" if choices["sampler"] == "graphs" else "synthetic"
    sizes = GRAPHS if choices["sampler"] == "graphs" else TOY["dataset"]
    toy, _ = configuration({**TOY, "dataset": sizes}, dataset=name)
    config, choices = {**config, "dataset": toy["dataset"]}, {**choices, "dataset": name}
    config["trainer"], config["seeds"] = {**config["trainer"], "epochs": 1}, 1
    if (config.get("teacher") or {}).get("run"):
        config["teacher"]["overrides"] = [*config["teacher"]["overrides"], "trainer.epochs=1"]
    for key in {"parts", "batch_parts"} & set(config["sampler"]):  # of a few nodes each
        config["sampler"][key] = min(config["sampler"][key], config["dataset"]["nodes"] // 4)
    if (config["architecture"].get("depth") or 0) > 100:  # an even number, whatever is tied
        config["architecture"]["depth"] = 8
    for stage in config["recipe"]["stages"]:
        stage.update({"graphs": 8, "steps": min(2, stage["steps"])} if "graphs" in stage else {})
        stage.update({name: 1 for name in ("epochs", "warmup") if name in stage})
    return compose.check(config, choices, CATALOG)


@pytest.mark.parametrize("name", with_each_option())
def test_every_preset_is_valid(name):
    config, choices = preset(name)
    assert compose.check(config, choices, CATALOG).one("dataset").option
    on_a_toy(config, choices)


@pytest.fixture
def kinds_of_nodes(monkeypatch):
    """Nodes of the toy graphs are of one kind each, which is what some recipes make up."""
    load = SyntheticGraphs.load

    def one_hot(self, seed):
        data = load(self, seed)
        return data.with_(x=torch.nn.functional.one_hot(data.x.argmax(1), data.x.shape[1]).float())

    monkeypatch.setattr(SyntheticGraphs, "load", one_hot)


@pytest.mark.process
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_on_a_toy_graph(name, tmp_path, request):
    config, choices = preset(name)
    if choices["recipe"].startswith("gfkd"):
        request.getfixturevalue("kinds_of_nodes")
    (record,) = train(on_a_toy(config, choices), tmp_path)
    each = {"layerwise": config["architecture"].get("depth"), "cascade": 3}  # of stages
    assert record.time_s["epochs"] == each.get(choices["recipe"], 1)


def mean_test(config: dict, choices: dict, folder: Path, seeds: int = 10) -> float:
    config["seeds"] = seeds
    records = train(compose.check(config, choices, CATALOG), folder)
    assert len(records) == seeds
    return 100 * sum(r.metric["test"] for r in records) / seeds


@pytest.fixture
def planetoid(monkeypatch):
    if "GNNSCALE_DATA" not in os.environ and SHARED.is_dir():
        monkeypatch.setenv("GNNSCALE_DATA", str(SHARED))
    try:
        locate(None, "planetoid", [Remote("ind.cora.x"), Remote("ind.citeseer.x")], False)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("gcn_cora", 81.5), ("gcn_citeseer", 70.3)])
def test_gcn_reaches_the_published_accuracy(name, published, planetoid, tmp_path):
    assert mean_test(*preset(name), tmp_path) >= published - 0.7


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("sgc_cora", 81.0), ("sgc_citeseer", 71.9)])
def test_sgc_reaches_the_published_accuracy(name, published, planetoid, tmp_path):
    assert abs(mean_test(*preset(name), tmp_path) - published) <= 1.0


@pytest.mark.slow
def test_on_digits_the_graph_helps_and_sampling_does_not_hurt(tmp_path):
    chosen = {
        "mlp": {"architecture": "mlp"},
        "gcn": {"architecture": "gcn"},
        "egc": {"architecture": "egc"},
        "saint_egc": {"architecture": "egc", "sampler": "saint"},
    }
    reached = {
        name: mean_test(*configuration({}, **options), tmp_path / name)
        for name, options in chosen.items()
    }
    assert reached["gcn"] >= reached["mlp"] + 3
    assert reached["saint_egc"] >= reached["egc"] - 1


@pytest.mark.slow
def test_a_million_nodes_and_ten_million_edges_stay_under_six_gib(tmp_path):
    config, choices = preset("saint_egc_synthetic", "++trainer.epochs=1")
    (record,) = train(compose.check(config, choices, CATALOG), tmp_path)
    assert record.data["nodes"] == 10**6
    assert record.data["edges"] > 9.9e6
    assert record.memory_mib["rss_peak"] < 6 * 1024
