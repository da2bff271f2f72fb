"""The errors a user can cause, and the wording they share."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input: one clear message, exit code 2, no traceback."""


class CompositionError(UsageError):
    """The chosen options do not fit together, or one of their values is not valid."""


class DataError(UsageError):
    """A dataset is missing, incomplete or malformed."""


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite, out of memory): exit code 1."""


def closest(word: str, valid: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` if something in ``valid`` looks like ``word``, else nothing."""
    near = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


def unknown(kind: str, word: str, valid: Iterable[str]) -> str:
    """One sentence for a name that does not exist: what it is, the nearest name, the valid ones."""
    valid = sorted(valid)
    return f"{kind} '{word}' does not exist{closest(word, valid)}; valid: {', '.join(valid)}"
