"""The page on which artifacts are compared: every table of results, and what a script needs to show some of it."""

from __future__ import annotations

import itertools
from typing import Any

from ddhub.artifact.results import Mean, settings
from ddhub.cards.storage_text import storage
from ddhub.gallery.chart import Bars
from ddhub.gallery.items import Item, Shelf, title_of
from ddhub.gallery.templates import clean, page


def compare(shelf: Shelf) -> str:
    """The page compare.html: a table a protocol and test set, a group a student, best first."""
    tables: list[dict[str, Any]] = []
    for means in settings(shelf.entries).values():
        ordered = sorted(means, key=lambda x: (x.first.model, -x.mean, x.first.artifact))
        groups = [list(group) for _, group in itertools.groupby(ordered, key=lambda x: x.first.model)]
        tables.append({"first": means[0].first, "groups": groups, "bars": Bars(means)})
    tables.sort(key=lambda x: (x["first"].test, x["first"].protocol, x["first"].protocol_digest))
    return page("compare.html", part="Compare", shelf=shelf, tables=tables, facts=_facts(shelf))


def _facts(shelf: Shelf) -> dict[str, Any]:
    """What stands side by side, by artifact; lists of classes once each."""
    classes: dict[tuple[str, ...], int] = {}
    return {
        "artifacts": {item.name: _of(item, classes) for item in shelf.items.values()},
        "classes": [[clean(name) for name in names] for names in classes],
    }


def _of(item: Item, classes: dict[tuple[str, ...], int]) -> dict[str, Any]:
    m, best = item.entry.manifest, item.best
    facts = {
        "data set": title_of(m.dataset),
        "method": m.method,
        "images a class": f"{m.ipc:,}",
        "stored bytes": f"{item.entry.bytes:,}",
        "bytes a class": f"{item.entry.bytes / len(m.classes):,.0f}",
        "stored as": storage(m),
        "labels": item.labels,
        "licence": item.license,
        "best result": _text(best) if best else "none yet",
    }
    sheet: dict[str, Any] | None = None
    if item.pictures:
        keys = ("file", "width", "height", "columns", "classes")
        sheet = {key: item.pictures["sheet"][key] for key in keys}
        sheet["names"] = classes.setdefault(m.classes, len(classes))
    return {"page": item.page, "facts": {key: clean(value) for key, value in facts.items()}, "sheet": sheet}


def _text(mean: Mean) -> str:
    return f"{mean.text} %, {mean.first.model}, n = {len(mean.runs)}, {mean.first.protocol}"
