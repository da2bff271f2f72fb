# ruff: noqa: E501 - a table of cases, one per line
"""Bad options, files and tables end with exit code 2, one message and nothing left behind."""

import logging
import sys

import numpy as np
import pytest
from dataset import test_custom
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gnnscale import cli

TRAIN = [
    # a line is what is typed after `gnnscale train`
    "dataset=", "dataset=nothing", "dataset=cora,", "dataset=[cora]", "dataset=null", "dataset=3", "dataset={a:1}",
    "sampler=null", "sampler=[saint,full]", "sampler=Saint", "sampler==saint", "sampler", "sampler saint", "=saint", "=",
    "architecture=gnc", "architecture=null", "model=", "arch=transformer", "architecture@x=gcn",
    "recipe=distil", "recipe=null", "recipe=evaluate", "recipe=evaluate run=/none", "run=/none", "recipe=supervised run=/none",
    "optimizer=adamm", "optimizer=null", "optimizer.lr=fast", "optimizer.lr=", "optimizer.lr=nan", "optimizer.lr=-0.1", "optimizer.betas=1",
    "optimizer.betas=[2,2]", "optimizer.eps=-1", "optimizer.weight_decay=-1", "optimizer.momentum=0.9", "optimizer.params=[]",
    "scheduler=cosine_", "scheduler.T_max=3", "hardware=gpu", "hardware=tpu", "hardware.device=cpu:x", "hardware.threads=0", "hardware.threads=-2",
    "hardware.threads=two", "hardware.affinity=[]", "hardware.affinity=[9999]", "hardware.affinity=3", "hardware.affinity=[a]",
    "hardware.precision=float16", "hardware.precision=8", "hardware.kernel=cuda", "hardware.workers=-1", "hardware.workers=many", "hardware.pin=perhaps",
    "hardware=cuda hardware.device=cuda:77", "trainer.epochs=-3", "trainer.epochs=1.5", "trainer.epochs=1e3x", "trainer.epochs=null", "trainer.epochs=[1]",
    "trainer.patience=0", "trainer.patience=x", "trainer.min_delta=-1", "trainer.time_budget_s=0", "trainer.clip=0", "trainer.clip=no",
    "trainer.evaluate_every=0", "trainer.checkpoint_every=0", "trainer.selection=worst", "trainer.decay=none", "trainer.lr=0.1", "trainer=fast",
    "seed=x", "seed=-1", "seed=1.5", "seed=", "seeds=0", "seeds=ten", "seeds=-1", "seeds=[1,2]", "resume=", "resume=/none", "resume=. dataset=cora",
    "teacher.arch=gcn", "recipe=distill distillation=logit teacher.architecture=gnc", "teacher=/none distillation=logit recipe=distill",
    "distillation=logits", "distillation=[logit]", "distillation.alpha=0.5", "distillation=null",
    "recipe=distill distillation=logit distillation.logit.alpha=2", "recipe=distill distillation=logit distillation.logit.temperature=0",
    "recipe=distill distillation=logit distillation.logit.nodes=some", "quantization=int8", "quantization=qat quantization.weight_bits=1",
    "quantization=qat quantization.weight_bits=64", "quantization.bits=8", "logger=wand", "logger=[csv,nope]", "logger=wandb logger.wandb.mode=on",
    "logger=wandb logger.mode=online", "logger=csv logger.csv.path=x", "inference=sampled", "inference=layerwise inference.chunk=0",
    "architecture.hidden=0", "architecture.hidden=wide", "architecture.depth=0", "architecture.dropout=1", "architecture.dropout=-0.1", "architecture.norm=group",
    "architecture.residual=maybe", "architecture.heads=4", "model=gat model.heads=5", "model=egc model.bases=0", "model=sage model.aggr=sum",
    "sampler=saint sampler.roots=0", "sampler=saint sampler.length=-1", "sampler=neighbor sampler.batch_size=0", "sampler=neighbor sampler.fanouts=[]",
    "sampler=neighbor sampler.fanouts=[1,2,3,4]", "sampler=neighbor sampler.fanouts=x", "sampler.batch_size=3",
    "dataset=synthetic dataset.nodes=0", "dataset=synthetic dataset.homophily=2", "dataset=synthetic dataset.classes=0", "dataset=synthetic dataset.train=0.9 dataset.valid=0.2",
    "dataset=synthetic dataset.exponent=1", "dataset=synthetic dataset.snr=-1", "dataset.neighbours=0", "dataset.neighbours=1797", "dataset.train_per_class=0",
    "dataset.train_per_class=500", "dataset.split_seed=-1", "dataset=cora dataset.split=random", "dataset=cora dataset.features=[words]", "dataset=cora dataset.features=raw",
    "dataset=cora dataset.normalize=max", "dataset=cora dataset.self_loops=yes", "dataset=cora dataset.dimensions=0", "dataset=cora dataset.sparse=2", "dataset=cora dataset.train=1.5",
    "dataset=cora dataset.name=pubmed2", "dataset=cora dataset.download=false dataset.root=none", "dataset=custom", "dataset=custom dataset.path=/none",
    "dataset=custom dataset.path=/etc/hostname", "dataset=custom dataset.classes=3", "dataset=twitch dataset.language=EN", "dataset=deezer dataset.country=de",
    "experiment=gcn_coar", "experiment=[gcn_cora,nope]", "experiment=gcn_cora trainer.epocs=3", "hydra.sweep=x", "hydra.run.dir=", "hydra.sweep.dir= -m", "architecture={}", "sampler={ }", "teacher=none", "dataset.root=${oc.env:GNNSCALE_NOT_SET} dataset=cora", "hydra.verbose=[",
    "--epochs 3", "--hidden=64", "--cfg", "--cfg nonsense", "--config-dir", "--config-dir /none", "--multirunn", "-q", "-m", "trust=os _target_=os.system",
    "architecture._target_=os.system", "dataset._target_=builtins.eval", "sampler._target_=gnnscale.cli.main", "architecture._target_=gnnscale.nothing.X", "x.y=3", "user", "~sampler", "~", "+", "++sampler",
    "sampler=saint,full", "trainer.epochs=1,2", "trainer.epochs=range(1,3)", "dataset='cora", 'dataset="cora', "dataset=(cora", "dataset=${nothing}",
]  # fmt: skip
OTHER = [
    "trian", "", "predict", "predict run=", "predict run=/none", "predict run=/none out=x.txt", "predict run=/none seed=x", "predict run=. -m", "report /none", "report --format html",
    "list nothing", "completion", "completion tcsh", "check sampler=siant", "check epochs=3", "train predict",
]  # fmt: skip
REST = pytest.mark.process
NOT_BAD = {"", "-m"}  # help, and a sweep of one


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    for name in ("GNNSCALE_CONFIG_DIR", "GNNSCALE_TRUST", "GNNSCALE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(line, capsys, monkeypatch, tmp_path):
    """One message, exit code 2, nothing left behind."""
    monkeypatch.setattr(sys, "argv", ["gnnscale", *line.split()])
    logging.getLogger("gnnscale").handlers.clear()
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2, f"{line}: exit code {end.value.code}\n{out}{err}"
    assert err.strip(), "and says why"
    assert "Traceback" not in err
    assert "Error:" not in err.replace("CompositionError:", "").replace("UsageError:", ""), err
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    return err


def third(cases: list) -> list:
    """Every third by default; make test-processes runs the others."""
    return [c if k % 3 == 0 else pytest.param(c, marks=REST) for k, c in enumerate(cases)]


@pytest.mark.parametrize("line", third(TRAIN))
def test_bad_options_of_train(line, capsys, monkeypatch, tmp_path):
    if line in NOT_BAD:
        pytest.skip("means something")
    refused(f"train {line}", capsys, monkeypatch, tmp_path)


@pytest.mark.parametrize("line", OTHER)
def test_bad_words_after_other_verbs(line, capsys, monkeypatch, tmp_path):
    if line in NOT_BAD:
        pytest.skip("means something")
    refused(line, capsys, monkeypatch, tmp_path)


def tables_of(kind, name, place):
    """Write the malformed input ``name`` of test_custom.py; what to type for it."""
    place.mkdir()
    kinds = "dataset.features=[degree]"
    if kind == "MALFORMED":
        tables, _ = test_custom.MALFORMED[name]
        test_custom.write(place, **tables)
        return place, "" if "nodes" in tables else kinds
    if kind == "FILES":
        file, raw, _ = test_custom.FILES[name]
        if name == "two of one":
            test_custom.write(place, edges=test_custom.EDGES)
        (place / file).write_bytes(raw)
        return place, kinds
    a = test_custom.arrays()
    test_custom.MALFORMED_NPZ[name][0](a)
    np.savez(place / "a.npz", **a)
    return place / "a.npz", ""


KINDS = ("MALFORMED", "FILES", "MALFORMED_NPZ")
TABLES = [(kind, name) for kind in KINDS for name in getattr(test_custom, kind)]


@pytest.mark.parametrize("case", third(TABLES), ids="-".join)
def test_bad_tables_and_files(case, capsys, monkeypatch, tmp_path):
    """Where they are read from nothing is left either; test_custom.py tests what is said."""
    place, more = tables_of(*case, tmp_path / "given")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = {p: p.read_bytes() for p in (tmp_path / "given").iterdir()}
    line = f"train dataset=custom dataset.path={place} {more}"
    err = refused(line, capsys, monkeypatch, tmp_path / "here")
    assert str(place) in err
    assert len(err.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in (tmp_path / "given").iterdir()} == before


def test_there_are_more_than_two_hundred():
    lines = {*TRAIN, *OTHER} - NOT_BAD
    assert len(lines) >= 200
    assert len(lines) + len(set(TABLES)) >= 285


WORD = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=6
)
KEY = st.sampled_from(
    [
        "trainer.epochs",
        "architecture.hidden",
        "optimizer.lr",
        "sampler",
        "dataset",
        "seeds",
        "x",
        "",
    ]
)


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(key=KEY, sign=st.sampled_from(["=", "", "==", "."]), value=WORD)
@example(key="trainer.epochs", sign="=", value="$")
@example(key="dataset", sign="=", value="a:b")
def test_any_word_is_understood_or_refused(key, sign, value, capsys, monkeypatch):
    """``check`` loads nothing, so whatever is valid ends with 0 and the rest with 2."""
    monkeypatch.setattr(sys, "argv", ["gnnscale", "check", f"{key}{sign}{value}"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    _, err = capsys.readouterr()
    assert end.value.code in (0, 2), err
    assert "Traceback" not in err
