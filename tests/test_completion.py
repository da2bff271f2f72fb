import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gnnscale.catalog import Catalog
from gnnscale.completion import SCRIPTS, answer, complete, script
from gnnscale.core.errors import UsageError
from gnnscale.overrides import FLAGS, VERBS

ROOT = Path(__file__).parent.parent
FILES = {
    "train.yaml": """
defaults: [{sampler: full}, {architecture: gcn}, {distillation: [none]}, {experiment: null}]
seed: 0
resume: false
teacher: {run: null, seed: 0}
""",
    "sampler/full.yaml": "{}",
    "sampler/saint.yaml": "_target_: x\nroots: 5\nreplace: true\n",
    "sampler/saint_edge.yaml": "edges: 5\n",
    "architecture/gcn.yaml": "hidden: 64\nnorm: {kind: batch}\n",
    "architecture/gat.yaml": "heads: 4\nhidden: 8\n",
    "distillation/none.yaml": "# @package distillation.none\n{}\n",
    "distillation/logit.yaml": "# @package distillation.logit\nalpha: 1\n",
    "experiment/t1.yaml": "x: 1\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("conf")
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(scope="module")
def catalog(folder):
    return Catalog([folder])


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("tr", ["train", "trainer="]),
        ("train sam", ["sampler="]),
        ("train +sam", ["+sampler="]),
        ("train ++sam", ["++sampler="]),
        ("sam", ["sampler="]),
        ("train sampler", ["sampler=", "sampler."]),
        ("train sampler=", ["sampler=full", "sampler=saint", "sampler=saint_edge"]),
        ("train sampler=sa", ["sampler=saint", "sampler=saint_edge"]),
        ("train +sampler=f", ["+sampler=full"]),
        ("sampler=f", ["sampler=full"]),
        ("train -m sampler=full,saint_", ["sampler=full,saint_edge"]),
        ("train distillation=[logit,n", ["distillation=[logit,none"]),
        ("train experiment=", ["experiment=t1"]),
        ("train mod", ["model="]),
        ("train model", ["model=", "model."]),
        ("train arch", ["architecture="]),
        ("train model=ga", ["model=gat"]),
        ("train +arch=", ["+arch=gat", "+arch=gcn"]),
        ("train model@teacher=ga", ["model@teacher=gat"]),
        ("train architecture.", ["architecture.hidden=", "architecture.norm."]),
        ("train architecture.norm.", ["architecture.norm.kind="]),
        ("train model=gat model.he", ["model.heads="]),
        ("train +model=gat ++architecture.he", ["++architecture.heads="]),
        ("train sampler.", []),
        ("train sampler=saint sampler.", ["sampler.roots=", "sampler.replace="]),
        ("train sampler=saint sampler.replace=", ["sampler.replace=true", "sampler.replace=false"]),
        ("train distillation.", ["distillation.none="]),
        ("train distillation=[logit] distillation.", ["distillation.logit."]),
        ("train distill=logit distillation.logit.", ["distillation.logit.alpha="]),
        ("train teach", ["teacher="]),
        ("train teacher.", ["teacher.run=", "teacher.seed="]),
        ("train resume=", ["resume=true", "resume=false"]),
        ("train seed=", []),
        ("train nothing.", []),
        ("train seed.", []),
        ("train seed=1 se", ["seed="]),
        ("train --cfg ", ["job", "hydra", "all"]),
        ("train -c j", ["job"]),
        ("train --info d", ["defaults", "defaults-tree", "dataset=", "distillation="]),
        ("train --config-dir ", []),
        ("train --re", ["--resolve"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("list sam", ["sampler"]),
        ("report ", []),
    ],
)
def test_complete(catalog, line, wanted):
    found = complete(line.split(" "), catalog)
    if "--info" in line:
        wanted = [w for w in wanted if not w.endswith("=")] + [f for f in found if "=" in f]
    assert found == wanted


def test_an_empty_line_offers_verbs_first_then_groups_and_keys(catalog):
    found = complete([""], catalog)
    assert found[: len(VERBS)] == list(VERBS)
    assert {"sampler=", "seed="} <= set(found)
    assert complete([], catalog) == found
    assert not set(VERBS) & set(complete(["train", ""], catalog))


def test_flags(catalog):
    assert complete(["train", "-"], catalog) == list(FLAGS)


def test_answer_reads_a_line_of_text(tmp_path):
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "my own.yaml").touch()
    (tmp_path / "sampler" / "mine_alone.yaml").touch()
    line = f"gnnscale -cd {tmp_path} train sampler=mine_"
    assert answer(line) == ["sampler=mine_alone"]
    assert answer("gnnscale trai") == ["train", "trainer="]
    assert answer("gnnscale completion ") == list(SCRIPTS)
    assert answer("gnnscale train 'sam") == []  # an open quote
    assert answer("gnnscale --config-dir /no/such/folder train sam") == []
    assert set(VERBS) <= set(answer("gnnscale "))
    assert answer("") == answer("gnnscale ")


