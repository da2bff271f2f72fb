"""Peak memory of a training step at a fixed batch, over graph sizes and depths.

usage: scripts/bench_memory.py GNNSCALE OUT     a second call goes on with what is missing

Every figure is the VmHWM of a fresh process of ``gnnscale bench``: of its loading, of all it does
(METIS, pools and tables included), and of two steps once all is prepared. Batches hold about 1,000
nodes whatever the graph: parts grow with it. Prints the two tables of docs/benchmarks/sampling.md.
"""

import json
import subprocess
import sys
from pathlib import Path

NODES = (10_000, 100_000, 1_000_000)  # of degree 10: 10^5, 10^6, 10^7 directed edges
BATCH = 1000
RULES = [
    "bench.workloads=[step]", "bench.scopes=[end2end]", "bench.requests=3", "bench.seconds=0",
    "bench.warmup=2", "bench.warmup_s=0", "bench.roofline=false", "hardware.threads=1",
]  # fmt: skip
GCN = ["architecture=gcn", "architecture.hidden=64"]


def parts(nodes: int) -> list[str]:
    """Two parts of BATCH / 2 nodes per step."""
    return [f"sampler.parts={2 * nodes // BATCH}", "sampler.batch_parts=2"]


def methods(nodes: int) -> dict[str, list[str]]:
    """Words of each method at this size."""
    return {
        "full": [*GCN, "sampler=full"],
        "cluster": [*GCN, "sampler=cluster", *parts(nodes)],
        "saint": [*GCN, "sampler=saint", f"sampler.roots={BATCH // 5}", "sampler.length=4"],
        "gas": [*GCN, "sampler=gas", *parts(nodes)],
        "gas, histories on disk": [*GCN, "sampler=gas", *parts(nodes), "sampler.store=disk"],
        "pprgo": [
            "architecture=pprgo", "architecture.hidden=64", "sampler=ppr", "sampler.top_k=32",
            f"sampler.batch_size={BATCH // 32}",
        ],
    }  # fmt: skip


def measured(gnnscale: str, out: Path, name: str, words: list[str]) -> dict:
    """The file of one measurement, made if it is missing."""
    kept = out / f"{name}.json"
    if not kept.exists():
        command = [gnnscale, "bench", "dataset=synthetic", "dataset.degree=10", *words, *RULES]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}: exit code {done.returncode}: {' '.join(command)}")
        out.mkdir(parents=True, exist_ok=True)
        kept.write_text(Path(done.stdout.split()[-1]).read_text())
    return json.loads(kept.read_text())


def row(found: dict) -> list[float]:
    """MiB: data, peaks of loading, of all, of steps alone; p50 ms of a step."""
    memory = found["memory"]
    load, step = memory["load"]["mib"], memory["step"]
    held = memory["analytic_bytes"]
    resident = sum(held[k] for k in ("graph", "features", "labels")) / 2**20
    p50 = found["workloads"]["step"]["end2end"]["p50_ms"]
    steps = step["request_mib"]
    return [resident, load, step["mib"], steps, steps - load, p50]


def main() -> None:
    """Measure and print."""
    gnnscale, out = sys.argv[1], Path(sys.argv[2])
    head = [f"{name} MiB" for name in ("data", "load", "peak", "steps", "steps - load")]
    head.append("step ms")
    lines = []
    for nodes in NODES:
        for name, words in methods(nodes).items():
            found = measured(
                gnnscale, out, f"{name.replace(', ', '-').replace(' ', '_')}-{nodes}",
                [f"dataset.nodes={nodes}", "architecture.depth=2", *words],
            )  # fmt: skip
            lines.append([name, f"10^{len(str(nodes))}", *row(found)])
    lines.sort(key=lambda line: list(methods(1000)).index(line[0]))
    say(lines, ["method", "edges", *head])
    deep = []
    for depth in (2, 4, 8, 16):
        for name in ("full", "gas"):
            words = [*methods(100_000)[name], f"architecture.depth={depth}"]
            found = measured(
                gnnscale, out, f"{name}-depth-{depth}", ["dataset.nodes=100000", *words]
            )
            deep.append([name, depth, *row(found)])
    deep.sort(key=lambda line: line[0])
    say(deep, ["method", "depth", *head])


def say(lines: list[list], head: list[str]) -> None:
    """One markdown table."""
    cells = [[f"{c:.0f}" if isinstance(c, float) else str(c) for c in line] for line in lines]
    for line in (head, ["---"] * len(head), *cells):
        sys.stdout.write("| " + " | ".join(line) + " |\n")
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
