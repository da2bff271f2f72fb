"""Whether a run folder was made by the preset as it is now."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gnnscale import compose
from gnnscale.catalog import Catalog
from gnnscale.core.errors import UsageError
from gnnscale.overrides import normalise
from gnnscale.reproduce.published import Row

FREE = ("seed", "seeds", "resume", "run", "trust", "hardware", "logger")
"""Where and how a row runs, and on which seeds: not what it is."""
PLACES = ("dataset.root", "dataset.download", *compose.PACE)
ABSENT = "absent"
TAUGHT = "teacher.composition."
"""Before the keys of what trains a student's teacher."""


def words(row: Row) -> list[str]:
    """The overrides that compose a row."""
    return [f"experiment={row.experiment}", *row.overrides]


def differing(where: Path, row: Row, catalog: Catalog, strict: bool = False) -> list[str]:
    """Keys in which a run folder differs from its row's composition; [] also where none was run.

    A key that is younger than the run counts if its value is not the option's default, or if
    ``strict``: training only goes on with the very same settings.
    """
    return unlike(_stored(where), row, catalog, strict)


def changed(where: Path, row: Row, catalog: Catalog) -> dict[str, Any]:
    """What a run folder was composed to, by dotted keys, less what are the defaults of the row's
    options now; every ``_target_`` stays, so that another option is told from this one.
    """
    stored = _stored(where)
    if not stored:
        return {}
    _, default = _composed(row, catalog, _taught(stored))
    return {
        key: value for key, value in stored.items()
        if _counts(key) and (key.endswith("_target_") or value != default(key))
    }  # fmt: skip


def unlike(
    stored: Mapping[str, Any], row: Row, catalog: Catalog, strict: bool = False
) -> list[str]:
    """``differing`` of settings by dotted keys; of a teacher's only where those are known."""
    if not stored:
        return []
    wanted, default = _composed(row, catalog, _taught(stored))
    found = []
    if _taught(stored) and not _taught(wanted):
        stored = {key: value for key, value in stored.items() if not key.startswith(TAUGHT)}
        source = wanted.get("teacher.run")
        if source and source not in catalog.options("experiment") and not Path(source).is_dir():
            found.append("teacher.run")  # which is gone
    for key in sorted(stored.keys() | wanted.keys()):
        mine, now = stored.get(key, ABSENT), wanted.get(key, ABSENT)
        same = mine == now or (not strict and key not in stored and now == default(key))
        if not same and _counts(key):
            found.append(key)
    return found


def _stored(where: Path) -> dict[str, Any]:
    """A run folder's composition and its teacher's by dotted keys; {} where none was run."""
    path, taught = where / "config.json", where / "teacher.json"
    if not path.exists():
        return {}
    found = _flat(json.loads(path.read_text()))
    if taught.exists():
        found |= _of_teacher(json.loads(taught.read_text())["config"])
    return found


def _of_teacher(config: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher's composition by dotted keys, less what it has from its student."""
    own = {name: part for name, part in config.items() if name not in compose.SHARED}
    return {TAUGHT + key: value for key, value in _flat(own).items()}


def _taught(stored: Mapping[str, Any]) -> bool:
    return any(key.startswith(TAUGHT) for key in stored)


def _composed(
    row: Row, catalog: Catalog, taught: bool
) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """(a row's composition by dotted keys, the default of a key among the row's options).

    ``taught``: with its teacher's, unless it can't be composed here: its preset may be gone, or a
    class of it needs trust, which tables are read without.
    """
    config, choices = compose.compose(normalise(words(row), catalog), catalog)
    wanted, chosen = _flat(config), {"": choices}
    teacher = None
    if taught:
        with contextlib.suppress(UsageError):
            teacher = compose.check(config, choices, catalog).teacher
    if teacher is not None:
        wanted |= _of_teacher(teacher.config)
        chosen[TAUGHT] = teacher.choices

    def default(key: str) -> Any:
        of = TAUGHT if key.startswith(TAUGHT) else ""
        group, _, name = key.removeprefix(of).partition(".")
        option = catalog.options(group).get(str(chosen.get(of, {}).get(group)))
        return ABSENT if option is None else option.content.get(name, ABSENT)

    return wanted, default


def _counts(key: str) -> bool:
    key = key.removeprefix(TAUGHT)
    return key.split(".")[0] not in FREE and key not in PLACES


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys; lists are values, and so are empty mappings."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: json.loads(json.dumps(node))}
    return {
        key: value
        for name, part in node.items()
        for key, value in _flat(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }
