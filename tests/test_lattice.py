import itertools
import re

import pytest
from compositions import CATALOG

from gnnscale import compose, lattice
from gnnscale.core.traits import Trait, traits
from gnnscale.lattice import Member

OPTIONS = compose.alternatives(CATALOG, frozenset())


def default(group: str) -> str:
    chosen = CATALOG.defaults[group]
    return chosen[0] if isinstance(chosen, list) else chosen


def complete(fixed: dict[str, str]) -> list[Member]:
    """The members of a composition with some options fixed and the rest at their defaults."""
    members = []
    for group, found in OPTIONS.items():
        wanted = fixed.get(group, default(group))
        members += [m for m in found if m.option == wanted]
    return members


def pairs():
    everything = [(g, m.option) for g, found in OPTIONS.items() for m in found]
    return [(a, b) for a, b in itertools.combinations(everything, 2) if a[0] != b[0]]


def test_every_pair_of_options_fits_or_is_refused_with_a_repair_that_passes():
    assert len(pairs()) > 100
    refused = 0
    for a, b in pairs():
        members = complete(dict([a, b]))
        assert {a, b} <= {(m.group, m.option) for m in members}
        if not lattice.unmet(members):
            continue
        refused += 1
        found = lattice.repairs(members, OPTIONS, compose.REMOVABLE)
        assert found, f"{a} with {b}: refused and nothing repairs it"
        for swaps in found:
            assert not lattice.unmet(list(lattice._apply(members, swaps)))
        text = lattice.explain(members, found)
        assert "needs '" in text
        assert "=" in text.splitlines()[-1]
    assert refused > 0


HOPS = Member("sampler", "full", traits(Trait.HOPS, Trait.SQUARE))
STACK = Member("sampler", "precompute", traits(Trait.STACK))
SIGN = Member("architecture", "sign", needs=(traits(Trait.STACK),))
SGC = Member("architecture", "sgc", needs=(traits(Trait.STACK), traits(Trait.HOPS)))
GCN = Member("architecture", "gcn", traits(Trait.LAYERS), (traits(Trait.HOPS),))
GAS = Member("sampler", "gas", traits(Trait.HOPS), (traits(Trait.LAYERS),))
TOY = {"sampler": [HOPS, STACK, GAS], "architecture": [SIGN, SGC, GCN]}


def test_alternatives_need_only_one():
    assert not lattice.unmet([SGC, HOPS])
    assert not lattice.unmet([SGC, STACK])
    assert lattice.unmet([SIGN, HOPS]) == [SIGN]


def test_all_single_repairs_are_found_and_nothing_larger():
    found = lattice.repairs([SIGN, GAS], TOY)
    assert {tuple((o.option, n.option) for o, n in swaps) for swaps in found} == {
        (("sign", "gcn"),),  # gcn gives the layers that gas needs
        (("gas", "precompute"),),
    }


def test_two_changes_where_one_is_not_enough():
    only = {"sampler": [STACK], "architecture": [GCN]}
    lonely = Member("sampler", "odd", needs=(traits(Trait.PPR),))
    swaps = lattice.repairs([lonely, SGC], {**only, "architecture": [GCN, SIGN]})
    assert swaps == [((lonely, STACK),)]
    pair = lattice.repairs([lonely, GCN], {"sampler": [STACK], "architecture": [SIGN]})
    assert pair == [((lonely, STACK), (GCN, SIGN))]


def test_removable_groups_may_go():
    term = Member("distillation", "logit", needs=(traits(Trait.TEACHER),))
    assert lattice.repairs([GCN, HOPS, term], TOY, ["distillation"]) == [((term, None),)]
    text = lattice.explain([GCN, HOPS, term], [((term, None),)])
    assert "distillation=none" in text


def test_no_repair_is_said():
    assert "no change" in lattice.explain([SIGN], lattice.repairs([SIGN], {}))


@pytest.mark.parametrize("size", [1, 2])
def test_explanations_are_lines_one_can_type(size):
    found = lattice.repairs([SIGN, GAS], TOY)[:size]
    lines = lattice.explain([SIGN, GAS], found).splitlines()
    start = next(i for i, line in enumerate(lines) if "repairs it" in line)
    assert len(lines) > start + 1
    assert all(re.fullmatch(r"  \w+=\S+", line) for line in lines[start + 1 :])


def test_every_sampler_and_every_architecture_fit_something():
    for group, other in (("sampler", "architecture"), ("architecture", "sampler")):
        for mine in OPTIONS[group]:
            pairs = [
                complete({group: mine.option, other: o.option, "dataset": data})
                for o in OPTIONS[other]
                for data in ("digits", "synthetic_graphs")
            ]
            assert any(not lattice.unmet(members) for members in pairs), mine.name
