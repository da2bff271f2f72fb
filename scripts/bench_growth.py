"""Seconds per epoch and peak memory over the number of edges, of five ways to train.

usage: scripts/bench_growth.py GNNSCALE OUT [NODES ...]

On ``dataset=synthetic``, ten directed edges per node, 64 features, a tenth of the nodes to train
on; two layers of 64. Parts and subgraphs keep their size, so that there are as many more as the
graph is larger. Every run is a process of its own; a finished one is not made again. Prints a
markdown table with the exponent between neighbouring sizes and writes OUT/growth.svg, both axes
logarithmic. NODES: 10000 100000 1000000.
"""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

MODEL = ["architecture.hidden=64", "architecture.depth=2"]
METHODS = {
    "full, GCN": lambda n: ["sampler=full", "architecture=gcn", *MODEL],
    "GraphSAINT, GCN": lambda n: [
        "sampler=saint", "architecture=gcn", "sampler.roots=1500", "sampler.length=4",
        "sampler.coverage=5", *MODEL,
    ],
    "neighbours 10, SAGE": lambda n: ["sampler=neighbor", "architecture=sage", *MODEL],
    "GAS, GCN": lambda n: [
        "sampler=gas", "architecture=gcn", f"sampler.parts={max(2, n // 2500)}",
        "sampler.batch_parts=2", *MODEL,
    ],
    "SIGN": lambda n: ["sampler=precompute_sign", "architecture=sign", "architecture.hidden=64"],
}  # fmt: skip
DEGREE = 10


def measured(gnnscale: str, out: Path, name: str, nodes: int) -> dict | None:
    """The record of one run, made if it is missing; None if it failed."""
    folder = out / f"{name.split(',')[0].split()[0].lower()}-{nodes}"
    record = folder / "seed-0" / "record.json"
    if not record.exists():
        command = [
            gnnscale, "train", "dataset=synthetic", f"dataset.nodes={nodes}",
            f"dataset.degree={DEGREE}", *METHODS[name](nodes), "trainer.epochs=5",
            "trainer.evaluate_every=5", f"hydra.run.dir={folder}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}, {nodes} nodes: {done.stderr.splitlines()[-1]}", file=sys.stderr)
            return None
        print(f"{name}, {nodes} nodes: done", file=sys.stderr, flush=True)
    return json.loads(record.read_text())


def exponents(sizes: list[float], values: list[float]) -> str:
    """Of a power law between each two neighbouring sizes."""
    found = [
        math.log(b / a) / math.log(n / m)
        for (m, n), (a, b) in zip(pairwise(sizes), pairwise(values), strict=True)
    ]
    return ", ".join(f"{e:.2f}" for e in found)


def main() -> None:
    """Measure what is missing, print, draw."""
    if len(sys.argv) < 3 or not all(word.isdecimal() for word in sys.argv[3:]):
        sys.exit(__doc__)
    gnnscale, out = sys.argv[1], Path(sys.argv[2])
    nodes = [int(word) for word in sys.argv[3:]] or [10_000, 100_000, 1_000_000]
    edges = [float(DEGREE * n) for n in nodes]
    found = {name: [measured(gnnscale, out, name, n) for n in nodes] for name in METHODS}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    about = (
        ("seconds per epoch", "time_s", "epoch_median"),
        ("peak MiB", "memory_mib", "rss_peak"),
    )
    for panel, (title, *path) in zip(axes, about, strict=True):
        print(f"| {title} | " + " | ".join(f"{e:.0e} edges" for e in edges) + " | exponent |")
        print("| --- |" + " --: |" * (len(edges) + 1))
        for name, records in found.items():
            shown = [(e, r[path[0]][path[1]]) for e, r in zip(edges, records, strict=True) if r]
            told = [f"{r[path[0]][path[1]]:.3g}" if r else "-" for r in records]
            grown = exponents(*map(list, zip(*shown, strict=True))) if len(shown) > 1 else "-"
            print(f"| {name} | " + " | ".join(told) + f" | {grown} |")
            panel.loglog(*zip(*shown, strict=True), "o-", label=name, markersize=4)
        panel.set(xlabel="directed edges", ylabel=title)
        panel.grid(True, which="major", alpha=0.3)
        print()
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "growth.svg", metadata={"Date": None})
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"threads: {threads}; {out / 'growth.svg'}", file=sys.stderr)


if __name__ == "__main__":
    main()
