"""What a finished seed leaves behind: one typed, versioned JSON file."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


@dataclass
class Record:
    """The result of one seed; ``report`` reads nothing else.

    metric: {name, train, valid, test, best_epoch, extra}, scores in [0, 1].
    time_s: {prepare, epoch_median, evaluate_median, total, phases: {name: seconds}}.
    latency_ms: {p50, p95, n} of a full inference pass, or null with a reason in ``notes``.
    memory_mib: {rss_peak, cuda_peak, phase, source, phases: {name: MiB}}.
    model_bytes: parameters at the width they would be stored in. sites: {name: bits} of sites with
    codes.
    """

    config: dict[str, Any]
    seed: int
    metric: dict[str, Any]
    time_s: dict[str, Any]
    latency_ms: dict[str, Any] | None
    memory_mib: dict[str, Any]
    parameters: int
    model_bytes: int
    environment: dict[str, Any]
    choices: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sites: dict[str, int] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def save(self, path: Path) -> None:
        """Write the whole file or nothing."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read a record. Raises ValueError if it is not one of this schema version."""
        content = json.loads(path.read_text())
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path}: schema version {version}, expected {SCHEMA_VERSION}")
        return cls(**content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never half of one."""
    write_bytes(path, (json.dumps(content, indent=2, default=str) + "\n").encode())


def write_bytes(path: Path, content: bytes | memoryview, durable: bool = False) -> None:
    """Write a file atomically, through a temporary neighbour and a rename.

    ``durable``: return when it is on the disk, so that a power cut can't empty it any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = partial(path)
    try:
        part.write_bytes(content)
        if durable:
            sync(part)
        os.replace(part, path)
        if durable:
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial(path: Path) -> Path:
    """The hidden neighbour in which this process prepares the file at ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that is ours alone."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)
