"""How figures look: for print in black and white and for every kind of colour vision."""

from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
"""Okabe & Ito, Color Universal Design, 2008, without its yellow (faint on paper), and a grey."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, FAINT = "#1A1A1A", "#9A9A9A"

SETTINGS = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 3.4,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.hashsalt": "gnnscale",  # the same bytes for the same figure
}


def line(i: int) -> dict[str, Any]:
    """The i-th line of up to eight: its marker and colour are its own; the fifth to eighth have the
    dashes of the first four and hollow markers.
    """
    colour = COLOURS[i % 8]
    return {
        "color": colour,
        "linestyle": DASHES[i % 4],
        "marker": MARKERS[i % 8],
        "markerfacecolor": colour if i % 8 < 4 else "white",
    }
