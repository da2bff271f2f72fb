"""``gnnscale bench``: measure, show, write."""

import logging
import sys

from gnnscale.catalog import Catalog
from gnnscale.cli import VS, say
from gnnscale.core.errors import TrainingError, UsageError
from gnnscale.overrides import Request
from gnnscale.verbs.words import folders, trusted

log = logging.getLogger("gnnscale")


def bench(request: Request, others: list[list[str]], catalog: Catalog) -> int:
    """``gnnscale bench``: measure, show, write."""
    from rich.console import Console

    from gnnscale import jobs
    from gnnscale.bench.command import bench as measure
    from gnnscale.bench.show import show

    jobs.set_up_log()
    known = ("--config-dir", *folders(request.flags))
    if rest := [f for f in request.flags if f not in known]:
        raise UsageError(f"{' '.join(rest)}: gnnscale bench takes overrides, {VS} and "
                         "--config-dir; `gnnscale bench --help` lists them")  # fmt: skip
    try:
        measurement, path = measure(request.overrides, others, catalog, trusted(request.overrides))
    except TrainingError as error:
        log.error("gnnscale bench: %s", error)
        return 1
    show(measurement, Console(width=None if sys.stdout.isatty() else 160, highlight=False))
    say(str(path))
    return 0
