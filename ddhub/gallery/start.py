"""The start page: the frontier charts, and a tile an artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ddhub.cards import frontier as cards
from ddhub.cards.frontier import Curve
from ddhub.cards.published import COUNTS
from ddhub.cards.ranking import rankings
from ddhub.gallery import chart, markup
from ddhub.gallery.items import Item, Shelf, title_of
from ddhub.gallery.templates import page


def start(shelf: Shelf) -> str:
    """The page index.html."""
    charts = [_chart(shelf, curve) for curve in shelf.curves]
    charts += [_chart(shelf, curve, of_one=True) for curve in shelf.of_one_protocol]
    ranked = [x.entry.manifest.name for group in rankings(shelf.entries, with_variants=True) for x in group]
    return page(
        "start.html",
        part="Artifacts",
        shelf=shelf,
        charts=charts,
        tiles=[shelf[name] for name in ranked],
        choices=_choices(list(shelf.items.values())),
        rule=cards.RULE,
        counts=COUNTS,
        title_of=title_of,
        label_of=chart.label_of,
    )


def _chart(shelf: Shelf, curve: Curve, *, of_one: bool = False) -> dict[str, Any]:
    m, first = curve.points[0].entry.manifest, curve.points[0].mean.first
    protocol = f"{first.protocol} ({first.protocol_digest})" if of_one else ""
    under = f", all under protocol {protocol}" if of_one else ""
    test = "" if first.test_name == m.dataset else f" on {first.test}"
    return {
        "data": title_of(m.dataset),
        "student": f"{first.model}{test}",
        "protocol": protocol,
        "title": f"{first.model} on {first.test}, {first.test_images:,} test images{under}",
        "drawn": chart.frontier(curve),
        "table": markup.html([cards.numbers(curve)], lambda target: shelf.link(target, "")),
    }


def _choices(items: list[Item]) -> list[tuple[str, str, list[tuple[object, object]]]]:
    """The selects of the filter: name, title, and (value, text) of each option."""

    def of(value: Callable[[Item], Any], text: Callable[[Any], object] = lambda x: x) -> list[tuple[object, object]]:
        return [(x, text(x)) for x in sorted({value(item) for item in items})]

    students = sorted({mean.first.model for item in items for mean in item.means})
    return [
        ("data", "Data set", of(lambda x: x.entry.manifest.dataset, title_of)),
        ("method", "Method", of(lambda x: x.entry.manifest.method)),
        ("ipc", "Images a class", of(lambda x: x.entry.manifest.ipc)),
        ("labels", "Labels", of(lambda x: x.labels)),
        ("student", "Student", [(x, x) for x in students]),
    ]
