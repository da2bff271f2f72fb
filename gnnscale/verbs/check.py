"""``gnnscale check``: the resolved plan, no data loaded."""

import sys
from collections import defaultdict
from typing import Any

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
    for bits, names in _codes(compose.skeleton(plan)).items():
        out.print(f"[bold]{bits} bits[/] {' '.join(names)}")
    out.print(f"seeds {', '.join(map(str, plan.seeds))}")
    out.print("the composition is valid")
    return 0


def _codes(model: Any) -> dict[str, list[str]]:
    """Sites that hold codes by their width, or the widths that a search chooses between."""
    from gnnscale.core.site import sites

    found: dict[str, list[str]] = defaultdict(list)
    for name, site in sites(model):
        bits = getattr(site.quantizer, "bits", None)
        widths = getattr(site.quantizer, "widths", () if bits is None else (bits,))
        if widths:
            found["/".join(map(str, widths))].append(name)
    return found
