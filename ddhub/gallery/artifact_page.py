"""An artifact's page: its pictures, what stands beside it, and what its card says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ddhub.artifact.results import Mean
from ddhub.cards.card import sections
from ddhub.cards.citations import citations
from ddhub.cards.comparison import Comparison, against, compare_with, original
from ddhub.cards.frontier import Point
from ddhub.cards.markdown import table
from ddhub.gallery import markup
from ddhub.gallery.chart import Bars
from ddhub.gallery.items import Item, Shelf, title_of
from ddhub.gallery.methods import page_of
from ddhub.gallery.templates import page

_IDS = {  # sections of a card that stand on the page as they are
    "Results": "results",
    "Without ddhub": "without",
    "How it was made": "made",
    "Deviations from the paper": "deviations",
    "Source, license, citation": "source",
}


@dataclass(frozen=True)
class Row:
    """A mean beside others of its student."""

    text: str
    mean: Mean
    kind: str
    item: Item | None


def artifact(shelf: Shelf, item: Item) -> str:
    """The page artifacts/NAME.html."""
    entry, m = item.entry, item.entry.manifest
    beside = shelf.beside(entry)
    comparison = compare_with(entry, beside)
    said = sections(entry, comparison, item.repo.split("/")[0] or "ddhub")

    def html(parts: list[str]) -> Markup:
        return markup.html(parts, lambda target: shelf.link(target, "../"))

    rows = _rows(shelf, item, comparison)
    texts = [(id, title, html(said[title])) for title, id in _IDS.items()]
    texts[2] = ("made", "How it was made", texts[2][2] + html(_stages(m.recipe["run"])))
    texts.append(("cite", "Cite", markup.code("\n".join(citations([m])), "bibtex")))
    whole = original(entry, beside) if not item.pictures else None
    contents = [("summary", "Load"), ("images", "Images"), *([("beside", "Beside random selection")] if rows else [])]
    near = [comparison.baseline.manifest.name] if comparison.baseline else []
    return page(
        "artifact.html",
        root="../",
        part="Artifacts",
        item=item,
        method=page_of(m.method),
        against=[item.name, *near],
        contents=[*contents, ("bytes", "Bytes"), *((id, title) for id, title, _ in texts)],
        summary=html(said[""]),
        names=[m.classes[i] for i in item.pictures["sheet"]["classes"]] if item.pictures else [],
        original=shelf[whole.manifest.name] if whole else None,
        rows=rows,
        bars=Bars([row.mean for group in rows for row in group["rows"]]) if rows else None,
        parts=_parts(m.bytes_by_tensor()),
        stored=html(said["Bytes"]),
        texts=texts,
        title_of=title_of,
    )


def _rows(shelf: Shelf, item: Item, comparison: Comparison) -> list[dict[str, Any]]:
    """Each result with random selection's at equal images and at equal bytes, a group a student and protocol."""
    groups, m = [], item.entry.manifest
    for mean, random in against(item.entry, comparison):
        first = mean.first
        rows = [Row("this artifact", mean, "best", item)]
        if random and comparison.baseline:
            rows.append(Row("random, equal images", random, "random", shelf[comparison.baseline.manifest.name]))
        curve = shelf.by_setting.get((m.dataset, first.model, first.test_fingerprint))
        small = curve.random_at(Point(item.entry, mean)) if curve else None
        if small and small.mean not in (mean, random):
            text = f"random, equal bytes ({small.mean.first.protocol})"
            rows.append(Row(text, small.mean, "random", shelf[small.entry.manifest.name]))
        groups.append({"student": first.model, "protocol": first.protocol, "rows": rows})
    return groups


def _parts(tensors: dict[str, int]) -> list[dict[str, Any]]:
    """The tensors as parts of a bar, the largest first; those behind the seventh are one."""
    total, at, parts = sum(tensors.values()), 0.0, []
    ordered = sorted(tensors.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ordered if len(ordered) <= 8 else [*ordered[:7], ("all others", sum(size for _, size in ordered[7:]))]
    for number, (name, size) in enumerate(shown):
        share = 100 * size / total
        parts.append({"name": name, "bytes": size, "share": share, "start": at, "colour": number})
        at += share
    return parts


def _stages(run: dict[str, Any]) -> list[str]:
    """The stages of a recipe's run with their seconds; [] where none are recorded."""
    stages = run.get("stages")
    if not isinstance(stages, dict) or not stages or not all(isinstance(x, dict) for x in stages.values()):
        return []
    keys = ("seconds", "device", "precision")
    rows = [(name, *(stage.get(key, "") for key in keys)) for name, stage in stages.items()]
    return ["Stages, each from its last start:", table("stage|seconds|device|precision", rows)]
