import json
import os

import pytest
from made_runs import seed, three

from gnnscale.core.errors import UsageError
from gnnscale.core.lock import locked
from gnnscale.report.rows import collect, seed_text


def test_rows_of_the_same_options_are_told_apart_by_what_differs(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        seed(tmp_path / name, 0, config={"optimizer": {"lr": lr, "eps": 1}})
    seed(tmp_path / "c", 0, config={"optimizer": {"lr": 0.3}, "distillation": {"logit": {}}},
         architecture="mlp")  # fmt: skip
    assert [row.label for row in collect([tmp_path]).rows] == [
        "digits full gcn optimizer.lr=0.1",
        "digits full gcn optimizer.lr=0.2",
        "digits full mlp logit",
    ]


def test_stages_of_a_recipe_are_told_apart_by_the_setting_that_differs(tmp_path):
    for name, gamma in (("a", 0.1), ("b", 1)):
        stages = [{"_target_": "Search", "space": {}, "gamma": gamma}, {"_target_": "Fit"}]
        seed(tmp_path / name, 0, config={"recipe": {"stages": stages, "widths": [4, 8]}})
    assert [row.label for row in collect([tmp_path]).rows] == [
        "digits full gcn recipe.stages.0.gamma=0.1",
        "digits full gcn recipe.stages.0.gamma=1",
    ]


def test_two_folders_of_one_composition_are_one_row_wherever_the_data_lies(tmp_path):
    for name, k in (("a", 0), ("b", 1)):
        seed(tmp_path / name, k, config={"dataset": {"root": name, "split_seed": None}})
    (row,) = collect([tmp_path / "a", tmp_path / "b"]).rows
    assert row.numbers("finished") == [0, 1]
    assert row.label == "digits full gcn"


def test_other_data_is_another_row(tmp_path):
    seed(tmp_path / "a", 0, data={"name": "digits", "edges": 7})
    seed(tmp_path / "a", 1, data={"name": "digits", "edges": 8})
    assert len(collect([tmp_path]).rows) == 2


def test_failed_running_and_interrupted_seeds_are_listed_apart(tmp_path):
    seed(tmp_path / "a", 0)
    for k, state in ((1, "failed"), (2, "running"), (3, "interrupted"), (4, "failed")):
        seed(tmp_path / "a", k, state=state)
    with locked(tmp_path / "a"):  # somebody is at the one that runs
        (row,) = collect([tmp_path]).rows
    assert row.numbers("finished") == [0]
    assert row.numbers("failed") == [1, 4]
    assert row.numbers("running") == [2]
    assert row.numbers("interrupted") == [3]


def test_a_seed_found_twice_counts_once_and_the_newest_wins(tmp_path):
    for i, name in enumerate(("a", "b")):
        folder = seed(tmp_path / name, 0, 0.1 + i)
        for path in folder.iterdir():
            os.utime(path, (1e9 + i, 1e9 + i))
    seed(tmp_path / "c", 0, state="failed")  # a failure does not hide what was finished
    found = collect([tmp_path])
    assert [r.metric["test"] for r in found.rows[0].records] == [1.1]
    assert found.notes == ["digits full gcn: seed 0 was found more than once; the newest counts"]


def test_a_seed_that_says_running_with_nobody_there_was_killed(tmp_path):
    seed(tmp_path / "a", 0)
    seed(tmp_path / "a", 1, state="running")
    found = collect([tmp_path])
    assert found.rows[0].numbers("killed") == [1]
    assert found.rows[0].numbers("running") == []
    (note,) = found.notes
    assert note.endswith(f"seed 1 was killed; gnnscale train resume={tmp_path / 'a'}")
    with locked(tmp_path / "a"):
        assert collect([tmp_path]).notes == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "can't be read"),
        ("[]", "schema version None"),
        (json.dumps({"schema_version": 99}), "schema version 99"),
        (json.dumps({"schema_version": 1}), "missing"),
    ],
)
def test_a_record_that_cant_be_read_is_named_and_the_others_count(tmp_path, content, reason):
    for k in (0, 1):
        seed(tmp_path / "a", k)
    path = tmp_path / "a/seed-1/record.json"
    path.write_text(content)
    found = collect([tmp_path])
    assert found.rows[0].numbers("finished") == [0]
    assert found.rows[0].numbers("unreadable") == [1]
    assert len(found.broken) == 1
    assert str(path) in found.broken[0]
    assert reason in found.broken[0]


def test_a_record_without_a_test_score_or_a_lost_one_is_unreadable(tmp_path):
    for k in range(3):
        seed(tmp_path / "a", k)
    path = tmp_path / "a/seed-1/record.json"
    path.write_text(path.read_text().replace('"test": 0.5', '"test": null'))
    (tmp_path / "a/seed-2/record.json").unlink()
    found = collect([tmp_path])
    assert found.rows[0].numbers("unreadable") == [1, 2]
    assert "metric.test=None" in found.broken[0]
    assert "is missing, though the seed is marked as finished" in found.broken[1]


def test_a_broken_configuration_is_named_once(tmp_path):
    three(tmp_path / "a", [0.5, 0.6])
    three(tmp_path / "b", [0.5, 0.6], architecture="mlp")
    (tmp_path / "b/config.json").write_text("{")
    found = collect([tmp_path])
    assert [row.label for row in found.rows] == ["digits full gcn"]
    assert len(found.broken) == 1
    assert "b/config.json" in found.broken[0]


def test_globs_parents_seeds_and_the_same_folder_twice(tmp_path, monkeypatch):
    for i in range(3):
        seed(tmp_path / f"sweep/{i}", i)
    seed(tmp_path / "sweep/0/seed-0/teacher", 7)  # a teacher inside a seed is not a run
    seed(tmp_path / ".hidden", 8)
    monkeypatch.chdir(tmp_path)

    def seeds(*places):
        return collect(places).rows[0].numbers("finished")

    assert seeds("sweep/*") == seeds("sweep", "sweep/0") == seeds("**") == [0, 1, 2]
    assert seeds("sweep/[01]") == [0, 1]
    assert seeds("sweep/2/seed-2") == [2]
    assert seeds(tmp_path) == [0, 1, 2]


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="no finished seed in there; `gnnscale train`"):
        collect([tmp_path])
    with pytest.raises(UsageError, match="no folder fits this pattern"):
        collect([tmp_path / "x*"])
    seed(tmp_path / "a", 0, state="failed")
    seed(tmp_path / "a", 1, state="running")
    with pytest.raises(UsageError, match=r"no finished seed in there .1 failed, 1 killed."):
        collect([tmp_path])
    with pytest.raises(UsageError, match="is a file"):
        collect([tmp_path / "a/run.json"])


def test_seed_text():
    assert [seed_text(s) for s in ([], [3], [0, 1], [2, 0, 1], [0, 1, 3])] == [
        "-", "3", "0,1", "0-2", "0,1,3",
    ]  # fmt: skip