def test_an_unknown_shell_is_refused():
    with pytest.raises(UsageError, match=r"shell 'tcsh' does not exist.*valid: bash, fish, zsh"):
        script("tcsh")


@pytest.fixture
def shell(folder, tmp_path):
    """Run a shell script with a ``gnnscale`` on PATH that answers from the test's catalog."""
    program = tmp_path / "bin" / "gnnscale"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from gnnscale import catalog, completion\n"
        f"catalog.packaged = lambda: Path({str(folder)!r})\n"
        "assert sys.argv[1] == '_complete', sys.argv\n"
        "print(*completion.answer(sys.argv[2]), sep='\\n')\n"  # no reply is an empty line
    )
    program.chmod(0o755)
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)

    def run(name, *command):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
        done = subprocess.run(
            [name, *command], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout.splitlines()

    return run


# the line, the words as bash cuts them, and what bash may put in place of the last one
BASH = [
    ("gnnscale tra", ["gnnscale", "tra"], ["train", "trainer="]),
    ("gnnscale train sam", ["gnnscale", "train", "sam"], ["sampler="]),
    ("gnnscale train sampler=", ["gnnscale", "train", "sampler", "="],
     ["full", "saint", "saint_edge"]),
    ("gnnscale train sampler=sa", ["gnnscale", "train", "sampler", "=", "sa"],
     ["saint", "saint_edge"]),
    ("gnnscale train +model=gat model.he", ["gnnscale", "train", "+model", "=", "gat", "model.he"],
     ["model.heads="]),
    ("gnnscale train model@teacher=ga", ["gnnscale", "train", "model", "@", "teacher", "=", "ga"],
     ["gat"]),
    ("gnnscale train distillation=[logit,n",
     ["gnnscale", "train", "distillation", "=", "[logit,n"], ["[logit,none"]),
    ("gnnscale report runs", ["gnnscale", "report", "runs"], []),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words", "wanted"), BASH)
@pytest.mark.parametrize("rest", ["", " seed=1"], ids=["end", "middle"])
def test_bash(shell, line, words, wanted, rest):
    quoted = " ".join(f"'{word}'" for word in words)
    code = (
        f"source ./bash; COMP_LINE='{line}{rest}'; COMP_POINT={len(line)}; "
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        f'_gnnscale gnnscale "{words[-1]}" "{words[-2]}"; '
        'for reply in "${COMPREPLY[@]}"; do echo "$reply"; done; complete -p gnnscale'
    )
    *replies, registered = shell("bash", "--norc", "-c", code)
    assert replies == wanted
    assert registered == "complete -o bashdefault -o default -F _gnnscale gnnscale"


def test_bash_without_equals_among_its_word_breaks(shell):
    code = (
        "source ./bash; COMP_WORDBREAKS=$' \\t\\n'; COMP_LINE='gnnscale train sampler=sa'; "
        "COMP_POINT=${#COMP_LINE}; COMP_WORDS=(gnnscale train sampler=sa); COMP_CWORD=2; "
        '_gnnscale gnnscale; echo "${COMPREPLY[*]}"'
    )
    assert shell("bash", "--norc", "-c", code) == ["sampler=saint sampler=saint_edge"]


def test_zsh(shell):
    code = (
        "compdef() { print registered $@ }; source ./zsh; "
        "compadd() { shift ${@[(i)--]}; (( $# )) && print -l -- $@ }; "
        "words=(gnnscale train sampler=sa seed=1); CURRENT=3; IPREFIX=; PREFIX=sampler=sa; "
        "_gnnscale; PREFIX=arch; _gnnscale; true"
    )
    replies = ["sampler=saint", "sampler=saint_edge", "architecture="]
    assert shell("zsh", "-f", "-c", code) == ["registered _gnnscale gnnscale", *replies]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("gnnscale train sampler=sa", ["sampler=saint", "sampler=saint_edge"]),
        ("gnnscale train +sampler=f", ["+sampler=full"]),
        ("gnnscale completion ", ["bash", "fish", "zsh"]),
        ("gnnscale report zs", ["zsh"]),
    ],
)
def test_fish(shell, line, wanted):
    code = f"source ./fish; complete -C '{line}'"
    assert sorted(shell("fish", "--no-config", "-c", code)) == wanted


def test_bench_offers_peers_and_vs(catalog):
    assert complete(["bench", "pe"], catalog) == ["peer=dgl", "peer=pyg"]
    assert complete(["predict", "ou"], catalog) == ["out="]
    assert complete(["predict", "only=t"], catalog) == ["only=train", "only=test"]
    assert "--vs" in complete(["bench", "--"], catalog)
    assert "--vs" not in complete(["train", "--"], catalog)
    assert complete(["train", "pe"], catalog) == []
