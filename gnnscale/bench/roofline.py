"""How far each kind of layer is from what this machine could do at best."""

import statistics
from typing import Any

from gnnscale.bench.cost import ELSEWHERE, Layer
from gnnscale.bench.machine import Machine


def demands(layer: Layer, machine: Machine) -> dict[str, float]:
    """Least seconds of a layer on each resource.

    gemm: its matrix products at their shapes. gather: one random row read per edge and product.
    bandwidth: its input, output, parameters and indices moved once.
    """
    reads = [(adj, d) for name, adj, d, _ in layer.products if name != "softmax" and d]
    return {
        "gemm": sum(machine.gemm(*shape) for shape in layer.dense),
        "gather": sum(machine.gather(adj, d) for adj, d in reads if adj.n_edges),
        "bandwidth": layer.least_bytes / machine.bandwidth,
    }


def _line(measured: float, needs: dict[str, float]) -> dict[str, Any]:
    resource = max(needs, key=lambda name: needs[name])
    bound = needs[resource]
    return {
        "measured_ms": 1e3 * measured,
        "bound_ms": 1e3 * bound,
        "resource": resource,
        "distance": measured / bound if bound else None,
        "demands_ms": {name: 1e3 * s for name, s in needs.items()},
    }


def roofline(layers: dict[str, Layer], machine: Machine) -> dict[str, Any]:
    """Per layer and per kind of layer: measured, bound = max over resources, measured / bound.

    The resources are taken to work perfectly side by side, so the bound is a true lower one for
    this split into layers; fusing two layers could go below it.
    """
    rows: list[dict[str, Any]] = []
    kinds: dict[str, tuple[float, dict[str, float]]] = {}
    for layer in layers.values():
        if layer.name == ELSEWHERE or not layer.seconds:
            continue
        measured, needs = statistics.median(layer.seconds), demands(layer, machine)
        rows.append({"name": layer.name, "kind": layer.kind, **_line(measured, needs)})
        took, sums = kinds.get(layer.kind, (0.0, dict.fromkeys(needs, 0.0)))
        kinds[layer.kind] = (took + measured, {n: sums[n] + needs[n] for n in needs})
    gathers = {}
    for layer in layers.values():
        for name, adj, d, _ in layer.products:
            if name != "softmax" and d and adj.n_edges:
                gathers[(id(adj), d)] = {
                    "rows": adj.n_edges, "width": d,
                    "rows_per_s": adj.n_edges / machine.gather(adj, d),
                    "gb_per_s": 4 * d * adj.n_edges / machine.gather(adj, d) / 1e9,
                }  # fmt: skip
    return {
        "machine": {**machine.rates(), "gather": list(gathers.values())},
        "kinds": {name: _line(took, sums) for name, (took, sums) in kinds.items()},
        "layers": rows,
    }
