"""Labels beside points, placed so that none lies on another label, on a point, or on a line."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

AROUND = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
REACH = (5, 12, 22, 34, 48)  # points of 1/72 inch from the marker
Box = tuple[float, float, float, float]


def place(
    axes: Any,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    avoid: Sequence[tuple[float, float]] = (),
    path: Sequence[tuple[float, float]] = (),
    **style: Any,
) -> list[int]:
    """Write each text near its point; return the indices of the texts that found no room.

    Greedy, in the order given: the nearest of forty places whose box is inside the axes and off
    every point of ``avoid``, the polyline ``path`` and every label written so far; if there is
    none, the nearest off points and labels. A text further away than one step gets a thin line to
    its point, which crosses no label. The figure must have been laid out.
    """
    from matplotlib.patheffects import withStroke

    figure = axes.figure
    draw = figure.canvas.get_renderer()
    window = axes.get_window_extent(draw)
    inside = (window.x0, window.y0, window.x1, window.y1)
    unit = figure.dpi / 72
    spots = [tuple(axes.transData.transform(p)) for p in points]
    labels = [_box(note, draw) for note in axes.texts]
    crowd = [tuple(axes.transData.transform(p)) for p in avoid]
    line = [_around(x, y, 1.5 * unit) for x, y in _along(axes, path)]
    left_out = []
    for i, text in enumerate(texts):
        halo = [withStroke(linewidth=3, foreground="white")]
        note = axes.annotate(text, points[i], path_effects=halo, **style)
        left, bottom, right, top = _box(note, draw)
        note.remove()
        # a name that touches another point would be read as that point's
        wide = [_around(x, y, (4 if (x, y) == spots[i] else 9) * unit) for x, y in crowd]
        thin = [_around(x, y, 4 * unit) for x, y in crowd]
        tries = [([*wide, *line], *spot) for spot in product(REACH, AROUND)]
        tries += [(thin, *spot) for spot in product(REACH, AROUND)]
        for solid, reach, (dx, dy) in tries:
            end = (spots[i][0] + dx * reach * unit, spots[i][1] + dy * reach * unit)
            own = _beside(end, right - left, top - bottom, dx, dy)
            leader = [_around(x, y, 0.5) for x, y in _steps(spots[i], end, 3 * unit)]
            if (
                _within(own, inside)
                and not any(_overlap(own, other) for other in (*labels, *solid))
                and not any(_overlap(a, b) for a in leader for b in labels)
            ):
                labels.append(own)
                far = {"arrowstyle": "-", "lw": 0.5, "color": style.get("color"), "shrinkB": 4}
                axes.annotate(
                    text, points[i], (dx * reach, dy * reach), textcoords="offset points",
                    ha=("center", "left", "right")[dx], va=("center", "bottom", "top")[dy],
                    path_effects=halo,
                    arrowprops=None if reach == REACH[0] else far, **style,
                )  # fmt: skip
                break
        else:
            left_out.append(i)
    return left_out


def _box(note: Any, draw: Any) -> Box:
    """The box of the text alone, without its line, and a pixel around it."""
    from matplotlib.text import Text

    note.update_positions(draw)
    box = Text.get_window_extent(note, draw)
    return box.x0 - 1, box.y0 - 1, box.x1 + 1, box.y1 + 1


def _beside(end: tuple[float, float], width: float, height: float, dx: int, dy: int) -> Box:
    """The box of a text that hangs on a place by the side that faces its point."""
    x = end[0] + (0 if dx > 0 else -width if dx < 0 else -width / 2)
    y = end[1] + (0 if dy > 0 else -height if dy < 0 else -height / 2)
    return x, y, x + width, y + height


def _within(a: Box, b: Box) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def _around(x: float, y: float, by: float) -> Box:
    return x - by, y - by, x + by, y + by


def _along(axes: Any, path: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Points on a polyline in pixels, close enough that no text slips through."""
    corners = [tuple(axes.transData.transform(p)) for p in path]
    for start, end in pairwise(corners):
        yield from _steps(start, end, 4.0)


def _steps(
    start: Sequence[float], end: Sequence[float], size: float
) -> Iterator[tuple[float, float]]:
    far = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    n = max(1, int(far / size))
    for k in range(n + 1):
        yield (start[0] + (end[0] - start[0]) * k / n, start[1] + (end[1] - start[1]) * k / n)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
