"""The manifest: what an artifact says about itself, and the seals that find a changed byte.

`manifest.json` is strict JSON, keys sorted, indent 1, one newline at its end. The file must be
exactly what `Manifest.render` writes, so that no byte of it changes unseen. Its digest names the
artifact:

    digest = sha256(canonical JSON of every field but recipe.run)      keys sorted, no spaces, ASCII

`recipe.run` holds the facts of one run (device, seconds), not of the content. It has a seal of its
own, the first 16 hex digits of the sha256 of the rest of the record, and so has every line of
`results.jsonl` and, as an HTML comment in its last line, `README.md`. A seal finds accidents; it
proves no origin.

    manifest = read_manifest("cards/cifar10-infer-ipc10")
    manifest.ipc, manifest.bits_per_class()

Nothing here imports torch: a list of artifacts needs this module alone.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ddhub.artifact.fields import DTYPE_BYTES, FORMAT, RULES, is_recipe
from ddhub.errors import ArtifactError
from ddhub.io.files import leads_out, max_bytes, open_file
from ddhub.io.json import REPAIR as REPAIR
from ddhub.io.json import canonical as canonical
from ddhub.io.json import indented, is_indented
from ddhub.io.json import parse as parse

MANIFEST = "manifest.json"
PARQUET = "data/train-00000-of-00001.parquet"
TENSORS = "tensors.safetensors"
PREVIEW = "preview.png"
RESULTS = "results.jsonl"
README = "README.md"
COMPENSATORS = "compensators/train-00000-of-00001.parquet"  # a copy for viewers, never read
STORED = ("images", "image_labels")  # the two tensors that live in the parquet file
DAMAGED = "file damaged or edited"
LINK = "a link to a place outside the artifact; put the file itself there"
TEXT_BYTES = 2**22  # that a file of text may have
LIMITS = {**dict.fromkeys((MANIFEST, RESULTS, README), TEXT_BYTES), PREVIEW: 2**24}


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with "seal": first 16 hex digits of the sha256 of the rest's canonical JSON."""
    rest = {key: value for key, value in record.items() if key != "seal"}
    return {**rest, "seal": _hash(canonical(rest))[:16]}


def check_seal(record: dict[str, Any], subject: str) -> dict[str, Any]:
    """The record without its seal. ArtifactError about `subject` when the seal is not the rest's."""
    if seal(record)["seal"] != record.get("seal"):
        state = "differs" if "seal" in record else "is missing"
        raise ArtifactError(f"{subject}: the seal {state} ({DAMAGED}); {REPAIR}")
    return {key: value for key, value in record.items() if key != "seal"}


def seal_text(text: str) -> str:
    """The text with one more line, `<!-- seal: 16 hex digits -->`, over all before that line."""
    body = text if text.endswith("\n") else text + "\n"
    return f"{body}<!-- seal: {_hash(body)[:16]} -->\n"


def check_text_seal(text: str, subject: str) -> None:
    """ArtifactError about `subject` unless `text` is exactly what `seal_text` makes of its body."""
    body, mark, _ = text.rpartition("<!-- seal: ")
    if not mark or seal_text(body) != text:
        cause = f"the seal in its last line is missing or differs ({DAMAGED})"
        raise ArtifactError(f"{subject}: {cause}; render it again (ddhub card)")


def read_bytes(path: Path, size: int | None = None, *, limit: int | None = None) -> bytes:
    """The content of one file of an artifact, of exactly `size` bytes where the manifest says how many.

    ArtifactError when it is missing or unreadable, larger than its name allows, or no file but a pipe, a device or a
    link that leads out of the artifact; all this is asked before anything is read.
    """
    limit = limit or LIMITS.get(path.name, max_bytes() if size is None else size)
    if leads_out(path):
        raise ArtifactError(f"{path}: {LINK}")
    try:
        with open_file(path) as (file, length):
            if size is not None and length != size:
                raise ArtifactError(f"{path}: {length} bytes, the manifest says {size} ({DAMAGED}); {REPAIR}")
            if length > limit:
                raise ArtifactError(f"{path}: {length:,} bytes, where {limit:,} are allowed; {REPAIR}")
            return file.read(length)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; {REPAIR}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check its rights") from None


