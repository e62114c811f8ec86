"""The plots of `ddhub compare`: accuracy against what is stored of a class.

Of a table, a colour for each student and a marker for each method, with lines that join the artifacts of one method;
of a frontier, the steps of the best accuracy at a size. They are drawn by matplotlib's Agg alone, without pyplot and
its global state; matplotlib is the extra `plot`.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ddhub.artifact.results import Entry, Mean
from ddhub.errors import UsageError

if TYPE_CHECKING:
    from ddhub.cards.frontier import Curve, Point

_MARKERS = "osD^vP*X"


def accuracy_over_bits(points: Sequence[tuple[Entry, Mean]], title: str) -> bytes:
    """PNG of the means of artifacts over their bits per class (logarithmic), with bars of ± one standard deviation.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure, axes = _figure()
    models = list(dict.fromkeys(mean.first.model for _, mean in points))
    methods = list(dict.fromkeys(entry.manifest.method for entry, _ in points))
    for model, method in itertools.product(models, methods):
        line = [(x.manifest.bits_per_class(), mean) for x, mean in points if x.manifest.method == method]
        line = sorted((point for point in line if point[1].first.model == model), key=lambda point: point[0])
        if not line:
            continue
        look = {"color": f"C{models.index(model) % 10}", "marker": _MARKERS[methods.index(method) % len(_MARKERS)]}
        _means(axes, line, label=_plain(f"{model}, {method}"), **look)
        _names(axes, line)
    every = [entry.manifest.bits_per_class() for entry, _ in points]
    return _finished(figure, axes, every, "bits per class, labels included", title)


def frontier(curve: Curve, title: str) -> bytes:
    """PNG of a frontier over stored bytes a class (logarithmic): all artifacts, random selection, published points.

    The steps are the best accuracy at a size, of all artifacts and of random selection alone. Published points are
    hollow; where it is not known which size one has, a line shows the range.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure, axes = _figure()
    best, drawn = curve.frontier, curve.random_frontier
    shown = {id(x): x for x in (*best, *drawn)}
    rest = [_place(x) for x in curve.points if id(x) not in shown]
    if rest:
        axes.scatter([x for x, _ in rest], [mean.mean for _, mean in rest], color="0.7", s=12, label="other artifacts")
    if drawn:
        look = {"color": "C7", "marker": "s", "drawstyle": "steps-post"}
        _means(axes, [_place(x) for x in drawn], label="random selection", **look)
    look = {"color": "C0", "marker": "o", "drawstyle": "steps-post"}
    _means(axes, [_place(x) for x in best], label="frontier", **look)
    _names(axes, [_place(x) for x in shown.values()])
    methods = list(dict.fromkeys(x.method for x in curve.published))
    for number, method in enumerate(methods):
        points = [x for x in curve.published if x.method == method]
        middles = [(x.low * x.high) ** 0.5 for x in points]
        ranges = [[m - x.low for m, x in zip(middles, points, strict=True)]]
        ranges.append([x.high - m for m, x in zip(middles, points, strict=True)])
        look = {"color": f"C{1 + number % 6}", "marker": _MARKERS[number % len(_MARKERS)], "fillstyle": "none"}
        label = _plain(f"{method} (copied)")
        axes.errorbar(middles, [x.accuracy for x in points], xerr=ranges, linestyle="none", label=label, **look)
    every = [x.bytes_per_class for x in (*curve.points, *drawn)]
    every += [size for x in curve.published for size in (x.low, x.high)]
    return _finished(figure, axes, every, "stored bytes a class, labels included", title)


def _place(point: Point) -> tuple[float, Mean]:
    return point.bytes_per_class, point.mean


def _figure() -> tuple[Any, Any]:
    """An empty figure and its axes. UsageError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib; pip install 'ddhub[plot]', or leave out --plot") from None
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def _means(axes: Any, line: Sequence[tuple[float, Mean]], **look: Any) -> None:
    """Means over sizes, joined, with bars of ± one standard deviation."""
    means = [mean for _, mean in line]
    axes.errorbar([size for size, _ in line], [x.mean for x in means], [x.sd or 0.0 for x in means], capsize=3, **look)


def _names(axes: Any, line: Sequence[tuple[float, Mean]]) -> None:
    """The names of the artifacts beside their points."""
    for size, mean in line:
        name = _plain(mean.first.artifact)
        axes.annotate(name, (size, mean.mean), xytext=(5, 4), textcoords="offset points", fontsize=7)


def _finished(figure: Any, axes: Any, sizes: Sequence[float], label: str, title: str) -> bytes:
    """The figure as PNG, its sizes on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 2.5)  # room for the names, which begin at their points
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy in %, last epoch")
    axes.set_title(_plain(title), fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    out = io.BytesIO()
    # without the version of matplotlib, so that the same points give the same file
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _plain(text: str) -> str:
    """The text without what matplotlib interprets: dollar signs begin formulas, leading underscores hide labels."""
    return text.replace("$", r"\$").lstrip("_")
