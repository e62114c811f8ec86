"""Charts as numbers: where a template draws axes, points and error bars as SVG.

    drawn = frontier(curve)
    drawn.marks[0].x, drawn.marks[0].kind          # in the units of the picture, `WIDTH` times `HEIGHT`

They are drawn when the site is built: no script takes part, each point is a link, and the page's style sheet gives the
colours, so that a chart is seen without scripts, in the dark, on paper, and by keyboard. Vega-Lite would be 0.8 MB of
scripts a site, nothing without scripts, and points that no keyboard reaches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ddhub.artifact.results import Mean
from ddhub.cards.frontier import Curve, Point
from ddhub.cards.published import Published

WIDTH, HEIGHT = 680, 420
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 46  # margins around the plot
_LETTER, _LINE = 6.4, 13  # width of a letter and height of a line of a label, at 12 px


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """An artifact's point: its place, its error bar (`low` at the larger y), and the place of its label."""

    point: Point
    kind: str  # `best`, `random` or `other`
    x: float
    y: float
    low: float
    high: float
    label: tuple[float, float, str] | None = None  # x, y, text-anchor


@dataclass(frozen=True)
class Copied:
    """A published point, as wide as its size is uncertain."""

    published: Published
    x: float
    y: float
    left: float
    right: float


@dataclass(frozen=True)
class Frontier:
    """A chart of accuracy over stored bytes a class."""

    marks: list[Mark]
    copied: list[Copied]
    across: list[Tick]
    up: list[Tick]
    best: str  # path of the steps of the frontier
    random: str


def frontier(curve: Curve) -> Frontier:
    """The chart of a curve: its artifacts, random selection, and what papers report; sizes on a logarithmic axis."""
    best, drawn = {id(x) for x in curve.frontier}, {id(x) for x in curve.random}
    every = list({id(x): x for x in (*curve.points, *curve.random_frontier)}.values())
    sizes = [_size(x) for x in every] + [size for x in curve.published for size in (x.low, x.high)]
    across = _Logarithmic(min(sizes) / 1.3, max(sizes) * 1.3, LEFT, WIDTH - RIGHT)
    tops = [x.mean.mean + (x.mean.sd or 0) for x in every] + [x.accuracy for x in curve.published]
    lows = [x.mean.mean - (x.mean.sd or 0) for x in every] + [x.accuracy for x in curve.published]
    up = Linear(max(0, min(lows) - 2), min(100, max(tops) + 3), HEIGHT - BOTTOM, TOP)
    marks = []
    for point in sorted(every, key=lambda x: id(x) in best):  # those of the frontier last, above the others
        mean, sd = point.mean.mean, point.mean.sd or 0
        kind = "best" if id(point) in best else "random" if id(point) in drawn else "other"
        marks.append(Mark(point, kind, across(_size(point)), up(mean), up(mean - sd), up(mean + sd)))
    copied = [
        Copied(x, across(math.sqrt(x.low * x.high)), up(x.accuracy), across(x.low), across(x.high))
        for x in curve.published
    ]
    steps = [_steps([(across(_size(x)), up(x.mean.mean)) for x in line]) for line in _lines(curve)]
    return Frontier(_labelled(marks), copied, across.ticks(), up.ticks(), steps[0], steps[1])


def _size(point: Point) -> float:
    """Bytes a class for a logarithmic axis: a manifest may say that its files are empty."""
    return max(1.0, point.bytes_per_class)


def _lines(curve: Curve) -> tuple[list[Point], list[Point]]:
    return curve.frontier, curve.random_frontier


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """A path that stays at a height until the next place; to the end of the plot."""
    if not places:
        return ""
    words = [f"M{places[0][0]:.1f} {places[0][1]:.1f}"]
    words += [f"H{x:.1f}V{y:.1f}" for x, y in places[1:]]
    return "".join([*words, f"H{WIDTH - RIGHT}"])


def label_of(point: Point) -> str:
    """An artifact's name in a chart of its data set: without the data set's, at most 26 letters."""
    name = point.entry.manifest.name.removeprefix(f"{point.entry.manifest.dataset}-")
    return name if len(name) <= 26 else f"{name[:25]}…"


def _labelled(marks: list[Mark]) -> list[Mark]:
    """The marks, those of the frontier with a label where there is room for one."""
    taken = [(x.x - 5, x.y - 5, x.x + 5, x.y + 5) for x in marks]
    made = []
    for mark in marks:
        label = None
        if mark.kind == "best":
            width = _LETTER * len(label_of(mark.point))
            for x, y, anchor in (
                (mark.x - 7, mark.y - 6, "end"),
                (mark.x + 7, mark.y + 14, "start"),
                (mark.x + 7, mark.y - 6, "start"),
                (mark.x - 7, mark.y + 14, "end"),
            ):
                left = x - width if anchor == "end" else x
                box = (left, y - _LINE + 3, left + width, y + 3)
                inside = box[0] >= LEFT and box[2] <= WIDTH - RIGHT and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
                if inside and not any(_overlap(box, other) for other in taken):
                    label = (x, y, anchor)
                    taken.append(box)
                    break
        made.append(Mark(mark.point, mark.kind, mark.x, mark.y, mark.low, mark.high, label))
    return made


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


class _Logarithmic:
    """Sizes to places on a logarithmic axis."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[Tick]:
        """At powers of ten; between them at 2 and 5, or at every multiple, as far as that gives three to ten."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), range(1, 10)):
            every = (m * 10.0**power for power in powers for m in steps)
            values = [x for x in every if self.low <= x <= self.high]
            if len(values) > 2:
                break
        if len(values) > 10:
            values = [x for x in values if math.log10(x) % 1 == 0]
        return [Tick(self(value), short(value)) for value in values]


class Linear:
    """Numbers to places on a linear axis."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[Tick]:
        """At most eight round numbers."""
        rough = (self.high - self.low) / 7
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step)
        values = [i * step for i in range(first, math.floor(self.high / step) + 1)]
        return [Tick(self(value), f"{value:g}") for value in values]


def short(value: float) -> str:
    """'500', '2 k', '1.5 M': bytes in the corner of a picture."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= limit:
            return f"{value / limit:g} {unit}"
    return f"{value:g}"


@dataclass(frozen=True)
class Bar:
    """A mean and its error bar in a row of a table, from 0 to 100 across."""

    at: float
    low: float
    high: float


class Bars:
    """The axis that the rows of a table share."""

    def __init__(self, means: Sequence[Mean]) -> None:
        lows = [x.mean - (x.sd or 0) for x in means]
        highs = [x.mean + (x.sd or 0) for x in means]
        self.axis = Linear(max(0, min(lows) - 1), min(100, max(highs) + 1) + 1e-9, 0, 100)
        self.ticks = [tick for tick in self.axis.ticks() if 2 <= tick.at <= 98]

    def __call__(self, mean: Mean) -> Bar:
        sd = mean.sd or 0
        return Bar(self.axis(mean.mean), self.axis(mean.mean - sd), self.axis(mean.mean + sd))
