import json
import os
import subprocess
import sys

import pytest
from compositions import quiet_metrics, toy, train

from gnnscale.core.errors import UsageError
from gnnscale.logger import wandb as module


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))


def records(content):
    """The records of a LevelDB log: blocks of 32 KiB, each piece with a head of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, or the last piece
            yield whole
            whole = b""


def told(folder):
    """What an offline run has on disk: (history rows, summary, config, exit code)."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    rows, summary, config, code = [], {}, {}, None
    for data in records(path.read_bytes()):
        item = wandb_internal_pb2.Record()
        item.ParseFromString(data)
        kind = item.WhichOneof("record_type")
        if kind == "history":
            rows.append({(i.key or i.nested_key[0]): json.loads(i.value_json)
                         for i in item.history.item})  # fmt: skip
        elif kind == "summary":
            for i in item.summary.update:
                summary["/".join(i.nested_key) or i.key] = json.loads(i.value_json)
        elif kind == "run":
            config |= {i.key: json.loads(i.value_json) for i in item.run.config.update}
        elif kind == "exit":
            code = item.exit.exit_code
    return rows, summary, config, code


def test_offline_writes_one_finished_run_per_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 300)  # the service's program may come from a disk
    plan = toy({"trainer": {"epochs": 3}, "seeds": 2}, logger=["wandb"])
    records = train(plan, tmp_path / "run")
    for record in records:
        seed = tmp_path / "run" / f"seed-{record.seed}"
        rows, summary, config, code = told(seed)
        wanted = quiet_metrics(seed)
        assert [r["loss"] for r in rows if "loss" in r] == [m["loss"] for m in wanted]
        assert summary["final/test"] == record.metric["test"]
        assert config["seed"] == record.seed
        assert config["dataset"]["nodes"] == 60, "the configuration is a plain dictionary"
        assert code == 0


def test_a_failed_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 300)
    plan = toy({"optimizer": {"lr": 1e30}, "trainer": {"epochs": 9}}, logger=["wandb"])
    with pytest.raises(RuntimeError, match="the loss is"):
        train(plan, tmp_path / "run")
    *_, code = told(tmp_path / "run/seed-0")
    assert code == 1


def test_disabled_writes_nothing(tmp_path):
    plan = toy({"logger": {"wandb": {**vars_of("wandb"), "mode": "disabled"}}}, logger=["wandb"])
    train(plan, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.wandb"))


def vars_of(name):
    from compositions import CATALOG

    return dict(CATALOG.options("logger")[name].content)


def test_online_without_an_account_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    """No key, no network, no terminal: one warning, and the run is what it would have been."""
    monkeypatch.setattr(module, "PATIENCE_S", 5)
    monkeypatch.setattr(sys, "stdin", None)
    caplog.set_level("WARNING", "gnnscale")
    plan = toy({"logger": {"wandb": {**vars_of("wandb"), "mode": "online"}}}, logger=["wandb"])
    train(plan, tmp_path / "online")
    train(toy(), tmp_path / "none")
    assert quiet_metrics(tmp_path / "online/seed-0") == quiet_metrics(tmp_path / "none/seed-0")
    assert "logger=wandb failed and is switched off" in caplog.text


def test_without_the_package_it_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'gnnscale\[wandb\]'.*logger=csv"):
        module.WandB()


@pytest.mark.process
def test_a_sweep_of_two_with_several_loggers_finishes_each(tmp_path):
    """As an agent would: every setting is key=value, and one process trains both jobs."""
    done = subprocess.run(
        [sys.executable, "-m", "gnnscale", "train", "-m", "dataset=synthetic", "dataset.nodes=60",
         "dataset.classes=3", "dataset.features=8", "dataset.degree=6", "trainer.epochs=2",
         "optimizer.lr=0.01,0.1", "sampler=full", "logger=[wandb,csv]",
         f"hydra.sweep.dir={tmp_path}/sweep"],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for job in (0, 1):
        seed = tmp_path / "sweep" / str(job) / "seed-0"
        *_, code = told(seed)
        assert code == 0
        assert (seed / "metrics.csv").exists()
