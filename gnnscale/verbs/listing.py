"""``gnnscale list``: groups and their options, read from the tree."""

import sys
from typing import Any

from gnnscale.catalog import Catalog, user_folders
from gnnscale.cli import say
from gnnscale.core.errors import UsageError, unknown
from gnnscale.verbs.words import folders


def list_options(words: list[str]) -> int:
    """``gnnscale list [group ...]``."""
    from rich.console import Console
    from rich.table import Table

    flags = [w for w in words if w.startswith("-")]
    groups = [w for w in words if not w.startswith("-") and w not in folders(words)]
    if {"-h", "--help"} & set(flags):
        say("usage: gnnscale list [GROUP ...] [--config-dir DIR]")
        return 0
    catalog = Catalog.load(user_folders(words))
    aliases = {"presets": "experiment", "models": "architecture", "model": "architecture",
               "arch": "architecture", "data": "dataset"}  # fmt: skip
    valid = catalog.groups
    chosen = []
    for word in groups:
        name = aliases.get(word, word if word in valid else word.removesuffix("s"))
        if name not in valid:
            raise UsageError(unknown("group", word, [*valid, *aliases]))
        chosen.append(name)
    out = Console(width=None if sys.stdout.isatty() else 160)
    for group in chosen or valid:
        default = catalog.defaults.get(group)
        defaults = default if isinstance(default, list) else [default]
        table = Table("option", "what it is", "paper", title=group, title_justify="left",
                      show_edge=False)  # fmt: skip
        for name, option in catalog.options(group).items():
            mark = " (default)" if name in defaults else ""
            table.add_row(f"{name}{mark}", option.summary, option.paper)
        out.print(table)
        if chosen:
            for name, option in catalog.options(group).items():
                if option.parameters and group != "experiment":
                    keys = ", ".join(f"{k}={_short(v)}" for k, v in option.parameters.items())
                    out.print(f"  {group}={name}: {keys}", highlight=False, markup=False)
        out.print()
    return 0


def _short(value: Any) -> str:
    text = (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
    return text if len(text) < 60 else text[:57] + "..."
