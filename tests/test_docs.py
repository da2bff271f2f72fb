"""The documentation's code runs as it stands."""

import re
import sys
import types
from pathlib import Path

import pytest
import yaml
from compositions import CATALOG, train

from gnnscale import compose
from gnnscale.core.errors import CompositionError

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/adding-a-method.md").read_text()
BLOCKS = re.findall(r"```(python|yaml)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def example(monkeypatch):
    """The worked example as an importable module, with its YAML and its tests."""
    (_, code), (_, option), (_, tests) = BLOCKS
    module = types.ModuleType("gnnscale.architecture.initial")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "adding-a-method.md", "exec"), vars(module))
    names = {}
    exec(compile(tests, "adding-a-method.md (tests)", "exec"), names)
    option = yaml.safe_load(option)
    (shared,) = (name for name in option.pop("defaults") if name != "_self_")
    option = {**yaml.safe_load((ROOT / f"conf/architecture/{shared}.yaml").read_text()), **option}
    return option, [f for n, f in names.items() if n.startswith("test_")]


def test_the_worked_example_passes_its_own_tests(example):
    _, tests = example
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.mark.parametrize(
    "chosen", [{"sampler": "saint", "quantization": "qat"}, {"sampler": "neighbor"}], ids=str
)
def test_the_worked_example_trains_under_what_the_text_says(example, chosen, tmp_path):
    from compositions import TOY, configuration

    option, _ = example
    config, choices = configuration(TOY, dataset="synthetic", **chosen)
    config["architecture"], choices["architecture"] = option, "initial"
    (record,) = train(compose.check(config, choices, CATALOG), tmp_path)
    assert record.time_s["epochs"] == 2


def test_the_refusal_that_the_text_promises(example):
    from compositions import TOY, configuration

    option, _ = example
    config, choices = configuration(TOY, dataset="synthetic", inference="layerwise")
    config["architecture"], choices["architecture"] = option, "initial"
    with pytest.raises(CompositionError, match="inference=full"):
        compose.check(config, choices, CATALOG)
    config, choices = configuration(TOY, dataset="synthetic")
    config["architecture"] = {**option, "alpha": 1.5}
    with pytest.raises(CompositionError, match=r"architecture.alpha=1.5"):
        compose.check(config, choices, CATALOG)
