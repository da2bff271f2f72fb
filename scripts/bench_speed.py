"""Speed beside the peers, and the distance from what memory allows.

usage: scripts/bench_speed.py GNNSCALE OUT [epochs] [egc] [precision] [products] [features] [order]

epochs     training epochs beside DGL's layers and, where GNNSCALE_PYG_PYTHON names an interpreter
           that has it, PyG's; peak memory of every side
egc        the same of EGC beside our GCN
precision  our epochs with bfloat16 products beside float32
products   sums over neighbours with and without weights beside a random gather of the same rows
features   dropout and product of feature rows of which few entries are not zero, forwards and
           backwards: as sparse rows, as a weighted sum over edges, as a dense matrix
order      GCN's epoch with nodes numbered anew beside the source's order, here and on arxiv_2023
           (GNNSCALE_DATA=DIR, if it is there)

On the graph of heavy_tailed.py. What is in OUT already is not measured again. Prints markdown.
REQUESTS=30 in the environment makes more pairs than 10.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numba
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from heavy_tailed import heavy_tailed, write

from gnnscale.core import ops
from gnnscale.core.compiled import compiled
from gnnscale.core.ops import BACKENDS
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.ops.lanes import AHEAD, LINE, fetch
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.order import ORDERS

SHAPE = [
    "architecture.hidden=256", "architecture.depth=3", "architecture.norm=batch",
    "architecture.act=relu", "architecture.dropout=0.5",
]  # fmt: skip
BARE = ["architecture.stem=false", "architecture.residual=false"]
MODELS = {
    "GCN": ["architecture=gcn"],
    "SAGE": ["architecture=sage"],
    "GAT, 4 x 64": ["architecture=gat", "architecture.heads=4", "architecture.attention_dropout=0"],
}
EGC = {
    "EGC-S, 8 heads, 4 bases": ["architecture=egc", *BARE, "architecture.out_heads=8"],
    "EGC-M, 4 heads, 4 bases": [
        "architecture=egc", *BARE, "architecture.heads=4", "architecture.out_heads=4",
        "architecture.aggregators=[symadd,max,mean]",
    ],
}  # fmt: skip
WIDTHS = (64, 128, 256)
ROUNDS = 9


class Bench:
    """Calls of ``gnnscale bench``, each kept under a name."""

    def __init__(self, gnnscale: str, out: Path):
        self.gnnscale, self.out = gnnscale, out
        graph = out / "graph.npz"
        if not graph.exists():
            out.mkdir(parents=True, exist_ok=True)
            write(graph)
        self.data = ["dataset=custom", f"dataset.path={graph}"]
        self.words = [
            "bench.workloads=[epoch]",
            "bench.scopes=[end2end]", f"bench.requests={os.environ.get('REQUESTS', 10)}",
            "bench.seconds=0", "bench.warmup=2", "bench.warmup_s=0", "bench.limit_s=3600",
            "bench.roofline=false", *SHAPE,
        ]  # fmt: skip

    def __call__(self, name: str, *words: str, data: Sequence[str] = ()) -> dict:
        """The file of a measurement, made if it is missing; data: words of another dataset."""
        kept = self.out / f"{name}.json"
        if not kept.exists():
            command = [self.gnnscale, "bench", *(data or self.data), *self.words, *words]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name}: exit code {done.returncode}: {' '.join(command)}")
            kept.write_text(Path(done.stdout.split()[-1]).read_text())
        return json.loads(kept.read_text())


def say(cells: list[str]) -> None:
    """A row of a table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def head(*names: str) -> None:
    """The first two rows."""
    say(list(names))
    say(["---"] * len(names))


def row(model: str, beside: str, found: dict, first: bool = True) -> list[str]:
    """Times, ratio and peaks of a measurement of two sides; the model is the first one, or not."""
    other = found["versus"][0]
    ratio = dict(other["ratios"]["epoch"]["end2end"])
    sides = [found, other["measurement"]]
    if not first:
        sides.reverse()
        ratio |= {"median": 1 / ratio["median"], "ci": [1 / end for end in ratio["ci"][::-1]]}
    times = [side["workloads"]["epoch"]["end2end"]["p50_ms"] for side in sides]
    peaks = [side["memory"]["epoch"]["mib"] for side in sides]
    busy = "; BUSY" if found["busy"]["flag"] else ""
    return [
        model, beside, *(f"{ms / 1e3:.2f}" for ms in times),
        f"{ratio['median']:.2f} ({ratio['ci'][0]:.2f} to {ratio['ci'][1]:.2f})",
        *(f"{mib:.0f}" for mib in peaks), f"{ratio['n']}{busy}",
    ]  # fmt: skip


COLUMNS = ("model", "beside", "s", "beside, s", "ratio (95 %)", "peak MiB", "beside, MiB", "pairs")


def epochs(bench: Bench) -> None:
    """Against the peers."""
    head(*COLUMNS)
    peers = ["dgl", *(["pyg"] if os.environ.get("GNNSCALE_PYG_PYTHON") else [])]
    for model, words in MODELS.items():
        for peer in peers:
            name = f"{words[0].partition('=')[2]}-{peer}"
            say(row(model, peer, bench(name, *words, f"peer={peer}")))


def egc(bench: Bench) -> None:
    """EGC against GCN."""
    head(*COLUMNS)
    for model, words in EGC.items():
        # what stands behind --vs is added to what stands before it
        found = bench(model[:5].lower(), *MODELS["GCN"], "--vs", *words)
        say(row(model, "our GCN", found, first=False))


