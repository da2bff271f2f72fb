import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gnnscale

PACKAGE = Path(gnnscale.__file__).parent

REPORT = """
import json, sys
from gnnscale.core import host
bolt = sys.modules["dgl.graphbolt"]
try:
    used = bolt.GraphStore
except AttributeError as error:
    used = f"{type(error).__name__}: {error}"
print(json.dumps({
    "dgl": host.dgl.__file__,
    "missing": host.graphbolt_missing(),
    "used": used,
    "half": sorted(m for m in sys.modules if m.startswith("dgl.graphbolt.")),
    "leftover": hasattr(bolt, "READY"),
    "guards": sum(type(f).__module__.startswith("gnnscale") for f in sys.meta_path),
    "same": host.dgl.graphbolt is bolt,
    "file": bolt.__file__,
}))
"""


def probe(folder: Path, graphbolt: str | None, script: str = REPORT):
    """Run ``script`` where ``dgl`` is a small fake whose graphbolt has the given body."""
    fake = folder / "dgl"
    (fake / "graphbolt").mkdir(parents=True)
    (fake / "__init__.py").write_text("from . import graphbolt\n__version__ = '0'\n")
    (fake / "graphbolt" / "part.py").write_text("VALUE = 7\n")
    if graphbolt is not None:
        (fake / "graphbolt" / "__init__.py").write_text(graphbolt)
    paths = [str(folder), str(PACKAGE.parent)]
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=folder,
        timeout=120,
    )


def told(folder: Path, graphbolt: str) -> dict:
    done = probe(folder, graphbolt)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["dgl"].startswith(str(folder)), "the fake was not the one that was imported"
    return found


def test_a_working_graphbolt_is_left_alone(tmp_path):
    found = told(tmp_path, "from .part import VALUE as GraphStore\nREADY = True\n")
    assert found["missing"] is None
    assert found["used"] == 7
    assert found["half"] == ["dgl.graphbolt.part"]
    assert found["leftover"] is True
    assert found["same"] is True
    assert found["file"] == str(tmp_path / "dgl" / "graphbolt" / "__init__.py")
    assert found["guards"] == 0


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ("raise FileNotFoundError('no libgraphbolt.so')", "FileNotFoundError: no libgraphbolt.so"),
        ("raise OSError('undefined symbol')", "OSError: undefined symbol"),
        ("import nowhere.datapipes", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_one_that_raises_is_stood_in_for(tmp_path, cause, reason):
    found = told(tmp_path, f"READY = True\nfrom . import part\nGraphStore = 1\n{cause}\n")
    assert found["missing"] == reason
    assert found["used"].startswith("MissingGraphBolt: dgl.graphbolt.GraphStore: GraphBolt does")
    assert reason in found["used"]
    assert "Use dgl.ops" in found["used"]
    assert found["half"] == [], "submodules of the failed import stay behind"
    assert found["leftover"] is False, "names of the failed import stay behind"
    assert found["same"] is True
    assert found["guards"] == 0


def test_introspection_of_the_stand_in_works(tmp_path):
    script = """
import copy, inspect, sys
from gnnscale.core.host import dgl
bolt = sys.modules["dgl.graphbolt"]
assert inspect.getmembers(bolt)
assert not hasattr(bolt, "__wrapped__") and not hasattr(bolt, "anything")
assert "graphbolt" in repr(bolt)
import gnnscale.core.host as host
try:
    bolt.anything
except host.MissingGraphBolt as error:
    assert isinstance(error, AttributeError)
    print("refused")
"""
    done = probe(tmp_path, "raise OSError('x')", script)
    assert done.stdout == "refused\n", done.stderr


def test_other_failures_of_dgl_are_not_hidden_and_the_guard_goes(tmp_path):
    script = """
import sys
try:
    import gnnscale.core.host
except ZeroDivisionError:
    print(sum(type(f).__module__.startswith("gnnscale") for f in sys.meta_path))
"""
    (tmp_path / "dgl").mkdir()
    (tmp_path / "dgl" / "__init__.py").write_text("1 / 0\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert done.stdout == "0\n", done.stderr


def test_an_interrupt_is_not_swallowed(tmp_path):
    done = probe(tmp_path, "raise KeyboardInterrupt")
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr


def test_here_no_guard_is_left_and_dgl_works():
    from gnnscale.core import host

    assert not any(type(finder).__module__ == host.__name__ for finder in sys.meta_path)
    assert host.dgl.graph(([0], [1])).num_edges() == 1
    bolt = sys.modules[host.NAME]
    if host.graphbolt_missing() is None:
        assert bolt.__spec__.name == host.NAME
    else:
        with pytest.raises(host.MissingGraphBolt, match="gnnscale does not need it"):
            _ = bolt.SamplingGraph


def dgl_imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] == "dgl"]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [node.module] * (str(node.module).split(".")[0] == "dgl")
    return found


def test_the_detector_sees_every_form():
    source = (
        "import dgl.nn as n\nfrom dgl import ops\ndef f():\n    from dgl.nn import X\nimport os"
    )
    assert dgl_imports(ast.parse(source)) == ["dgl.nn", "dgl", "dgl.nn"]


def test_only_the_door_imports_dgl():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    users = {
        path.relative_to(PACKAGE).as_posix(): names
        for path in files
        if (names := dgl_imports(ast.parse(path.read_text())))
    }
    assert users == {"core/host.py": ["dgl"]}
