import pytest
import torch
from compositions import CATALOG, toy, train

from gnnscale import finished
from gnnscale.bench.command import Words
from gnnscale.bench.workloads import Unfit, asked
from gnnscale.core.errors import UsageError
from gnnscale.core.measurement import Measurement
from gnnscale.train import checkpoint

FIELDS = {
    "n", "mean_ms", "std_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms",
    "p50_ci", "p99_ci", "throughput_per_s", "stages_ms", "size", "complete", "energy_j",
}  # fmt: skip


@pytest.mark.process
def test_a_composition_is_measured_with_fresh_weights_and_says_so(measured):
    found, stored, path = measured(
        "sampler=neighbor", "sampler.batch_size=7", "bench.roofline=true"
    )
    assert path.parts[:2] == ("runs", "bench")
    assert path.parts[2] == "synthetic-neighbor-gcn"
    assert Measurement.load(path).workloads == stored["workloads"]
    assert found.weights == "fresh"
    assert any("fresh, not trained" in note for note in found.notes)
    assert list(stored["workloads"]) == ["full", "query_1", "query_4", "step", "epoch"]
    for scopes in stored["workloads"].values():
        assert list(scopes) == ["model", "end2end"]
        for entry in scopes.values():
            assert set(entry) == FIELDS
            assert entry["n"] == 3
            assert entry["p99_ms"] is None
            assert 0 < entry["p50_ms"] <= entry["max_ms"]
    stages = {n: list(s["end2end"]["stages_ms"]) for n, s in stored["workloads"].items()}
    assert stages["full"] == ["prepare", "forward", "result"]
    assert stages["query_4"] == ["sample", "gather", "copy", "forward", "result"]
    for name in ("step", "epoch"):
        assert set(stages[name]) == {"sample", "transfer", "forward", "backward", "optimizer"}
        assert "sample" not in stored["workloads"][name]["model"]["stages_ms"]
    assert stored["workloads"]["epoch"]["end2end"]["size"] == {"seeds": 18, "steps": 3}
    assert stored["workloads"]["query_4"]["model"]["size"]["seeds"] == 4
    assert stored["cost"]["parameters"] == 8 * 64 + 64 + 64 * 3 + 3
    assert stored["roofline"]["kinds"]["GCNConv"]["bound_ms"] > 0
    assert stored["data"]["nodes"] == 60
    assert stored["environment"]["threads"] == 1
    assert stored["config"]["architecture"]["hidden"] == 64
    assert "bench" not in stored["config"]
    assert {"build", "prepare", "full/model"} <= set(stored["cold_start_ms"])
    assert stored["calibration"]["n"] > 0
    assert set(stored["energy_j"].values()) == {None} or all(stored["energy_j"].values())
    assert set(stored["memory"]) == {"analytic_bytes"}


@pytest.mark.process
@pytest.mark.parametrize("inside", ["", "seed-1", "seed-1/checkpoint.pt"])
def test_a_run_folder_a_seed_and_a_checkpoint(measured, finished_run, inside):
    before = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if "bench" not in str(p)}
    found, _, path = measured(f"run={finished_run / inside}", "bench.workloads=[full,step]",
                              bare=True)  # fmt: skip
    seed = 1 if inside else 0
    assert found.seed == seed
    assert path.parent == finished_run / f"seed-{seed}" / "bench"
    assert found.weights == str(finished_run / f"seed-{seed}")
    assert not any("fresh" in note for note in found.notes)
    after = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if "bench" not in str(p)}
    same = {p: t for p, t in after.items() if p.is_file()}
    assert same == {p: t for p, t in before.items() if p.is_file()}  # nothing of the run moved


def test_an_integer_model_answers_and_is_not_trained(measured, tmp_path):
    trained = toy({"hardware": {"threads": 1}}, quantization="qat", architecture="egc")
    train(trained, tmp_path / "run")
    folder, _ = finished.convert(tmp_path / "run", None, [], CATALOG, frozenset())
    found, stored, _ = measured(f"run={folder}", bare=True)
    assert list(stored["workloads"]) == ["full", "query_1", "query_4"]
    for name in ("step", "epoch"):
        assert f"{name}: not measured, an integer model is not trained" in found.notes


def test_seed_picks_a_seed_of_a_run(measured, finished_run):
    found, _, _ = measured(f"run={finished_run}", "seed=1", "bench.workloads=[full]", bare=True)
    assert found.seed == 1
    with pytest.raises(UsageError, match=r"seed=7: not finished.*seed=0, seed=1"):
        measured(f"run={finished_run}", "seed=7", bare=True)


