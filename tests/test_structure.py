import ast
import inspect
import re
from pathlib import Path

import pytest
from compositions import CATALOG

from gnnscale import binding
from gnnscale.core.traits import Component

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, CONF = ROOT / "gnnscale", ROOT / "conf"
METHODS = ("dataset", "sampler", "architecture", "distillation", "quantization")
SIBLINGS = {*METHODS, "train", "logger"}
MAY_IMPORT = {
    "core": {"core"},
    "graph": {"core", "graph"},
    **{group: {"core", "graph", group} for group in SIBLINGS},
    "stage": {"core", "graph", "train", "stage"},
    "report": {"core", "report"},
    "bench": {
        "core",
        "graph",
        "train",
        "stage",
        "bench",
        "binding",
        "catalog",
        "compose",
        "finished",
        "jobs",
        "lattice",
        "overrides",
    },
    "reproduce": {"core", "report", "reproduce", "catalog", "overrides", "binding", "compose",
                  "cli"},
}  # fmt: skip


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_only_what_they_may(room):
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        rooms = {m.split(".")[1] for m in imported(path) if re.match(r"gnnscale\.\w", m)}
        assert rooms <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {rooms}"


def test_only_compose_and_jobs_know_hydra():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(m.split(".")[0] in ("hydra", "omegaconf") for m in imported(path))
    }
    assert users == {"compose.py", "jobs.py"}


def test_the_three_trees_are_isomorphic():
    for group in METHODS:
        modules = {p.stem for p in (PACKAGE / group).glob("[a-z]*.py")}
        targets = {o.target.split(".")[-2] for o in CATALOG.options(group).values() if o.target}
        tests = {p.stem.removeprefix("test_") for p in (ROOT / "tests" / group).glob("test_*.py")}
        assert modules == targets, f"{group}: modules and option files differ"
        assert modules <= tests, f"{group}: no test for {modules - tests}"


def options():
    return [(g, o) for g in CATALOG.groups for o in CATALOG.options(g).values()]


def test_every_option_file_is_seen():
    files = [p for p in CONF.rglob("[!_]*.yaml") if p.parent not in (CONF, CONF / "table")]
    assert len(files) == len(options()) > 30


def test_options_of_a_group_that_composes_are_packaged_under_their_names():
    """Hydra reads ``@package`` in the very first line only."""
    for group, option in options():
        several = isinstance(CATALOG.defaults.get(group), list) and option.content
        first = option.path.read_text().splitlines()[0]
        assert (first == f"# @package {group}.{option.name}") == bool(several), option.path


@pytest.mark.parametrize(("group", "option"), options(), ids=lambda v: getattr(v, "name", v))
def test_every_option_says_what_it_is_and_writes_out_every_parameter(group, option):
    assert len(option.summary) > 10
    if group == "experiment" or not option.content:
        return
    for key, name, node in binding.nodes(group, option.content, option.name):
        if "." in key and group != "recipe":
            continue
        bound, problems = binding.bind(key, group, name, node, frozenset())
        if not any("${" in str(v) for v in node.values()):
            assert problems == []
        if bound.cls.__module__.startswith("gnnscale") and group != "recipe":
            later = binding.GIVEN_LATER.get(group, ())
            accepted = set(inspect.signature(bound.cls).parameters) - set(later)
            assert set(option.parameters) == accepted, "the YAML writes out every parameter"
            assert issubclass(bound.cls, Component)


def test_no_room_without_a_name():
    assert not [p for p in PACKAGE.rglob("*.py") if re.fullmatch(r"(.*_)?utils?\.py", p.name)]
