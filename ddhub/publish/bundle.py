"""What is published of an artifact or a teacher: a repository's files, checked as loading checks them.

    of_artifact(folder, "ddhub").files          # {"README.md": b"---\\nlicense: ...", ...}

Of an artifact that is all its files, with a card rendered anew, which names the repository, and the compensators as
pictures where it has some. The folder itself stays as it is.
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
from ddhub.cards.comparison import BASELINE, against, compare_with, no_baseline
from ddhub.cards.tables import flags
from ddhub.errors import ArtifactError, UsageError
from ddhub.remote.client import Pin
from ddhub.training.open import open_data


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is, or with a dry run would be, published.

    Attributes:
        url: of the repository or the pull request; for a folder its path.
        commit: 40 hex digits; "" for a folder, and for a dry run with something to write.
        tag: v1, v2, ...; "" for a folder, a branch or a pull request.
        files: bytes of every file, by path.
        changed: whether anything was not there already.
        checks: what was checked, in words.
        pin: the entry of a catalog; None for a teacher, and for what has no commit or tag.
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
    """The files of a repository, by path, and what they are: `kind` is `dataset` or `model`."""

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
        UsageError: code that was not committed, no results, no baseline, a mean below the baseline's, or a teacher
            that is nowhere.
        ArtifactError: what loading refuses.
    """
    from ddhub.artifact import results
    from ddhub.artifact.folder import Artifact
    from ddhub.cards import card
    from ddhub.publish import compensators

    artifact, entry = Artifact.open(folder), results.read(folder)
    open_data(artifact)  # what does not load is not published
    if artifact.manifest.recipe["commit"].endswith(UNCOMMITTED) and not accept_uncommitted:
        cause = "was made from a working tree that differs from its commit, so nobody can look its code up"
        advice = "commit and make it again, or publish it all the same with --accept-uncommitted"
        raise UsageError(f"{artifact.manifest.name} {cause}; {advice}")
    others = list(around([folder], [folder]).values())
    checks = _gate(entry, others, folder, accept_below_baseline)
    files = _listed(folder, artifact.manifest.files)
    files |= {name: read_bytes(folder / name) for name in (MANIFEST, RESULTS)}
    if (pictures := compensators.render(artifact)) is not None:
        files[COMPENSATORS] = pictures
    files[README] = seal_text(card.render(entry, others, namespace)).encode()
    m = artifact.manifest
    return Publication(name=m.name, digest=m.digest, kind="dataset", files=files, checks=("it loads", *checks))


def of_teacher(folder: Path, namespace: str) -> Publication:
    """The teacher in `folder`, for the model repository NAMESPACE/NAME. ArtifactError for one that is not sound."""
    from ddhub import teachers
    from ddhub.cards import teacher

    _, record = teachers.open_teacher(folder)
    files = _listed(folder, record["files"])
    files[teachers.TEACHER] = read_bytes(folder / teachers.TEACHER)
    files[README] = seal_text(teacher.render(record, namespace)).encode()
    return Publication(
        name=record["name"], digest=record["digest"], kind="model", files=files, checks=("its weights are the model's",)
    )


def _listed(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """The files that a manifest lists. ArtifactError for one that has changed since it was checked."""
    contents = {name: read_bytes(folder / name) for name in files}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
            raise ArtifactError(f"{folder / name}: changed while it was published; try again")
    return contents


def _gate(entry: Entry, others: list[Entry], folder: Path, accept: bool) -> list[str]:
    """What was compared with random selection, in words; UsageError where that forbids to publish."""
    m = entry.manifest
    if not entry.results:
        raise UsageError(f"{m.name} has no results; record some: ddhub train {folder} --seeds 3 --record --data ROOT")
    if m.method == BASELINE:
        return ["it is a baseline itself"]
    comparison = compare_with(entry, others)
    if comparison.baseline is None:
        raise no_baseline(m, folder)
    checks, name = [], comparison.baseline.manifest.name
    for mean, random in against(entry, comparison):
        setting = f"{mean.first.model} under {mean.first.protocol} on {mean.first.test}"
        if random is None:
            words = ["ddhub", "train", str(folder), "--baseline", *flags(mean.first, m), "--model", mean.first.model]
            train = shlex.join([*words, "--seeds", "3", "--record", "--data", "ROOT"])
            raise UsageError(f"{m.name}: its baseline {name} has no result of {setting}; record one: {train}")
        checks.append(f"{setting}: {mean.mean:.2f} %, {name} {random.mean:.2f} %")
        if mean.mean < random.mean and not accept:
            advice = "publish it all the same with --accept-below-baseline; the card says so"
            raise UsageError(f"{m.name} is below random selection with {checks[-1]}; {advice}")
    return checks
