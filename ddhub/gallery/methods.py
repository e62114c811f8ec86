"""Pages of the methods: idea, formula, what was reconstructed, and what its parts are worth by the results at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ddhub.artifact.results import settings
from ddhub.cards.comparison import compare_with
from ddhub.gallery.chart import Bars
from ddhub.gallery.items import Item, Shelf, title_of
from ddhub.gallery.templates import page


@dataclass(frozen=True)
class Method:
    """A method with a page: `name` is that of its artifacts' manifests."""

    name: str
    title: str
    paper: str
    summary: str

    @property
    def template(self) -> str:
        return f"methods/{self.name}.html"


METHODS = {
    x.name: x
    for x in (
        Method(
            "infer", "INFER", "arXiv 2408.06927, ICLR 2025", "real images, and changes to them that all classes share"
        ),
        Method(
            "nrr-dd",
            "NRR-DD",
            "arXiv 2503.18267, CVPR 2025",
            "critical patches, refined around, and two numbers for a label",
        ),
        Method("udd", "UDD", "arXiv 2408.16268", "little used regions become training images too"),
        Method("edf", "EDF", "arXiv 2410.17193, CVPR 2025", "trajectories matched without common patterns"),
        Method("idc", "IDC", "arXiv 2205.14959, ICML 2022", "several small images in the place of one"),
        Method("datm", "DATM", "arXiv 2310.05773, ICLR 2024", "trajectories, of a difficulty that fits the size"),
        Method("rded", "RDED", "arXiv 2312.03526, CVPR 2024", "the patches of which a teacher is surest"),
        Method("sre2l", "SRe2L", "arXiv 2306.13092, NeurIPS 2023", "images recovered from a teacher's statistics"),
        Method("coreset", "Coreset", "baseline", "chosen real images, coded small, with soft labels"),
        Method("random-real", "Random selection", "baseline", "real images drawn uniformly"),
    )
}
FIRST = ("infer", "nrr-dd", "udd", "edf")  # the others are what they are measured against


def page_of(method: str) -> str:
    """The name of a method's page; "" of a method without one."""
    return method if method in METHODS else ""


def overview(shelf: Shelf) -> str:
    """The page methods/index.html."""
    counts = {name: sum(x.entry.manifest.method == name for x in shelf.items.values()) for name in METHODS}
    return page("methods.html", root="../", part="Methods", methods=METHODS, first=FIRST, counts=counts)


def method(shelf: Shelf, name: str) -> str:
    """The page methods/NAME.html."""
    items = [x for x in shelf.items.values() if x.entry.manifest.method == name]
    items.sort(key=lambda x: (x.entry.manifest.dataset, x.entry.manifest.ipc, x.variant_of or x.name, x.name))
    return page(
        "method.html",
        root="../",
        part="Methods",
        method=METHODS[name],
        shelf=shelf,
        items=items,
        studies=[study for x in items if not x.variant_of for study in _studies(shelf, x)],
        title_of=title_of,
    )


def _studies(shelf: Shelf, item: Item) -> list[dict[str, Any]]:
    """A table a protocol, test set and student: an artifact beside its variants and random selection, best first."""
    comparison = compare_with(item.entry, shelf.beside(item.entry))
    tables = []
    for means in settings([item.entry, *comparison.entries]).values():
        for student in dict.fromkeys(x.first.model for x in means):
            rows = sorted((x for x in means if x.first.model == student), key=lambda x: (-x.mean, x.first.artifact))
            if len(rows) > 2 and any(x.first.digest == item.entry.manifest.digest for x in rows):
                tables.append({"item": item, "first": rows[0].first, "rows": rows, "bars": Bars(rows)})
    return tables