def precision(bench: Bench) -> None:
    """bfloat16 beside float32."""
    head(*COLUMNS)
    for model, words in {**MODELS, **EGC}.items():
        name = f"bfloat16-{model.partition(',')[0].lower()}"
        found = bench(name, *words, "hardware.precision=bfloat16", "--vs",
                      "hardware.precision=float32")  # fmt: skip
        say(row(model, "float32", found))


def order(bench: Bench) -> None:
    """Nodes numbered anew beside the source's order."""
    head(*COLUMNS)
    sets = {"heavy-tailed": (), "arxiv_2023": ("dataset=arxiv_2023", "dataset.download=false")}
    for name, data in sets.items():
        if data and not os.environ.get("GNNSCALE_DATA"):
            continue
        for how in ORDERS:
            words = (*MODELS["GCN"], f"hardware.order={how}", "--vs", "hardware.order=source")
            found = bench(f"order-{how}-{name}", *words, data=data)
            say(row(f"GCN, {name}, {how}", "source", found))


@compiled(parallel=True)
def gather(indices, x, out):
    """Every edge's row copied onto the row of its place within a block: reads at random alone."""
    last, wide = len(indices) - 1, x.shape[1] * x.itemsize
    blocks = len(out)
    for b in numba.prange(blocks):
        kept = out[b]
        for e in range(b * len(indices) // blocks, (b + 1) * len(indices) // blocks):
            far = indices[min(e + AHEAD, last)]
            for byte in range(0, wide, LINE):
                fetch(x, far, byte)
            given = x[indices[e]]
            for d in range(x.shape[1]):
                kept[d] = given[d]


def forms(graph: Adjacency, width: int) -> list[Callable[[], object]]:
    """The gather, the sums, the weighted sums."""
    x, w = torch.randn(graph.n_src, width), torch.rand(graph.n_edges, 1)
    heads, ends, rows = x.unsqueeze(1), graph.indices.numpy(), x.numpy()
    parts = torch.empty(64, width).numpy()
    kernels = [BACKENDS[name] for name in ("native", "dgl", "torch")]
    return [
        lambda: gather(ends, rows, parts),
        *(lambda kernel=kernel: kernel.total(graph, x) for kernel in kernels),
        *(lambda kernel=kernel: kernel.weighted_total(graph, heads, w) for kernel in kernels),
    ]


def products(bench: Bench) -> None:
    """Medians over rounds in which every product is taken once, in turn."""
    graph = heavy_tailed()
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    head("columns", "random gather, ms", *(
        f"{form}, {name}" for form in ("sum", "weighted sum") for name in ("native", "dgl", "torch")
    ))  # fmt: skip
    for width in WIDTHS:
        medians = list(interleaved(forms(graph, width)))
        bound = medians[0]
        say([str(width), f"{1e3 * bound:.0f}",
             *(f"{1e3 * m:.0f} ({m / bound:.2f})" for m in medians[1:])])  # fmt: skip


def features(bench: Bench) -> None:
    """Medians over rounds, in turn; 7,487 x 745 is amazon_photo's size."""
    head("not 0", "columns", "dropout", "sparse, ms", "weighted sum, ms", "dense, ms")
    for share, width, p in product((0.01, 0.05, 0.35), (16, 64, 256), (0.0, 0.5, 0.8)):
        draw = torch.Generator().manual_seed(0)
        x = torch.rand(7487, 745, generator=draw)
        x[torch.rand(x.shape, generator=draw) > share] = 0
        rows = SparseRows.from_dense(x)
        w, g = torch.randn(745, width), torch.randn(7487, width)
        ways: list[Callable[[Tensor], Tensor]] = [
            lambda w, rows=rows, p=p: rows.dropout(p) @ w,
            lambda w, rows=rows, p=p: ops.total(rows.rows, w, dropout(rows.values, p)),
            lambda w, x=x, p=p: dropout(x, p) @ w,
        ]
        medians = interleaved([partial(step, way, w, g) for way in ways])
        say([f"{share:.0%}", str(width), str(p), *(f"{1e3 * m:.1f}" for m in medians)])


def step(way: Callable[[Tensor], Tensor], w: Tensor, g: Tensor) -> None:
    """Forwards and backwards."""
    way(w.detach().requires_grad_()).backward(g)


def interleaved(work: list[Callable[[], object]]) -> Iterator[float]:
    """Median seconds of each."""
    times: list[list[float]] = [[] for _ in work]
    for number in range(ROUNDS + 2):
        for kept, each in zip(times, work, strict=True):
            start = time.perf_counter()
            each()
            if number >= 2:
                kept.append(time.perf_counter() - start)
    return map(statistics.median, times)


PARTS = {
    "epochs": epochs, "egc": egc, "precision": precision, "products": products,
    "features": features, "order": order,
}  # fmt: skip


def main() -> None:
    """The parts that are asked for."""
    if len(sys.argv) < 3 or not set(sys.argv[3:]) <= set(PARTS):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    bench = Bench(sys.argv[1], Path(sys.argv[2]).resolve())
    for name in sys.argv[3:] or PARTS:
        print(f"\n{name}, {torch.get_num_threads()} threads\n")
        PARTS[name](bench)


if __name__ == "__main__":
    main()
