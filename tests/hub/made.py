"""A small artifact, in as many versions as a test asks for, and what came of asking for it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ddhub.artifact import bundled, results
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST, README, RESULTS, read_manifest, seal_text

NAME, REPO = "tiny", "lab/tiny"
LIKE = bundled.BUNDLED / "cifar10-random-ipc10"


@cache
def _version(number: int, name: str, changes: tuple[tuple[str, Any], ...]) -> dict[str, bytes]:
    manifest = replace(read_manifest(LIKE), name=name, ipc=1, tensors={}, content="", files={}, **dict(changes))
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    with tempfile.TemporaryDirectory() as folder:
        given = {"images": images, "image_labels": torch.arange(10), "tensors": {}}
        artifact = Artifact.write(Path(folder) / name, manifest=manifest, **given)
        run = results.read(LIKE).results[0]
        artifact.add_result({**vars(run), "artifact": name, "digest": artifact.manifest.digest, "seed": number})
        (artifact.folder / README).write_text(seal_text(f"# version {number}"))
        return contents(artifact.folder)


def version(number: int = 1, name: str = NAME, **changes: Any) -> dict[str, bytes]:
    """Every file of a version of the artifact, by path; `changes` are to its manifest."""
    return dict(_version(number, name, tuple(changes.items())))


def digest(files: dict[str, bytes]) -> str:
    """The digest of an artifact's files."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(files[MANIFEST])
        return read_manifest(folder).digest


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_exactly(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether a folder is the artifact of these files, results included, card or not; and whether it opens."""
    found = contents(folder)
    found.pop(README, None)
    Artifact.open(folder)
    return found == {name: data for name, data in files.items() if name != README}


__all__ = ["MANIFEST", "NAME", "README", "REPO", "RESULTS", "contents", "digest", "is_exactly", "version"]
