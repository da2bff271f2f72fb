"""Checkpoints: written whole or not at all, loaded without running pickled code."""

import io
from pathlib import Path
from typing import Any

import torch

from gnnscale.core.errors import UsageError
from gnnscale.core.record import write_bytes

VERSION = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, replacing an earlier file in one step."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **content}, buffer)
    write_bytes(path, buffer.getbuffer())  # type: ignore[arg-type]


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote; only tensors and plain containers can come out of it.

    Raises UsageError if the file is damaged or of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler fail in any way at all
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UsageError(
            f"{path}: not a readable checkpoint ({reason}); delete it to start this seed afresh"
        ) from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UsageError(
            f"{path}: not a checkpoint of version {VERSION}; delete it to start afresh"
        )
    return content
