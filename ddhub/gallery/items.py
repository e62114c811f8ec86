"""The artifacts of a gallery, with what several pages say of them.

shelf = Shelf(entries, pictures)
shelf["cifar10-infer-ipc10"].best.text          # '35.27 ± 0.35'
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ddhub.artifact.results import Entry, Mean
from ddhub.cards.comparison import BASELINE
from ddhub.cards.frontier import Curve, curves
from ddhub.cards.label_text import short
from ddhub.cards.ranking import variants
from ddhub.sources.known import KNOWN

Pictures = Mapping[str, Mapping[str, Any]]  # by name: `file`, its path from the site's start, width, height, and more


@dataclass(frozen=True)
class Item:
    """An artifact in the gallery.

    Attributes:
        entry: manifest and results.
        pictures: of its images; {} where its data are not there.
        variant_of: the name of the artifact that it leaves a part out of, "" of any other.
        repo: NAMESPACE/NAME of the repository in which the catalog has it, "" where it is not published.
    """

    entry: Entry
    pictures: Pictures
    variant_of: str = ""
    repo: str = ""

    @property
    def name(self) -> str:
        return self.entry.manifest.name

    @property
    def page(self) -> str:
        """The path of its page from the site's start."""
        return f"artifacts/{self.name}.html"

    @property
    def labels(self) -> str:
        return short(self.entry.manifest)

    @property
    def is_baseline(self) -> bool:
        return self.entry.manifest.method == BASELINE

    @property
    def license(self) -> str:
        """The licence without the remark in brackets behind it."""
        return self.entry.manifest.license.partition(" (")[0]

    @cached_property
    def means(self) -> list[Mean]:
        return self.entry.means()

    @cached_property
    def best(self) -> Mean | None:
        """The result with the highest accuracy, whatever the protocol and the student."""
        return max(self.means, key=lambda mean: mean.mean, default=None)

    @property
    def by_student(self) -> str:
        """The best result of each student, JSON: {student: [mean, text, n, protocol]}."""
        best: dict[str, Mean] = {}
        for mean in sorted(self.means, key=lambda mean: -mean.mean):
            best.setdefault(mean.first.model, mean)
        return json.dumps({x: [m.mean, m.text, len(m.runs), m.first.protocol] for x, m in best.items()})

    @property
    def words(self) -> str:
        """What a search looks through."""
        m = self.entry.manifest
        return " ".join((m.name, m.method, m.dataset, title_of(m.dataset), m.license, self.labels)).lower()


class Shelf:
    """All artifacts of a gallery, in the order of their names."""

    def __init__(self, entries: Iterable[Entry], pictures: Mapping[str, Pictures], repos: Mapping[str, str]) -> None:
        entries = sorted(entries, key=lambda x: x.manifest.name)
        originals = variants(x.manifest for x in entries)
        self.items = {
            x.manifest.name: Item(
                x,
                pictures.get(x.manifest.name, {}),
                originals.get(x.manifest.name, ""),
                repos.get(x.manifest.digest, ""),
            )
            for x in entries
        }
        self._groups: dict[tuple[object, ...], list[Entry]] = {}
        for x in entries:
            self._groups.setdefault(_alike(x), []).append(x)

    def __getitem__(self, name: str) -> Item:
        return self.items[name]

    @property
    def entries(self) -> list[Entry]:
        return [x.entry for x in self.items.values()]

    def beside(self, entry: Entry) -> list[Entry]:
        """The artifacts of the same data set and number of images: where a baseline and variants are looked for."""
        return self._groups[_alike(entry)]

    def link(self, target: str, root: str) -> str | None:
        """The address of a page, from a link on a card: '../NAME/README.md' or 'NAME/README.md'."""
        name = target.removeprefix("../").removesuffix("/README.md")
        return f"{root}{self.items[name].page}" if name in self.items and target.endswith("/README.md") else None

    @cached_property
    def curves(self) -> list[Curve]:
        """The frontier of each data set, student and test set, whatever the protocols."""
        return curves((x.entry, mean) for x in self.items.values() for mean in x.means)

    @cached_property
    def by_setting(self) -> dict[tuple[str, str, str], Curve]:
        """The curves by data set, student and fingerprint of the test set."""
        firsts = [(x.points[0].entry.manifest.dataset, x.points[0].mean.first) for x in self.curves]
        keys = [(dataset, first.model, first.test_fingerprint) for dataset, first in firsts]
        return dict(zip(keys, self.curves, strict=True))

    @cached_property
    def of_one_protocol(self) -> list[Curve]:
        """The curves of each data set, student and test set under one protocol, of two artifacts or more."""
        groups: dict[str, list[tuple[Entry, Mean]]] = {}
        for x in self.items.values():
            for mean in x.means:
                groups.setdefault(mean.first.protocol_digest, []).append((x.entry, mean))
        found = [curve for group in groups.values() for curve in curves(group) if len(curve.points) > 1]
        return sorted(found, key=lambda x: (x.points[0].mean.first.protocol, x.points[0].mean.first.protocol_digest))


def title_of(dataset: str) -> str:
    """'CIFAR-10' of 'cifar10'; the name itself of a data set that ddhub does not know."""
    return KNOWN[dataset].title if dataset in KNOWN else dataset


def _alike(entry: Entry) -> tuple[object, ...]:
    m = entry.manifest
    return m.dataset, m.image_size, m.ipc
