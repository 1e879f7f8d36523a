"""Charts as inline SVG: lines with intervals, and shares stacked to one. Colours are CSS variables of the page."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class Series:
    """One curve; `lows` and `highs`, where given, are the interval around each of `ys`. None: there is no value."""

    name: str
    color: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    lows: Sequence[float | None] = field(default=())
    highs: Sequence[float | None] = field(default=())

    def thinned(self) -> Series:
        """At most MAX_POINTS points, each the mean of its neighbours, so that long runs stay quick to draw."""
        size = math.ceil(len(self.xs) / MAX_POINTS)
        if size <= 1:
            return self
        return Series(
            self.name,
            self.color,
            [value for value in _bucket_means(self.xs, size) if value is not None],
            _bucket_means(self.ys, size),
            _bucket_means(self.lows, size),
            _bucket_means(self.highs, size),
        )


def percent(value: float) -> str:
    """0.123 as `12.3 %`, without needless digits."""
    return f"{100 * value:.3g} %"


def number(value: float) -> str:
    """Three significant digits, thousands as k and M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def line_chart(
    title: str,
    series: Sequence[Series],
    show: Callable[[float], str] = number,
    note: str = "",
    from_zero: bool = False,
) -> str:
    """A figure with curves over learner steps; empty text where no series has a point."""
    series = [line.thinned() for line in series if any(value is not None for value in line.ys)]
    if not series:
        return ""
    values = [
        value for line in series for part in (line.ys, line.lows, line.highs) for value in part if value is not None
    ]
    low, high = _padded(min(0.0, *values) if from_zero else min(values), max(values))
    scale = _Scale(min(line.xs[0] for line in series), max(line.xs[-1] for line in series), low, high)
    body = [_axes(scale, show)]
    for line in series:
        if line.lows:
            body.append(f'<path class="band" style="fill:var(--{line.color})" d="{_band(line, scale)}"/>')
    for line in series:
        body.append(f'<path class="line" style="stroke:var(--{line.color})" d="{_path(line.xs, line.ys, scale)}"/>')
        if len(line.xs) <= 40:
            body += _whiskers(line, scale)
            points = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if y is not None]
            body += [
                f'<circle style="fill:var(--{line.color})" r="2.6" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}"/>'
                for x, y in points
            ]
    shown = [
        {"x": list(line.xs), "text": [_point_text(line, index, show) for index in range(len(line.xs))]}
        for line in series
    ]
    return _figure(title, body, [(line.name, line.color) for line in series], shown, scale, note)


def stacked_chart(
    title: str, xs: Sequence[float], counts: Mapping[str, Sequence[float]], colors: Mapping[str, str], note: str = ""
) -> str:
    """Shares of named amounts over steps, stacked from the bottom in their order. Empty text where there is nothing."""
    names = [name for name, values in counts.items() if any(values)]
    if not names or not xs:
        return ""
    size = math.ceil(len(xs) / MAX_POINTS)
    steps = [value for value in _bucket_means(xs, size) if value is not None]
    means = {name: [value or 0.0 for value in _bucket_means(counts[name], size)] for name in names}
    totals = [sum(values) or 1.0 for values in zip(*means.values(), strict=True)]
    scale = _Scale(steps[0], steps[-1], 0.0, 1.0)
    body, shown = [], []
    floor = [0.0] * len(steps)
    for name in names:
        shares = [value / total for value, total in zip(means[name], totals, strict=True)]
        ceiling = [low + share for low, share in zip(floor, shares, strict=True)]
        area = Series(name, colors[name], steps, ceiling, floor, ceiling)
        body.append(f'<path class="area" style="fill:var(--{colors[name]})" d="{_band(area, scale)}"/>')
        shown.append({"x": steps, "text": [percent(share) for share in shares]})
        floor = ceiling
    body.append(_axes(scale, percent))
    return _figure(title, body, [(name.replace("_", " "), colors[name]) for name in names], shown, scale, note)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to positions in the drawing."""

    first: float
    last: float
    low: float
    high: float

    def x(self, value: float) -> float:
        span = (self.last - self.first) or 1.0
        return LEFT + (value - self.first) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return HEIGHT - BOTTOM - (value - self.low) / span * (HEIGHT - TOP - BOTTOM)


def _figure(title: str, body: list[str], legend: list[tuple[str, str]], shown: object, scale: _Scale, note: str) -> str:
    data = html.escape(json.dumps({"series": shown, "first": scale.first, "last": scale.last}), quote=True)
    keys = "".join(
        f'<span><i style="background:var(--{color})"></i>{html.escape(name)} <b></b></span>' for name, color in legend
    )
    caption = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f'<figure data-chart="{data}"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(body)}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/></svg>'
        f'<div class="legend">{keys}<span class="at"></span></div>{caption}</figure>'
    )


def _axes(scale: _Scale, show: Callable[[float], str]) -> str:
    parts = []
    for tick in _ticks(scale.low, scale.high, 4):
        y = scale.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{show(tick)}</text>')
    for tick in _ticks(scale.first, scale.last, 5):
        if tick == int(tick):
            parts.append(f'<text x="{scale.x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(tick)}</text>')
    return "".join(parts)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round values within [low, high], about `count` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if low >= 0 and low - margin < 0 else low - margin), high + margin


def _path(xs: Sequence[float], ys: Sequence[float | None], scale: _Scale) -> str:
    """A line through the points, interrupted where a value is missing."""
    parts, pen_down = [], False
    for x, y in zip(xs, ys, strict=True):
        if y is not None:
            parts.append(f"{'L' if pen_down else 'M'}{scale.x(x):.1f} {scale.y(y):.1f}")
        pen_down = y is not None
    return "".join(parts)


def _band(line: Series, scale: _Scale) -> str:
    points = [
        (x, low, high)
        for x, low, high in zip(line.xs, line.lows, line.highs, strict=True)
        if low is not None and high is not None
    ]
    there = [f"{scale.x(x):.1f} {scale.y(high):.1f}" for x, _, high in points]
    back = [f"{scale.x(x):.1f} {scale.y(low):.1f}" for x, low, _ in reversed(points)]
    return f"M{'L'.join(there + back)}Z"


def _whiskers(line: Series, scale: _Scale) -> list[str]:
    """The interval of every point as an upright stroke: a band cannot be seen where there is one point alone."""
    return [
        f'<path class="line" style="stroke:var(--{line.color})" opacity=".5" '
        f'd="M{scale.x(x):.1f} {scale.y(low):.1f}L{scale.x(x):.1f} {scale.y(high):.1f}"/>'
        for x, low, high in zip(line.xs, line.lows, line.highs, strict=False)
        if low is not None and high is not None
    ]


def _bucket_means(values: Sequence[float | None], size: int) -> list[float | None]:
    means: list[float | None] = []
    for start in range(0, len(values), size):
        known = [value for value in values[start : start + size] if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def _point_text(line: Series, index: int, show: Callable[[float], str]) -> str:
    value = line.ys[index]
    if value is None:
        return ""
    if not line.lows or line.lows[index] is None or line.highs[index] is None:
        return show(value)
    return f"{show(value)} [{show(line.lows[index] or 0.0)}, {show(line.highs[index] or 0.0)}]"
