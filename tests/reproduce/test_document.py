import copy
import json
import shutil
from dataclasses import asdict

import pytest
from toys import PRESET, TABLE, write

from gnnscale import compose, session
from gnnscale.catalog import Catalog
from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record, write_json
from gnnscale.reproduce.preset import differing
from gnnscale.reproduce.published import tables


def record(seed, test, name="accuracy"):
    return Record(
        config={}, seed=seed, metric={"name": name, "test": test, "valid": test},
        time_s={"epoch_median": 0.25, "total": 10.0}, latency_ms=None, memory_mib={},
        parameters=1, model_bytes=4,
        environment={"versions": {"python": "3"}, "revision": "abc", "cpu": "A CPU", "cores": 2,
                     "threads": 1, "memory_gib": 8.0, "device": "cpu"},
    )  # fmt: skip


def pretend(here, row, scores, config, failed=()):
    """A run folder as training leaves it."""
    where = here / "runs/reproduce/toy" / row
    write_json(where / "config.json", config)
    write_json(where / "run.json", {"choices": {}, "started": "2026-01-02T03:04:05Z"})
    for seed, score in enumerate(scores):
        write_json(where / f"seed-{seed}/record.json", asdict(record(seed, score)))
    for seed in failed:
        write_json(where / f"seed-{seed}/status.json", {"state": "failed"})


@pytest.fixture
def config(catalog, here):
    """config(row): what the row's preset composes to."""
    from gnnscale.overrides import normalise
    from gnnscale.reproduce.preset import words

    def make(name):
        row = tables(catalog, ["toy"])[0].rows[name]
        return compose.compose(normalise(words(row), catalog), catalog)[0]

    return make


def test_the_same_records_give_the_same_document(reproduce, here, config):
    pretend(here, "a", [0.5, 0.6], config("a"))
    pretend(here, "b", [0.4, 0.3, 0.2], config("b"), failed=[3])
    code, said = reproduce("--document", "out.md")
    assert (code, said) == (0, "out.md")
    text = (here / "out.md").read_text()
    reproduce("--document", "out.md")
    assert (here / "out.md").read_text() == text
    for part in (
        "2 have run, 2 of these are judged, 1 are reached",
        "- **toy/b**: failed: seed 3",
        "A CPU, 1 of 2 cores, 8.0 GiB",
        "Runs began: 2026-01-02",
        "| a | synthetic | accuracy ↑ | 1 | 55.00 ± 7.07 | +54.00 | 2 (5) | reached: at least 0",
        "- b - a: -20.00 ± 14.14 seed by seed (n = 2, paired t-test p = 0.295)",
        "## Not run here",
        "| appnp | cora |",
        "no verified value",
    ):
        assert part in text
    assert str(here) not in text, "a document has no paths of one machine"


@pytest.mark.process
def test_what_ran_elsewhere_stays_in_the_document(reproduce, here, config):
    pretend(here, "a", [0.5, 0.6], config("a"))
    pretend(here, "b", [0.4, 0.3], config("b"))
    reproduce("--document", "out.md")
    text, figures = (here / "out.md").read_text(), (here / "out.json").read_text()
    shutil.rmtree(here / "runs")
    reproduce("--document", "out.md")
    assert (here / "out.md").read_text() == text, "the figures alone give the same text"
    assert (here / "out.json").read_text() == figures
    assert str(here) not in figures

    # fewer seeds here change nothing; as many take their place, also as the other's baseline
    pretend(here, "a", [0.9], config("a"))
    reproduce("--document", "out.md")
    assert (here / "out.md").read_text() == text
    pretend(here, "a", [0.9, 0.7], config("a"))
    reproduce("--document", "out.md")
    text = (here / "out.md").read_text()
    assert "| 80.00 ± 14.14 |" in text
    assert "- b - a: -45.00 ± 7.07 seed by seed (n = 2, paired t-test p = 0.070)" in text
    assert "2 have run" in text


