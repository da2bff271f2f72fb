"""Headers and cells as a terminal table, markdown, CSV or LaTeX."""

import csv
import io
from collections.abc import Collection, Sequence

FORMATS = ("table", "markdown", "csv", "latex")
ESCAPES = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#",
           "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}  # fmt: skip


def render(
    headers: Sequence[str],
    cells: Sequence[Sequence[str]],
    form: str,
    bold: Collection[tuple[int, int]] = (),
) -> str:
    """The table in one of ``FORMATS``; ``bold`` holds the (row, column) pairs to stand out.

    The terminal table marks them by a star, since it may be written to a file; CSV marks nothing.
    """

    def marked(before: str, after: str) -> list[list[str]]:
        return [
            [f"{before}{text}{after}" if (i, j) in bold else text for j, text in enumerate(line)]
            for i, line in enumerate(cells)
        ]

    if form == "markdown":
        lines = [list(headers), ["---"] * len(headers), *marked("**", "**")]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if form == "csv":
        buffer = io.StringIO()
        csv.writer(buffer).writerows([headers, *cells])
        return buffer.getvalue().rstrip()
    if form == "latex":
        lines = [[_escape(text) for text in line] for line in [headers, *cells]]
        for i, j in bold:
            lines[i + 1][j] = rf"\textbf{{{lines[i + 1][j]}}}"
        body = [" & ".join(line) + r" \\" for line in lines]
        head = r"\begin{tabular}{l" + "r" * (len(headers) - 1) + "}"
        return "\n".join([head, r"\hline", body[0], r"\hline", *body[1:], r"\hline",
                          r"\end{tabular}"])  # fmt: skip
    return _terminal(headers, marked("", " *"))


def _escape(text: str) -> str:
    return "".join(ESCAPES.get(c, c) for c in text)


def _terminal(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right", overflow="fold")
    for line in cells:
        table.add_row(*map(Text, line))
    console = Console(file=io.StringIO(), width=max(Console().width, 160))
    console.print(table)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]
