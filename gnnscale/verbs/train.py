"""``gnnscale train``: a new run folder, one that goes on, or one that is scored again."""

from collections.abc import Sequence
from pathlib import Path

from gnnscale.catalog import Catalog
from gnnscale.cli import say
from gnnscale.core.errors import UsageError
from gnnscale.overrides import Request, normalise
from gnnscale.verbs.words import key, plain, trusted, value


def train(request: Request, catalog: Catalog) -> int:
    """``gnnscale train``: through Hydra, or from a run folder with ``resume=``."""
    from gnnscale import jobs

    jobs.set_up_log()
    typed = normalise(request.overrides, catalog)
    allowed = trusted(typed)
    scored, stopped = value(typed, "run"), value(typed, "resume")
    if scored not in (None, "null"):
        return rescore(Path(plain(scored)), typed, catalog, allowed)
    if stopped not in (None, "null"):
        return resume(Path(plain(stopped)), typed, catalog, allowed)
    code, folder = jobs.Jobs(request, typed, catalog, allowed).run()
    if folder is not None:
        say(str(folder))
    return code


def rescore(folder: Path, typed: list[str], catalog: Catalog, trust: frozenset[str]) -> int:
    """``gnnscale train recipe=evaluate run=FOLDER``: a run folder of fresh scores."""
    from gnnscale import finished, jobs

    if value(typed, "recipe") != "evaluate":
        raise UsageError(f"run={folder}: only goes with recipe=evaluate; to go on training, type "
                         f"gnnscale train resume={folder}")  # fmt: skip
    into = value(typed, "hydra.run.dir")
    where = Path(plain(into)) if into else Path("runs/evaluate") / jobs.stamp()
    others = [o for o in typed if key(o) not in ("run", "trust", "hydra.run.dir")]
    plan, seeds = finished.rescoring(folder, others, catalog, trust)
    code = jobs.run_folder(plan, where, list(typed), seeds)
    if code == 0:
        say(str(where))
    return code


def resume(folder: Path, typed: Sequence[str], catalog: Catalog, trust: frozenset[str]) -> int:
    """Go on with a run folder: its own configuration, unfinished seeds only."""
    from gnnscale import jobs, session

    if folder.name.startswith("seed-") and (folder.parent / "config.json").exists():
        folder = folder.parent
    allowed = ("resume", "seeds", "trust")
    other = [o for o in typed if o.lstrip("+").partition("=")[0] not in allowed]
    if other:
        raise UsageError(
            f"resume={folder} {' '.join(other)}: a resumed run keeps its own configuration; only "
            "seeds= may be given with it. For another composition leave resume out"
        )
    plan = session.load_plan(folder, catalog, trust, taught=True)
    seeds = value(typed, "seeds")
    if seeds is not None:
        if not seeds.isdecimal() or int(seeds) < 1:
            raise UsageError(f"seeds={seeds}: not a whole number >= 1; e.g. seeds=10")
        plan.config["seeds"] = int(seeds)
    code = jobs.run_folder(plan, folder, list(typed))
    if code == 0:
        say(str(folder))
    return code