def test_kept_figures_of_another_version_of_the_preset_are_told(reproduce, here, config):
    other = config("a")
    other["trainer"]["checkpoint_every"] = 7  # how a row runs, not what it is
    pretend(here, "a", [0.5, 0.6], other)
    pretend(here, "b", [0.4, 0.3], config("b"))
    reproduce("--document", "out.md")
    assert "another version" not in (here / "out.md").read_text()
    shutil.rmtree(here / "runs")
    preset = here / "gnnscale_conf/experiment/toy.yaml"
    preset.write_text(preset.read_text().replace("epochs: 2", "epochs: 3"))
    reproduce("--document", "out.md")
    text = (here / "out.md").read_text()
    assert text.count("of another version of the preset (trainer.epochs)") == 2
    # a run of the new version takes its place, though of fewer seeds
    pretend(here, "a", [0.9], config("a"))
    reproduce("--document", "out.md")
    assert "| 90.00 | +89.00 | 1 (5) | reached" in (here / "out.md").read_text()


def test_a_student_whose_teachers_preset_has_changed_is_of_another_version(
    reproduce, here, catalog, capsys
):
    presets = here / "gnnscale_conf/experiment"
    (presets / "teach.yaml").write_text(PRESET)
    learn = "defaults:\n  - override /recipe: distill\n  - override /distillation: [logit]"
    (presets / "learn.yaml").write_text(
        PRESET.replace("defaults:", learn) + "teacher: {run: teach}\n"
    )
    write(here, TABLE | {"rows": {"a": TABLE["rows"]["a"] | {"experiment": "learn"}}})
    fresh = Catalog(catalog.folders)
    plan = compose.check(*compose.compose(["experiment=learn"], fresh), fresh)
    where = here / "runs/reproduce/toy/a"
    session.claim(plan, where, {"command": "test", "overrides": []}, {})
    write_json(where / "seed-0/record.json", asdict(record(0, 0.5)))
    reproduce("--document", "out.md")
    assert "another version" not in (here / "out.md").read_text()
    (presets / "teach.yaml").write_text(PRESET.replace("epochs: 2", "epochs: 3"))
    reproduce("table=toy")
    told = "(other teacher.composition.trainer.epochs); move it away"
    assert told in capsys.readouterr().err, "nor is it gone on with"
    shutil.rmtree(here / "runs")
    reproduce("--document", "out.md")
    told = "another version of the preset (teacher.composition.trainer.epochs)"
    assert told in (here / "out.md").read_text(), "also by the figures alone"
    (presets / "teach.yaml").unlink()
    reproduce("--document", "out.md")
    assert "another version of the preset (teacher.run)" in (here / "out.md").read_text()


def test_a_teacher_that_needs_trust_does_not_stop_a_table(here, catalog):
    own = here / "gnnscale_conf"
    (own / "architecture").mkdir()
    (own / "architecture/mine.yaml").write_text("# Mine\n_target_: my_models.Mine\n")
    (own / "experiment/learn.yaml").write_text(
        PRESET.replace("defaults:", "defaults:\n  - override /recipe: distill\n"
                       "  - override /distillation: [logit]\n  - override /architecture: mine")
        + "teacher: {run: toy}\n"
    )  # fmt: skip
    write(here, TABLE | {"rows": {"a": TABLE["rows"]["a"] | {"experiment": "learn"}}})
    fresh, where = Catalog(catalog.folders), here / "run"
    config = compose.compose(["experiment=learn"], fresh)[0]
    write_json(where / "config.json", config)
    write_json(where / "teacher.json", {"config": config, "choices": {}})
    (row,) = tables(fresh, ["toy"])[0].rows.values()
    assert differing(where, row, fresh) == []
    write_json(where / "config.json", config | {"architecture": {"_target_": "my_models.Other"}})
    assert differing(where, row, fresh) == ["architecture._target_"]


