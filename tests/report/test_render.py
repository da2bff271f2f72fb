import csv
import io
from pathlib import Path

import pytest

from gnnscale.core.errors import UsageError
from gnnscale.report.render import format_of, render
from gnnscale.report.table import Cell, Column, Table

NASTY = r"a_b|c*d & 5% $x^2$ {k} #1 ~ \n <i> [z] `q`"


def made(text=NASTY, **cell):
    return Table(
        "digits: accuracy, mean ± std",
        [Column("composition", left=True), Column("test % ↑", ("", " std", " n")), Column("n")],
        [[Cell(text), Cell("1.50 ± 0.50", (1.5, 0.5, 2), **cell), Cell("2")],
         [Cell("other"), Cell(), Cell("0")]],
        ["a note: 5% of _all_"],
    )  # fmt: skip


def test_latex_escapes_every_special_character():
    text = render([made()], "latex")
    line = next(s for s in text.splitlines() if s.startswith("a"))
    assert line == (
        r"a\_b\textbar{}c*d \& 5\% \$x\textasciicircum{}2\$ \{k\} \#1 \textasciitilde{} "
        r"\textbackslash{}n \textless{}i\textgreater{} [z] `q` & 1.50 $\pm$ 0.50 & 2 \\"
    )
    assert r"test \% $\uparrow$" in text
    body = [s for s in text.splitlines() if not s.startswith("%")]
    assert body[0] == r"\begin{tabular}{lrr}"
    assert body[-1] == r"\end{tabular}"
    assert all(s.isascii() for s in body)
    assert r"\toprule" not in text  # no booktabs wanted


def test_markdown_escapes_what_would_break_or_format_the_table():
    text = render([made()], "markdown")
    line = next(s for s in text.splitlines() if s.startswith("| a"))
    assert line.startswith(r"| a_b\|c\*d & 5% $x^2$ {k} #1 \~ \\n \<i\> \[z\] \`q\` |")
    unescaped = line.replace(r"\|", "")
    assert unescaped.count("|") == 4
    assert r"- a note: 5% of \_all\_" in text


def test_csv_keeps_numbers_whole_and_leaves_the_unmeasured_empty():
    table = made(text='x, "y"\nz')
    table.lines[0][1] = Cell("0.33", (1 / 3, 0.1, 2))
    head, first, second = list(csv.reader(io.StringIO(render([table], "csv"))))
    assert head == ["table", "composition", "test %", "test % std", "test % n", "n"]
    assert first == ["digits: accuracy", 'x, "y"\nz', repr(1 / 3), "0.1", "2", "2"]
    assert second[2:5] == ["", "", ""]


@pytest.mark.parametrize(
    ("form", "best", "near"),
    [("markdown", "**1.50 ± 0.50**", "1.50 ± 0.50 ≈"), ("table", "1.50 ± 0.50 *", "1.50 ± 0.50 ≈"),
     ("latex", r"\textbf{1.50 $\pm$ 0.50}", r"1.50 $\pm$ 0.50 $\approx$")],
)  # fmt: skip
def test_marks(form, best, near):
    assert best in render([made(best=True)], form)
    assert near not in render([made(best=True)], form)
    assert near in render([made(near=True)], form)
    assert best not in render([made(near=True)], form)


def test_the_terminal_table_has_no_escape_codes_and_whole_titles():
    text = render([made()], "table")
    assert "\x1b" not in text
    assert text.splitlines()[0] == "digits: accuracy, mean ± std"
    assert NASTY in text


def test_empty_columns_go_unless_asked_for():
    table = made()
    table.columns.append(Column("failed", always=False))
    for line in table.lines:
        line.append(Cell())
    assert "failed" not in render([table], "markdown")
    table.lines[0][-1] = Cell("3")
    assert "failed" in render([table], "markdown")


def test_the_format_is_the_named_one_else_the_suffixs():
    assert format_of(None, None) == "table"
    assert format_of("csv", Path("x.md")) == "csv"
    suffixes = {
        "x.md": "markdown",
        "x.CSV": "csv",
        "x.tex": "latex",
        "x.html": "html",
        "x.txt": "table",
    }
    assert {name: format_of(None, Path(name)) for name in suffixes} == suffixes
    with pytest.raises(UsageError, match=r"format 'markdwon'.*did you mean 'markdown'"):
        format_of("markdwon", None)
    with pytest.raises(UsageError, match=r"--out x\.pdf: the suffix '\.pdf' names no format"):
        format_of(None, Path("x.pdf"))
