import pytest
from compositions import quiet_metrics, toy, train

from gnnscale import compose
from gnnscale.train.listeners import Listeners


class Witness:
    def __init__(self, fails=""):
        self.fails, self.heard = fails, []

    def __getattr__(self, name):
        def call(*arguments):
            self.heard.append(name)
            if name == self.fails:
                raise ConnectionError("the service is gone\nfor good")

        return call


@pytest.mark.parametrize("method", ["open", "log", "record", "close"])
def test_a_logger_that_fails_never_harms_the_run(method, tmp_path, monkeypatch, caplog):
    caplog.set_level("WARNING", "gnnscale")
    bad, good = Witness(method), Witness()
    monkeypatch.setattr(compose, "Listeners", lambda each: Listeners([bad, good]))
    train(toy({"trainer": {"epochs": 3}}), tmp_path / "told")
    monkeypatch.undo()
    train(toy({"trainer": {"epochs": 3}}), tmp_path / "alone")
    assert quiet_metrics(tmp_path / "told/seed-0") == quiet_metrics(tmp_path / "alone/seed-0")
    assert good.heard == ["open", "log", "log", "log", "record", "close"]
    assert bad.heard.count(method) == 1
    assert bad.heard[-1] == method
    assert caplog.text.count("logger=witness failed and is switched off: the service is gone") == 1


def test_several_compose_and_none_is_nothing(tmp_path):
    made = toy(logger=["csv", "tensorboard"]).parts["logger"]
    assert [bound.option for bound in made] == ["csv", "tensorboard"]
    assert "logger" not in toy(logger=["none"]).parts


def test_the_command_line_composes_loggers():
    from gnnscale.catalog import Catalog
    from gnnscale.overrides import normalise

    catalog = Catalog.load()
    for typed, names in (
        ("logger=[csv,wandb]", ["csv", "wandb"]),
        ("logger=csv", ["csv"]),
        ("+logger=[tensorboard]", ["tensorboard"]),
        ("logger=none", []),
    ):
        config, _ = compose.compose(normalise([typed], catalog), catalog)
        assert list(config.get("logger") or {}) == names
