"""Line charts and histograms as SVG: small, sharp at any size, and readable inside a page or alone.

>>> chart("Reward", [Line("each step", [(1, 4.0), (2, 4.5), (3, 5.5)])])[:4]
'<svg'
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, MUTED, GRID, PAPER = "#171b21", "#6b7280", "#e3e7ec", "#ffffff"
COLOURS = ("#2563eb", "#d97706", "#059669", "#b91c1c")
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 44, 40
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A named line. With `smooth` above 1, its running mean over that many points, above the pale line itself."""

    name: str
    points: Points
    smooth: int = 1


def chart(title: str, lines: Sequence[Line], x_label: str = "step") -> str:
    """Draw a chart with axes, a legend and a title, as SVG text with a background of its own."""
    lines = [line for line in lines if line.points]
    assert lines, "a chart needs a point"
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    axes = _Axes(_ticks(min(xs), max(xs)), _ticks(min(ys), max(ys)))
    parts = axes.draw(title, x_label)
    for number, (line, colour) in enumerate(zip(lines, COLOURS, strict=False)):
        places = [axes.place(*point) for point in line.points]
        if line.smooth > 1:
            parts.append(_path(places, colour, 1, 0.3))
            places = [axes.place(*point) for point in running_mean(line.points, line.smooth)]
        parts.append(_path(places, colour, 2.4, 1))
        if line.smooth == 1:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.4" fill="{colour}"/>' for a, b in places]
        right = WIDTH - RIGHT - 130 * (len(lines) - 1 - number)
        parts.append(_text(right, 22, line.name, colour, 12, "end"))
    return _svg(title, parts)


def histogram(title: str, counts: Sequence[int], low: float, high: float, x_label: str) -> str:
    """Draw a histogram of the counts in equally wide bins between low and high."""
    assert len(counts) and low < high, "a histogram needs a bin of some width"
    axes = _Axes(_ticks(low, high), _ticks(0, max(*counts, 1)))
    parts = axes.draw(title, x_label)
    for place, count in enumerate(counts):
        left, top = axes.place(low + place * (high - low) / len(counts), count)
        right, bottom = axes.place(low + (place + 1) * (high - low) / len(counts), 0)
        size = f'width="{right - left - 2:.1f}" height="{bottom - top:.1f}"'
        parts.append(f'<rect x="{left + 1:.1f}" y="{top:.1f}" {size} fill="{COLOURS[0]}"/>')
    return _svg(title, parts)


@dataclass(frozen=True)
class _Axes:
    """Round numbers along both axes; the first and the last enclose all values."""

    horizontal: Sequence[float]
    vertical: Sequence[float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Position of a value in the drawing."""
        (left, right), (low, high) = (self.horizontal[0], self.horizontal[-1]), (self.vertical[0], self.vertical[-1])
        return (
            LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM),
        )

    def draw(self, title: str, x_label: str) -> list[str]:
        """Draw the title, the grid and the numbers along the axes."""
        parts = [_text(LEFT, 22, title, INK, 15, weight="600")]
        for tick in self.vertical:
            y = self.place(self.horizontal[0], tick)[1]
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
            parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", MUTED, 11, "end"))
        for tick in self.horizontal:
            x = self.place(tick, self.vertical[0])[0]
            parts.append(_text(x, HEIGHT - BOTTOM + 18, f"{tick:g}", MUTED, 11, "middle"))
        return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, MUTED, 11, "middle")]


def _svg(title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PAPER}"/>'
    return f'{head} aria-label="{escape(title)}" font-family="system-ui, sans-serif">{background}{"".join(parts)}</svg>'


def running_mean(points: Points, window: int) -> list[tuple[float, float]]:
    """Mean of each point and up to `window - 1` points before it.

    >>> running_mean([(1, 2.0), (2, 4.0), (3, 6.0)], 2)
    [(1, 2.0), (2, 3.0), (3, 5.0)]
    """
    means = []
    for i, (at, _) in enumerate(points):
        values = [value for _, value in points[max(0, i + 1 - window) : i + 1]]
        means.append((at, sum(values) / len(values)))
    return means


def _ticks(low: float, high: float) -> list[float]:
    """Choose two to eight round numbers that enclose a range.

    >>> _ticks(0.68, 0.77)
    [0.68, 0.7, 0.72, 0.74, 0.76, 0.78]
    """
    if high <= low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    return [round(i * step, 10) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _path(places: Points, colour: str, width: float, opacity: float) -> str:
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    style = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round"'
    return f'<polyline points="{line}" {style}/>'


def _text(x: float, y: float, text: str, colour: str, size: int, anchor: str = "start", weight: str = "400") -> str:
    style = f'fill="{colour}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
