"""What becomes part of the stock: an artifact that is new there, or better than the one of its name.

Better is a mean that is higher under the same protocol, on the same test images and with the same model, of as many
seeds at least; and of all such means none may be lower. Of the same data only the results are added. Folders are
replaced whole or not at all, and cards are rendered after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ddhub import teachers
from ddhub.artifact.bundled import folders_of_results
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST, RESULTS, Manifest
from ddhub.artifact.results import Entry, Mean, read
from ddhub.cards.rendering import rendered
from ddhub.errors import DDHubError
from ddhub.io.files import locked, replace_file, replace_folder, settle
from ddhub.training.open import teacher_ids

LARGEST = 16_000_000  # bytes of a file in the stock


class Verdict(NamedTuple):
    """What became of an artifact: whether the stock was changed, whether it is in it, and why in words."""

    changed: bool
    stocked: bool
    words: str


def put(folder: Path, shelf: Path, *, replace: bool = False) -> Verdict:
    """Put the artifact in `folder` into the stock, if it is new there or better, or if `replace` asks for it.

    Raises:
        ArtifactError: one of the two is damaged.
        DDHubError: a disk that is full or read-only.
    """
    with _alone(shelf):
        return _put(folder, shelf, replace)


def _put(folder: Path, shelf: Path, replace: bool) -> Verdict:
    new, target = read(folder), shelf / folder.name
    settle(target)  # a stocked one that a killed run had put aside is not new
    old = read(target) if (target / MANIFEST).exists() else None
    if old and old.kept and old.manifest.content == new.manifest.content:
        added = share_results(folder, target)
        more = f"; {added} results are added to it" if added else ""
        return Verdict(bool(added), True, f"the same images and labels as the stocked one{more}")
    if trouble := _trouble(folder, new.manifest, shelf):
        return Verdict(False, False, f"left in {folder}: {trouble}")
    better, words = compare(new, old) if old else (True, "it is new")
    if not better and not replace:
        return Verdict(False, False, f"left in {folder}: {words}; --replace stocks it anyway")
    copy(folder, shelf)
    return Verdict(True, True, f"stocked: {words}")


def compare(new: Entry, old: Entry) -> tuple[bool, str]:
    """Whether an artifact is better than one of its name, and the numbers."""
    known = {(*mean.setting, mean.first.model): mean for mean in old.means()}
    pairs: list[tuple[Mean, Mean]] = []
    for mean in new.means():
        other = known.get((*mean.setting, mean.first.model))
        if other and len(mean.runs) >= len(other.runs):
            pairs.append((mean, other))
    if not pairs:
        return False, "the stocked one has no result of the same protocol, model and test images to compare with"
    words = ", ".join(
        f"{a.text} % after {b.text} % ({a.first.model}, {a.first.protocol}, n = {len(a.runs)})" for a, b in pairs
    )
    gains = [a.mean - b.mean for a, b in pairs]
    if min(gains) >= 0 and max(gains) > 0:
        return True, words
    return False, f"not better in all that can be compared, {words}"


def copy(folder: Path, to: Path) -> Path:
    """Copy an artifact with its results, and before it the teachers that its labels name, into the folder `to`.

    Raises:
        ArtifactError: a damaged file.
        DDHubError: a disk that is full or read-only.
    """
    artifact, target = Artifact.open(folder), to / folder.name
    try:
        for near, name in _near(folder, artifact.manifest):
            if not teachers.is_teacher(to / name):
                files = {x: (near / x).read_bytes() for x in (*teachers.read(near)["files"], teachers.TEACHER)}
                replace_folder(to / name, files, teachers.verify)
        replace_folder(target, artifact.contents(RESULTS), Artifact.open)
    except OSError as error:
        raise DDHubError(
            f"{target}: cannot be written ({error.strerror}); free space or choose another folder"
        ) from None
    return target


def share_results(source: Path, target: Path) -> int:
    """Add to an artifact the results of another one of the same data that it lacks; returns how many."""
    mine, theirs = read(target), read(source)
    if mine.manifest.content != theirs.manifest.content or not mine.kept:
        return 0
    missing = [
        result
        for mean in theirs.means()
        for result in mean.runs
        if result.seed not in mine.recorded(result.protocol_digest, result.model, result.test_fingerprint)
    ]
    for result in missing:
        artifact = Artifact.open(target, verify=False)
        artifact.add_result({**asdict(result), "artifact": mine.manifest.name, "digest": mine.manifest.digest})
    return len(missing)


def render(shelf: Path) -> None:
    """Bring the cards of a stock and its leaderboard up to date. DDHubError for a disk that is full or read-only."""
    if not folders_of_results(shelf):
        return
    with _alone(shelf):
        known = {folder: read(folder) for folder in folders_of_results(shelf)}
        for path, text in rendered(known, known, shelf):
            if not path.exists() or path.read_bytes() != text:
                replace_file(path, text)


@contextmanager
def _alone(shelf: Path) -> Iterator[None]:
    """One process at a time changes a stock: what it compares with is still there when it writes.

    Raises:
        DDHubError: a disk that is full or read-only.
    """
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        with locked(shelf):
            yield
    except OSError as error:
        path = error.filename or shelf
        raise DDHubError(f"{path}: cannot be written ({error.strerror}); free space or check its rights") from None


def _near(folder: Path, m: Manifest) -> Iterable[tuple[Path, str]]:
    """The teachers that an artifact's labels name and that lie beside it: (folder, name)."""
    names = [known.partition("@")[0] for known in teacher_ids(m)]
    return [(folder.parent / name, name) for name in names if teachers.is_teacher(folder.parent / name)]


def _trouble(folder: Path, m: Manifest, shelf: Path) -> str:
    """Why an artifact cannot be part of the stock, whatever its results; empty if it can."""
    sizes = {name: entry["bytes"] for name, entry in m.files.items()}
    for near, name in _near(folder, m):
        record = teachers.read(near)
        sizes |= {f"{name}/{file}": entry["bytes"] for file, entry in record["files"].items()}
        if teachers.is_teacher(shelf / name) and teachers.read(shelf / name)["digest"] != record["digest"]:
            return f"the stock has another teacher {name}, which other artifacts may name"
    large = [f"{name} has {size:,} bytes" for name, size in sizes.items() if size > LARGEST]
    return f"{large[0]}, and a file of the stock {LARGEST:,} at most" if large else ""
