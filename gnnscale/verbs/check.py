"""``gnnscale check``: the resolved plan, no data loaded."""

import sys

from gnnscale.catalog import Catalog
from gnnscale.overrides import Request, normalise
from gnnscale.verbs.words import trusted


def check(request: Request, catalog: Catalog) -> int:
    """``gnnscale check``: the resolved plan, no data loaded."""
    import yaml
    from rich.console import Console

    from gnnscale import compose

    typed = normalise(request.overrides, catalog)
    plan = compose.check(*compose.compose(typed, catalog), catalog, trusted(typed))
    out = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for group, bounds in plan.parts.items():
        for bound in bounds:
            out.print(
                f"[bold]{group}={bound.option}[/] {bound.cls.__module__}.{bound.cls.__name__}"
            )
            if bound.arguments:
                text = yaml.safe_dump(dict(bound.arguments), sort_keys=False).rstrip()
                out.print("\n".join("  " + s for s in text.splitlines()), markup=False)
    if plan.teacher is not None:
        parts = " ".join(f"{g}={o}" for g, o in plan.teacher.choices.items() if o)
        out.print(f"[bold]teacher[/] {parts}")
    out.print(f"seeds {', '.join(map(str, plan.seeds))}")
    out.print("the composition is valid")
    return 0
