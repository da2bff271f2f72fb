"""Which rows saw the same data: only these may stand in one column or one figure."""

import json
from collections.abc import Sequence
from typing import Any

from gnnscale.report.rows import PLACE, Row, flat, varying


def view(row: Row) -> dict[str, Any]:
    """What fixes a row's scores but for its method: data, split and the score itself.

    That is the record's account of the data (nodes, edges, classes, what the reader did), the
    dataset's options (among them the split's) and the metric's name, by dotted key.
    """
    options = {k: v for k, v in (row.config.get("dataset") or {}).items() if k not in PLACE}
    seen = flat(options, "dataset")
    for record in row.records[:1]:
        seen |= {**flat(record.data, "data"), "metric": record.metric["name"]}
    return {"dataset": row.choices.get("dataset"), **seen}


def parts(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups of the same data, in order of appearance.

    A row without a finished seed has no account of its data; it joins the rows of its options.
    """
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: not r.records):
        own = view(row)
        key = json.dumps(own, sort_keys=True, default=str)
        if not row.records:
            alike = [k for k, group in found.items() if _options(view(group[0])) == own]
            key = (alike or [key])[0]
        found.setdefault(key, []).append(row)
    place = {id(row): i for i, row in enumerate(rows)}
    groups = [sorted(group, key=lambda r: place[id(r)]) for group in found.values()]
    return sorted(groups, key=lambda group: place[id(group[0])])


def _options(seen: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in seen.items() if k != "metric" and not k.startswith("data.")}


def differing(groups: Sequence[Sequence[Row]]) -> list[str]:
    """The keys in which groups of rows saw different data."""
    return varying([view(group[0]) for group in groups])


def name(group: Sequence[Row], others: Sequence[Sequence[Row]]) -> str:
    """``digits``; with the keys that tell it from other versions of it: ``digits (nodes=5)``."""
    own = str(view(group[0]).get("dataset"))
    alike = [g for g in others if str(view(g[0]).get("dataset")) == own]
    seen = view(group[0])
    keys = [k for k in differing(alike) if k in seen]
    # what a reader can act on first: options, then the record's account
    keys = sorted(keys, key=lambda k: not k.startswith("dataset."))[:3]
    return own + (f" ({', '.join(f'{k}={seen[k]}' for k in keys)})" if keys else "")
