import csv

from compositions import quiet_metrics, toy, train


def test_the_table_holds_the_metrics(tmp_path):
    train(toy({"trainer": {"epochs": 3}}, logger=["csv"]), tmp_path)
    with (tmp_path / "seed-0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = quiet_metrics(tmp_path / "seed-0")
    assert [int(r["epoch"]) for r in rows] == [0, 1, 2]
    assert [float(r["loss"]) for r in rows] == [m["loss"] for m in wanted]
