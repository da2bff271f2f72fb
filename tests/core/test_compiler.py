"""torch's compiler stays asleep in training and wakes for whoever compiles."""

import subprocess
import sys
from types import ModuleType

import pytest

from gnnscale.core import compiler

TRAINS = """
import inspect, sys, torch
from gnnscale.core import compiler
compiler.sleep()
w = torch.nn.Parameter(torch.tensor([2.0]))
for make in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop):
    optimizer = make([w], lr=0.01)
    before = w.item()
    (w ** 2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert w.item() < before, (make, before, w.item())
inspect.getmodule(lambda: 0)  # asks every module for its file
assert not any(name.startswith("torch._dynamo.") for name in sys.modules), "awake"
"""

WAKES = {
    "compile": "assert torch.compile(lambda x: 2 * x, backend='eager')(w).item() == 2 * w.item()",
    "submodule": "import torch._dynamo.config as c; assert c.recompile_limit > 0",
}

AFTER = """
assert type(sys.modules["torch._dynamo"]).__name__ == "module"
assert torch._dynamo is sys.modules["torch._dynamo"]
(w ** 2).sum().backward(); optimizer.step(); torch.optim.Adam([w]).step()
"""


def run(code: str) -> None:
    """In a process of its own: modules stay imported."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
@pytest.mark.parametrize("way", WAKES)
def test_optimizers_leave_it_asleep_and_others_wake_it(way):
    """The real module then takes the name, and an optimizer made before goes on working."""
    run(f"{TRAINS}\n{WAKES[way]}\n{AFTER}")


def test_an_imported_compiler_is_left_alone(monkeypatch):
    """Without effect where it is awake already; else a module that is not the real one."""
    real = ModuleType(compiler.NAME)
    monkeypatch.setitem(sys.modules, compiler.NAME, real)
    compiler.sleep()
    assert sys.modules[compiler.NAME] is real
    monkeypatch.delitem(sys.modules, compiler.NAME)
    compiler.sleep()
    assert sys.modules[compiler.NAME].disable(run) is run
    assert sys.modules[compiler.NAME].disable(recursive=False)(run) is run


def test_a_compiler_that_fails_to_wake_says_why_each_time(monkeypatch):
    """The name stays taken, so that optimizers go on."""
    monkeypatch.delitem(sys.modules, compiler.NAME, raising=False)
    compiler.sleep()
    asleep = sys.modules[compiler.NAME]
    monkeypatch.setattr("importlib.import_module", lambda name: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = asleep.reset
        assert sys.modules[compiler.NAME] is asleep


@pytest.mark.process
def test_training_leaves_it_asleep(tmp_path):
    """The command itself, up to its scores."""
    run(
        "import sys; from gnnscale.cli import main\n"
        f"sys.argv = ['gnnscale', 'train', '+sampler=saint', '+model=egc', 'trainer.epochs=1', "
        f"'hydra.run.dir={tmp_path}/run', 'hardware.threads=1']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not any(name.startswith('torch._dynamo.') for name in sys.modules), 'awake'\n"
    )
