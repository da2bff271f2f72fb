import re
from html.parser import HTMLParser

import pytest
from made_runs import seed, three

from gnnscale import cli
from gnnscale.core.errors import UsageError

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags that close in order, and what the page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.fetched = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "data", "srcset")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def runs(tmp_path):
    for i, arch in enumerate(("gcn", "mlp")):
        three(tmp_path / f"runs/{arch}", [0.7 + 0.1 * i, 0.72, 0.71], architecture=arch,
              latency=1.0 + i, epochs=[{"valid": 0.5, "train_s": 1.0}] * 3)  # fmt: skip
    return tmp_path / "runs"


def test_the_page_is_whole_without_a_network_and_escapes(runs, tmp_path, capsys):
    seed(runs / "x", 0, architecture="<script>alert(1)</script>")
    seed(runs / "mlp", 7, state="failed", architecture="mlp")
    out = tmp_path / "report.html"
    assert cli.dispatch(["report", str(runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text()
    page = Page(text)
    assert all(v.startswith(("data:image/svg+xml;base64,", "#")) for v in page.fetched)
    assert {"script", "link", "iframe"} & set(page.tags) == set()
    assert not re.search(r"https?://|url\(|@import", text)
    assert page.tags.count("img") >= 3
    assert page.tags.count("table") == 1
    assert "&lt;script&gt;" in text
    assert "<strong>" in text
    assert "@media print" in text


def test_several_files_at_once_each_by_its_suffix(runs, tmp_path, capsys):
    names = ["t.md", "t.csv", "t.tex", "t.txt"]
    words = [w for name in names for w in ("--out", str(tmp_path / name))]
    assert cli.dispatch(["report", str(runs), *words]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    starts = [(tmp_path / name).read_text()[:9] for name in names]
    assert starts == ["**digits:", "table,com", "% digits:", "digits: a"]


def test_plots_are_png_and_svg(runs, tmp_path, capsys):
    assert cli.dispatch(["report", str(runs), "--plots", str(tmp_path / "new/figures")]) == 0
    names = sorted(p.name for p in (tmp_path / "new/figures").iterdir())
    assert names == [f"digits-{n}.{s}" for n in ("bars", "curves", "pareto-latency_p50")
                     for s in ("png", "svg")]  # fmt: skip
    assert str(tmp_path / "new/figures/digits-bars.png") in capsys.readouterr().out


def test_an_unreadable_record_is_named_the_others_render_and_the_code_is_2(runs, capsys, caplog):
    path = runs / "gcn/seed-1/record.json"
    path.write_text("{")
    assert cli.dispatch(["report", str(runs), "--format", "markdown"]) == 2
    out = capsys.readouterr().out
    assert "unreadable" in out
    assert "digits full mlp" in out
    assert f"{path}: can't be read" in caplog.text


def test_rows_by_columns(runs, tmp_path, capsys):
    words = ["report", str(runs), "--rows", "model", "--columns", "dataset"]
    assert cli.dispatch([*words, "--format", "markdown", "--measure", "latency_p50"]) == 0
    assert "| gcn | **1** |" in capsys.readouterr().out.replace("1 ± 0", "1")
    with pytest.raises(UsageError, match="go together"):
        cli.dispatch(words[:-2])
    with pytest.raises(UsageError, match="--measure goes with"):
        cli.dispatch(["report", str(runs), "--measure", "test"])
    with pytest.raises(UsageError, match="don't go with"):
        cli.dispatch([*words, "--by", "sampler"])


def test_where_by_sort_and_both_tests(runs, capsys):
    words = ["report", f"{runs}/*", "--format", "csv"]
    assert cli.dispatch([*words, "--where", "model=mlp"]) == 0
    assert "gcn" not in capsys.readouterr().out
    assert (
        cli.dispatch([*words, "--sort", "-test", "--baseline", "model=gcn", "--test", "both"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [s.split(",")[1] for s in lines[1:]] == ["digits full gcn", "digits full mlp"]
    assert lines[0].endswith("pairs,p (t),p (Wilcoxon)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "htlm"], r"did you mean 'html'"),
        (["--by", "architecure"], r"did you mean 'architecture'"),
        (["--show", "latency"], r"did you mean 'latency_p"),
        (["--test", "z"], r"test 'z' does not exist; valid: both, t, wilcoxon"),
        (["--wher", "x=1"], r"unrecognized arguments: --wher"),
        (["--out", "/proc/nope/x.md"], r"can't be written"),
        (["--out", "{here}"], r"is a folder; give a file"),
        (["--out", "x.doc"], r"suffix '\.doc' names no format"),
        (["--plots", "{here}/gcn/run.json"], r"is a file; give a folder"),
    ],
)  # fmt: skip
def test_what_is_typed_wrong_is_refused(runs, words, message, capsys):
    words = [w.replace("{here}", str(runs)) for w in words]
    with pytest.raises(UsageError, match=message):
        cli.dispatch(["report", str(runs), *words])


def test_times_of_different_machines_are_pointed_out(tmp_path, capsys):
    for i, cpu in enumerate(("EPYC", "Xeon")):
        seed(tmp_path / cpu, 0, architecture=f"m{i}", environment={"cpu": cpu, "cores": 2})
    cli.dispatch(["report", str(tmp_path)])
    assert "different machines (cpu EPYC, cores 2; cpu Xeon, cores 2)" in " ".join(
        capsys.readouterr().out.split()
    )
