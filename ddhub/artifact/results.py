"""Results recorded beside an artifact, and their means.

    entry = read("cards/cifar10-infer-ipc10")
    [mean.text for mean in entry.means()]          # '41.50 ± 0.71'

A number is the mean over seeds of the accuracy after the last epoch, with the sample standard deviation (n - 1).
Nothing here imports torch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ddhub.artifact.manifest import PARQUET, RESULTS, Manifest, canonical, read_manifest, read_results
from ddhub.errors import ArtifactError
from ddhub.protocols.protocol import Protocol

_TYPES = {"str": (str,), "int": (int,), "float": (int, float), "dict[str, Any]": (dict,)}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One student, one seed, one number: top-1 accuracy in percent after the last epoch, on all test images.

    `digest` names the artifact, `protocol_digest` the protocol, whose fields are `settings`; `steps` and `seconds` are
    those of the training, `precision` is that of the student's forward passes.
    """

    artifact: str
    digest: str
    protocol: str
    protocol_digest: str
    settings: dict[str, Any]
    model: str
    seed: int
    accuracy: float
    test_name: str
    test: str
    test_images: int
    test_fingerprint: str
    epochs: int
    steps: int
    seconds: float
    device: str
    precision: str
    versions: str


_FIELDS = {item.name: _TYPES[str(item.type)] for item in fields(Result)}


@dataclass(frozen=True)
class Mean:
    """The results of one artifact and one model under one protocol on one test set, one a seed."""

    runs: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """The run that speaks for what all runs share."""
        return self.runs[0]

    @property
    def setting(self) -> tuple[str, str]:
        """What a table may hold one of: (protocol digest, test fingerprint)."""
        return self.first.protocol_digest, self.first.test_fingerprint

    @cached_property
    def mean(self) -> float:
        """Mean accuracy in percent."""
        return statistics.fmean(run.accuracy for run in self.runs)

    @cached_property
    def sd(self) -> float | None:
        """Sample standard deviation, n - 1 in the denominator; None for one seed."""
        return statistics.stdev(run.accuracy for run in self.runs) if len(self.runs) > 1 else None

    @property
    def text(self) -> str:
        """'41.50 ± 0.71', or '41.50' for one seed."""
        return f"{self.mean:.2f}" + ("" if self.sd is None else f" ± {self.sd:.2f}")

    def to_json(self) -> dict[str, Any]:
        """The mean and what it is the mean of, for `--json`."""
        shared = ("artifact", "digest", "model", "protocol", "protocol_digest", "test", "test_images", "epochs")
        record = {key: getattr(self.first, key) for key in (*shared, "test_fingerprint")}
        return {**record, "mean": self.mean, "sd": self.sd, "n": len(self.runs)}


@dataclass(frozen=True)
class Entry:
    """An artifact as its card and every list see it: its manifest and the results recorded beside it."""

    manifest: Manifest
    results: list[Result]
    kept: bool = True  # whether its data are there too, not its results alone

    @property
    def bytes(self) -> int:
        """Stored bytes of images, labels and all other tensors, as they lie in the files."""
        return self.manifest.stored_bytes

    def recorded(self, protocol_digest: str, model: str, test_fingerprint: str = "") -> dict[int, Result]:
        """The results of a model under a protocol, on one test set or on any, by seed; the first that was recorded."""
        wanted = [x for x in self.results if (x.protocol_digest, x.model) == (protocol_digest, model)]
        return {x.seed: x for x in reversed(wanted) if test_fingerprint in ("", x.test_fingerprint)}

    def means(self) -> list[Mean]:
        """The results by protocol, test set and model; a seed recorded twice counts once, the first time."""
        groups: dict[tuple[str, str, str], dict[int, Result]] = {}
        for result in self.results:
            key = (result.protocol_digest, result.test_fingerprint, result.model)
            groups.setdefault(key, {}).setdefault(result.seed, result)
        return [Mean(tuple(seeds.values())) for seeds in groups.values()]


def read(folder: str | Path) -> Entry:
    """The manifest and the results of the artifact in `folder`; its other files are not looked at.

    Raises:
        ArtifactError: no artifact there, a damaged manifest or results file, or results of another artifact.
    """
    manifest = read_manifest(folder)
    lines, owner = enumerate(read_results(folder), 1), (manifest.name, manifest.digest)
    kept = (Path(folder) / PARQUET).is_file()
    return Entry(manifest, [_result(x, owner, f"{Path(folder) / RESULTS}, line {i}") for i, x in lines], kept)


def settings(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Mean]]:
    """The means of all entries by what may share a table: (protocol digest, test fingerprint)."""
    tables: dict[tuple[str, str], list[Mean]] = {}
    for entry in entries:
        for mean in entry.means():
            tables.setdefault(mean.setting, []).append(mean)
    return tables


@cache
def _protocol_digest(settings: str) -> str:
    """The digest of a protocol's settings; kept, as the results of an artifact share a few of them."""
    return Protocol.from_json(json.loads(settings)).digest


def _result(record: dict[str, Any], owner: tuple[str, str], subject: str) -> Result:
    """The result in a record of the artifact with this name and digest."""
    strange = sorted(_FIELDS.keys() ^ record.keys())
    strange += [key for key in _FIELDS if type(record.get(key)) not in _FIELDS[key]]
    strange += [] if strange or 0 <= record["accuracy"] <= 100 else ["accuracy"]
    if strange:
        raise ArtifactError(f"{subject}: field {strange[0]!r} is not as in a Result; delete that line")
    try:
        known_digest = _protocol_digest(canonical(record["settings"]))
    except ArtifactError as error:
        raise ArtifactError(f"{subject}: {error}; delete that line") from None
    if known_digest != record["protocol_digest"]:
        raise ArtifactError(f"{subject}: its settings are not those of its protocol_digest; delete that line")
    if (record["artifact"], record["digest"]) != owner:
        cause = f"a result of {record['artifact']!r}, digest {record['digest'][:12]!r}, not of this artifact"
        raise ArtifactError(f"{subject}: {cause}; delete that line")
    return Result(**record)
