"""BibTeX of what a result is built on: the artifact, its method, its data set, and ddhub.

The entries of data sets are in `assets/citations.bib`, as their makers ask; the user's own images (`folder:`) are
theirs to cite.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ddhub import __version__
from ddhub.artifact.manifest import Manifest
from ddhub.sources.subsets import CLASSIC, COMP_DD

_FILE = Path(__file__).parents[1] / "assets" / "citations.bib"
_SUBSETS = dict.fromkeys(map(str.lower, CLASSIC), "cazenavette2022distillation") | dict.fromkeys(COMP_DD, "wang2025edf")
_KEYS = {
    **dict.fromkeys(("cifar10", "cifar10-mini", "cifar100"), ("krizhevsky2009cifar",)),
    "mnist": ("lecun1998mnist",),
    "fashion-mnist": ("xiao2017fashion",),
    "svhn": ("netzer2011svhn",),
    "tiny-imagenet": ("le2015tiny",),
    **dict.fromkeys(("imagenette", "imagewoof"), ("howard2019imagenette",)),
    "imagenet-1k": ("russakovsky2015imagenet",),
    **{name: (key, "russakovsky2015imagenet") for name, key in _SUBSETS.items()},
}


def bibtex(*keys: str) -> str:
    """Entries of `assets/citations.bib` by their keys, as they stand there."""
    entries = {_key(entry): entry for entry in _entries(_FILE.read_text())}
    return "\n".join(entries[key] for key in keys)


def of_dataset(name: str) -> str:
    """The entries of a known data set, "" of any other."""
    return bibtex(*_KEYS.get(name, ()))


def citations(manifests: Iterable[Manifest], datasets: Iterable[str] = ()) -> list[str]:
    """BibTeX entries of artifacts, what they are built on, further data sets, and ddhub; each key once."""
    blocks: list[str] = []
    for m in manifests:
        blocks += [_artifact(m), m.citation, of_dataset(m.dataset)]
    blocks += map(of_dataset, datasets)
    blocks.append(
        f"@software{{ddhub,\n  title = {{ddhub: distilled datasets that load by name}},\n"
        f"  version = {{{__version__}}}\n}}"
    )
    entries: dict[str, str] = {}
    for entry in (entry for block in blocks for entry in _entries(block)):
        entries.setdefault(_key(entry), entry)
    return list(entries.values())


def _artifact(m: Manifest) -> str:
    """An entry of the artifact itself: the digest says which images a paper means."""
    return (
        f"@misc{{{m.name},\n  title = {{{{{m.name}}}: {m.dataset} distilled by {m.method}, ipc {m.ipc}}},\n"
        f"  note = {{ddhub artifact, digest {m.digest}}}\n}}"
    )


def _entries(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?m)^(?=@)", text) if part.strip()]


def _key(entry: str) -> str:
    match = re.match(r"@\w+\{\s*([^,\s]+)", entry)
    return match[1] if match else entry
