"""What is at hand without a download: the artifacts and teachers that come with ddhub, and those in folders.

Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from ddhub.artifact.manifest import MANIFEST, PARQUET, PREVIEW, README, Manifest, read_manifest
from ddhub.artifact.results import Entry, read
from ddhub.errors import ArtifactError

_ROOT = Path(__file__).parents[2]
CHECKOUT = (_ROOT / "pyproject.toml").is_file()
# One folder an artifact or teacher: in a checkout all that the project has, in an installed package a few of them.
BUNDLED = _ROOT / "cards" if CHECKOUT else Path(__file__).parents[1] / "assets" / "stock"


def catalog() -> dict[str, Manifest]:
    """The manifest of every bundled artifact whose data are there, by name; needs no torch.

    Raises:
        ArtifactError: a bundled folder that is damaged.
    """
    return {name: read_manifest(BUNDLED / name) for name in names()}


def names() -> list[str]:
    """The names of the bundled artifacts whose data are there; of others manifest, results and card alone are kept."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{MANIFEST}") if has_data(path.parent))


def has_data(folder: Path) -> bool:
    """Whether the stored images of the artifact in `folder` are there."""
    return (folder / PARQUET).is_file()


def require_data(folder: Path) -> None:
    """ArtifactError for an artifact of which the manifest, results and card are there, and no data."""
    if (folder / MANIFEST).is_file() and not any(os.path.lexists(folder / name) for name in (PARQUET, PREVIEW)):
        cause = "its data are not kept here, only its results"
        raise ArtifactError(f"{folder.name}: {cause}; make it again by the command on its card, {folder / README}")


def folders_of_results(stock: Path | None = None) -> list[Path]:
    """The folders of all bundled artifacts, or of those in another stock, also of those whose data are not there."""
    return sorted(path.parent for path in (stock or BUNDLED).glob(f"*/{MANIFEST}"))


def at_hand(folders: Iterable[Path] = (), *, data: bool = False) -> dict[Path, Entry]:
    """The bundled artifacts, and those in `folders`, which hide bundled namesakes.

    Args:
        folders: artifacts that are not bundled.
        data: whether bundled artifacts whose data are not there are left out.

    Raises:
        ArtifactError: a folder that is damaged or holds no artifact.
    """
    entries: dict[str, tuple[Path, Entry]] = {}
    bundled = [BUNDLED / name for name in names()] if data else folders_of_results()
    for folder in (*bundled, *folders):
        entry = read(folder)
        entries[entry.manifest.name] = folder, entry
    return dict(entries.values())


def around(folders: Collection[Path], named: Iterable[Path] = ()) -> dict[Path, Entry]:
    """Where a baseline may be: the bundled artifacts, those in `named`, and the neighbours of `folders`."""
    known = at_hand(named)
    near = {x.parent for folder in folders for x in folder.resolve().parent.glob(f"*/{MANIFEST}")}
    for folder in sorted(near - {x.resolve() for x in known}):
        with suppress(ArtifactError):  # it was not asked for, whatever it is
            known[folder] = read(folder)
    return known
