import pytest

from gnnscale.reproduce.published import Row
from gnnscale.reproduce.state import data, missing


def row(**changes):
    about = {"label": "x", "experiment": "toy", "dataset": "synthetic", "why": "w"}
    return Row(**{**about, **changes})


def test_nothing_is_missing_where_the_preset_and_its_options_exist(catalog):
    assert missing(row(awaits="a layer", needs=("sampler=saint",)), catalog) == []


def test_what_is_missing_is_named_and_the_preset_comes_last(catalog):
    wanted = row(experiment="nowhere", needs=("sampler=nowhere", "sampler=full"), awaits="a layer")
    assert missing(wanted, catalog) == ["sampler=nowhere", "a layer", "experiment=nowhere"]
    assert missing(row(overrides=("architecture=nowhere",)), catalog) == ["architecture=nowhere"]
    assert missing(row(dataset="nowhere"), catalog) == ["dataset=nowhere"]


def test_a_row_becomes_runnable_the_day_its_preset_is_added(catalog, here):
    later = row(experiment="later", awaits="a layer")
    assert missing(later, catalog)
    preset = here / "gnnscale_conf/experiment/toy.yaml"
    preset.with_name("later.yaml").write_text(preset.read_text())
    assert missing(later, type(catalog)(catalog.folders)) == []


def test_generated_data_is_always_there(catalog):
    assert data("synthetic", catalog).there


def test_absent_data_says_what_to_download_and_where_to_put_it(catalog, here):
    found = data("cora", catalog)
    assert not found.there
    assert found.fetchable
    for part in ("ind.cora.x", "https://", str(here / "data/planetoid"), "GNNSCALE_DATA=DIR"):
        assert part in found.told
    assert str(here) not in found.short
    by_hand = data("flickr", catalog)
    assert (by_hand.there, by_hand.fetchable) == (False, False)
    assert "GraphSAINT" in by_hand.told


def test_data_is_found_where_the_dataset_itself_looks(catalog, monkeypatch, tmp_path):
    from gnnscale.dataset.planetoid import Planetoid

    (tmp_path / "there").mkdir()
    for file in Planetoid(name="cora").files():
        (tmp_path / "there" / file.name).touch()
    monkeypatch.setenv("GNNSCALE_DATA", str(tmp_path / "there"))
    assert data("cora", type(catalog)(catalog.folders)).there


@pytest.mark.parametrize("name", ["nowhere", "modelnet40"])
def test_a_dataset_that_does_not_exist_is_absent(catalog, name):
    assert "not in this version" in data(name, catalog).told