def test_the_selected_weights_are_measured(finished_run, tmp_path):
    from gnnscale.bench.subject import build, originate

    origin = originate(finished_run, [], CATALOG, frozenset())
    subject = build(origin, tmp_path)
    best = checkpoint.load(finished_run / "seed-0" / "checkpoint.pt")["best"]
    for name, value in subject.run.model.state_dict().items():
        assert torch.equal(value, best[name])


def test_training_workloads_put_the_weights_back(measured, monkeypatch):
    from gnnscale.bench import measure

    seen = []
    monkeypatch.setattr(measure.Session, "assemble", spy(measure.Session.assemble, seen))
    measured("bench.workloads=[step]")
    (before, after) = seen
    assert all(torch.equal(before[n], after[n]) for n in before)


def spy(assemble, seen):
    def wrapped(self, k, *rest):
        from gnnscale.core.random import Key

        run = self.subjects[k].run
        Key(run.seed, "init").seed_torch()
        bound = self.subjects[k].plan.one("architecture")
        fresh = bound.make(run.data.shape)
        seen.append(fresh.state_dict())
        seen.append(run.model.state_dict())
        assert "optimizer" in vars(run)
        return assemble(self, k, *rest)

    return wrapped


def test_a_second_composition_is_measured_in_turn(measured):
    found, stored, _ = measured("bench.workloads=[full,step]", vs=["architecture=mlp"])
    (versus,) = stored["versus"]
    assert versus["label"] == "vs architecture=mlp"
    assert versus["measurement"]["choices"]["architecture"] == "mlp"
    assert versus["measurement"]["config"]["dataset"] == stored["config"]["dataset"]
    assert found.choices["architecture"] == "gcn"
    for name in ("full", "step"):
        for scope in ("model", "end2end"):
            ratio = versus["ratios"][name][scope]
            assert ratio["n"] == 3
            assert ratio["p5"] <= ratio["median"] <= ratio["p95"]
            assert versus["measurement"]["workloads"][name][scope]["n"] == 3
    assert versus["measurement"]["cost"]["message_macs"] == 0


def test_a_run_against_a_composition_and_a_run(measured, finished_run, tmp_path):
    other = tmp_path / "mlp"
    train(toy({"hardware": {"threads": 1}}, architecture="mlp"), other)
    found, _, _ = measured(f"run={finished_run}", "bench.workloads=[full]", bare=True,
                           vs=[f"run={other}"])  # fmt: skip
    (versus,) = found.versus
    assert versus["measurement"]["weights"] == str(other / "seed-0")
    found, _, _ = measured(f"run={finished_run}", "bench.workloads=[full]", bare=True,
                           vs=["inference=layerwise"])  # fmt: skip
    (versus,) = found.versus
    assert versus["measurement"]["weights"] == found.weights
    assert versus["measurement"]["choices"]["inference"] == "layerwise"


def test_fake_quantization_is_not_timed_but_counted(measured):
    with pytest.raises(UsageError, match=r"quantization=qat: fake.*quantization=none"):
        measured("quantization=qat")
    with pytest.raises(UsageError, match="quantization=qat"):
        measured(vs=["quantization=qat"])
    found, _, _ = measured("quantization=qat", "bench.workloads=[]")
    plain, _, _ = measured("bench.workloads=[]")
    assert found.workloads == {}
    assert found.roofline is None
    assert found.cost["macs"] == plain.cost["macs"] > 0
    assert found.cost["bytes"] < plain.cost["bytes"]


@pytest.mark.process
def test_a_distilled_student_needs_its_trained_teacher(measured, tmp_path):
    words = ("recipe=distill", "distillation=logit", "architecture=mlp", "bench.workloads=[step]")
    found, _, _ = measured(*words)
    assert found.workloads == {}
    assert any(note.startswith("step: not measured, the recipe's teacher") for note in found.notes)
    folder = tmp_path / "student"
    changes = {"hardware": {"threads": 1}}
    train(toy(changes, recipe="distill", distillation=["logit"], architecture="mlp"), folder)
    found, _, _ = measured(f"run={folder}", "bench.workloads=[step]", bare=True)
    assert found.workloads["step"]["model"]["n"] == 3


def test_a_batch_larger_than_the_test_split_is_not_made_up(measured):
    found, _, _ = measured("bench.queries=[1,500]", "bench.workloads=[query]")
    assert list(found.workloads) == ["query_1"]
    assert any("query_500: not measured, asks for 500 test nodes" in n for n in found.notes)


