"""The verb from end to end on a graph of 60 nodes, and everything it refuses."""

import json

import pytest
from toys import TABLE, write

from gnnscale.completion import complete
from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record


@pytest.mark.process
def test_a_table_runs_is_compared_and_judged_and_goes_on(reproduce, here):
    code, said = reproduce("table=toy", "jobs=2")
    assert code == 0
    folder = here / "runs/reproduce/toy"
    records = {row: [Record.load(folder / row / f"seed-{k}/record.json") for k in (0, 1)]
               for row in "ab"}  # fmt: skip
    for part in ("reached: at least 0 wanted; n = 2 < 5", "no verified value", "not judged: a toy",
                 "b - a:", "seed by seed (n = 2"):  # fmt: skip
        assert part in said
    mean = sum(100 * r.metric["test"] for r in records["a"]) / 2
    assert f"{mean:.2f} ±" in said
    assert f"{mean - 1:+.2f}" in said
    # what is there is not run again, and one more seed is
    before = (folder / "a/seed-0/record.json").stat().st_mtime_ns
    assert reproduce("table=toy") == (0, said)
    assert reproduce("table=toy", "rows=a", "seeds=3")[0] == 0
    assert (folder / "a/seed-0/record.json").stat().st_mtime_ns == before
    assert (folder / "a/seed-2/record.json").exists()


@pytest.mark.process
def test_a_missed_row_is_exit_code_one(reproduce, here):
    table = json.loads(json.dumps(TABLE))
    table["rows"]["a"]["published"]["value"] = 100.0
    write(here, {**table, "shared": {**table["shared"], "seeds": 1}})
    code, said = reproduce("table=toy", "rows=a")
    assert code == 1
    assert "missed: at least 99 wanted" in said
    # and a preset that has changed meanwhile is not judged by what ran before
    preset = here / "gnnscale_conf/experiment/toy.yaml"
    preset.write_text(preset.read_text().replace("epochs: 2", "epochs: 3"))
    code, said = reproduce("table=toy", "rows=a")
    assert "not judged: of another version of the preset (trainer.epochs)" in said
    assert code == 0


def test_what_cannot_run_says_what_is_missing_and_is_no_miss(reproduce, here, capsys):
    rows = {
        "absent": {"label": "A", "dataset": "flickr"},
        "later": {"label": "L", "experiment": "later", "awaits": "a layer"},
        "dear": {"label": "D", "cost": {"seconds": 3600}},
        "unknown": {"label": "U"},
    }
    write(here, {**TABLE, "rows": rows})
    code, said = reproduce("table=toy", "budget=60")
    assert code == 0
    assert said.count("not run") == 4
    log = capsys.readouterr().err
    for part in ("toy/absent: data absent: dataset.root=null", "GraphSAINT", "adj_full.npz",
                 "toy/later: not in this version: a layer, experiment=later",
                 "toy/dear: costs ~3600 s per seed", "costs - s per seed"):  # fmt: skip
        assert part in log
    assert not (here / "runs").exists()


def test_list_tells_every_table_without_running_anything(reproduce, here):
    code, said = reproduce("--list", "--format", "csv")
    assert code == 0
    lines = said.splitlines()
    assert lines[0].startswith("table,paper,row,what,dataset,metric,published")
    assert any(line.startswith("toy,") and line.endswith("ready (generated)") for line in lines)
    gat = next(line for line in lines if line.startswith("gat,") and ',cora,"GAT' in line)
    for part in ("83 ± 0.7 (quoted)", "transcribed", "data absent: https://"):
        assert part in gat
    assert len(lines) > 300
    assert not (here / "runs").exists()
    _, text = reproduce("--list", "table=toy")
    assert "gcn:" not in text
    assert "Nobody" in text


REFUSED = [
    ((), ["which table?", "toy"]),
    (("table=tyo",), ["tyo", "did you mean 'toy'"]),
    (("toy",), ["type table=toy"]),
    (("tabel=toy",), ["tabel", "did you mean 'table'"]),
    (("table=toy", "rows=c"), ["row 'c' does not exist", "a, b"]),
    (("rows=a",), ["type table=NAME"]),
    (("table=toy,gcn", "rows=a"), ["goes with one table"]),
    (("table=toy", "seeds=0"), ["seeds=0", "whole number >= 1"]),
    (("table=toy", "jobs=many"), ["jobs=many"]),
    (("table=toy", "budget=-1"), ["budget=-1", "seconds > 0"]),
    (("table=toy", "budget=nan"), ["budget=nan"]),
    (("table=toy", "download=yes"), ["download=true"]),
    (("table=toy", "optimizer.lr=1"), ["optimizer.lr", "nothing here alters that"]),
    (("table=toy", "hardware=tpu"), ["tpu", "cpu"]),
    (("--lst",), ["did you mean '--list'"]),
    (("table=",), ["not key=value"]),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=lambda v: " ".join(v)[:40])
def test_bad_input_is_refused_before_anything_runs(reproduce, here, words, said):
    with pytest.raises(UsageError) as error:
        reproduce(*words)
    for part in said:
        assert part in str(error.value)
    assert not (here / "runs").exists()


def test_a_broken_table_of_ones_own_is_told_by_its_file(reproduce, here):
    (here / "gnnscale_conf/table/mine.yaml").write_text("# Mine\npaper: x\n")
    with pytest.raises(UsageError, match=r"mine\.yaml"):
        reproduce("--list")


def test_help_and_completion(reproduce, catalog):
    assert "--document" in reproduce("--help")[1]
    assert complete(["reproduce", "table=to"], catalog) == ["table=toy"]
    assert complete(["reproduce", "table=gcn,to"], catalog) == ["table=gcn,toy"]
    assert "table=" in complete(["reproduce", ""], catalog)
    assert "sampler=" not in complete(["reproduce", ""], catalog)
