import pytest
from made_runs import seed

from gnnscale.core.errors import UsageError
from gnnscale.report.keys import resolve, select, value
from gnnscale.report.rows import collect

ALIASES = {"model": "architecture"}


@pytest.fixture
def rows(tmp_path):
    for i, (arch, lr, bias) in enumerate(
        (("gcn", 0.001, True), ("gat", 0.01, None), ("mlp", 1, True))
    ):
        seed(tmp_path / str(i), 0, architecture=arch,
             config={"optimizer": {"lr": lr}, "architecture": {"bias": bias}})  # fmt: skip
    return collect([tmp_path]).rows


def chosen(rows, *conditions):
    return [row.choices["architecture"] for row in select(rows, conditions, ALIASES)]


def test_conditions(rows):
    assert chosen(rows, "architecture=gcn") == ["gcn"]
    assert chosen(rows, "model=gcn,mlp") == ["gcn", "mlp"]
    assert chosen(rows, "model!=gcn,mlp") == ["gat"]
    assert chosen(rows, "model=g*") == ["gcn", "gat"]
    assert chosen(rows, "model=g*", "optimizer.lr=1e-3") == ["gcn"]
    assert chosen(rows, "model.bias=true") == ["gcn", "mlp"]
    assert chosen(rows, "model.bias=null") == ["gat"]


def test_keys_by_their_full_name_and_their_value_as_typed(rows):
    assert resolve("model.bias", rows, ALIASES) == "architecture.bias"
    assert resolve("model", rows, ALIASES) == "architecture"
    assert [value(row, "architecture.bias") for row in rows] == ["true", "null", "true"]


def test_refusals(rows):
    with pytest.raises(UsageError, match=r"key 'optimiser\.lr'.*did you mean 'optimizer\.lr'"):
        chosen(rows, "optimiser.lr=1")
    with pytest.raises(UsageError, match=r"no composition is left.*did you mean 'gcn'"):
        chosen(rows, "model=gcm")
    with pytest.raises(UsageError, match="not a condition"):
        chosen(rows, "model")
