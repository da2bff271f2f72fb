"""Integer inference beside float32 and bfloat16: whole models, whole graphs and queries of nodes.

usage: python scripts/bench_integer.py GNNSCALE OUT [SET ...] [--models gcn,sage] [--quick]

Trains each model in float32 and with 8-bit fake quantization (the same data, seed and epochs),
converts the second, then lets ``gnnscale bench`` make requests of the integer model, of the float32
one and of the same under bfloat16 in turn. A second call goes on: what is trained, converted or
measured already is read. Prints three markdown tables: times, what is stored and scored, and
where one pass over the whole graph spends its time. The last is taken in this process.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numba
import torch

SETS = {
    "cora": ["dataset=cora", "dataset.download=false", "trainer.epochs=200"],
    "coauthor_cs": ["dataset=coauthor_cs", "dataset.download=false", "dataset.split=per_class",
                    "trainer.epochs=200"],
    "synthetic": ["dataset=synthetic", "dataset.nodes=200000", "dataset.degree=20",
                  "dataset.features=128", "dataset.train=0.5", "trainer.epochs=40",
                  "trainer.evaluate_every=5"],
}  # fmt: skip
"""The last one: 200,000 nodes, 4,000,000 edges."""
COMMON = ["seeds=1", "hardware.threads=1", "architecture.hidden=64",
          "architecture.dropout=0.5", "optimizer.lr=0.01",
          "optimizer.weight_decay=5e-4"]  # fmt: skip
FLOATS = {"float32": [], "bfloat16": ["hardware.precision=bfloat16"]}
WORKLOADS = ("full", "query_1", "query_32")


def main() -> None:
    """Measure what was asked for and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("gnnscale")
    parser.add_argument("out", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--models", default="gcn,sage")
    parser.add_argument("--quick", action="store_true", help="30 requests and 1 s of each")
    asked = parser.parse_args()
    if unknown := set(asked.sets) - set(SETS):
        parser.error(f"{', '.join(sorted(unknown))}: no setting for it; valid: {', '.join(SETS)}")
    times, stored, spent = [], [], []
    for name in asked.sets:
        for model in asked.models.split(","):
            place = asked.out / name / model
            trained(asked.gnnscale, place, [*SETS[name], f"architecture={model}", *COMMON])
            found = measured(asked.gnnscale, place, asked.quick)
            times += [times_row(name, model, w, found) for w in WORKLOADS]
            stored.append(stored_row(name, model, place, found))
            spent += spent_rows(name, model, place)
    environment = found["environment"]
    print(f"{environment['cpu']}, {environment['threads']} thread(s), revision "
          f"{environment['revision']}\n")  # fmt: skip
    show("set model request n|int8 p50, ms|p95|float32 p50|p95|bfloat16 p50|p95|float32 / int8"
         "|95 % interval|bfloat16 / int8|95 % interval", times)  # fmt: skip
    show("set model|accuracy float32, %|bfloat16|fake int8|int8|codes equal, %"
         "|weights float32, bytes|int8|ratio|peak MiB of a pass, float32|bfloat16|int8"
         "|of loading, float32|bfloat16|int8", stored)  # fmt: skip
    show("set model form|one pass, ms|products|sums|the rest", spent)


def call(*words: str) -> str:
    """What a command printed; its own words and an end where it failed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def trained(gnnscale: str, place: Path, words: list[str]) -> None:
    """A float run, its scores in bfloat16, one with fake quantization, and its conversion."""
    for form, more in (("float", []), ("fake", ["quantization=qat"])):
        if not (place / form / "seed-0" / "record.json").exists():
            print(place / form, "is trained", file=sys.stderr)
            call(gnnscale, "train", *words, *more, f"hydra.run.dir={place / form}")
    if not (place / "bfloat16" / "seed-0" / "record.json").exists():
        call(gnnscale, "train", "recipe=evaluate", f"run={place / 'float'}", *FLOATS["bfloat16"],
             f"hydra.run.dir={place / 'bfloat16'}")  # fmt: skip
    if not (place / "int8" / "seed-0" / "codes.json").exists():
        call(gnnscale, "convert", f"run={place / 'fake'}", f"out={place / 'int8'}")


def measured(gnnscale: str, place: Path, quick: bool) -> dict[str, Any]:
    """The file of ``gnnscale bench``, the integer model in turn with the float forms."""
    kept = place / "bench.json"
    if not kept.exists():
        print(place, "is measured", file=sys.stderr)
        sides = [word for more in FLOATS.values()
                 for word in ("--vs", f"run={place / 'float'}", *more)]  # fmt: skip
        protocol = ["bench=quick"] if quick else ["bench.requests=100", "bench.limit_s=120"]
        said = call(gnnscale, "bench", f"run={place / 'int8'}", *protocol, "bench.memory=true",
                    "bench.workloads=[full,query]", "bench.queries=[1,32]", "bench.scopes=[model]",
                    "bench.roofline=false", *sides)  # fmt: skip
        kept.write_text(Path(said.strip().splitlines()[-1]).read_text())
    return json.loads(kept.read_text())


def times_row(name: str, model: str, workload: str, found: dict[str, Any]) -> list[str]:
    """p50, p95 and the ratios of one kind of request."""
    ours = found["workloads"][workload]["model"]
    row = [f"{name} {model} {workload} {ours['n']}", *ends(ours)]
    for versus in found["versus"]:
        row += ends(versus["measurement"]["workloads"][workload]["model"])
    for versus in found["versus"]:
        ratio = versus["ratios"][workload]["model"]
        low, high = ratio["ci"] or (float("nan"),) * 2
        row += [f"{1 / ratio['median']:.2f}", f"{1 / high:.2f} to {1 / low:.2f}"]
    return row


def ends(timing: dict[str, Any]) -> list[str]:
    """p50 and p95 in milliseconds."""
    return [f"{timing['p50_ms']:.3g}", f"{timing['p95_ms']:.3g}"]


def stored_row(name: str, model: str, place: Path, found: dict[str, Any]) -> list[str]:
    """Accuracy, codes, bytes of weights, peak memory."""
    records = {form: json.loads((place / form / "seed-0/record.json").read_text())
               for form in ("float", "bfloat16", "fake", "int8")}  # fmt: skip
    codes = json.loads((place / "int8/seed-0/codes.json").read_text())["codes"]["equal"]
    small, large = records["int8"]["model_bytes"], records["float"]["model_bytes"]
    sides = (*(versus["measurement"] for versus in found["versus"]), found)
    peaks = [f"{side['memory'][phase]['mib']:.0f}" for phase in ("full", "load")
             for side in sides]  # fmt: skip
    scores = [f"{100 * record['metric']['test']:.2f}" for record in records.values()]
    bytes_ = [str(large), str(small), f"{large / small:.2f}"]
    return [f"{name} {model}", *scores, f"{100 * codes:.4f}", *bytes_, *peaks]


def spent_rows(name: str, model: str, place: Path, passes: int = 9) -> list[list[str]]:
    """Where one pass over the whole graph spends its time: the median of some passes."""
    import gnnscale.core.ops.product as product
    from gnnscale.core import ops
    from gnnscale.core.ops import coded_kernels as kernels
    from gnnscale.core.ops import int_product
    from gnnscale.core.sparse import SparseRows
    from gnnscale.graph.whole import whole_batch

    torch.set_num_threads(1)
    numba.set_num_threads(1)
    laps: dict[str, float] = defaultdict(float)
    inside: list[str] = []

    def timed(owner: Any, attribute: str, kind: str) -> Any:
        original = getattr(owner, attribute)

        def run(*args: Any, **kwargs: Any) -> Any:
            if inside:  # a sparse product is a sum of rows
                return original(*args, **kwargs)
            inside.append(kind)
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                laps[kind] += time.perf_counter() - start
                inside.clear()

        setattr(owner, attribute, run)
        return original

    watched = [(kernels, "sums", "sums"), (kernels, "extremes", "sums"),
               (kernels, "weighted", "sums"), (kernels, "sparse_product", "products"),
               (torch, "_int_mm", "products"),
               (int_product, "product", "products"), (ops, "operator", "sums"),
               (ops, "total", "sums"), (ops, "extreme", "sums"),
               (torch.Tensor, "__matmul__", "products"), (SparseRows, "__matmul__", "products"),
               (torch, "addmm", "products"), (product, "multiply", "products"),
               (torch.nn.functional, "linear", "products")]  # fmt: skip
    rows = []
    for form in ("float", "int8"):
        run = loaded(place / form)
        run.model.eval()
        batch = whole_batch(run.data, run.model.need)
        with torch.no_grad():
            run.model(batch)
            originals = [timed(*w) for w in watched]
            seen = []
            for _ in range(passes):
                laps.clear()
                start = time.perf_counter()
                run.model(batch)
                seen.append((time.perf_counter() - start, laps["products"], laps["sums"]))
        for (owner, attribute, _), original in zip(watched, originals, strict=True):
            setattr(owner, attribute, original)
        total, products, sums = (
            1000 * sorted(column)[passes // 2] for column in zip(*seen, strict=True)
        )
        rows.append([f"{name} {model} {form}", *(f"{ms:.3g}" for ms in
                     (total, products, sums, total - products - sums))])  # fmt: skip
    return rows


def loaded(folder: Path) -> Any:
    """The finished run in a folder, as ``gnnscale bench`` loads it."""
    from gnnscale.bench.subject import build, originate
    from gnnscale.catalog import Catalog

    return build(originate(folder, [], Catalog.load(), frozenset()), folder / "scratch").run


def show(head: str, rows: list[list[str]]) -> None:
    """A markdown table."""
    print("|", head.replace("|", " | "), "|")
    print("|---" + "|--:" * (len(rows[0]) - 1) + "|")
    for row in rows:
        print("|", " | ".join(row), "|")
    print()


if __name__ == "__main__":
    main()