def test_asked_nodes_are_test_nodes_and_seeded(sixty):
    lists = asked(sixty, 5, 0, 50)
    test = set(sixty.splits["test"].tolist())
    assert all(len(set(nodes.tolist())) == 5 and set(nodes.tolist()) <= test for nodes in lists)
    again, other = asked(sixty, 5, 0, 50), asked(sixty, 5, 1, 50)
    assert all(torch.equal(a, b) for a, b in zip(lists, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(lists, other, strict=True))
    assert set(torch.cat(lists).tolist()) == test
    with pytest.raises(Unfit, match="21 test nodes"):
        asked(sixty, 21, 0)


def test_the_time_limit_is_told(measured):
    found, _, _ = measured("bench.workloads=[full]", "bench.requests=1000000", "bench.limit_s=0.05")
    assert not found.workloads["full"]["model"]["complete"]
    assert any("stopped by bench.limit_s=0.05" in note for note in found.notes)


def test_a_trace_of_each_workload(measured, tmp_path):
    measured("bench.workloads=[full]", "bench.scopes=[model]", f"bench.trace={tmp_path / 'trace'}")
    text = (tmp_path / "trace" / "full-model-a.json").read_text()
    assert "aten::mm" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench.requests=0"], r"bench\.requests=0: .*greater than or equal to 1"),
        (["bench.request=5"], r"bench\.request: key 'request' does not exist \(did you mean"),
        (["bench=qick"], "bench 'qick' does not exist"),
        (["bench.workloads=[ful]"], r"bench\.workloads=\['ful'\]: .*'full'"),
        (["bench.queries=[1,1]"], r"bench\.queries=\[1, 1\]: names something twice"),
        (["peer=jax"], "peer 'jax' does not exist"),
        (["architecture.hidden=0"], r"architecture\.hidden=0"),
        (["run=nowhere"], "nowhere: not a run folder"),
        (["run=nowhere/checkpoint.pt"], "no such checkpoint"),
    ],
)
def test_what_is_refused(measured, words, said):
    with pytest.raises(UsageError, match=said):
        measured(*words, bare=words[0].startswith("run="))


def test_a_run_keeps_what_it_was_trained_with(measured, finished_run):
    with pytest.raises(UsageError, match="architecture: belongs to what run="):
        measured(f"run={finished_run}", "architecture=gat", bare=True)


def test_the_protocol_holds_for_both_sides(measured):
    with pytest.raises(UsageError, match="type them before --vs"):
        measured(vs=["bench.requests=5"])


def test_words_are_sorted():
    words = Words(["bench=quick", "+bench.seconds=2", "run='a b'", "peer=dgl", "sampler=saint"])
    assert words.bench == ["bench=quick", "+bench.seconds=2"]
    assert (words.run, words.peer, words.typed) == ("a b", "dgl", ["sampler=saint"])


GRAPHS = (
    "dataset=synthetic_graphs", "dataset.graphs=40", "dataset.nodes_max=12", "sampler=graphs",
    "sampler.batch_size=4", "architecture=gine", "hardware.threads=1",
)  # fmt: skip


@pytest.mark.process
def test_queries_of_whole_graphs(measured):
    """A query asks for so many test graphs; a pass reads all of them."""
    found, stored, _ = measured(*GRAPHS, "bench.queries=[1,6,500]", bare=True)
    assert set(found.workloads) == {"full", "query_1", "query_6", "step", "epoch"}
    assert any("query_500: not measured, asks for 500 test graphs" in n for n in found.notes)
    query = stored["workloads"]["query_6"]
    assert query["end2end"]["size"]["seeds"] == query["model"]["size"]["seeds"] == 6
    assert 6 * 10 <= query["end2end"]["size"]["nodes"] <= 6 * 12
    assert list(query["end2end"]["stages_ms"]) == ["sample", "copy", "forward", "result"]
    assert stored["workloads"]["full"]["end2end"]["size"]["seeds"] == 40
    assert (stored["data"]["level"], stored["data"]["items"]) == ("graph", 40)


@pytest.mark.process
def test_queries_where_predictions_are_the_samplers_own(measured):
    """PPRGo and shaDow answer from their own extraction, as gnnscale predict does."""
    for words in (("sampler=ppr", "architecture=pprgo"), ("sampler=shadow_khop",)):
        found, stored, _ = measured(*words, "bench.workloads=[query]")
        assert set(found.workloads) == {"query_1", "query_4"}
        assert stored["workloads"]["query_4"]["end2end"]["size"]["seeds"] == 4


@pytest.mark.parametrize(("words", "match"), [
    (("architecture=gcn", "architecture.stem=true"), "not on whole graphs"),
    (("architecture=gcn", "architecture.stem=true", "architecture.jump=max"),
     r"architecture\.jump=max makes another one; type architecture\.jump=none"),
])  # fmt: skip
def test_what_a_peer_can_not_build_is_refused(measured, words, match):
    with pytest.raises(UsageError, match=match):
        measured(*GRAPHS, *words, "peer=dgl", bare=True)
