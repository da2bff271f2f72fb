"""The algebra of compositions: who gives what, who lacks what, and the smallest change that helps.

Pure set arithmetic over traits; no configuration, no torch.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gnnscale.core.traits import MEANING, Trait, Traits


@dataclass(frozen=True)
class Member:
    """One chosen option of a composition with what it states."""

    group: str
    option: str
    gives: Traits = frozenset()
    needs: tuple[Traits, ...] = ()

    @property
    def name(self) -> str:
        """As a user types it."""
        return f"{self.group}={self.option}"


def given(members: Iterable[Member]) -> Traits:
    """Every trait that a composition has."""
    return frozenset().union(*(member.gives for member in members))


def unmet(members: Sequence[Member]) -> list[Member]:
    """Members none of whose alternatives is given."""
    have = given(members)
    return [m for m in members if m.needs and not any(need <= have for need in m.needs)]


Swap = tuple[Member, Member | None]
"""An option in use and what takes its place; None takes it away."""


def repairs(
    members: Sequence[Member],
    options: Mapping[str, Sequence[Member]],
    removable: Iterable[str] = (),
    most: int = 3,
) -> list[tuple[Swap, ...]]:
    """All smallest sets of swaps after which nothing is unmet, each one verified.

    Args:
        members: the composition. options: by group, what could stand there instead.
        removable: groups whose members may also be taken away.
        most: the largest set tried.
    """
    choices: list[list[Swap]] = []
    for member in members:
        swaps: list[Swap] = [(member, o) for o in options.get(member.group, ()) if o != member]
        if member.group in removable:
            swaps.append((member, None))
        choices.append(swaps)
    alike = [_alike(swaps) for swaps in choices]
    for size in range(1, most + 1):
        found = []
        for places in itertools.combinations(range(len(members)), size):
            passing: list[tuple[int, ...]] = []
            for kinds in itertools.product(*(alike[place] for place in places)):
                tried = [choices[p][numbers[0]] for p, numbers in zip(places, kinds, strict=True)]
                if not unmet(list(_apply(members, tried))):
                    passing += itertools.product(*kinds)
            for numbers in sorted(passing):
                found.append(tuple(choices[p][k] for p, k in zip(places, numbers, strict=True)))
        if found:
            return found
    return []


def _alike(swaps: Sequence[Swap]) -> list[list[int]]:
    """Numbers of the swaps whose new members state the same, so that one of them speaks for all."""
    kinds: dict[object, list[int]] = {}
    for number, (_, new) in enumerate(swaps):
        kinds.setdefault(new and (new.gives, new.needs), []).append(number)
    return list(kinds.values())


def _apply(members: Sequence[Member], swaps: Sequence[Swap]) -> Iterator[Member]:
    changed = dict(swaps)
    for member in members:
        after = changed.get(member, member)
        if after is not None:
            yield after


def explain(members: Sequence[Member], found: Sequence[tuple[Swap, ...]]) -> str:
    """What does not fit, why, and what to type instead."""
    lines = []
    for member in unmet(members):
        needs = " or ".join(
            " and ".join(f"'{t.value}' ({MEANING[t]})" for t in sorted(need, key=_order))
            for need in member.needs
        )
        lines.append(f"{member.name} needs {needs}; no other chosen option gives that")
    if not found:
        return "\n".join([*lines, "no change of up to three options repairs it"])
    size = len(found[0])
    lines.append("any one change repairs it:" if size == 1 else f"change {size} options together:")
    rows: dict[tuple[str, ...], list[str]] = {}
    for swaps in found:
        *head, (old, new) = swaps
        fixed = tuple(f"{o.group}={n.option if n else 'none'}" for o, n in head)
        rows.setdefault((*fixed, old.group), []).append(new.option if new else "none")
    for (*fixed, group), names in rows.items():
        lines.append("  " + " ".join([*fixed, f"{group}={'|'.join(dict.fromkeys(names))}"]))
    return "\n".join(lines)


def _order(trait: Trait) -> int:
    return list(Trait).index(trait)
