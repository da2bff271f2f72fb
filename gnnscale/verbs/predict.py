"""``gnnscale predict``: a table of predictions."""

from pathlib import Path

from gnnscale.catalog import Catalog
from gnnscale.cli import say
from gnnscale.core.errors import UsageError
from gnnscale.overrides import Request, normalise
from gnnscale.verbs.words import key, plain, trusted, value


def predict(request: Request, catalog: Catalog) -> int:
    """``gnnscale predict run=FOLDER``: a table of predictions."""
    from gnnscale import finished, jobs

    jobs.set_up_log()
    typed = normalise(request.overrides, catalog, ("out", "only"))
    source, seed = value(typed, "run"), value(typed, "seed")
    out, only = value(request.overrides, "out"), value(request.overrides, "only")
    if request.flags:
        raise UsageError(f"{' '.join(request.flags)}: gnnscale predict takes run=, seed=, out=, "
                         "only= and overrides of dataset, hardware and inference")  # fmt: skip
    if source in (None, "null", ""):
        raise UsageError("gnnscale predict: which run? type gnnscale predict run=FOLDER, the "
                         "folder that gnnscale train printed")  # fmt: skip
    if seed is not None and not seed.isdecimal():
        raise UsageError(f"seed={seed}: not a whole number >= 0; e.g. seed=0")
    others = [o for o in typed if key(o) not in ("run", "seed", "trust")]
    written = finished.predict(
        Path(plain(source)), others, None if seed is None else int(seed),
        Path(plain(out)) if out else None, catalog, trusted(typed), plain(only) if only else None,
    )  # fmt: skip
    say(str(written))
    return 0
