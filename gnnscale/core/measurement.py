"""What ``gnnscale bench`` leaves behind: one typed, versioned JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gnnscale.core.record import write_json

MEASUREMENT_VERSION = 1


@dataclass
class Measurement:
    """One composition, measured; ``report`` reads nothing else.

    label: what it is called in tables. weights: "fresh" or the seed folder they come from.
    workloads: {name: {scope: entry}}; an entry is {n, mean_ms, std_ms, p50_ms, p90_ms, p95_ms,
    p99_ms, p999_ms, max_ms, p50_ci, p99_ci, throughput_per_s, stages_ms, complete, energy_j,
    size}; values that too few requests can't support are null. ``complete`` is false where the time
    limit came before the asked number of requests. size: nodes, edges and seeds of a request.
    memory: {phase: {mib, file_mib, cuda_mib, cuda_reserved_mib, source}} and ``analytic_bytes``.
    cost: {parameters, bytes, macs, dense_macs, message_macs, layers: [...]}.
    roofline: {machine, kinds: {kind: {measured_ms, bound_ms, resource, distance}}, layers: [...]}.
    calibration: {p50_ms, n, drift}. busy: {others_share, flag, source}.
    energy_j: {"workload/scope": joule per request or null}. cold_start_ms: {what: first time}.
    versus: what was measured in turn with it: [{label, measurement, ratios: {name: {scope:
    {median, ci, p5, p95, n}}}}], a ratio being this one's time over the other's, pair by pair.
    """

    label: str
    config: dict[str, Any]
    choices: dict[str, Any]
    seed: int
    weights: str
    settings: dict[str, Any]
    workloads: dict[str, dict[str, Any]]
    memory: dict[str, Any]
    cost: dict[str, Any] | None
    roofline: dict[str, Any] | None
    calibration: dict[str, Any] | None
    busy: dict[str, Any]
    energy_j: dict[str, Any]
    cold_start_ms: dict[str, float]
    environment: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    versus: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    schema_version: int = MEASUREMENT_VERSION

    def save(self, path: Path) -> None:
        """Write the whole file or nothing."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Measurement":
        """Read one. Raises ValueError if it is not one of this schema version."""
        content = json.loads(path.read_text())
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != MEASUREMENT_VERSION or "workloads" not in content:
            raise ValueError(f"{path}: version {version}, expected {MEASUREMENT_VERSION}")
        return cls(**content)
