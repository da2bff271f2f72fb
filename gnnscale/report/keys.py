"""Groups and parameters as one names them in --by, --where, --sort, --rows and --columns."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from gnnscale.core.errors import UsageError, closest, unknown
from gnnscale.report.rows import Row, text

CONDITION = re.compile(r"([\w.]+)(!?=)(.*)", re.DOTALL)


def known(rows: Iterable[Row]) -> list[str]:
    """Every group and parameter that some row has."""
    return sorted({key for row in rows for key in row.values})


def resolve(name: str, rows: Sequence[Row], aliases: Mapping[str, str]) -> str:
    """The full name of a key: ``model.hidden`` is ``architecture.hidden``.

    Raises UsageError with the nearest name if no row has it.
    """
    head, dot, rest = name.partition(".")
    full = aliases.get(head, head) + dot + rest
    names = known(rows)
    if full in names:
        return full
    groups = [key for key in names if "." not in key]
    below = [key for key in names if key.startswith(f"{full.split('.')[0]}.")]
    near = closest(full, names)
    raise UsageError(
        f"key '{name}' does not exist{near}; valid: {', '.join(dict.fromkeys([*groups, *below]))}"
        + ("" if below else ", and their parameters, e.g. optimizer.lr")
    )


def value(row: Row, key: str) -> str:
    """A row's value of a key that ``resolve`` gave; ``-`` where this composition has none."""
    return text(row.values[key]) if key in row.values else "-"


def select(
    rows: Sequence[Row],
    conditions: Sequence[str],
    aliases: Mapping[str, str],
    flag: str = "--where",
) -> list[Row]:
    """The rows that meet every condition: ``key=value``, ``key!=value``, ``key=one,other``, ``g*``.

    Raises UsageError if a condition is malformed, its key unknown, or nothing is left.
    """
    left = list(rows)
    for condition in conditions:
        match = CONDITION.fullmatch(condition)
        if not match:
            raise UsageError(f"{flag} {condition}: not a condition; e.g. {flag} sampler=full or "
                             f"{flag} sampler!=full")  # fmt: skip
        key = resolve(match[1], rows, aliases)
        wanted = match[3].split(",")
        hit = {id(r) for r in left if any(_equal(value(r, key), w) for w in wanted)}
        kept = [r for r in left if (id(r) in hit) == (match[2] == "=")]
        if not kept:
            values = sorted({value(r, key) for r in left})
            raise UsageError(f"{flag} {condition}: no composition is left; "
                             f"{unknown('value', match[3], values)}")  # fmt: skip
        left = kept
    return left


def _equal(found: str, wanted: str) -> bool:
    """As text with * and ?, or as numbers: 1e-3 is 0.001."""
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found == wanted or fnmatchcase(found, wanted)
