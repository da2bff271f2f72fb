"""Activation memory of a full-batch training step over depth: plain, reversible, tied, equilibrium.

usage: scripts/bench_depth.py [NODES [DEPTH ...]] [--hidden D] [--degree K] [--device cpu|cuda]

Each figure is that of a fresh process, on a synthetic graph: the most that one step (forward,
backward, Adam) holds beyond what the process held before it. That is the data, the weights, their
gradients and Adam's state, which all exist by then, made by a step on a graph of 60 nodes. On the
CPU the peak is VmHWM, begun anew in front of the step; on a GPU, what torch's allocator gave out.
The equilibrium network has no depth: as many evaluations are made, in both solves; its solver keeps
the vectors of 8 of them.

A plain network's need is also computed, from the sizes of what autograd keeps of networks of two
and three layers; where that is more than there is, it is not run. Prints one markdown table.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"groups": 1, "keep_activations": True},
    "reversible": {"groups": 2},
    "tied": {"groups": 2, "unit": 2},
    "deq": {"tolerance": 0.0, "backward_tolerance": 0.0},
}
DEPTHS = (8, 64, 512, 1001)
SPARE_MIB = 1024
"""Left free for everything else when it is decided whether a plain network fits."""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Freed tensors go back to the system at once, so that memory held is memory in use."""


def main() -> None:
    """Measure every kind at every depth and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nodes", type=int, nargs="?", default=20_000)
    parser.add_argument("depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--hidden", type=int, default=80)
    parser.add_argument("--degree", type=float, default=10.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        sys.stdout.write(json.dumps(child(**json.loads(asked.child))) + "\n")
        return
    shared = {"nodes": asked.nodes, "hidden": asked.hidden, "degree": asked.degree,
              "device": asked.device}  # fmt: skip
    two, three = (measured("plain", depth, keeping=True, **shared)["kept"] for depth in (2, 3))
    say(["depth", *(f"{kind} MiB" for kind in KINDS), "plain, computed MiB",
         *(f"{kind} s" for kind in KINDS), "parameters of reversible"])  # fmt: skip
    say(["---"] * (3 + 2 * len(KINDS)))
    for depth in asked.depths:
        need = (two + (depth - 2) * (three - two)) / 2**20
        found: dict[str, dict[str, float] | None] = {}
        for kind in KINDS:
            fits = kind != "plain" or need + SPARE_MIB < free(asked.device)
            found[kind] = measured(kind, depth, **shared) if fits else None
        mib = [f"{f['mib']:,.1f}" if f else "does not fit" for f in found.values()]
        seconds = [f"{f['s']:.2f}" if f else "-" for f in found.values()]
        reversible = found["reversible"]
        assert reversible is not None
        say([str(depth), *mib, f"{need:,.1f}", *seconds, f"{reversible['parameters']:,.0f}"])


def say(cells: list[str]) -> None:
    """One line of the table, at once."""
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


def free(device: str) -> float:
    """MiB that a process may still take."""
    if device != "cpu":
        import torch

        return torch.cuda.mem_get_info()[0] / 2**20
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(s.split()[1]) / 1024 for s in lines if s.startswith("MemAvailable"))


def measured(kind: str, depth: int, keeping: bool = False, **shared: Any) -> dict[str, float]:
    """One child's figures."""
    given = json.dumps({"kind": kind, "depth": depth, "keeping": keeping, **shared})
    done = subprocess.run(
        [sys.executable, __file__, "--child", given], stdout=subprocess.PIPE, text=True,
        check=False, env={**os.environ, **MALLOC},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{kind}, depth {depth}: exit code {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    told = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
    sys.stderr.write(f"{kind}, depth {depth}: {told}\n")  # a row may take an hour
    return found


# -- one measurement -------------------------------------------------------------------------------


def child(
    kind: str, depth: int, keeping: bool, nodes: int, hidden: int, degree: float, device: str
) -> dict[str, float]:
    """mib: peak of a step beyond what was there; s: its seconds; kept: bytes autograd kept."""
    import torch

    from gnnscale.dataset.synthetic import Synthetic
    from gnnscale.graph.whole import whole_batch

    tiny = Synthetic(nodes=60, degree=3.0).load(0)
    data = Synthetic(nodes=nodes, degree=degree).load(0)
    torch.manual_seed(0)
    model = network(kind, depth, hidden, data.shape).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    batch = whole_batch(data, model.need).to(device)

    def step(of: Any) -> None:
        optimizer.zero_grad(set_to_none=False)
        logits = model(of).logits[of.labeled]
        torch.nn.functional.cross_entropy(logits, of.y[of.labeled]).backward()
        optimizer.step()

    step(whole_batch(tiny, model.need).to(device))
    one = torch.ones(nodes, 1, device=device, requires_grad=True)
    batch.hops[0].reduce(lambda h: h, one).sum().backward()  # both directions of the graph exist
    if keeping:
        return {"kept": kept(lambda: model(batch).logits, model)}
    if device == "cpu":
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(batch)
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    count = sum(p.numel() for p in model.parameters())
    return {"mib": peak - before, "s": seconds, "parameters": count}


def network(kind: str, depth: int, hidden: int, shape: Any) -> Any:
    """The model of a kind; all of them of GCN layers."""
    from gnnscale.architecture.deq import DEQ
    from gnnscale.architecture.reversible import Reversible
    from gnnscale.architecture.tied import Tied

    options = KINDS[kind]
    if kind == "deq":
        return DEQ(shape, hidden, iterations=depth, backward_iterations=depth, **options)
    if kind == "tied":  # an even number, whatever was asked
        return Tied(shape, hidden, depth=depth - depth % 2, **options)
    return Reversible(shape, hidden, depth=depth, **options)


def kept(forward: Any, model: Any) -> float:
    """Bytes of the storages that autograd keeps of a pass, beside parameters."""
    import torch

    own = {p.untyped_storage()._cdata for p in model.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
            held.append(storage)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward()
    return sum(sizes.values())


def status(name: str) -> float:
    """A field of this process's status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) / 1024 for s in lines if s.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
