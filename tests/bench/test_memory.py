import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compositions import CATALOG

from gnnscale.bench import memory
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import build, originate
from gnnscale.bench.workloads import chosen
from gnnscale.core.record import write_json
from gnnscale.overrides import normalise

TIME = shutil.which("time")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


@pytest.fixture
def subject(tmp_path):
    words = ["dataset=synthetic", "dataset.nodes=20000", "dataset.features=64",
             "hardware.threads=1"]  # fmt: skip
    origin = originate(None, normalise(words, CATALOG), CATALOG, frozenset())
    return build(origin, tmp_path / "subject")


def test_phases_are_load_and_the_largest_of_each():
    settings = Bench(queries=[32, 1024, 1])
    assert memory.phases(chosen(settings)) == ["load", "full", "query_1024", "step"]
    assert memory.phases(chosen(Bench(workloads=["epoch"]))) == ["load", "epoch"]
    assert memory.phases([]) == ["load"]


def test_bytes_are_counted_from_shapes(subject):
    found = memory.analytic(subject)
    edges = subject.run.data.graph.n_edges
    assert found["features"] == 20000 * 64 * 4
    assert found["graph"] == 8 * 20001 + 4 * edges
    assert found["labels"] == 8 * 20000
    assert found["history"] == 0
    width = subject.run.data.task.classes
    assert found["parameters"] == 4 * (64 * 64 + 64 + 64 * width + width)


def test_histories_are_counted_however_a_sampler_holds_them(tmp_path):
    words = ["dataset=synthetic", "dataset.nodes=200", "sampler=gas", "architecture.depth=3",
             "architecture.hidden=16", "hardware.threads=1"]  # fmt: skip
    origin = originate(None, normalise(words, CATALOG), CATALOG, frozenset())
    made = build(origin, tmp_path / "subject")
    made.run.prepare()
    made.run.start()
    parts = 4 * 200
    assert memory.analytic(made)["history"] == 2 * 200 * 16 * 4 + parts


@pytest.mark.process
@linux
@pytest.mark.skipif(TIME is None, reason="GNU time is not installed (apt-get install time)")
def test_the_peak_is_that_of_gnu_time(subject, tmp_path):
    """The child under /usr/bin/time -v: what it says of itself within 5 %."""
    wanted = memory.specification(subject, Bench(queries=[8]), "full", CATALOG, frozenset())
    path = tmp_path / "spec.json"
    write_json(path, {**wanted, "scratch": str(tmp_path / "scratch")})
    done = subprocess.run([TIME, "-v", *memory.command(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])["mib"]
    seen = int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)[1]) / 1024
    assert said == pytest.approx(seen, rel=0.05)
    assert said > 100


@pytest.mark.process
@linux
def test_a_phase_has_a_process_of_its_own(subject, tmp_path):
    """This process's own heap is not in it."""
    mine = bytearray(2**29)  # 512 MiB
    mine[:: 2**12] = b"x" * len(mine[:: 2**12])
    settings = Bench(queries=[8])
    wanted = memory.specification(subject, settings, "query_8", CATALOG, frozenset())
    found = memory.measure(wanted, tmp_path / "memory")
    own = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    assert found["mib"] < own - 200
    assert 0 < found["file_mib"] < found["mib"]
    assert found["cuda_mib"] is None
    assert "VmHWM" in found["source"]
    assert "mapped files" in found["source"]
    assert len(mine) == 2**29


@pytest.mark.process
@linux
def test_a_child_that_fails_says_why(subject, tmp_path):
    wanted = memory.specification(subject, Bench(), "load", CATALOG, frozenset())
    wanted["config"] = {**wanted["config"], "seed": -1}
    with pytest.raises(RuntimeError, match=r"exit code 1: .*seed=-1"):
        memory.measure(wanted, tmp_path / "memory")
