"""The files that are published of an artifact or a teacher, checked as loading checks them.

    of_artifact(folder, "ddhub").files          # {"README.md": b"---\\nlicense: ...", ...}

For an artifact these are all files of its folder, a card rendered anew with the name of the repository and, if it has
compensators, a parquet file of them as pictures. The folder itself does not change.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddhub.artifact.bundled import around
from ddhub.artifact.manifest import COMPENSATORS, MANIFEST, README, RESULTS, read_bytes, seal_text
from ddhub.artifact.origin import UNCOMMITTED
from ddhub.artifact.results import Entry
from ddhub.cards.comparison import against, compare_with, is_random, no_baseline
from ddhub.cards.tables import flags
from ddhub.errors import ArtifactError, UsageError
from ddhub.remote.client import Pin
from ddhub.training.open import open_data


@dataclass(frozen=True, kw_only=True)
class Published:
    """The outcome of a push; for a dry run, of the push that it stands for.

    Attributes:
        url: the address of the repository or the pull request; for a folder its path.
        commit: 40 hex digits; "" for a folder, and for a dry run that has something to write.
        tag: v1, v2, ...; "" for a folder, a branch or a pull request.
        files: the size in bytes of every file, by path.
        changed: whether the push writes anything.
        checks: the checks that passed, in words.
        pin: the catalog entry; None for a teacher and for a push without commit or tag.
    """

    url: str
    commit: str
    tag: str
    files: dict[str, int]
    changed: bool
    checks: tuple[str, ...]
    pin: Pin | None = None


@dataclass(frozen=True, kw_only=True)
class Publication:
    """The contents of a repository: files by path; `kind` is the repository type, `dataset` or `model`."""

    name: str
    digest: str
    kind: str
    files: dict[str, bytes]
    checks: tuple[str, ...]


def of_artifact(
    folder: Path, namespace: str, *, accept_below_baseline: bool = False, accept_uncommitted: bool = False
) -> Publication:
    """The artifact in `folder`, for the repository NAMESPACE/NAME.

    Raises:
        UsageError: the code was not committed; results or the baseline are missing; a mean is below the baseline's;
            or a teacher cannot be found.
        ArtifactError: the artifact does not load.
    """
    from ddhub.artifact import results
    from ddhub.artifact.folder import Artifact
    from ddhub.cards import card
    from ddhub.publish import compensators

    artifact, entry = Artifact.open(folder), results.read(folder)
    open_data(artifact)  # refuses an artifact that does not load
    if artifact.manifest.recipe["commit"].endswith(UNCOMMITTED) and not accept_uncommitted:
        cause = "was made from a working tree that differs from its commit, so its code cannot be looked up"
        advice = "commit and make it again, or publish it anyway with --accept-uncommitted"
        raise UsageError(f"{artifact.manifest.name} {cause}; {advice}")
    others = list(around([folder], [folder]).values())
    checks = _gate(entry, others, folder, accept_below_baseline)
    files = _listed(folder, artifact.manifest.files)
    files |= {name: read_bytes(folder / name) for name in (MANIFEST, RESULTS)}
    if (pictures := compensators.render(artifact)) is not None:
        files[COMPENSATORS] = pictures
    files[README] = seal_text(card.render(entry, others, namespace)).encode()
    m = artifact.manifest
    return Publication(
        name=m.name, digest=m.digest, kind="dataset", files=files, checks=("the artifact loads", *checks)
    )


def of_teacher(folder: Path, namespace: str) -> Publication:
    """The teacher in `folder`, for the model repository NAMESPACE/NAME. Raises ArtifactError for a damaged one."""
    from ddhub import teachers
    from ddhub.cards import teacher

    _, record = teachers.open_teacher(folder)
    files = _listed(folder, record["files"])
    files[teachers.TEACHER] = read_bytes(folder / teachers.TEACHER)
    files[README] = seal_text(teacher.render(record, namespace)).encode()
    return Publication(
        name=record["name"], digest=record["digest"], kind="model", files=files, checks=("the weights fit the model",)
    )


def _listed(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """The contents of the files that a manifest lists. Raises ArtifactError for a file that changed after its check."""
    contents = {name: read_bytes(folder / name) for name in files}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
            raise ArtifactError(f"{folder / name}: changed during the push; push again")
    return contents


def _gate(entry: Entry, others: list[Entry], folder: Path, accept: bool) -> list[str]:
    """The comparisons with random selection, in words. Raises UsageError if they forbid publication."""
    m = entry.manifest
    if not entry.results:
        raise UsageError(f"{m.name} has no results; record some: ddhub train {folder} --seeds 3 --record --data ROOT")
    if is_random(m):
        return ["the artifact is random selection itself"]
    comparison = compare_with(entry, others)
    if comparison.baseline is None:
        raise no_baseline(m, folder)
    checks, name = [], comparison.baseline.manifest.name
    for ours, random in against(entry, comparison):
        setting = f"{ours.first.model} under {ours.first.protocol} on {ours.first.test}"
        if random is None:
            words = ["ddhub", "train", str(folder), "--baseline", *flags(ours.first, m), "--model", ours.first.model]
            train = shlex.join([*words, "--seeds", "3", "--record", "--data", "ROOT"])
            raise UsageError(f"{m.name}: its baseline {name} has no result of {setting}; record one: {train}")
        checks.append(f"{setting}: {ours.mean:.2f} %, {name} {random.mean:.2f} %")
        if ours.mean < random.mean and not accept:
            advice = "publish it anyway with --accept-below-baseline; the card says so"
            raise UsageError(f"{m.name} is below random selection with {checks[-1]}; {advice}")
    return checks
