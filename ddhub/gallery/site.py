"""A gallery as a folder of files that any web server, or none, can show.

    made = build(Path("site"), {Path("cards/cifar10-infer-ipc10"): results.read("cards/cifar10-infer-ipc10")})
    made.pages, made.written

Every page is rendered again, which takes milliseconds, and written where it differs; pictures are drawn again only for
an artifact with another digest, or by another ddhub or Pillow. The same artifacts give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from ddhub import __version__
from ddhub.artifact.bundled import has_data
from ddhub.artifact.manifest import Manifest
from ddhub.artifact.results import Entry
from ddhub.gallery.artifact_page import artifact
from ddhub.gallery.comparing import compare
from ddhub.gallery.items import Shelf
from ddhub.gallery.methods import METHODS, method, overview
from ddhub.gallery.output import Output
from ddhub.gallery.reference import reference
from ddhub.gallery.start import start

_PICTURES = 1  # which pictures are drawn, and how: another number draws all of them anew
_STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Built:
    """What a run did: files of the site, those that it wrote, those that it removed."""

    files: list[str]
    written: list[str]
    removed: list[str]


def build(out: Path, entries: Mapping[Path, Entry], repos: Mapping[str, str] | None = None) -> Built:
    """Write the site of artifacts into the folder `out`.

    Args:
        entries: the artifacts by their folders; of those whose data are there pictures are shown.
        repos: NAMESPACE/NAME of published artifacts, by digest.

    Raises:
        UsageError: `out` holds other things than a gallery.
        ArtifactError: data that are damaged.
        DDHubError: a file that cannot be written.
    """
    output = Output(out)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the coders of pictures, and torch, let others compute
        made = pool.map(lambda item: _pictures(output, item[0], item[1].manifest), entries.items())
        facts = {entry.manifest.name: x for entry, x in zip(entries.values(), made, strict=True)}
    shelf = Shelf(entries.values(), facts, repos or {})
    for name, text in _pages(shelf):
        output.put(name, text)
    for path in sorted(_STATIC.iterdir()):
        output.put(path.name, path.read_bytes())
    removed = output.finish({"pictures": {_key(shelf[name].entry.manifest): x for name, x in facts.items() if x}})
    return Built(sorted(output.files), output.written, removed)


def _pages(shelf: Shelf) -> Iterator[tuple[str, str]]:
    yield "index.html", start(shelf)
    yield "compare.html", compare(shelf)
    yield "methods/index.html", overview(shelf)
    for name in METHODS:
        yield f"methods/{name}.html", method(shelf, name)
    yield "reference/index.html", reference()
    for item in shelf.items.values():
        yield item.page, artifact(shelf, item)


def _key(m: Manifest) -> str:
    """What the pictures of an artifact depend on, as 16 hex digits."""
    return hashlib.sha256(f"{_PICTURES} {m.digest} {__version__} {PIL.__version__}".encode()).hexdigest()[:16]


def _pictures(output: Output, folder: Path, m: Manifest) -> dict[str, Any]:
    """The pictures of an artifact as facts by name, `file` their place in the site; {} where its data are not there."""
    if not has_data(folder):
        return {}
    key = _key(m)
    known = output.known.get("pictures", {}).get(key)
    if known and all(output.keep(x["file"]) for x in known.values()):
        return dict(known)
    from ddhub.artifact.folder import Artifact
    from ddhub.gallery.pictures import draw

    made, facts = draw(Artifact.open(folder)), {}
    for name, data in made.files.items():
        file = f"pictures/{m.name}-{key}-{name}.webp"
        output.put(file, data)
        facts[name] = {"file": file, **made.facts[name]}
    return facts
