"""One self-contained HTML page: tables, figures and where they come from; nothing is fetched."""

import base64
import html
import io
import time
from collections.abc import Sequence
from typing import Any

from gnnscale.report.canvas import Drawing
from gnnscale.report.table import NEAR, Cell, Table

CSS = """
:root { color-scheme: light; --ink: #1a1a1a; --rule: #cfcfcf; --faint: #5c5c5c; }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink);
  background: #fff; max-width: 112rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p.by, ul.notes, figcaption, footer { color: var(--faint); font-size: .85rem; }
nav a { margin-right: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .8rem; }
th, td { padding: .3rem .42rem; text-align: right; white-space: nowrap; }
th.l, td.l { text-align: left; } td:first-child { white-space: normal; min-width: 11rem; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; white-space: normal; }
tbody td { border-bottom: 1px solid var(--rule); }
tbody tr:hover { background: #f4f6f8; }
ul.notes { padding-left: 1.1rem; margin: .5rem 0; }
.warn { border-left: 4px solid #d55e00; padding: .2rem 1rem; margin: 1rem 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: start; }
figure { margin: .8rem 0; flex: 0 1 42rem;
  min-width: min(38rem, 100%); } figure img { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
@media print {
  body { font-size: 9pt; max-width: none; padding: 0; } nav { display: none; }
  .scroll { overflow: visible; } table { font-size: 7pt; } th, td { padding: .15rem .3rem; }
  td { white-space: normal; } thead { display: table-header-group; }
  figure { flex: 0 1 48%; min-width: 0; }
  tr, figure { break-inside: avoid; } h2 { break-after: avoid; } a { color: inherit; }
}
@page { size: A4 landscape; margin: 12mm; }
"""


def page(
    blocks: Sequence[tuple[Table, Sequence[Drawing]]],
    warnings: Sequence[str],
    sources: Sequence[str],
    when: float | None = None,
) -> str:
    """The page; figures are embedded as SVG, styles are inline, and there is no script."""
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))
    links = "".join(f'<a href="#t{i}">{_text(table.title.partition(", mean")[0])}</a>'
                    for i, (table, _) in enumerate(blocks))  # fmt: skip
    body = [
        "<h1>gnnscale report</h1>",
        f'<p class="by">{stamp}</p>',
        f"<nav>{links}</nav>" if len(blocks) > 1 else "",
    ]
    if warnings:
        items = "".join(f"<li>{_text(w)}</li>" for w in warnings)
        body.append(f'<div class="warn"><p>To be seen to:</p><ul>{items}</ul></div>')
    for i, (table, drawings) in enumerate(blocks):
        body.append(f'<section id="t{i}">{_table(table.narrowed())}')
        if drawings:
            body.append(f'<div class="figures">{"".join(map(_figure, drawings))}</div>')
        body.append("</section>")
    items = "\n".join(map(_text, sources))
    body.append(f"<footer><details><summary>Where this comes from</summary><pre>{items}</pre>"
                "</details></footer>")  # fmt: skip
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>gnnscale report</title>", f"<style>{CSS}</style>", "</head>", "<body>",
        *filter(None, body), "</body>", "</html>",
    ])  # fmt: skip


def _text(value: str) -> str:
    return html.escape(str(value))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_side(c.left)}>{_text(c.header)}</th>' for c in table.columns)
    lines = [
        "<tr>" + "".join(f"<td{_side(column.left)}>{_cell(cell)}</td>"
                         for column, cell in zip(table.columns, line, strict=True)) + "</tr>"
        for line in table.lines
    ]  # fmt: skip
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f'<h2>{_text(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _side(left: bool) -> str:
    return ' class="l"' if left else ""


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    text = f"<strong>{text}</strong>" if cell.best else text
    return f"{text} {NEAR}" if cell.near else text


def _figure(drawing: Drawing) -> str:
    data = base64.b64encode(saved(drawing.figure, "svg")).decode()
    about = html.escape(f"{drawing.name}: {drawing.caption}", quote=True)
    return f'<figure><img alt="{about}" src="data:image/svg+xml;base64,{data}"></figure>'


def saved(figure: Any, form: str) -> bytes:
    """The figure's file, the same bytes each time: no date in it."""
    import matplotlib

    from gnnscale.report import style

    buffer = io.BytesIO()
    with matplotlib.rc_context(style.SETTINGS):
        about = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=200, metadata=about)
    return buffer.getvalue()
