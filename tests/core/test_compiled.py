import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from gnnscale.core import compiled as module
from gnnscale.core.compiled import compiled

MODULE = """
import numpy as np
from gnnscale.core.compiled import compiled

@compiled()
def twice(x):
    return {what}

if __name__ == "__main__":
    import sys
    kinds = {{"int": 3, "float": 1.5, "row": np.ones(2)}}
    print(twice(kinds[sys.argv[1]]), len(twice._cache_hits))
"""


def run(path, kind):
    done = subprocess.run(
        [sys.executable, str(path), kind], capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(path.parent / "cache")},
    )  # fmt: skip
    value, hits = done.stdout.rsplit(None, 1)
    return value, int(hits)


def stored(path, ending):
    return sorted((path.parent / "cache").rglob(f"*{ending}"))


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODULE.format(what="x + x"))
    return path


def test_it_is_kept_and_found_again(script):
    assert run(script, "int") == ("6", 0)
    assert run(script, "int") == ("6", 1)
    assert run(script, "float") == ("3.0", 0)
    assert len(stored(script, ".nbc")) == 2


READY = "numba.np.linalg"
"""Imported when numba gets ready to compile."""


@pytest.mark.process
@pytest.mark.parametrize("kind", ["int", "row"])
def test_what_is_kept_loads_without_getting_ready_to_compile(script, kind):
    script.write_text(script.read_text() + f"    print({READY!r} in sys.modules)\n")

    for expected in (True, False):
        done = subprocess.run(
            [sys.executable, str(script), kind], capture_output=True, text=True, check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(script.parent / "cache")},
        )  # fmt: skip
        assert done.stdout.split()[-1] == str(expected)


def test_a_changed_source_never_meets_old_code(script):
    run(script, "int")
    (old,) = stored(script, ".nbc")
    script.write_text(MODULE.format(what="x * 3"))
    assert run(script, "int") == ("9", 0)
    (new,) = stored(script, ".nbc")
    assert new.name != old.name  # what another version has left is removed


def test_killed_between_index_and_code_then_compiled_again(script):
    """numba writes the index first; the number in it then leads to nothing, never to other code."""
    run(script, "int")
    for code in stored(script, ".nbc"):
        code.unlink()
    assert run(script, "int") == ("6", 0)
    assert run(script, "int") == ("6", 1)


@pytest.mark.process
def test_processes_that_compile_at_once_get_names_of_their_own(script):
    kinds = ["int", "float", "row"] * 2
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(script.parent / "cache")}
    running = [
        subprocess.Popen([sys.executable, str(script), kind], env=environment,
                         stdout=subprocess.PIPE, text=True)
        for kind in kinds
    ]  # fmt: skip
    assert all(process.communicate() and process.returncode == 0 for process in running)
    assert len(stored(script, ".nbc")) == 3
    for kind, value in (("int", "6"), ("float", "3.0"), ("row", "[2. 2.]")):
        assert run(script, kind) == (value, 1)


OURS = {
    "own.py": "from gnnscale.near import helper\nfrom gnnscale import whole\n",
    "near.py": "def f():\n    from gnnscale.part import (\n        inner as other,  # one\n    )\n",
    "part/__init__.py": "from gnnscale.far import x\n",
    "part/inner.py": "from gnnscale.near import helper\nSIZE = 4\n",
    "whole/__init__.py": "",
    "far.py": "",
}


@pytest.mark.parametrize(
    ("name", "matters"),
    [("own.py", True), ("near.py", True), ("part/inner.py", True),
     ("whole/__init__.py", True), ("far.py", False),
     ("part/__init__.py", False)],
)  # fmt: skip
def test_a_changed_file_changes_the_names_in_those_that_import_it(
    name, matters, monkeypatch, tmp_path
):
    def stamp():
        module.behind.cache_clear()
        module.imports.cache_clear()
        return module.behind(tmp_path / "own.py")

    for folder in ("part", "whole"):
        (tmp_path / folder).mkdir()
    for file, text in OURS.items():
        (tmp_path / file).write_text(text)
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    before = stamp()
    assert stamp() == before
    (tmp_path / name).write_text(OURS[name] + "# changed\n")
    assert (stamp() != before) is matters


def test_compiled_files_depend_on_what_they_call_and_not_on_each_other():
    ops = module.PACKAGE / "core/ops"

    def all_behind(path, found):
        for other in module.imports(path) - found:
            all_behind(other, found | {path})
            found.add(other)
        return found

    found = all_behind(ops / "sparse_product.py", set())
    assert {ops / "lanes.py", ops / "dropout.py", module.PACKAGE / "core/compiled.py"} <= found
    assert all(path.is_file() for path in found)
    assert ops / "native_kernels.py" not in found


@pytest.fixture
def total():
    @compiled(parallel=True)
    def total(x):
        s = 0.0
        for k in numba.prange(len(x)):
            s += x[k]
        return s

    return total


def test_it_is_numba_s_njit(total):
    assert total(np.arange(5.0)) == 10
    for form, parallel in ((total.threads, True), (total.serial, False)):
        assert form.targetoptions["nogil"]
        assert form.targetoptions["parallel"] is parallel


def test_one_thread_runs_the_serial_form(total):
    before = numba.get_num_threads()
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core")
    try:
        for threads, compiled_forms in ((1, (0, 1)), (2, (1, 1))):
            numba.set_num_threads(threads)
            assert total(np.arange(5.0)) == 10
            assert (len(total.threads.signatures), len(total.serial.signatures)) == compiled_forms
    finally:
        numba.set_num_threads(before)


def test_the_forms_are_kept_apart(total):
    bases = {form._cache.base for form in (total.threads, total.serial)}
    assert len(bases) == 2
