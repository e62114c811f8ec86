"""The artifacts and teachers that a command looks at, and what it says of them; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddhub import hub, results, teachers
from ddhub.errors import UsageError
from ddhub.manifest import MANIFEST
from ddhub.protocols import Protocol, Result
from ddhub.results import Entry, Mean


def shelf(names: Iterable[str | Path] = ()) -> list[tuple[Path, Entry]]:
    """Folders and contents of the bundled artifacts and of those named, which hide bundled namesakes."""
    bundled = [path.parent for path in sorted(hub.BUNDLED.glob(f"*/{MANIFEST}"))]
    found = {folder.name: (folder, results.read(folder)) for folder in bundled}
    for folder in map(hub.resolve, names):
        entry = results.read(folder)
        found[entry.manifest.name] = (folder, entry)
    return list(found.values())


def own(folder: Path) -> Path:
    """The folder, if it is one to write to. UsageError for what lies in the cache of the Hub."""
    from ddhub._remote import COMMIT

    if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
        raise UsageError(f"{folder} is the Hub's cache; make a copy to write to: ddhub download NAME --to FOLDER")
    return folder


def teacher_folder(name: str) -> Path | None:
    """The folder of the teacher that `name` is: a path, or one bundled in the package; None for all else."""
    path = Path(name)
    bundled = teachers.BUNDLED / path.name
    if teachers.is_teacher(path):
        return path
    return bundled if str(path) == path.name and not path.exists() and teachers.is_teacher(bundled) else None


def facts(entry: Entry) -> dict[str, Any]:
    """What `info` prints of an artifact, and `list` in part."""
    m = entry.manifest
    recipe, run = {key: m.recipe[key] for key in ("path", "preset", "seed")}, m.recipe["run"]
    return {
        **{key: getattr(m, key) for key in ("name", "digest", "method", "dataset", "ipc", "license")},
        "classes": list(m.classes),
        "image_size": list(m.image_size),
        "decoder": m.decoder,
        "labels": m.labels,
        "protocol": {**m.protocol, "digest": Protocol.from_json(m.protocol).digest},
        "recipe": {**recipe, "commit": run.get("commit", "")},
        **({"measured": run["measured"]} if run.get("measured") else {}),  # what the recipe found out about its images
        "source": m.source,
        "teachers": m.teachers,
        "tensor_bytes": m.bytes_by_tensor(),
        "bytes": entry.bytes,
        "bits_per_class": m.bits_per_class(),
        "deviations": m.deviations,
        "results": [mean.to_json() for mean in entry.means()],
    }


def mean_text(mean: Mean) -> str:
    """'resnet18: 41.50 ± 1.80 % (n = 3) on CIFAR-10, 10,000 test images'."""
    return f"{mean.first.model}: {mean.text} % (n = {len(mean.runs)}) on {test_text(mean.first)}"


def test_text(result: Result) -> str:
    """'CIFAR-10, 10,000 test images'."""
    return f"{result.test}, {result.test_images:,} test images"
