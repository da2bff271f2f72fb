import json

import pytest
import torch
from compositions import toy, train

from gnnscale import session
from gnnscale.core.errors import UsageError
from gnnscale.core.ops import full
from gnnscale.dataset.synthetic import Synthetic
from gnnscale.stage.teacher import kept, tabulate

CPU = torch.device("cpu")


def finished(tmp_path, **chosen):
    """(plan, run) of a trained toy composition."""
    changes = chosen.pop("changes", {})
    checked = toy(changes, **chosen)
    train(checked, tmp_path / "run")
    return session.reopened(checked, 0, tmp_path / "run")


@pytest.mark.parametrize(
    "chosen",
    [
        {"architecture": "gcn", "changes": {"architecture": {"depth": 3}}},
        {"architecture": "gcn", "inference": "layerwise"},
        {"architecture": "appnp", "inference": "layerwise"},
        {"architecture": "mlp"},
        {"architecture": "sgc", "sampler": "precompute"},
        {"architecture": "sage", "sampler": "shadow_khop"},
        {"architecture": "sage", "sampler": "neighbor"},
    ],
    ids=str,
)
def test_rows_are_what_the_model_says_of_each_node(chosen, tmp_path):
    run = finished(tmp_path, **dict(chosen))
    taps = [(-1, "items"), (0, "items")]
    said = tabulate(run, run.train_data, taps, CPU)
    logits = run.inference(run.model, run.data, torch.arange(60), CPU)
    torch.testing.assert_close(said.logits, logits)
    last = said.hidden[-1, "items"]
    head = run.model.eval().head
    if not isinstance(head, torch.nn.Identity):
        torch.testing.assert_close(full(head(last)), logits)
    one = tabulate(run, run.train_data, [(-1, "nodes")], CPU)
    assert torch.equal(one.hidden[-1, "nodes"], last), "at node level items are nodes"
    if "inference" in chosen:
        run.inference = session.reopened(
            toy({}, architecture=chosen["architecture"]), 0, tmp_path / "run"
        ).inference
        other = tabulate(run, run.train_data, taps, CPU)
        for tap in taps:
            torch.testing.assert_close(other.hidden[tap], said.hidden[tap])


def test_graphs_have_rows_of_their_own_and_of_their_nodes(tmp_path):
    run = finished(
        tmp_path, architecture="gin", sampler="graphs",
        changes={"architecture": {"stem": True}, "sampler": {"batch_size": 7, "readout": "sum"}},
    )  # fmt: skip
    said = tabulate(run, run.train_data, [(-1, "items"), (-1, "nodes"), (0, "nodes")], CPU)
    pooled, rows = said.hidden[-1, "items"], said.hidden[-1, "nodes"]
    assert pooled.shape == (run.data.items, 64)
    assert rows.shape == said.hidden[0, "nodes"].shape == (run.data.nodes, 64)
    owner = torch.repeat_interleave(torch.arange(run.data.items), run.data.offsets.diff())
    want = torch.zeros(run.data.items, 64).index_add(0, owner, rows)
    torch.testing.assert_close(pooled, want)
    torch.testing.assert_close(run.model.head(pooled), said.logits)


@pytest.mark.parametrize("rows", ["items", "nodes"])
@pytest.mark.parametrize("term", ["gcrd", "fitnet", "attention", "gsp", "lsp"])
def test_students_of_graphs(term, rows, tmp_path):
    if term == "lsp" and rows == "items":
        pytest.skip("always of nodes")
    teacher = {"run": None, "architecture": "gin",
               "overrides": ["trainer.epochs=2", "architecture.stem=true"]}  # fmt: skip
    checked = toy(
        {"teacher": teacher, "architecture": {"stem": True, "hidden": 8}},
        architecture="gcn", sampler="graphs", distillation=[term], recipe="distill",
    )  # fmt: skip
    assert checked.teacher.choices["sampler"] == "graphs"
    arguments = checked.parts["distillation"][0].arguments
    arguments.update({"rows": rows} if "rows" in arguments else {})
    (record,) = train(checked, tmp_path)
    arguments["weight"] = 0.0
    (alone,) = train(checked, tmp_path / "plain")
    first, second = (
        json.loads((tmp_path / name / "seed-0/metrics.jsonl").read_text().splitlines()[0])["loss"]
        for name in (".", "plain")
    )
    assert first > second, "the term adds to the loss"
    plain = toy({"architecture": {"stem": True, "hidden": 8}}, architecture="gcn", sampler="graphs")
    (bare,) = train(plain, tmp_path / "bare")
    assert record.parameters == alone.parameters == bare.parameters, "heads are not the student's"


def test_tables_are_kept_whole_or_not_at_all(tmp_path):
    teacher = {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=1"]}
    train(toy({"teacher": teacher}, architecture="mlp", distillation=["gcrd"], recipe="distill"),
          tmp_path)  # fmt: skip
    folder = tmp_path / "seed-0/teacher"
    said = kept(folder, [(-1, "items")])
    assert said.hidden[-1, "items"].shape == (60, 64)
    assert kept(folder, [(0, "items")]) is None, "another level was asked for"
    (folder / "tables.json").unlink()
    assert kept(folder, []) is None


@pytest.mark.parametrize("sampler", ["full", "graphs"])
def test_all_is_refused_where_training_does_not_see_all(sampler, tmp_path, monkeypatch):
    teacher = {"run": None, "architecture": "mlp", "overrides": ["trainer.epochs=1"]}
    checked = toy({"teacher": teacher}, architecture="mlp", sampler=sampler,
                  distillation=["logit"], recipe="distill")  # fmt: skip
    checked.parts["distillation"][0].arguments["nodes"] = "all"
    if sampler == "full":
        (record,) = train(checked, tmp_path / "transductive")
        assert record.metric["name"] == "accuracy"
        load = Synthetic.load
        monkeypatch.setattr(Synthetic, "load", lambda self, s: load(self, s).with_(inductive=True))
    with pytest.raises(UsageError, match="nodes=all: training may not see every node"):
        train(checked, tmp_path / "refused")
