"""The plot of `ddhub compare`: accuracy against bits per class, a colour for each student, a marker for each method.

Lines join the artifacts of one method. It is drawn by matplotlib's Agg alone, without pyplot and its global state;
matplotlib is the extra `plot`.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

from ddhub.artifact.results import Entry, Mean
from ddhub.errors import UsageError

_MARKERS = "osD^vP*X"


def accuracy_over_bits(points: Sequence[tuple[Entry, Mean]], title: str) -> bytes:
    """PNG of the means of artifacts over their bits per class (logarithmic), with bars of ± one standard deviation.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    except ImportError:
        raise UsageError("--plot needs matplotlib; pip install 'ddhub[plot]', or leave out --plot") from None
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    models = list(dict.fromkeys(mean.first.model for _, mean in points))
    methods = list(dict.fromkeys(entry.manifest.method for entry, _ in points))
    for model, method in itertools.product(models, methods):
        line = [(x.manifest.bits_per_class(), mean) for x, mean in points if x.manifest.method == method]
        line = sorted((point for point in line if point[1].first.model == model), key=lambda point: point[0])
        if not line:
            continue
        bits, means = [bits for bits, _ in line], [mean for _, mean in line]
        axes.errorbar(
            bits,
            [mean.mean for mean in means],
            [mean.sd or 0.0 for mean in means],
            color=f"C{models.index(model) % 10}",
            marker=_MARKERS[methods.index(method) % len(_MARKERS)],
            capsize=3,
            label=_plain(f"{model}, {method}"),
        )
        for x, mean in line:
            name = _plain(mean.first.artifact)
            axes.annotate(name, (x, mean.mean), xytext=(5, 4), textcoords="offset points", fontsize=7)
    every = [entry.manifest.bits_per_class() for entry, _ in points]
    axes.set_xscale("log")
    axes.set_xlim(min(every) / 1.5, max(every) * 2.5)  # room for the names, which begin at their points
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bits per class, labels included")
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
