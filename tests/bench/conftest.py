import json

import pytest
from compositions import CATALOG, SMALL, toy, train

from gnnscale.bench.command import bench

SHORT = (
    "bench.requests=3", "bench.seconds=0.0", "bench.warmup=0", "bench.warmup_s=0.0",
    "bench.memory=false", "bench.roofline=false", "bench.queries=[1,4]",
)  # fmt: skip


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """measured(*words, vs=(), bare=False): (measurement, its file as JSON, path)."""
    monkeypatch.chdir(tmp_path)

    def run(*words, vs=(), bare=False):
        given = [*SHORT, *words] if bare else [*SMALL, *SHORT, *words]
        found, path = bench(given, [vs] if vs else [], CATALOG, frozenset())
        return found, json.loads(path.read_text()), path

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A run folder with seeds 0 and 1 of a GCN on a 60-node graph."""
    folder = tmp_path_factory.mktemp("runs") / "gcn"
    train(toy({"seeds": 2, "hardware": {"threads": 1}}), folder)
    return folder
