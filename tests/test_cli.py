import json
import logging
import subprocess
import sys
import textwrap

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra

from gnnscale import cli, jobs
from gnnscale.catalog import Catalog

FAST = ("dataset=synthetic", "dataset.nodes=60", "dataset.degree=6", "dataset.classes=3",
        "dataset.features=8", "dataset.train=0.3", "dataset.valid=0.3",
        "trainer.epochs=2")  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs from an unrelated empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GNNSCALE_CONFIG_DIR", raising=False)
    monkeypatch.delenv("GNNSCALE_TRUST", raising=False)
    return tmp_path


@pytest.fixture
def gnnscale(capsys, monkeypatch):
    """Run a command; (exit code, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gnnscale", *words])
        logging.getLogger(
            "gnnscale"
        ).handlers.clear()  # the log writes to this test's standard error
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return end.value.code, out, err

    return run


def test_train_prints_the_run_folder_last(gnnscale, tmp_path):
    code, out, err = gnnscale("train", *FAST)
    assert code == 0, err
    folder = tmp_path / out.splitlines()[-1]
    record = json.loads((folder / "seed-0/record.json").read_text())
    assert record["choices"]["dataset"] == "synthetic"
    about = json.loads((folder / "run.json").read_text())
    assert about["command"] == "gnnscale train " + " ".join(FAST)
    assert "++trainer.epochs=2" in about["overrides"]
    assert "test accuracy" in err


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "times"),
    [
        ((), 1),
        (("hydra.mode=RUN",), 2),
        (("-m", "seed=0,1"), 1),
    ],  # the sweep; its jobs go otherwise
)
def test_hydra_composes_no_more_than_it_must(gnnscale, monkeypatch, words, times):
    """Its question for ``hydra.mode`` is answered without composing where nothing typed sets it."""
    composed, whole, ask, modes = [], Hydra.compose_config, Hydra.get_mode, []

    def counted(self, *given, **named):
        composed.append(given)
        return whole(self, *given, **named)

    def asked(self, *given, **named):
        modes.append(given)
        return ask(self, *given, **named)

    monkeypatch.setattr(Hydra, "compose_config", counted)
    monkeypatch.setattr(Hydra, "get_mode", asked)
    code, _, err = gnnscale("train", *FAST, *words)
    assert code == 0, err
    assert len(composed) == times
    assert len(modes) == (1 if "hydra.mode=RUN" in words else 0)
    assert Hydra.get_mode is asked


def test_our_options_do_not_set_the_mode_of_hydra():
    with initialize_config_dir(str(Catalog.load(()).folders[0]), version_base="1.3"):
        assert compose("train", return_hydra_config=True).hydra.mode is None


@pytest.mark.parametrize(
    ("words", "set_"),
    [(("hydra.mode=MULTIRUN",), True), (("++hydra.mode=RUN",), True),
     (("hydra={mode: RUN}",), True),
     (("hydra.run.dir=out", "model=gcn", "quantization.mode=x"), False)],
)  # fmt: skip
def test_what_may_set_the_mode_of_hydra(words, set_):
    assert jobs._hydra(words) == set_


SAME = [
    ("+sampler=saint", "+model=egc"),
    ("sampler=saint", "architecture=egc"),
    ("++sampler=saint", "arch=egc"),
    ("architecture=egc", "+sampler=saint"),
]


def test_all_ways_to_select_an_option_mean_the_same(gnnscale):
    answers = {gnnscale("check", *words)[1] for words in SAME}
    assert len(answers) == 1
    text = answers.pop()
    assert "sampler=saint " in text
    assert "architecture=egc " in text


REFUSED = [
    (("+smapler=saint",), ["smapler", "did you mean 'sampler=saint'"]),
    (("sampler=siant",), ["siant", "did you mean 'saint'", "neighbor"]),
    (("sampler.rots=3", "sampler=saint"), ["sampler.", "rots", "did you mean 'roots'"]),
    (("trainer.epocs=3",), ["epocs", "did you mean 'epochs'"]),
    (("epochs=3",), ["trainer.epochs"]),
    (("trainer.epochs=0",), ["trainer.epochs=0", "greater than or equal to 1"]),
    (("trainer.epochs=many",), ["trainer.epochs=many", "integer"]),
    (("architecture.dropout=1.5",), ["architecture.dropout=1.5", "less than 1"]),
    (("architecture.act=sine",), ["architecture.act=sine", "'relu'"]),
    (("model=gat", "model.heads=7"), ["architecture.hidden=64", "architecture.heads=7"]),
    (("model=egc", "model.aggregators=[max,max]"), ["aggregators", "none twice"]),
    (("optimizer.lr=-1",), ["optimizer=adam", "learning rate"]),
    (("optimizer.lr_=1",), ["lr_", "did you mean 'lr'"]),
    (("seeds=0",), ["seeds=0", ">= 1"]),
    (("seed=-1",), ["seed=-1", ">= 0"]),
    (("quantization.weight_bits=4",), ["quantization", "none"]),
    (("distillation.logit.alpha=0.1",), ["distillation", "logit", "not selected"]),
    (("distillation=logit",), ["recipe=distill", "distillation=", "none"]),
    (("sampler=neighbor", "sampler.fanouts=[5,5,5]"), ["2 message-passing layers"]),
    (("sampler=neighbor", "sampler.fanouts=0"), ["sampler.fanouts=0"]),
    (("hardware=cuda", "hardware.device=cuda:99"), ["cuda:99", "hardware=cpu"]),
    (("recipe=distill", "distillation=logit", "teacher=nowhere"), ["teacher=nowhere", "preset"]),
    (("recipe=distill", "distillation=logit", "teacher.overrides=[trainer.epocs=3]"), ["epocs"]),
    (
        ("dataset=cora", "dataset.root=/nowhere", "dataset.download=false"),
        ["ind.cora.x", "/nowhere"],
    ),
    (("hydra.run.dir",), ["hydra.run.dir"]),
    (("resume=/nowhere",), ["/nowhere", "not a run folder"]),
    (("hydra.run.dir=/proc/nowhere/run",), ["/proc/nowhere", "hydra.run.dir="]),
    (("sampler=full,saint",), ["sampler"]),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=lambda v: " ".join(v)[:50])
def test_bad_input_is_one_message_and_exit_code_two(gnnscale, words, said, tmp_path, monkeypatch):
    monkeypatch.delenv("GNNSCALE_DATA", raising=False)
    code, out, err = gnnscale("train", *words)
    assert code == 2, err
    assert out == ""
    for part in said:
        assert part in err
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_all_problems_come_in_one_message(gnnscale):
    words = ("trainer.epochs=0", "architecture.hiden=3", "seeds=0", "distillation=logit")
    _, _, err = gnnscale("train", *words)
    for part in ("trainer.epochs=0", "hiden", "seeds=0", "recipe=distill"):
        assert part in err


def test_unknown_verb_and_version(gnnscale):
    code, _, err = gnnscale("trian")
    assert code == 2
    assert "did you mean 'train'" in err
    assert gnnscale("--version")[1].strip() == "0.1.0"
    assert "sampler" in gnnscale("--help")[1]
    assert gnnscale("train", "--help") == gnnscale("--help")
    (presets,) = (line for line in gnnscale("--help")[1].splitlines() if "experiment  " in line)
    assert "more: gnnscale list experiment" in presets
    assert len(presets) < 160


def test_flags_and_overrides_in_any_order(gnnscale):
    code, out, err = gnnscale("train", *FAST, "-m", "architecture=gcn,mlp")
    assert code == 0, err
    sweep = out.splitlines()[-1]
    code, out, _ = gnnscale("report", sweep)
    assert code == 0
    assert "gcn" in out
    assert "mlp" in out


@pytest.mark.process
def test_a_failed_job_says_so_at_once_and_does_not_stop_the_others(gnnscale, tmp_path):
    code, out, err = gnnscale("train", *FAST, "-m", "optimizer.lr=0.01,1e36,0.02")
    assert code == 1
    assert "3 jobs, 1 failed" in err
    assert err.index("the loss is") < err.index("3 jobs")
    assert len(list((tmp_path / out.splitlines()[-1]).rglob("record.json"))) == 2
    code, out, err = gnnscale("train", *FAST, "-m", "architecture.dropout=0.1,7")
    assert code == 2
    assert "architecture.dropout=7" in err
    assert "2 jobs, 1 failed" in err


def test_run_folders_never_collide(gnnscale):
    folders = {gnnscale("train", *FAST)[1].splitlines()[-1] for _ in range(3)}
    assert len(folders) == 3


def test_same_folder_again_skips_and_more_seeds_resume(gnnscale, tmp_path):
    where = f"hydra.run.dir={tmp_path / 'mine'}"
    assert gnnscale("train", *FAST, where)[0] == 0
    code, _, err = gnnscale("train", *FAST, where, "seeds=2")
    assert code == 0
    assert "seed 0: already finished" in err
    code, _, err = gnnscale("train", *FAST, where, "architecture=mlp")
    assert code == 2
    assert "another composition" in err
    code, _, err = gnnscale("train", f"resume={tmp_path / 'mine'}", "seeds=3")
    assert code == 0
    assert "n = 3" in err
    code, _, err = gnnscale("train", f"resume={tmp_path / 'mine'}", "trainer.epochs=9")
    assert code == 2
    assert "its own configuration" in err


USER_MODEL = """
    from gnnscale.architecture.mlp import MLP

    class Mine(MLP):
        pass
