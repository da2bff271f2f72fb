import json

import numpy as np
import pandas as pd
import pytest
from compositions import CATALOG, toy, train

from gnnscale import finished
from gnnscale.core.errors import UsageError


@pytest.fixture
def run(tmp_path):
    """A run on a user's graph of 24 nodes with features that are normalised by row."""
    draw = np.random.default_rng(0)
    y = np.arange(24) % 2
    for name, first in (("old", 0), ("new", 100)):
        place = tmp_path / name
        place.mkdir()
        nodes = pd.DataFrame({"id": [f"n{first + k}" for k in range(24)]})
        nodes["label"] = np.where(y, "yes", "no") if name == "old" else ""
        nodes["a"], nodes["b"] = y + draw.random(24), 1 - y + draw.random(24)
        nodes.to_csv(place / "nodes.csv", index=False)
        ends = draw.integers(0, 24, (2, 60)) + first
        edges = pd.DataFrame({"src": [f"n{k}" for k in ends[0]], "dst": [f"n{k}" for k in ends[1]]})
        edges.to_csv(place / "edges.csv", index=False)
    own = dict(CATALOG.options("dataset")["custom"].content)
    own |= {"path": str(tmp_path / "old"), "split": "shares", "normalize": "row"}
    train(toy({"dataset": own, "trainer": {"epochs": 3}}, dataset="custom"), tmp_path / "run")
    return tmp_path


def predict(run, *typed, seed=None, name="p.csv", only=None):
    made = finished.predict(run / "run", typed, seed, run / name, CATALOG, frozenset(), only)
    return pd.read_parquet(made) if name.endswith("parquet") else pd.read_csv(made)


