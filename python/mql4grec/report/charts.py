"""Charts as SVG: lines, bars with intervals, strips, points, bubbles.

Every chart is 380 wide in its own units and as wide as its column on the page, so that its letters
stay legible on a phone. Colours are classes of `page.css`: `c1` to `c8` follow the reader's scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec.report.axes import Axis, even_ticks, log_ticks, spread
from mql4grec.report.markup import Html, amount, count, element, figure, join, text

WIDTH = 380.0
N_COLOURS = 8
LETTER = 6.6  # width of an average letter, for labels that must not overlap
PLANE = 310.0  # height of a map
MARGIN = 14.0  # inside a map
LARGEST, SMALLEST = 9.0, 1.8  # radii of bubbles
LOG_FROM = 30.0  # a curve that falls by such a factor is flat on a linear scale


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: Written at its end.
        points: (x, y) in the order of x.
        colour: Class of its colour, "c1" to "c8".
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: Written left of it.
        value: Its length.
        interval: Low and high end of its interval, if there is one.
        colour: Class of its colour.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    colour: str


def colour(place: int) -> str:
    """Give the colour class of the n-th series, from 0."""
    return f"c{place % N_COLOURS + 1}"


def line_chart(series: Sequence[Series], *, title: str, from_zero: bool = False) -> Html:
    """Draw curves over epochs, each named at its end.

    Args:
        series: At least one with at least one point; all values finite.
        title: Above the chart, with the unit.
        from_zero: Whether the vertical axis starts at zero.
    """
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    # A log axis has no zero, so counts and rates keep a linear one.
    log = not from_zero and min(ys) > 0 and max(ys) > LOG_FROM * min(ys)
    low = 0.0 if from_zero else min(ys)
    y_ticks = log_ticks(low, max(ys)) if log else even_ticks(low, max(ys))
    top, bottom = 12.0, 196.0
    vertical = Axis(y_ticks, bottom, top, log=log)
    left = 12 + LETTER * max(len(vertical.spell(tick)) for tick in y_ticks)
    right = WIDTH - 12 - LETTER * max(len(one.name) for one in series)
    x_ticks = even_ticks(min(xs), max(xs), n_steps=4, whole=True)
    # The axis ends with the last epoch, not with the round number after it.
    span = Axis([min(min(xs), max(xs) - 1), max(xs)], left + 8, right - 8)
    shown = [tick for tick in x_ticks if min(xs) <= tick <= max(xs)]
    parts = [
        *(_grid_line(vertical, tick, left=left, right=right) for tick in y_ticks),
        *(_label(span.place(x), bottom + 18, f"{x:,.0f}", anchor="middle") for x in shown),
        _label(right - 8, bottom + 36, "epoch", anchor="end", class_="axis"),
        *(_curve(one, span=span, vertical=vertical) for one in series),
        *_end_labels(series, vertical=vertical, x=right + 4, bottom=bottom),
    ]
    ends = "; ".join(
        f"{one.name} {figure(one.points[0][1])} to {figure(one.points[-1][1])}" for one in series
    )
    scale = " (log scale)" if log else ""
    return _figure(title + scale, parts, height=bottom + 42, label=f"{title}: {ends}")


def _grid_line(axis: Axis, tick: float, *, left: float, right: float) -> Html:
    y = axis.place(tick)
    line = element("line", x1=left, x2=right, y1=y, y2=y, class_="grid")
    return join([line, _label(left - 6, y + 4, axis.spell(tick), anchor="end")])


def _curve(one: Series, *, span: Axis, vertical: Axis) -> Html:
    places = [(span.place(x), vertical.place(y)) for x, y in one.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    x, y = places[-1]
    end = element("circle", cx=x, cy=y, r=2.5, class_=f"dot {one.colour}")
    return join([element("path", d=path, class_=f"curve {one.colour}"), end])


def _end_labels(series: Sequence[Series], *, vertical: Axis, x: float, bottom: float) -> list[Html]:
    """Name the curves at their ends, moved apart where they would overlap."""
    order = sorted(range(len(series)), key=lambda i: vertical.place(series[i].points[-1][1]))
    places = spread([vertical.place(series[i].points[-1][1]) for i in order], highest=bottom)
    return [
        _label(x, y + 4, series[i].name, class_=f"name {series[i].colour}")
        for i, y in zip(order, places, strict=True)
    ]


def bar_chart(bars: Sequence[Bar], *, title: str) -> Html:
    """Draw horizontal bars with whiskers for their intervals.

    Args:
        bars: From top to bottom; values at least zero.
        title: Above the chart.
    """
    thick, step, top = 16.0, 30.0, 8.0
    bottom = top + step * len(bars)
    highest = max(value for bar in bars for value in (bar.value, *(bar.interval or ())))
    left = 12 + LETTER * max(len(bar.name) for bar in bars)
    ticks = even_ticks(0.0, max(highest, 1e-6))
    axis = Axis(ticks, left, WIDTH - 52)
    parts = [
        element("line", x1=axis.place(tick), x2=axis.place(tick), y1=top, y2=bottom, class_="grid")
        for tick in ticks
    ]
    parts += [
        _label(axis.place(tick), bottom + 16, axis.spell(tick), anchor="middle") for tick in ticks
    ]
    parts += [
        _bar(bar, axis=axis, y=top + step * i + step / 2, thick=thick) for i, bar in enumerate(bars)
    ]
    values = "; ".join(f"{bar.name} {bar.value:.4f}" for bar in bars)
    return _figure(title, parts, height=bottom + 24, label=f"{title}: {values}")


def _bar(bar: Bar, *, axis: Axis, y: float, thick: float) -> Html:
    start, end = axis.start, axis.place(bar.value)
    reach = end
    parts = [
        _label(start - 8, y + 4, bar.name, anchor="end", class_="name"),
        element(
            "rect", element("title", text(f"{bar.name}: {bar.value:.4f}")), x=start,
            y=y - thick / 2, width=end - start, height=thick, rx=2, class_=f"bar {bar.colour}",
        ),
    ]  # fmt: skip
    if bar.interval is not None:
        low, reach = (axis.place(value) for value in bar.interval)
        whisker = (
            f"M{low:.1f} {y:.1f}H{reach:.1f}M{low:.1f} {y - 4:.1f}v8M{reach:.1f} {y - 4:.1f}v8"
        )
        parts.append(element("path", d=whisker, class_="whisker"))
    parts.append(_label(max(end, reach) + 6, y + 4, f"{bar.value:.4f}", class_="name"))
    return join(parts)


def strip(counts: NDArray[np.int64], *, colour: str, label: str, n_bars: int = 256) -> Html:
    """Draw how often each code is used, most used first, and what even use would be.

    Args:
        counts: Items of each code (K), at least one of them above zero.
        colour: Class of its colour.
        label: What a screen reader says.
        n_bars: More codes than that share bars, at their mean.
    """
    width, height = 256.0, 36.0
    ordered = np.sort(counts)[::-1].astype(np.float64)
    bars = np.array([part.mean() for part in np.array_split(ordered, min(n_bars, len(ordered)))])
    tall, wide = height - 2, width / len(bars)
    steps = "".join(
        f"L{i * wide:.1f} {height - tall * bar / bars[0]:.1f}h{wide:.2f}"
        for i, bar in enumerate(bars)
    )
    even = height - tall * ordered.mean() / bars[0]
    return element(
        "svg",
        element("path", d=f"M0 {height:g}{steps}V{height:g}Z", class_=f"bar {colour}"),
        element("line", x1=0, x2=width, y1=even, y2=even, class_="even"),
        viewBox=f"0 0 {width:g} {height:g}", preserveAspectRatio="none", role="img",
        aria_label=label, class_="strip",
    )  # fmt: skip


def scatter(places: NDArray[np.float32], *, colours: Sequence[str], title: str) -> Html:
    """Draw points on a plane whose axes have no meaning of their own.

    Args:
        places: float32 (P, 2), P >= 1.
        colours: CSS colour of each point (P).
        title: Above the chart.
    """
    drawn = _fit(places)
    points: dict[str, list[str]] = {}
    for (x, y), of_point in zip(drawn.tolist(), colours, strict=True):
        points.setdefault(of_point, []).append(f"M{x:.1f} {y:.1f}h0")
    # One path per colour: an element per point would be ten times the size.
    paths = [
        element("path", d="".join(found), class_="dots", style=f"stroke:{of_point}")
        for of_point, found in points.items()
    ]
    return _plane(paths, title=title, label=f"{title}; {count(len(places))} points")


def bubbles(
    places: NDArray[np.float32],
    *,
    numbers: NDArray[np.int64],
    sizes: NDArray[np.int64],
    colours: Sequence[str],
    title: str,
) -> Html:
    """Draw codes on a plane, each with an area by its number of items; those without as rings.

    Args:
        places: float32 (K, 2), K >= 1; those that are not finite are left out.
        numbers: The codes, int64 (K).
        sizes: Items of each, int64 (K).
        colours: CSS colour of each (K).
        title: Above the chart.
    """
    shown = np.flatnonzero(np.isfinite(places).all(axis=1))
    shown = shown[np.argsort(-sizes[shown], kind="stable")]  # the small ones on top
    drawn = _fit(places[shown]).tolist() if len(shown) else []
    largest = max(int(sizes.max()), 1)
    circles = [
        _bubble(
            x, y, share=sizes[n] / largest, colour=colours[n],
            said=f"code {numbers[n]}: {amount(sizes[n], 'item')}",
        )
        for n, (x, y) in zip(shown.tolist(), drawn, strict=True)
    ]  # fmt: skip
    label = f"{title}; {amount(len(sizes), 'code')}, {count((sizes > 0).sum())} of them used"
    return _plane(circles, title=title, label=label)


def _bubble(x: float, y: float, *, share: float, colour: str, said: str) -> Html:
    return element(
        "circle", element("title", text(said)), cx=x, cy=y,
        r=max(LARGEST * math.sqrt(share), SMALLEST), style=f"--series:{colour}",
        class_="bubble" if share else "ring",
    )  # fmt: skip


def _fit(places: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bring places (P, 2) to pixels, the same scale both ways."""
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.array([WIDTH, PLANE]) - 2 * MARGIN
    scale = float((size / np.maximum(high - low, 1e-9)).min())
    centred = (places - (low + high) / 2).astype(np.float64)
    found: NDArray[np.float64] = np.array([WIDTH, PLANE]) / 2 + scale * centred
    return found


def _plane(parts: Sequence[Html], *, title: str, label: str) -> Html:
    frame = element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=PLANE - 1, rx=6, class_="frame")
    return _figure(title, [frame, *parts], height=PLANE, label=label)


def _label(
    x: float, y: float, content: str, *, anchor: str | None = None, class_: str = "tick"
) -> Html:
    return element("text", text(content), x=x, y=y, text_anchor=anchor, class_=class_)


def _figure(title: str, parts: Sequence[Html], *, height: float, label: str) -> Html:
    drawing = element(
        "svg", *parts, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=label
    )
    return element("figure", element("figcaption", text(title)), drawing)
