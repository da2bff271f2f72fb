"""Whether a run folder was made by the preset as it is now."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale import compose
from gnnscale.catalog import Catalog
from gnnscale.overrides import normalise
from gnnscale.reproduce.published import Row

FREE = ("seed", "seeds", "resume", "run", "trust", "hardware", "logger")
"""Where and how a row runs, and on which seeds: not what it is."""
PLACES = ("dataset.root", "dataset.download")
ABSENT = "absent"


def words(row: Row) -> list[str]:
    """The overrides that compose a row."""
    return [f"experiment={row.experiment}", *row.overrides]


def differing(where: Path, row: Row, catalog: Catalog, strict: bool = False) -> list[str]:
    """Keys in which a run folder differs from its row's composition; [] also where none was run.

    A key that is younger than the run counts if its value is not the option's default, or if
    ``strict``: training only goes on with the very same settings.
    """
    path = where / "config.json"
    if not path.exists():
        return []
    stored = _flat(json.loads(path.read_text()))
    composed, choices = compose.compose(normalise(words(row), catalog), catalog)
    wanted = _flat(composed)

    def default(key: str) -> Any:
        group, _, name = key.partition(".")
        option = catalog.options(group).get(str(choices.get(group)))
        return ABSENT if option is None else option.content.get(name, ABSENT)

    found = []
    for key in sorted(stored.keys() | wanted.keys()):
        mine, now = stored.get(key, ABSENT), wanted.get(key, ABSENT)
        same = mine == now or (not strict and key not in stored and now == default(key))
        if not same and key.split(".")[0] not in FREE and key not in PLACES:
            found.append(key)
    return found


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys; lists are values, and so are empty mappings."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: json.loads(json.dumps(node))}
    return {
        key: value
        for name, part in node.items()
        for key, value in _flat(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }
