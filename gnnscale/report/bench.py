"""What ``gnnscale bench`` measured on a seed: the newest file in ``seed-<k>/bench/``."""

import json
import logging
import math
from pathlib import Path
from typing import Any

log = logging.getLogger("gnnscale")


def newest(seed_folder: Path) -> dict[str, float]:
    """Numbers by dotted name: ``<workload>.<scope>.p50_ms`` and ``memory.<name>``.

    Files are named by their time, so the last name is the newest measurement. Empty if there is
    none; one that can't be read is told of and passed over for the one before it.
    """
    for path in sorted((seed_folder / "bench").glob("*.json"), reverse=True):
        try:
            found = json.loads(path.read_text())
            return {**_numbers(found.get("workloads") or {}),
                    **_numbers({"memory": found.get("memory") or {}})}  # fmt: skip
        except (OSError, ValueError, AttributeError) as error:
            log.warning("%s: can't be read (%s); left out", path, error)
    return {}


def _numbers(node: Any, prefix: str = "") -> dict[str, float]:
    if isinstance(node, dict):
        return {
            k: v
            for name, part in node.items()
            for k, v in _numbers(part, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    whole = isinstance(node, int | float) and not isinstance(node, bool) and math.isfinite(node)
    return {prefix: float(node)} if whole else {}
