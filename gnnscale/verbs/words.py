"""What the verbs read from typed words themselves; all else is Hydra's."""

import os
from collections.abc import Sequence
from itertools import pairwise


def folders(words: Sequence[str]) -> list[str]:
    """Words that are the value of --config-dir."""
    return [v for w, v in pairwise(words) if w in ("--config-dir", "-cd")]


def key(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").partition("=")[0]


def value(overrides: Sequence[str], key: str) -> str | None:
    """What was typed last for a key; None if nothing was."""
    found = [o.partition("=")[2] for o in overrides if o.lstrip("+").partition("=")[0] == key]
    return found[-1] if found else None


def plain(value: str | None) -> str:
    """A typed value without the quotes that Hydra's grammar wants around unusual ones."""
    value = value or ""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def trusted(overrides: Sequence[str]) -> frozenset[str]:
    """Packages that _target_ may name, by the command line and the environment."""
    from gnnscale import binding

    return binding.trust(overrides, os.environ.get("GNNSCALE_TRUST", ""))
