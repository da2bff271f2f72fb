import subprocess
import sys
from pathlib import Path

import pytest

from gnnscale import catalog as module
from gnnscale.catalog import GROUPS, Catalog, packaged, user_folders
from gnnscale.core.errors import UsageError

TRAIN = """
defaults:
  - sampler: full
  - distillation: [none]
  - optional architecture: gcn
  - /experiment: null
  - override hydra/job_logging: none
  - _self_
seed: 0
teacher: {run: null}
hydra: {job: {name: train}}
"""
GCN = """# @package architecture
# GCN: graph convolution (symmetric) (Kipf & Welling, ICLR 2017, arXiv:1609.02907)
# A second line that nobody lists.
_target_: gnnscale.architecture.gcn.GCN
_partial_: true
hidden: 64
eps: 1e-3
day: 2020-01-02
wide: [1, 2]
"""


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def conf(tmp_path):
    return write(
        tmp_path / "conf",
        {
            "train.yaml": TRAIN,
            "architecture/gcn.yaml": GCN,
            "architecture/_base.yaml": "a: 1",
            "architecture/.hidden.yaml": "a: 1",
            "sampler/full.yaml": "# The whole graph (no sampling)\n{}\n",
            "sampler/bare.yaml": "roots: 5\n",
            "dataset/ogb/arxiv.yaml": "# ogbn-arxiv\nname: arxiv\n",
            "zoo/a.yaml": "x: 1",
            "empty/readme.txt": "",
            "hydra/launcher/mine.yaml": "x: 1",
            "__pycache__/x.yaml": "",
        },
    )


def test_groups_are_the_thirteen_then_the_users(conf):
    assert Catalog([conf]).groups == (*GROUPS, "zoo")


def test_options_skip_hidden_and_underscored_files(conf):
    catalog = Catalog([conf])
    assert list(catalog.options("architecture")) == ["gcn"]
    assert list(catalog.options("dataset")) == ["ogb/arxiv"]
    assert catalog.options("recipe") == catalog.options("nonsense") == {}


def test_option_reads_comment_and_body(conf):
    gcn = Catalog([conf]).options("architecture")["gcn"]
    assert gcn.summary == "GCN: graph convolution (symmetric)"
    assert gcn.paper == "Kipf & Welling, ICLR 2017, arXiv:1609.02907"
    assert gcn.package == "architecture"
    assert gcn.target == "gnnscale.architecture.gcn.GCN"
    # the same types as OmegaConf: 1e-3 is a number, a date is text
    assert gcn.parameters == {"hidden": 64, "eps": 0.001, "day": "2020-01-02", "wide": [1, 2]}


def test_numbers_are_read_as_omegaconf_reads_them(tmp_path):
    from omegaconf import OmegaConf

    words = ["1e-3", "1e3", "1.5", "-2.", ".5", "1_0", "3", "0.1e+2", "-.inf", ".nan", "1e", "x1"]
    words += ["2020-01-02", "true", "on", "null", "~", "none", "1.2.3", "0x10", "-1e-4", "+.5"]
    text = "".join(f"k{i}: {word}\n" for i, word in enumerate(words))
    (tmp_path / "a.yaml").write_text(text)
    ours, theirs = module.read(tmp_path / "a.yaml"), OmegaConf.create(text)
    assert {k: repr(v) for k, v in ours.items()} == {k: repr(v) for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("line", "summary", "paper"),
    [
        ("# Whole graph (no sampling)", "Whole graph (no sampling)", ""),
        ("# SAINT (Zeng et al., ICLR 2020).", "SAINT", "Zeng et al., ICLR 2020"),
        ("# A (Hu et al. (2020), arXiv:1), fast", "A, fast", "Hu et al. (2020), arXiv:1"),
        ("x: 1", "", ""),
    ],
)
def test_summary_and_paper(tmp_path, line, summary, paper):
    write(tmp_path, {"sampler/a.yaml": f"{line}\ny: 2\n"})
    option = Catalog([tmp_path]).options("sampler")["a"]
    assert (option.summary, option.paper) == (summary, paper)