"""


def test_own_options_and_classes_need_explicit_trust(gnnscale, tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(textwrap.dedent(USER_MODEL))
    option = tmp_path / "gnnscale_conf/architecture/mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("# Mine: a test\n_target_: my_models.Mine\nhidden: 5\n")
    assert "mine" in gnnscale("list", "architecture")[1]
    code, _, err = gnnscale("train", *FAST, "model=mine")
    assert code == 2
    assert "trust=my_models" in err
    assert "my_models" not in sys.modules
    code, out, err = gnnscale("train", *FAST, "model=mine", "trust=my_models")
    assert code == 0, err
    record = next((tmp_path / out.splitlines()[-1]).rglob("record.json"))
    assert json.loads(record.read_text())["parameters"] == 8 * 5 + 5 + 5 * 3 + 3
    folder = out.splitlines()[-1]
    code, _, err = gnnscale("train", f"resume={folder}")
    assert code == 2, "a run folder from somewhere else must not run code unasked"
    learn = ("train", *FAST, "recipe=distill", "distillation=logit", f"teacher={folder}")
    assert gnnscale(*learn)[0] == 2
    code, _, err = gnnscale(*learn, "trust=my_models")
    assert code == 0, err


def test_a_folder_of_options_may_have_a_space_in_its_name(gnnscale, tmp_path):
    option = tmp_path / "my own/optimizer/slow.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("# Slow: a test\n_target_: torch.optim.SGD\nlr: 0.001\n")
    code, _, err = gnnscale("train", *FAST, f"--config-dir={option.parent.parent}", "opt=slow")
    assert code == 0, err


def test_ones_own_preset_and_architecture_may_be_the_teacher(gnnscale, tmp_path):
    own = tmp_path / "gnnscale_conf"
    (own / "architecture").mkdir(parents=True)
    (own / "experiment").mkdir()
    (own / "architecture/wide.yaml").write_text(
        "# Wide: a test\n_target_: gnnscale.architecture.mlp.MLP\nhidden: 7\n"
    )
    (own / "experiment/teach.yaml").write_text(
        "# @package _global_\n# Mine\ndefaults:\n  - override /architecture: wide\n"
        "trainer: {epochs: 2}\n"
    )
    for words in (["teacher=teach"], ["teacher.architecture=wide"]):
        code, out, err = gnnscale("train", *FAST, "recipe=distill", "distillation=logit", *words)
        assert code == 0, err
        teacher = json.loads((tmp_path / out.splitlines()[-1] / "teacher.json").read_text())
        assert teacher["config"]["architecture"]["hidden"] == 7


def test_a_yaml_file_can_not_grant_trust(gnnscale, tmp_path):
    (tmp_path / "evil_mod.py").write_text("raise SystemExit('ran')")
    folder = tmp_path / "theirs/experiment"
    folder.mkdir(parents=True)
    (folder / "evil.yaml").write_text(
        "# @package _global_\n# Looks harmless, is not\ntrust: [evil_mod]\n"
        "architecture:\n  _target_: evil_mod.X\n"
    )
    code, _, err = gnnscale("train", "--config-dir", str(tmp_path / "theirs"), "experiment=evil")
    assert code == 2
    assert "not trusted" in err


def test_check_loads_no_data(gnnscale, monkeypatch):
    from gnnscale.dataset.digits import Digits

    monkeypatch.setattr(Digits, "load", lambda *_: pytest.fail("data was loaded"))
    code, out, _ = gnnscale("check", "sampler=saint", "seeds=3")
    assert code == 0
    assert "roots: 300" in out
    assert "seeds 0, 1, 2" in out


def test_check_tells_the_bits_of_every_site(gnnscale):
    words = ("check", "architecture=gcn", "architecture.depth=1")
    assert " bits " not in gnnscale(*words)[1]
    out = gnnscale(*words, "quantization=degree", "quantization.bits={*.q_update: 4}")[1]
    at = "layers.0.conv.q_"
    assert f"8 bits {at}input {at}weight {at}message {at}aggregate\n4 bits {at}update\n" in out
    out = gnnscale(*words, "quantization=mixed", "recipe=search")[1]
    assert f"2/4/8 bits {at}weight\n" in out


def test_list_says_what_and_where_from(gnnscale):
    code, out, _ = gnnscale("list", "model")
    assert code == 0
    assert "arXiv:1609.02907" in out
    assert "hidden=64" in out
    code, _, err = gnnscale("list", "modle")
    assert code == 2
    assert "did you mean" in err
    assert "gcn_cora" in gnnscale("list", "presets")[1]


def test_completion_prints_a_script(gnnscale):
    for shell in ("bash", "zsh", "fish"):
        assert "gnnscale" in gnnscale("completion", shell)[1]
    assert gnnscale("completion", "tcsh")[0] == 2


def test_report_formats_and_refusals(gnnscale, tmp_path):
    folder = gnnscale("train", *FAST, "seeds=2")[1].splitlines()[-1]
    table = gnnscale("report", folder, "--format", "markdown")[1]
    assert "| composition |" in table
    assert "±" in table
    assert "\\pm" in gnnscale("report", folder, "--format", "latex")[1]
    assert gnnscale("report", "/nowhere")[0] == 2
    out = tmp_path / "table.csv"
    assert gnnscale("report", folder, "--format", "csv", "--out", str(out))[0] == 0
    assert "composition" in out.read_text()
    assert gnnscale("report", folder, "--out", str(tmp_path / "report.html"))[0] == 0
    assert "data:image/svg+xml" in (tmp_path / "report.html").read_text()


def test_help_list_and_completion_leave_torch_alone():
    code = (
        "import sys; from gnnscale.cli import dispatch\n"
        "dispatch(['--help']); dispatch(['list']); dispatch(['_complete', 'gnnscale train sam'])\n"
        "import gnnscale.report.command, gnnscale.report.page\n"
        "bad = {'torch', 'dgl', 'numba', 'hydra'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sampler=" in done.stdout


QUICK = ("bench.requests=2", "bench.seconds=0.0", "bench.warmup=0", "bench.warmup_s=0.0",
         "bench.memory=false", "bench.queries=[1]", "hardware.threads=1")  # fmt: skip


@pytest.mark.process
def test_bench_prints_tables_and_ends_with_its_file(gnnscale, elsewhere):
    sides = ("--vs", "architecture=mlp", "--vs", "hardware.precision=bfloat16")
    code, out, err = gnnscale("bench", *FAST, *QUICK, *sides)
    assert code == 0, err
    path = out.splitlines()[-1]
    assert path.startswith("runs/bench/synthetic-full-gcn/")
    found = json.loads((elsewhere / path).read_text())
    assert "calibration" in found
    sides = [(side["label"], side["ratios"]["full"]["model"]["n"],
              side["measurement"]["choices"]["architecture"],
              side["measurement"]["config"]["hardware"]["precision"])
             for side in found["versus"]]  # fmt: skip
    assert sides == [("vs architecture=mlp", 2, "mlp", "float32"),
                     ("vs hardware.precision=bfloat16", 2, "gcn", "bfloat16")]  # fmt: skip
    for said in ("latency", "query_1", "GCNConv", "roofline", "median ratio", "not trained"):
        assert said in out, said
    assert "full/model: n = 2" in err


def test_bench_help_and_refusals(gnnscale):
    code, out, _ = gnnscale("bench", "--help")
    assert code == 0
    assert "--vs" in out
    assert "peer=dgl | pyg" in out
    for words, said in (
        (("train", *FAST, "--vs", "seed=1"), "--vs: compares in gnnscale bench only"),
        (("bench", *FAST, "--vs", "seed=1", "--vs", "bench=quick"), "hold for all sides"),
        (("bench", "-m", "seed=1,2"), "gnnscale bench takes overrides"),
        (("train", *FAST, "bench=quick"), "bench: says how `gnnscale bench` measures"),
        (("check", *FAST, "bench.requests=3"), "bench: says how `gnnscale bench` measures"),
        (("bench", "quantization=qat", *FAST, *QUICK), "quantization=qat: fake quantization"),
    ):
        code, _, err = gnnscale(*words)
        assert code == 2, words
        assert said in err, err
