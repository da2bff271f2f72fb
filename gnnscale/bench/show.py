"""The measurement on a terminal."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from gnnscale.core.measurement import Measurement


def show(m: Measurement, out: Console) -> None:
    """Tables of latency, cost, distance from the machine's bounds and memory; then remarks."""
    weights = "fresh weights, not trained" if m.weights == "fresh" else f"weights of {m.weights}"
    out.print(f"[bold]{m.label}[/] seed {m.seed}, {weights}; {_data(m.data)}; "
              f"{m.environment['device']}, {m.environment['threads']} threads")  # fmt: skip
    people = [(m.label, m.workloads), *((v["label"], v["measurement"]["workloads"])
                                        for v in m.versus)]  # fmt: skip
    if m.workloads or any(w for _, w in people):
        out.print(latency(people))
    for versus in m.versus:
        if versus["ratios"]:
            out.print(compared(m.label, versus))
    if m.cost:
        out.print(cost(m.cost))
    if m.roofline:
        out.print(bounds(m.roofline))
        out.print(rates(m.roofline["machine"]), markup=False)
    held = [(m.label, m.memory), *((v["label"], v["measurement"].get("memory", {}))
                                   for v in m.versus)]  # fmt: skip
    if any(phase != "analytic_bytes" for phase in m.memory):
        out.print(memory(held, m.memory["analytic_bytes"]))
    for line in remarks(m):
        out.print(line, markup=False)


def _data(data: dict[str, Any]) -> str:
    return f"{data['name']}, {data['nodes']:,} nodes, {data['edges']:,} edges"


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def latency(people: list[tuple[str, dict]]) -> Table:
    """One line per workload, scope and participant."""
    table = Table("workload", "scope", "of", "n", "p50 ms", "95 % interval", "p90", "p95", "p99",
                  "max", "per s", "stages, mean ms", title="latency", title_justify="left",
                  show_edge=False)  # fmt: skip
    names = list(dict.fromkeys(n for _, w in people for n in w))
    for name in names:
        scopes = list(dict.fromkeys(s for _, w in people for s in w.get(name, {})))
        for scope in scopes:
            for who, workloads in people:
                entry = workloads.get(name, {}).get(scope)
                if entry is None:
                    continue
                ci = entry["p50_ci"]
                stages = " ".join(f"{s} {_ms(v)}" for s, v in entry["stages_ms"].items())
                table.add_row(
                    name, scope, who, str(entry["n"]) + ("" if entry["complete"] else "*"),
                    _ms(entry["p50_ms"]), f"{_ms(ci[0])} to {_ms(ci[1])}" if ci else "n/a",
                    *(_ms(entry[f"{p}_ms"]) for p in ("p90", "p95", "p99", "max")),
                    _ms(entry["throughput_per_s"]), stages,
                )  # fmt: skip
    return table


def compared(label: str, versus: dict[str, Any]) -> Table:
    """Ratios pair by pair."""
    title = f"time of {label} / time of {versus['label']}, pair by pair (below 1: faster)"
    table = Table("workload", "scope", "median ratio", "95 % interval", "5 to 95 % of pairs",
                  "pairs", title=title, title_justify="left", show_edge=False)  # fmt: skip
    for name, scopes in versus["ratios"].items():
        for scope, r in scopes.items():
            ci = f"{r['ci'][0]:.3f} to {r['ci'][1]:.3f}" if r["ci"] else "n/a"
            table.add_row(name, scope, f"{r['median']:.3f}", ci, f"{r['p5']:.3f} to {r['p95']:.3f}",
                          str(r["n"]))  # fmt: skip
    return table


def cost(found: dict[str, Any]) -> Table:
    """Per layer, then the sum."""
    table = Table(
        "layer", "kind", "parameters", "dense MACs", "message MACs", "ms",
        title=f"cost of {found['of']}", title_justify="left", show_edge=False,
    )  # fmt: skip
    for row in found["layers"]:
        table.add_row(row["name"], row["kind"], f"{row['parameters']:,}",
                      f"{row['dense_macs']:,}", f"{row['message_macs']:,}",
                      "" if row["ms"] is None else _ms(row["ms"]))  # fmt: skip
    table.add_row("model", f"{found['bytes']:,} bytes", f"{found['parameters']:,}",
                  f"{found['dense_macs']:,}", f"{found['message_macs']:,}", "")  # fmt: skip
    return table


def rates(machine: dict[str, Any]) -> str:
    """What the machine did at best, in one sentence."""
    found = [f"copy {machine['copy_gb_per_s']:.3g} GB/s"]
    found += [
        f"random rows of {g['width']}: {g['rows_per_s'] / 1e6:.3g} M/s ({g['gb_per_s']:.3g} GB/s)"
        for g in machine["gather"]
    ]
    found += [
        f"GEMM {'x'.join(map(str, g['shape']))}: {g['gmac_per_s']:.3g} GMAC/s"
        for g in machine["gemm"]
    ]
    return f"this machine, {machine['source']}: " + "; ".join(found)


def bounds(line: dict[str, Any]) -> Table:
    """Per kind of layer."""
    table = Table(
        "layers of kind", "measured ms", "bound ms", "by", "distance",
        title="roofline: bound = the slowest of gemm, gather and bandwidth", title_justify="left",
        show_edge=False,
    )  # fmt: skip
    for kind, row in line["kinds"].items():
        far = "n/a" if row["distance"] is None else f"{row['distance']:.2f} x"
        table.add_row(kind, _ms(row["measured_ms"]), _ms(row["bound_ms"]), row["resource"], far)
    return table


def memory(held: list[tuple[str, dict[str, Any]]], counted: dict[str, int]) -> Table:
    """Per phase and participant; the counted bytes are the first one's."""
    parts = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in counted.items() if size)
    table = Table("phase", "of", "peak MiB", "of it mapped files", "GPU MiB", title="peak memory, "
                  f"each phase in a fresh process (VmHWM); counted from shapes, MiB: {parts}",
                  title_justify="left", show_edge=False)  # fmt: skip
    for phase in [name for name in held[0][1] if name != "analytic_bytes"]:
        for who, peaks in held:
            row = peaks.get(phase)
            if row is not None:
                cells = (row["mib"], row["file_mib"], row["cuda_mib"])
                said = ("" if value is None else f"{value:.0f}" for value in cells)
                table.add_row(phase, who, *said)
    return table


def remarks(m: Measurement) -> Iterator[str]:
    """What a reader must know besides the tables."""
    known = [f"{name} {sum(e.values()):.3g} J" for name, e in m.energy_j.items() if e]
    if m.energy_j:
        yield "energy per request: " + (", ".join(known) or "not readable here (RAPL, NVML)")
    if m.cold_start_ms:
        yield "cold start, ms: " + ", ".join(f"{k} {_ms(v)}" for k, v in m.cold_start_ms.items())
    if m.calibration and m.calibration["drift"]:
        c = m.calibration
        yield (f"calibration kernel: p50 {c['p50_ms']:.3f} ms over {c['n']} runs, drift "
               f"{c['drift']:.3f} (last quarter over first)")  # fmt: skip
    share = m.busy.get("others_share")
    if share is not None:
        yield f"other processes: {share:.1%} of the cores' time" + (
            "; BUSY" if m.busy["flag"] else "")  # fmt: skip
    for note in m.notes:
        yield f"note: {note}"
    for versus in m.versus:
        for note in versus["measurement"]["notes"]:
            yield f"note on {versus['label']}: {note}"