def test_listing_parses_no_yaml(tmp_path):
    write(tmp_path, {"sampler/broken.yaml": "# Broken\na: [1\n"})
    option = Catalog([tmp_path]).options("sampler")["broken"]
    assert option.summary == "Broken"
    with pytest.raises(UsageError, match=r"broken\.yaml: cannot be read as YAML"):
        _ = option.parameters


def test_a_list_is_no_option(tmp_path):
    write(tmp_path, {"sampler/a.yaml": "- 1\n"})
    with pytest.raises(UsageError, match="not a list"):
        _ = Catalog([tmp_path]).options("sampler")["a"].target


def test_defaults_and_keys(conf):
    catalog = Catalog([conf])
    assert catalog.defaults == {
        "sampler": "full",
        "distillation": ["none"],
        "architecture": "gcn",
        "experiment": None,
    }
    assert catalog.keys == {"seed": 0, "teacher": {"run": None}}


def test_later_folders_add(conf, tmp_path):
    mine = write(tmp_path / "mine", {"sampler/own.yaml": "", "my/a.yaml": "x: 1"})
    catalog = Catalog([conf, mine])
    assert list(catalog.options("sampler")) == ["bare", "full", "own"]
    assert catalog.options("sampler")["own"].parameters == {}
    assert catalog.groups == (*GROUPS, "my", "zoo")
    assert catalog.defaults["sampler"] == "full"


def test_an_option_of_a_name_that_is_taken_is_refused(conf, tmp_path):
    mine = write(tmp_path / "mine", {"sampler/full.yaml": "# Mine"})
    with pytest.raises(UsageError, match=r"full.yaml.*same name; rename yours"):
        Catalog([conf, mine]).options("sampler")


def test_homes_prefer_what_is_selected_by_default(conf):
    catalog = Catalog([conf])
    assert catalog.homes("hidden") == ["architecture.hidden"]
    assert catalog.homes("roots") == ["sampler.roots"]
    assert catalog.homes("nothing") == []


def test_the_packaged_folder_comes_first(tmp_path):
    assert packaged().name == "conf"
    assert (packaged() / "__init__.py").is_file()
    assert Catalog.load([tmp_path]).folders == (packaged(), tmp_path)


def test_user_folders(tmp_path, monkeypatch):
    here, there, asked = (tmp_path / name for name in ("here", "there", "asked"))
    for folder in (here / "gnnscale_conf", there, asked):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("GNNSCALE_CONFIG_DIR", str(there))
    local = here / "gnnscale_conf"
    assert user_folders([]) == [local, there]
    assert user_folders(["train", "-cd", str(asked)]) == [local, there, asked]
    assert user_folders([f"--config-dir={asked}"]) == [local, there, asked]
    assert user_folders(["--config-dir", "gnnscale_conf"]) == [there, local]
    monkeypatch.setenv("GNNSCALE_CONFIG_DIR", str(tmp_path / "missing"))
    assert user_folders(["seed=1"]) == [local]


@pytest.mark.parametrize("argv", [["--config-dir", "nowhere"], ["-cd=nowhere"]])
def test_a_missing_config_dir_is_named(argv):
    with pytest.raises(UsageError, match="--config-dir nowhere: no such folder"):
        user_folders(argv)


def test_config_dir_needs_a_value():
    with pytest.raises(UsageError, match="type --config-dir DIR"):
        user_folders(["train", "--config-dir"])


def test_nothing_slow_is_imported():
    code = (
        "import sys, gnnscale.catalog, gnnscale.overrides, gnnscale.completion\n"
        "from gnnscale.catalog import Catalog\n"
        "c = Catalog.load(); [c.options(g) for g in c.groups]; c.defaults; c.parameters\n"
        "gnnscale.overrides.normalise(['user.x=1'], c); gnnscale.completion.complete([''], c)\n"
        "slow = {'torch', 'dgl', 'numba', 'hydra', 'numpy', 'omegaconf', 'rich'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]", done.stderr
