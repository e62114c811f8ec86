"""What is at hand without a download: the artifacts and teachers that come with ddhub, and those in folders.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from ddhub.artifact.manifest import MANIFEST, Manifest, read_manifest
from ddhub.artifact.results import Entry, read
from ddhub.errors import ArtifactError

BUNDLED = Path(__file__).parents[1] / "artifacts"
TEACHERS = Path(__file__).parents[1] / "assets" / "teachers"


def catalog() -> dict[str, Manifest]:
    """Every bundled artifact's manifest by name, sorted; needs no torch.

    Raises:
        ArtifactError: a bundled folder that is damaged.
    """
    return {path.parent.name: read_manifest(path.parent) for path in sorted(BUNDLED.glob(f"*/{MANIFEST}"))}


def names() -> list[str]:
    """The names of the bundled artifacts."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{MANIFEST}"))


def at_hand(folders: Iterable[Path] = ()) -> dict[Path, Entry]:
    """The bundled artifacts, and those in `folders`, which hide bundled namesakes.

    Raises:
        ArtifactError: a folder that is damaged or holds no artifact.
    """
    found: dict[str, tuple[Path, Entry]] = {}
    for folder in (*(BUNDLED / name for name in names()), *folders):
        entry = read(folder)
        found[entry.manifest.name] = folder, entry
    return dict(found.values())


def around(folders: Collection[Path], named: Iterable[Path] = ()) -> dict[Path, Entry]:
    """Where a baseline may be: the bundled artifacts, those in `named`, and the neighbours of `folders`."""
    known = at_hand(named)
    near = {x.parent for folder in folders for x in folder.resolve().parent.glob(f"*/{MANIFEST}")}
    for folder in sorted(near - {x.resolve() for x in known}):
        with suppress(ArtifactError):  # it was not asked for, whatever it is
            known[folder] = read(folder)
    return known
