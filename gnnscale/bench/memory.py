"""Peak memory of each phase, in a fresh process that does nothing else."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Subject
from gnnscale.bench.workloads import Workload
from gnnscale.catalog import Catalog
from gnnscale.core.record import write_json
from gnnscale.core.site import sites
from gnnscale.core.sparse import SparseRows

SOURCE = (
    "VmHWM of a fresh process that loads and does this phase only, MiB = 2^20 bytes; the whole "
    "process counts: interpreter, libraries, and pages of mapped files while they are resident "
    "(file_mib says how much of the end's memory is such)"
)


def phases(workloads: list[Workload]) -> list[str]:
    """load, the pass, the largest query, and a step (an epoch where no step is asked for)."""
    names = [w.name for w in workloads]
    queries = [w for w in workloads if w.name.startswith("query_")]
    kept = ["load"]
    kept += ["full"] if "full" in names else []
    kept += [max(queries, key=lambda w: w.batch).name] if queries else []  # type: ignore[attr-defined]
    kept += ["step"] if "step" in names else ["epoch"] if "epoch" in names else []
    return kept


def specification(
    subject: Subject, settings: Bench, phase: str, catalog: Catalog, trusted: frozenset[str],
    peer: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a child needs to know; ``peer``: who does the work in the subject's place."""
    return {
        "peer": peer,
        "config": subject.plan.config,
        "choices": subject.plan.choices,
        "seed": subject.origin.seed,
        "folder": str(subject.origin.folder) if subject.origin.folder else None,
        "phase": phase,
        "bench": {
            "queries": settings.queries,
            "seed": settings.seed,
            "pyg_python": settings.pyg_python,
        },
        "config_dirs": [str(folder) for folder in catalog.folders[1:]],
        "trusted": sorted(trusted),
    }


def command(specified: Path) -> list[str]:
    """The child's command line."""
    return [sys.executable, "-m", "gnnscale.bench.child", str(specified)]


def measure(specified: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run one child; its peak as it reads it at its own end. Raises RuntimeError if it failed.

    The kernel also tells a parent its child's ru_maxrss, but that begins with what the parent held
    when it started the child, so it is no figure of the child's.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    path, said = scratch / f"{specified['phase']}.json", scratch / "stderr.txt"
    write_json(path, {**specified, "scratch": str(scratch / specified["phase"])})
    with said.open("wb") as errors:
        child = subprocess.run(command(path), stdout=subprocess.PIPE, stderr=errors, check=False)
    if child.returncode != 0:
        lines = said.read_text(errors="replace").strip().splitlines() or [""]
        raise RuntimeError(f"exit code {child.returncode}: {lines[-1]}")
    return {**json.loads(child.stdout.decode().splitlines()[-1]), "source": SOURCE}


def analytic(subject: Subject) -> dict[str, int]:
    """Bytes of what a subject must hold, counted from shapes: no allocator, no interpreter."""
    run = subject.run
    graph, x = run.data.graph, run.data.x
    weight = 0 if run.data.weight is None else _bytes(run.data.weight)
    history = sum(_bytes(v) for v in run.sampler.state().values())
    return {
        "graph": _bytes(graph.indptr) + _bytes(graph.indices) + weight,
        "features": _bytes(x),
        "labels": _bytes(run.data.y),
        "parameters": sum(_bytes(p) for p in held(run.model)),
        "history": history,
    }


def held(model: nn.Module) -> Iterator[Tensor]:
    """What of a model is weights: parameters, and codes with their scales where they are codes."""
    yield from model.parameters()
    for _, site in sites(model):
        quantizer = site.quantizer
        if quantizer is not None and getattr(quantizer, "integer", False):
            yield from quantizer.buffers()


def _bytes(value: Any) -> int:
    if isinstance(value, SparseRows):
        return _bytes(value.values) + _bytes(value.rows.indices) + _bytes(value.rows.indptr)
    if isinstance(value, Mapping):
        return sum(_bytes(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(v) for v in value)
    return value.numel() * value.element_size() if hasattr(value, "element_size") else 0
