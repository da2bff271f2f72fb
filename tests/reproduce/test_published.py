"""Every table that is packaged is whole, and what is wrong in one is told by file and key."""

import copy
import re

import pytest
from compositions import CATALOG
from toys import TABLE, write

from gnnscale.catalog import TABLES, Catalog
from gnnscale.core.errors import UsageError
from gnnscale.reproduce.published import UNJUDGED, pick, read, tables

NAMES = list(CATALOG.options(TABLES))
SYSTEMS = [
    "GCN", "GAT", "GraphSAGE", "GIN", "MLP", "Cluster-GCN",
    "GraphSAINT", "VR-GCN", "GAS", "L2-GCN", "PPRGo", "GTTF",
    "shaDow", "FastGCN", "LADIES", "SGC", "SIGN", "GA-MLP",
    "EGC", "APPNP", "GCNII", "RevGNN", "DEQ-GNN", "PNA",
    "CPF", "GLNN", "LSP", "GSP", "G-CRD", "FitNet",
    "AT", "GNN-SD", "GFKD", "QAT", "Degree-Quant", "LPGNAS",
]  # fmt: skip
SYSTEMS += ["Correct & Smooth", "weight-tied RevGNN", "logit KD", "binary GNN"]


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_table_is_whole(name):
    option = CATALOG.options(TABLES)[name]
    table = read(option)
    assert re.search(r"\b(19|20)\d\d\b", option.paper), "the first line names the paper"
    assert table.rows
    for key, row in table.rows.items():
        p = row.published
        assert (p.value is None) == (p.verified == "none"), key
        assert p.value is None or p.source, key
        if row.judged and row.tolerance is not None:
            assert p.verified not in UNJUDGED, key
        if not row.lower and p.value is not None:
            assert 1 < p.value <= 100, f"{key}: in percent"
        for word in row.needs:
            assert word.split("=")[0] in CATALOG.groups, key


def test_every_system_of_the_field_is_listed():
    listed = {system for table in tables(CATALOG) for system in table.systems}
    assert set(SYSTEMS) <= listed


def test_baselines_exist():
    known = {table.name: table for table in tables(CATALOG)}
    for table in known.values():
        for name, row in table.rows.items():
            if row.against is not None:
                where, _, other = row.against.row.rpartition("/")
                assert other in known[where or table.name].rows, f"{table.name}/{name}"


def test_no_two_rows_train_the_same_preset_into_two_folders():
    """The same composition twice would be a row that was copied and not changed."""
    seen = [(r.experiment, r.overrides) for t in tables(CATALOG) for r in t.rows.values()]
    assert len(seen) == len(set(seen))


def test_tables_are_no_group_of_the_composition():
    assert TABLES not in CATALOG.groups


# -- what is refused ----------------------------------------------------------------------------

BAD = [
    (["rows", "a", "published", "sauce"], "x", "rows.a.published.sauce"),
    (["rows", "a", "published", "source"], "", "has no source"),
    (["rows", "a", "published", "verified"], "none", "verified=none has no value"),
    (
        ["rows", "a", "published", "verified"],
        "unverified",
        "a value that is unverified is no target",
    ),
    (["rows", "a", "published", "verified"], "rumour", "rows.a.published.verified"),
    (["rows", "a", "tolerance"], -1, "rows.a.tolerance"),
    (["rows", "a", "tolerance"], None, "a tolerance, or within"),
    (["rows", "a", "judged"], False, "judged is false"),
    (["rows", "a", "why"], "", "rows.a.why"),
    (["rows", "a", "few"], "two_std", "has no spread"),
    (["rows", "a", "seeds"], 0, "rows.a.seeds"),
    (["rows", "b", "needs"], ["gas"], "'gas' is not group=option"),
    (["rows", "b", "against"], {"row": "c"}, "c is no row"),
    (["rows", "../b"], {"label": "x"}, "names a folder"),
    (["rows"], {}, "rows"),
    (["link"], "nowhere", "link"),
    (["colour"], "red", "colour"),
]


@pytest.mark.parametrize(("path", "value", "said"), BAD, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_told_by_file_and_key(here, path, value, said):
    content = copy.deepcopy(TABLE)
    level = content
    for key in path[:-1]:
        level = level[key]
    level[path[-1]] = value
    write(here, content)
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        tables(Catalog([here / "gnnscale_conf"]))
    assert "toy.yaml" in str(error.value)


def test_shared_keys_are_below_those_of_a_row(catalog):
    (toy,) = tables(catalog, ["toy"])
    assert toy.rows["b"].seeds == 2
    assert toy.rows["b"].overrides == ("architecture=mlp",)
    assert toy.rows["b"].published.text() == "no verified value"


def test_unknown_names_have_a_suggestion(catalog):
    with pytest.raises(UsageError, match="did you mean 'toy'"):
        tables(catalog, ["tyo"])
    with pytest.raises(UsageError, match=r"table=gcn: row 'corra' does not exist.*'cora'"):
        pick(*tables(catalog, ["gcn"]), ["corra"])
