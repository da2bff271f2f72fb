"""Tables as terminal text, markdown, CSV or LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from gnnscale.core.errors import UsageError, unknown
from gnnscale.report.table import NEAR, Cell, Table

FORMATS = ("table", "markdown", "csv", "latex", "html")
SUFFIXES = {".txt": "table", ".md": "markdown", ".markdown": "markdown", ".csv": "csv",
            ".tex": "latex", ".html": "html", ".htm": "html"}  # fmt: skip
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "_": r"\_", "%": r"\%",
    "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$", NEAR: r"$\approx$",
}  # fmt: skip
MARKDOWN = re.compile(r"([\\|*`<>\[\]~])|(?<!\w)(_)|(_)(?!\w)")


def format_of(wanted: str | None, out: Path | None) -> str:
    """The format named, else that of the file's suffix, else the terminal table.

    Raises UsageError if there is no such format, or the suffix names none.
    """
    if wanted is not None:
        if wanted not in FORMATS:
            raise UsageError(f"--format {wanted}: {unknown('format', wanted, FORMATS)}")
        return wanted
    if out is None:
        return "table"
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--out {out}: the suffix '{out.suffix}' names no format; valid: "
            f"{', '.join(SUFFIXES)}, or give --format {'|'.join(FORMATS)}"
        )
    return SUFFIXES[out.suffix.lower()]


def render(tables: Sequence[Table], form: str) -> str:
    """The tables in one of ``FORMATS`` but html.

    The best are bold; in the terminal table, which may end up in a file, they carry a star. CSV
    marks nothing and keeps every number whole, with its standard deviation and n in columns of
    their own; it is one table, with each line's title in front.
    """
    if form == "csv":
        return _csv(tables)
    write = {"markdown": _markdown, "latex": _latex, "table": _terminal}[form]
    return "\n\n".join(write(table.narrowed()) for table in tables)


def _marked(cell: Cell, text: str, before: str, after: str) -> str:
    text = f"{before}{text}{after}" if cell.best else text
    return f"{text} {NEAR}" if cell.near else text


def _markdown(table: Table) -> str:
    def escape(text: str) -> str:
        return MARKDOWN.sub(lambda m: "\\" + m[0], text).replace("\n", " ")

    lines = [[escape(c.header) for c in table.columns],
             [":--" if c.left else "--:" for c in table.columns]]  # fmt: skip
    lines += [[_marked(c, escape(c.text), "**", "**") for c in line] for line in table.lines]
    parts = [f"**{escape(table.title)}**", "",
             *("| " + " | ".join(line) + " |" for line in lines)]  # fmt: skip
    if table.notes:
        parts += ["", *(f"- {escape(note)}" for note in table.notes)]
    return "\n".join(parts)


def _csv(tables: Sequence[Table]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(
        [
            "table",
            *(
                c.header.rstrip(" ↑↓") + part
                for c in tables[0].columns
                for part in c.numbers or ("",)
            ),
        ]
    )
    for table in tables:
        for line in table.lines:
            words = [table.title.partition(", mean")[0]]
            for column, cell in zip(table.columns, line, strict=True):
                if not column.numbers:
                    words.append("" if cell.text == "-" else cell.text)
                    continue
                numbers = [*cell.numbers, *[None] * len(column.numbers)][: len(column.numbers)]
                words += ["" if x is None else repr(x) for x in numbers]
            writer.writerow(words)
    return buffer.getvalue().rstrip("\r\n")


def _latex(table: Table) -> str:
    r"""A tabular that needs no package: \hline for rules, title and notes as comments."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(c, c) for c in text).replace("\n", " ")

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    body = [
        line([_marked_latex(cell, escape(cell.text)) for cell in cells]) for cells in table.lines
    ]
    places = "".join("l" if c.left else "r" for c in table.columns)
    return "\n".join([
        *(f"% {text}" for text in " ".join(table.title.splitlines()).splitlines()),
        rf"\begin{{tabular}}{{{places}}}", r"\hline",
        line([escape(c.header) for c in table.columns]), r"\hline", *body, r"\hline",
        r"\end{tabular}", *(f"% {' '.join(note.split())}" for note in table.notes),
    ])  # fmt: skip


def _marked_latex(cell: Cell, text: str) -> str:
    text = rf"\textbf{{{text}}}" if cell.best else text
    return rf"{text} {LATEX[NEAR]}" if cell.near else text


def _terminal(table: Table) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        grid.add_column(Text(column.header), justify="left" if column.left else "right",
                        overflow="fold", min_width=_widest_word(column.header))  # fmt: skip
    for line in table.lines:
        grid.add_row(*(Text(_marked(cell, cell.text, "", " *")) for cell in line))
    console = Console(file=io.StringIO(), width=max(Console().width, 160), highlight=False)
    console.print(Text(table.title))
    console.print(grid)
    for note in table.notes:
        console.print(Text(note))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def _widest_word(header: str) -> int:
    return max(map(len, header.split()))