def test_predictions_are_those_that_were_scored(run):
    table = predict(run)
    assert table.columns.tolist() == ["id", "split", "prediction", "p_no", "p_yes"]
    assert table["id"].tolist() == [f"n{k}" for k in range(24)]
    assert (table.p_no + table.p_yes).to_numpy() == pytest.approx(1, abs=1e-5)
    truth = np.where(np.arange(24) % 2, "yes", "no")
    record = json.loads((run / "run/seed-0/record.json").read_text())
    for split in ("train", "valid", "test"):
        rows = (table["split"] == split).to_numpy()
        found = (table["prediction"].to_numpy() == truth)[rows].mean()
        assert found == pytest.approx(record["metric"][split])
    pd.testing.assert_frame_equal(
        predict(run, name="p.parquet").drop(columns="split"), table.drop(columns="split"),
        check_dtype=False, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_one_part_of_the_split(part, run):
    table = predict(run)
    want = table[table["split"] == part].reset_index(drop=True)
    assert len(want)
    pd.testing.assert_frame_equal(predict(run, only=part), want)


@pytest.mark.parametrize("inference", ["full", "layerwise", "query"])
def test_an_id_that_is_asked_for_twice_has_two_lines(inference, run):
    (run / "ids.txt").write_text("n7\nn3\nn7\n")
    table = predict(run, f"inference={inference}", only=str(run / "ids.txt"))
    want = predict(run).set_index("id").loc[["n7", "n3", "n7"]].reset_index()
    pd.testing.assert_frame_equal(table, want, atol=2e-6)


@pytest.mark.parametrize("name", ["ids.txt", "ids.csv", "one.csv", "ids.tsv", "ids.parquet"])
@pytest.mark.parametrize("inference", ["full", "query"])
def test_some_ids_in_their_order(name, inference, run):
    wanted, source = ["n7", "n3", "n19"], run / name
    listed = pd.DataFrame({"weight": [1, 2, 3], "id": wanted})
    if name.endswith("parquet"):
        listed.to_parquet(source)
    elif name.endswith("txt"):
        source.write_text("n7\n n3\n\nn19\n")
    else:
        listed = listed[["id"]] if name == "one.csv" else listed
        listed.to_csv(source, index=False, sep="\t" if name.endswith("tsv") else ",")
    table = predict(run, f"inference={inference}", only=str(source))
    want = predict(run).set_index("id").loc[wanted].reset_index()
    pd.testing.assert_frame_equal(table, want, atol=2e-6)


@pytest.mark.parametrize("order", ["degree", "rcm"])
def test_nodes_numbered_anew_keep_their_names(run, order):
    config = json.loads((run / "run/config.json").read_text())
    changes = {"dataset": config["dataset"], "trainer": {"epochs": 3}}
    trained = train(
        toy({**changes, "hardware": {"order": order}}, dataset="custom"), run / "moved" / "run"
    )
    table = predict(run / "moved")
    assert table["id"].tolist() != [f"n{k}" for k in range(24)]
    assert set(table["id"]) == {f"n{k}" for k in range(24)}
    truth = np.array(["yes" if int(name[1:]) % 2 else "no" for name in table["id"]])
    for split in ("train", "valid", "test"):
        rows = (table["split"] == split).to_numpy()
        found = (table["prediction"].to_numpy() == truth)[rows].mean()
        assert found == pytest.approx(trained[0].metric[split])


def test_a_new_graph_is_prepared_as_the_old_one(run):
    new = ("dataset=custom", f"dataset.path={run}/new", "dataset.split=none")
    table = predict(run, *new)
    assert table["id"].tolist() == [f"n{100 + k}" for k in range(24)]
    same = predict(run, *new, "dataset.normalize=row")
    pd.testing.assert_frame_equal(table, same)
    assert not np.allclose(predict(run, *new, "dataset.normalize=none").p_no, table.p_no)


def test_another_schema_is_refused(run):
    path = run / "new" / "nodes.csv"
    new = ("dataset=custom", f"dataset.path={run}/new", "dataset.split=none")
    table = pd.read_csv(path)
    table.rename(columns={"b": "c"}).to_csv(path, index=False)
    with pytest.raises(UsageError, match=r"other feature columns .* 'c' where 'b' was"):
        predict(run, *new)
    table.drop(columns="b").to_csv(path, index=False)
    with pytest.raises(UsageError, match="1 features per node, the run was trained on 2"):
        predict(run, *new)


@pytest.mark.parametrize(
    ("typed", "more", "said"),
    [
        (("architecture=gat",), {}, r"can't be changed; valid: dataset, hardware"),
        ((), {"seed": 7}, "seed=7: not finished .* valid: seed=0"),
        ((), {"name": "p.txt"}, r"unknown format; valid: a name ending in \.csv or \.parquet"),
        (("dataset.normalize=zscore", "dataset.split=none"), {}, "needs training nodes"),
        ((), {"only": "tset"}, "neither a part .* valid: only=train, only=valid, only=test, or a"),
        (("dataset.split=none",), {"only": "test"}, "(has no nodes|neither a part)"),
        ((), {"only": "strange.txt"}, r"'n99' is not an id of .* \(nor are 1 more\)"),
        ((), {"only": "empty.txt"}, "holds no id"),
        ((), {"only": "no_ids.csv"}, "has no column id"),
        ((), {"only": "broken.parquet"}, "can't be read"),
    ],
)
def test_what_cannot_be_predicted_is_refused(run, typed, more, said, monkeypatch):
    monkeypatch.chdir(run)
    (run / "strange.txt").write_text("n1\nn99\nn98\n")
    (run / "empty.txt").write_text("\n")
    (run / "no_ids.csv").write_text("name,x\nn1,2\n")
    (run / "broken.parquet").write_text("no table")
    with pytest.raises(UsageError, match=said):
        predict(run, *typed, **more)
    assert not (run / "p.csv").exists()


def test_scores_of_a_finished_run_are_found_again(run):
    plan, seeds = finished.rescoring(run / "run", ["recipe=evaluate"], CATALOG, frozenset())
    assert seeds == [0]
    (again,) = train(plan, run / "again")
    first = json.loads((run / "run/seed-0/record.json").read_text())
    assert again.metric == first["metric"]
    assert again.time_s["epochs"] == 0


def test_a_distilled_student_is_scored_again_without_its_teacher(tmp_path):
    teacher = {"architecture": "gcn", "overrides": ["trainer.epochs=2"], "run": None}
    for name in ("own", "given"):
        plan = toy({"teacher": teacher}, architecture="mlp", distillation=["logit"],
                   recipe="distill")  # fmt: skip
        (first,) = train(plan, tmp_path / name)
        again, _ = finished.rescoring(tmp_path / name, ["recipe=evaluate"], CATALOG, frozenset())
        (record,) = train(again, tmp_path / f"{name}-again")
        assert record.metric == first.metric
        train(toy({}, architecture="gcn"), tmp_path / "gcn")
        teacher = {**teacher, "run": str(tmp_path / "gcn")}


@pytest.mark.parametrize("target", ["class", "density"])
def test_predictions_of_whole_graphs(target, tmp_path):
    """A line per graph; their score is the one that was recorded."""
    from compositions import toy

    changes = {"dataset": {"target": target}, "architecture": {"stem": True}}
    plan = toy(changes, sampler="graphs", architecture="gin")
    (record,) = train(plan, tmp_path / "run")
    path = finished.predict(tmp_path / "run", [], None, tmp_path / "p.csv", CATALOG, frozenset())
    table, data = pd.read_csv(path), plan.one("dataset").make().load(0)
    assert len(table) == data.items == record.data["items"] == 30
    assert record.data["level"] == "graph"
    rows = table["split"] == "test"
    truth = data.y.numpy()[rows]
    if target == "class":
        assert (table["prediction"][rows] == truth).mean() == pytest.approx(record.metric["test"])
    else:
        error = np.abs(table["value_0"][rows].to_numpy() - truth[:, 0]).mean()
        assert error == pytest.approx(record.metric["test"], rel=1e-4)
