"""``gnnscale convert``: an integer model of a finished run."""

from pathlib import Path

from gnnscale.catalog import Catalog
from gnnscale.cli import say
from gnnscale.core.errors import UsageError
from gnnscale.overrides import Request, normalise
from gnnscale.verbs.words import key, plain, trusted, value


def convert(request: Request, catalog: Catalog) -> int:
    """``gnnscale convert run=FOLDER [out=FOLDER]``: integer models in a run folder of their own."""
    from gnnscale import finished, jobs

    jobs.set_up_log()
    typed = normalise(request.overrides, catalog, ("out",))
    source, out = value(typed, "run"), value(request.overrides, "out")
    if request.flags:
        raise UsageError(f"{' '.join(request.flags)}: gnnscale convert takes run=, out= and "
                         "overrides of hardware and inference")  # fmt: skip
    if source in (None, "null", ""):
        raise UsageError("gnnscale convert: which run? type gnnscale convert run=FOLDER, the "
                         "folder of a run with quantization=qat, degree or ptq")  # fmt: skip
    others = [o for o in typed if key(o) not in ("run", "trust")]
    wrong = [key(o) for o in others if key(o).split(".")[0] not in ("hardware", "inference")]
    if wrong:
        raise UsageError(f"{wrong[0]}: belongs to what the run was trained with; gnnscale convert "
                         "takes run=, out= and overrides of hardware and inference")  # fmt: skip
    folder, found = finished.convert(
        Path(plain(source)), Path(plain(out)) if out else None, others, catalog, trusted(typed)
    )
    for each in found:
        share = each["codes"]
        say(
            f"seed {each['seed']}: {share['equal']:.4%} of codes equal, {share['one_apart']:.4%} "
            f"one apart, {share['more_apart']:.4%} more; {each['agree']:.4%} of predictions agree"
        )
    say(str(folder))
    return 0