def read_manifest(folder: str | Path) -> Manifest:
    """The checked manifest of the artifact in `folder`; no other file is looked at.

    Raises:
        ArtifactError: no artifact there, a damaged manifest, or one for a newer ddhub.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        cause = f"no {MANIFEST} in it"
        raise ArtifactError(f"{folder} is not an artifact: {cause}; give an artifact's folder")
    return parse_manifest(read_bytes(path), str(path))


def parse_manifest(data: bytes, subject: str) -> Manifest:
    """The checked manifest in the bytes of a `manifest.json`. ArtifactError about `subject`."""
    record = parse(data, subject)
    try:
        manifest = Manifest.from_json(record)
    except ArtifactError as error:
        raise ArtifactError(f"{subject}: {error}") from None
    if not is_indented(data, record):
        raise ArtifactError(f"{subject}: not written as ddhub writes it ({DAMAGED}); {REPAIR}")
    return manifest


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """The records of an artifact's `results.jsonl`, oldest first, without their seals.

    Raises:
        ArtifactError: a line that is damaged or has no end.
    """
    path = Path(folder) / RESULTS
    if not path.exists():
        return []
    *lines, rest = read_bytes(path).split(b"\n")
    if rest:
        raise ArtifactError(f"{path}: line {len(lines) + 1} has no end; delete that line")
    out = []
    for number, line in enumerate(lines, 1):
        subject = f"{path}, line {number}"
        record = parse(line, subject)
        out.append(check_seal(record, subject))
        if canonical(record).encode() != line:
            raise ArtifactError(f"{subject}: not as ddhub writes it ({DAMAGED}); {REPAIR}")
    return out


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known about an artifact: field for field the keys of `manifest.json`.

    `image_size` is (channels, height, width) in pixels; `mean`, `std` and `pixel_range` are in unit
    scale per channel: the stored byte b means low + b / 255 · (high - low).

    `tensors`, `content` and `files` are empty until `Artifact.write` fills them. `content` is the sha256 of what a
    student sees, `ddhub.artifact.consistency.content`; it is empty in a manifest older than this field, whose images
    are not kept. `tensors` names "images" (U8)
    and "image_labels" (U8, from 257 classes on U16), which live in the parquet file, and every
    tensor of `tensors.safetensors`; `files` has the sha256 and size of every frozen file.

    Raises:
        ArtifactError: a value that is not of its field's type; see `ddhub.artifact.fields`.
    """

    format: int = FORMAT
    name: str
    method: str
    dataset: str
    ipc: int
    classes: tuple[str, ...]
    image_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[tuple[float, float], ...]
    encoding: dict[str, Any]
    decoder: dict[str, Any]
    labels: dict[str, Any]
    protocol: dict[str, Any]
    recipe: dict[str, Any]
    source: dict[str, Any]
    teachers: list[dict[str, Any]]
    license: str
    citation: str
    deviations: list[str]
    paper: list[dict[str, Any]]
    tensors: dict[str, dict[str, Any]]
    content: str
    files: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        for name, (want, fits) in RULES.items():
            if not fits(getattr(self, name)):
                raise ArtifactError(f"manifest field {name!r} must be {want}; correct the recipe")
        for name in ("mean", "std", "pixel_range"):
            if len(getattr(self, name)) != self.image_size[0]:
                cause = f"manifest field {name!r} must have {self.image_size[0]} entries"
                raise ArtifactError(f"{cause}, one a channel; correct the recipe")
        canonical(self._record())

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Manifest:
        """The manifest of a parsed `manifest.json`. ArtifactError for what a sound one never is."""
        number = record.get("format")
        if isinstance(number, int) and number > FORMAT:
            cause = f"format {number}, this one reads up to {FORMAT}"
            raise ArtifactError(f"needs a newer ddhub ({cause}): pip install -U ddhub")
        known = {field.name for field in fields(cls)} | {"digest"}
        for key in sorted(record.keys() ^ known):
            kind = "missing" if key in known else "unknown"
            raise ArtifactError(f"{kind} field {key!r} for format {FORMAT} ({DAMAGED}); {REPAIR}")
        values = {key: value for key, value in record.items() if key != "digest"}
        if _digest(values) != record["digest"]:
            raise ArtifactError(f"the digest differs from the content ({DAMAGED}); {REPAIR}")
        if is_recipe(values["recipe"]):
            run = check_seal(values["recipe"]["run"], "recipe.run")
            values["recipe"] = {**values["recipe"], "run": run}
        for key in ("classes", "image_size", "mean", "std", "pixel_range"):
            if isinstance(values[key], list):
                values[key] = tuple(tuple(x) if isinstance(x, list) else x for x in values[key])
        manifest = cls(**values)
        manifest._check_content()
        return manifest

    def _check_content(self) -> None:
        """A written manifest lists the stored images, their labels, and the files this implies.

        The classes of a data set that ddhub knows are in that data set's order.
        """
        from ddhub.sources.known import KNOWN  # here because of the class names that it reads from files

        images, labels = (self.tensors.get(name, {"dtype": "", "shape": []}) for name in STORED)
        count = images["shape"][:1]
        if images != {"dtype": "U8", "shape": [*count, *self.image_size]} or not count:
            raise ArtifactError(f"tensors.images must be U8 [N, *image_size]; {REPAIR}")
        if labels != {"dtype": label_dtype(len(self.classes)), "shape": count}:
            raise ArtifactError(f"tensors.image_labels must be a class number an image; {REPAIR}")
        extra = {TENSORS} if self.tensors.keys() - set(STORED) else set()
        for path in sorted(self.files.keys() ^ {PARQUET, PREVIEW, *extra}):
            state = "a file too many" if path in self.files else "not the file"
            raise ArtifactError(f"the manifest lists {state}, {path!r}; {REPAIR}")
        for name in dict.fromkeys((self.dataset, self.source["name"])):
            if name in KNOWN and not KNOWN[name].names_agree(self.classes):
                raise ArtifactError(f"the classes are not those of {name} in their order; {REPAIR}")

    def _record(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over every field but `recipe["run"]`: the identity of the artifact."""
        return _digest(self._record())

    def render(self) -> str:
        """The text of `manifest.json`, with digest and seal."""
        recipe = {**self.recipe, "run": seal(self.recipe["run"])}
        return indented({**self._record(), "recipe": recipe, "digest": self.digest}) + "\n"

    def bytes_by_tensor(self) -> dict[str, int]:
        """Raw bytes of each stored tensor, labels included: its cost before any compression."""
        return {name: DTYPE_BYTES[entry["dtype"]] * math.prod(entry["shape"]) for name, entry in self.tensors.items()}

    @property
    def stored_bytes(self) -> int:
        """Bytes of the files that hold images, classes and tensors, encoded as they are stored."""
        return sum(self.files[name]["bytes"] for name in (PARQUET, TENSORS) if name in self.files)

    def bits_per_class(self) -> float:
        """8 · `stored_bytes` / number of classes."""
        return 8 * self.stored_bytes / len(self.classes)


def label_dtype(classes: int) -> str:
    """The smallest type that holds a class number: U8 up to 256 classes, U16 above."""
    return "U8" if classes <= 256 else "U16"


def _digest(record: dict[str, Any]) -> str:
    recipe = record["recipe"]
    if isinstance(recipe, dict):
        recipe = {key: value for key, value in recipe.items() if key != "run"}
    return _hash(canonical({**record, "recipe": recipe}))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