def test_figures_whose_seeds_are_not_known_are_judged_by_their_mean(reproduce, here):
    entry = {"experiment": "toy", "metric": "accuracy", "seeds": [0, 1, 2]}
    rows = {
        "toy/a": entry | {"stated": {"n": 3, "mean": 55.0, "std": 7.0}},
        "toy/b": entry | {"stated": {"n": 3, "mean": 35.0, "std": 7.0},
                          "gap": {"n": 3, "mean": -20.0, "std": 14.0, "p": 0.2951}},
    }  # fmt: skip
    write_json(here / "out.json", {"rows": rows})
    reproduce("--document", "out.md")
    text = (here / "out.md").read_text()
    assert "| 55.00 ± 7.00 | +54.00 | 3 (5) | reached: at least 0 wanted; n = 3 \\< 5 | - |" in text
    assert "- b - a: -20.00 ± 14.00 seed by seed (n = 3, paired t-test p = 0.295)" in text


def test_figures_that_cannot_be_read_are_refused_and_left_alone(reproduce, here):
    (here / "out.json").write_text('{"rows": {"toy/a": {"metric": 1}}}')
    with pytest.raises(UsageError, match=r"out\.json: rows\.toy/a\.experiment: .*restore it"):
        reproduce("--document", "out.md")
    rows = {"toy/a": {"experiment": "toy", "metric": "accuracy", "environments": [0]}}
    write_json(here / "out.json", {"rows": rows})
    with pytest.raises(UsageError, match=r"rows\.toy/a: names an environment that is not listed"):
        reproduce("--document", "out.md")
    assert not (here / "out.md").exists()


def test_a_score_by_another_metric_is_refused(reproduce, here, config):
    pretend(here, "a", [0.5], config("a"))
    table = copy.deepcopy(TABLE)
    table["rows"]["a"]["metric"] = "roc_auc"
    write(here, table)
    with pytest.raises(ValueError, match="scored by accuracy, the table states roc_auc"):
        reproduce("--document", "out.md")


def test_lower_is_better_stays_in_its_own_unit(reproduce, here, config):
    table = copy.deepcopy(TABLE)
    table["rows"]["a"] |= {"metric": "mae", "tolerance": 0.01}
    table["rows"]["a"]["published"]["value"] = 0.4
    write(here, table)
    pretend(here, "a", [0.41, 0.4102], config("a"))
    for seed, score in enumerate([0.41, 0.4102]):
        path = here / f"runs/reproduce/toy/a/seed-{seed}/record.json"
        write_json(path, asdict(record(seed, score, "mae")))
    reproduce("--document", "out.md")
    text = (here / "out.md").read_text()
    assert "| mae ↓ | 0.4 | 0.410 ± 0.000 | +0.010 | 2 (5) | missed: at most 0.41 wanted" in text


def test_what_makes_a_run_another_version_of_its_preset(here, catalog, config):
    (toy,) = tables(catalog, ["toy"])
    where = here / "run"

    def keys(change, strict=False):
        stored = json.loads(json.dumps(config("a")))
        change(stored)
        write_json(where / "config.json", stored)
        return differing(where, toy.rows["a"], catalog, strict)

    assert differing(here / "nowhere", toy.rows["a"], catalog) == []
    assert keys(lambda c: None, strict=True) == []
    assert keys(lambda c: c["trainer"].update(epochs=9)) == ["trainer.epochs"]
    # which seeds, and where it ran, are not what it is
    assert keys(lambda c: c.update(seeds=7, hardware={"device": "cuda"})) == []
    # an option that did not exist then: harmless at its default, but training can't go on
    assert keys(lambda c: c["trainer"].pop("clip")) == []
    assert keys(lambda c: c["trainer"].pop("clip"), strict=True) == ["trainer.clip"]
    # the preset sets 2 epochs, which is no default
    assert keys(lambda c: c["trainer"].pop("epochs")) == ["trainer.epochs"]
