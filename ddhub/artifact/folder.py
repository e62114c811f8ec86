"""An artifact: a folder that holds a distilled data set and describes itself.

    data/train-00000-of-00001.parquet   image, label; `datasets` reads it too: `ddhub.artifact.images`, `.encoding`
    tensors.safetensors                 every other tensor, if there is one
    preview.png                         grid of the stored images
    manifest.json                       what it says about itself, and the sha256 of all above
    results.jsonl, README.md            grow after publication, so they are sealed on their own

The same input gives the same bytes (with the same Pillow and pyarrow). An artifact is written and
replaced whole or not at all, and read back before it takes its place. There is no pickle in it.

    artifact = Artifact.open("cards/cifar10-infer-ipc10")
    artifact.images().shape, artifact.tensors().keys(), artifact.manifest.digest
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ddhub.artifact import consistency, pictures
from ddhub.artifact import tensors as _safetensors
from ddhub.artifact.bundled import require_data
from ddhub.artifact.codec import Coded, encode
from ddhub.artifact.encoding import picture_size
from ddhub.artifact.fields import TENSOR_RULE
from ddhub.artifact.manifest import (
    COMPENSATORS,
    DAMAGED,
    LINK,
    MANIFEST,
    PARQUET,
    PREVIEW,
    README,
    REPAIR,
    RESULTS,
    STORED,
    TENSORS,
    Manifest,
    canonical,
    check_text_seal,
    label_dtype,
    read_bytes,
    read_manifest,
    read_results,
    seal,
)
from ddhub.errors import ArtifactError, UsageError
from ddhub.io.files import leads_out, locked, max_bytes, names_in, replace_file, replace_folder

_FILES = {MANIFEST, PARQUET, TENSORS, PREVIEW, RESULTS, README, COMPENSATORS}
_PARTS = {PurePosixPath(name).parent.name for name in _FILES} - {""}


@dataclass(frozen=True)
class Artifact:
    """A folder and its manifest; images and tensors are read when they are asked for.

    What reads raises ArtifactError for a file that is missing, damaged or not as the manifest says.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Artifact:
        """The artifact in `folder`, with every byte of it checked unless `verify` is False."""
        artifact = cls(Path(folder), read_manifest(folder))
        if verify:
            artifact.verify()
        return artifact

    def verify(self) -> None:
        """Hash and read every file once, and refuse one that does not belong or is too large.

        What the manifest says is held against the limits before a file is read: DDHUB_MAX_BYTES (2 GiB) on disk and
        once decoded, and of the pictures 64 times the bytes of their file (of lossy ones 256 times), or 16 MiB more for
        few of them.
        Names that begin with a dot (`.git`, `.DS_Store`) are other tools' and left alone.
        """
        require_data(self.folder)
        files, decoded = self.manifest.files, self.bytes_by_tensor()
        disk, memory = sum(entry["bytes"] for entry in files.values()), sum(decoded.values())
        if max(disk, memory) > max_bytes():
            cause = f"{disk:,} bytes, {memory:,} decoded, and DDHUB_MAX_BYTES allows {max_bytes():,}"
            raise ArtifactError(f"{self.folder / MANIFEST}: {cause}; set it higher if you trust the artifact")
        shape, sheet = self.manifest.tensors["images"]["shape"], self.manifest.encoding.get("sheet", 1)
        pixels = -(-shape[0] // sheet) * math.prod(picture_size(self.manifest.encoding, self.manifest.image_size))
        times = 64 if self.manifest.encoding["codec"] == "png" else 256
        if pixels > 2**24 + times * files[PARQUET]["bytes"]:
            raise self._error(PARQUET, f"too small a file for images of {pixels:,} bytes")
        self._check()

    def _check(self) -> None:
        """As `verify`, whatever the size: what was just written is nobody else's."""
        listed = {MANIFEST, RESULTS, README, COMPENSATORS, *self.manifest.files}
        for name in sorted(names_in(self.folder, _PARTS)):
            if Path(name).name.startswith("."):
                continue
            if leads_out(self.folder / name):
                raise ArtifactError(f"{self.folder / name}: {LINK}")
            if name not in listed:
                raise ArtifactError(f"{self.folder / name}: not part of the artifact; move it away")
        for name in sorted(self.manifest.files.keys() - {PARQUET, TENSORS}):
            self._read(name)
        for name in ("_stored", "_tensors"):  # what was read before
            self.__dict__.pop(name, None)
        self.results()
        stored = self.images(), self.image_labels(), self.tensors()
        try:
            consistency.check(self.manifest, *stored)
        except ArtifactError as error:
            raise ArtifactError(f"{self.folder / MANIFEST}: {str(error)[:500]}") from None
        readme = self.folder / README
        if readme.exists():
            # a byte that is not UTF-8 breaks the seal like any other
            check_text_seal(read_bytes(readme).decode("utf-8", "replace"), str(readme))

    def images(self) -> Tensor:
        """The stored images, u8 [N, C, H, W]; `manifest.pixel_range` says what a byte means.

        They are read once: copy them before you change them, and so with all that this class reads.
        """
        return self._stored[0]

    def image_labels(self) -> Tensor:
        """The class number of each stored image, int64 [N]."""
        return self._stored[1]

    def tensors(self, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The tensors of `tensors.safetensors` by name, on `device`; {} if there are none."""
        return {name: tensor.to(device) for name, tensor in self._tensors.items()}

    @cached_property
    def _stored(self) -> tuple[Tensor, Tensor]:
        m = self.manifest
        count = m.tensors["images"]["shape"][0]
        try:
            return pictures.read(self._read(PARQUET), count, m.image_size, len(m.classes), m.encoding)
        except ValueError as error:
            raise self._error(PARQUET, str(error)) from None

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        want = {name: entry for name, entry in self.manifest.tensors.items() if name not in STORED}
        try:
            return _safetensors.read(self._read(TENSORS), want) if want else {}
        except ValueError as error:
            raise self._error(TENSORS, str(error)) from None

    def _read(self, name: str) -> bytes:
        """A file that the manifest lists, of the size and the hash that it has there."""
        entry = self.manifest.files[name]
        if (self.folder / name).parent != self.folder and (self.folder / name).parent.is_symlink():
            raise ArtifactError(f"{self.folder / name}: {LINK}")
        data = read_bytes(self.folder / name, entry["bytes"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise self._error(name, f"sha256 differs from the manifest ({DAMAGED})")
        return data

    def results(self) -> list[dict[str, Any]]:
        """The records of `results.jsonl`, oldest first, without their seals."""
        return read_results(self.folder)

    def add_result(self, record: dict[str, Any]) -> None:
        """Add a record, sealed, as the last line of `results.jsonl`; many processes may do so."""
        line = canonical(seal(record)) + "\n"
        path = self.folder / RESULTS
        try:
            with locked(self.folder):
                self.results()  # nothing is added to a damaged file
                replace_file(path, (read_bytes(path) if path.exists() else b"") + line.encode())
                for stale in self.folder.glob(f".{RESULTS}.tmp-*"):  # of killed processes
                    stale.unlink(missing_ok=True)
        except OSError as error:
            cause = f"cannot be written ({error.strerror})"
            raise ArtifactError(f"{path}: {cause}; free space or check its rights") from None

    def contents(self, *grown: str) -> dict[str, bytes]:
        """Every file of the artifact by its path, the manifest last, and of those that grow the `grown` ones it has."""
        names = [*self.manifest.files, *(name for name in grown if (self.folder / name).exists()), MANIFEST]
        return {name: read_bytes(self.folder / name) for name in names}

    def bytes_by_tensor(self) -> dict[str, int]:
        """Raw bytes of each stored tensor: `Manifest.bytes_by_tensor`."""
        return self.manifest.bytes_by_tensor()

    def bits_per_class(self) -> float:
        """Bits of the stored files a class: `Manifest.bits_per_class`."""
        return self.manifest.bits_per_class()

    def file_bytes(self) -> dict[str, int]:
        """Bytes on disk of each file, by path relative to the folder."""
        paths = {name: self.folder / name for name in sorted(_FILES)}
        return {name: path.stat().st_size for name, path in paths.items() if path.exists()}

    @classmethod
    def write(
        cls,
        folder: str | Path,
        *,
        manifest: Manifest,
        images: Tensor | Coded,
        image_labels: Tensor,
        tensors: dict[str, Tensor],
    ) -> Artifact:
        """Write an artifact, in place of an artifact or where there is nothing.

        Killed at any point, this leaves the old artifact or none, never a part of one. If the old
        one has the same name and content, its `results.jsonl` is kept.

        Args:
            manifest: with `tensors`, `content` and `files` empty; they are filled here, and so is `encoding` if the
                images are coded.
            images, image_labels: u8 [N, C, H, W], stored as PNG, or what `ddhub.artifact.codec.encode` returned; and
                integers [N].
            tensors: any others, by a name of a-z, 0-9, `_` and `.`.

        Raises:
            UsageError: input that is not an artifact, or a folder that holds anything else.
            ArtifactError: a disk that is full or read-only.
        """
        import safetensors.torch  # here because reading needs neither this nor pyarrow, of `pixels`

        from ddhub.artifact import images as pixels

        image_labels = image_labels.detach().cpu()
        given, images = images, (images.images if isinstance(images, Coded) else images).detach().cpu()
        # copies, as safetensors refuses views and tensors that share memory
        tensors = {k: t.detach().cpu().contiguous().clone() for k, t in sorted(tensors.items())}
        _check_input(manifest, images, image_labels, tensors)
        coded = given if isinstance(given, Coded) else encode(images, image_labels, {"codec": "png"})
        if not torch.equal(coded.labels, image_labels.to(coded.labels.dtype)):
            raise UsageError("image_labels are not those that the images were coded with; give the same")
        manifest = replace(manifest, encoding=coded.encoding)
        files = {
            PARQUET: pixels.to_parquet(coded, manifest.classes),
            PREVIEW: pixels.preview_of(manifest, images, image_labels, tensors),
        }
        if tensors:
            files[TENSORS] = safetensors.torch.save(tensors)
        manifest = replace(
            manifest,
            content=consistency.content(manifest, images, image_labels, tensors),
            tensors={
                "images": {"dtype": "U8", "shape": [*images.shape]},
                "image_labels": {"dtype": label_dtype(len(manifest.classes)), "shape": [len(images)]},
                **_safetensors.describe(tensors),
            },
            files={
                name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
            },
        )
        target = Path(folder)
        try:
            _check_target(target)
            files |= _results_of(target, manifest)
            files[MANIFEST] = manifest.render().encode()
            replace_folder(target, files, lambda temp: cls.open(temp, verify=False)._check())
        except OSError as error:
            cause = f"cannot be written ({error.strerror})"
            raise ArtifactError(f"{folder}: {cause}; free space or choose another folder") from None
        return cls.open(target, verify=False)

    def _error(self, name: str, cause: str) -> ArtifactError:
        return ArtifactError(f"{self.folder / name}: {cause}; {REPAIR}")


def _check_input(manifest: Manifest, images: Tensor, labels: Tensor, tensors: dict[str, Tensor]) -> None:
    """UsageError for what `Artifact.open` would refuse."""
    size, last = [*manifest.image_size], len(manifest.classes) - 1
    if manifest.tensors or manifest.files or manifest.content:
        raise UsageError("Artifact.write fills the manifest's tensors, content and files; leave them empty")
    if images.dtype != torch.uint8 or [*images.shape] != [len(images), *size] or not len(images):
        given = f"{images.dtype} {[*images.shape]}"
        raise UsageError(f"images are {given}; store torch.uint8 [N > 0, *{size}]")
    if labels.shape != images.shape[:1] or labels.dtype not in (torch.int64, torch.uint8):
        given = f"{labels.dtype} {[*labels.shape]}"
        raise UsageError(f"image_labels are {given}; store torch.int64 [{len(images)}]")
    if labels.min() < 0 or labels.max() > last:
        raise UsageError(f"image_labels leave 0..{last}; store indices into manifest.classes")
    for name, tensor in tensors.items():
        if name in STORED or not TENSOR_RULE.fullmatch(name):
            raise UsageError(f"tensor name {name!r} is reserved or not of a-z, 0-9, _ and .")
        if tensor.dtype not in _safetensors.DTYPES.values() or not tensor.numel():
            given = f"{tensor.dtype} {[*tensor.shape]}"
            raise UsageError(f"tensor {name!r} is {given}; store a plain type, and not empty")
        if not _safetensors.is_finite(tensor):
            raise UsageError(f"tensor {name!r} holds a value that is not finite; correct it")


def _check_target(folder: Path) -> None:
    """UsageError unless `folder` is missing, empty, or an artifact with nothing beside it."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another folder")
    names = names_in(folder, _PARTS)
    if names and (MANIFEST not in names or names - _FILES):
        cause = f"it holds {min(names - _FILES)!r}" if names - _FILES else f"it has no {MANIFEST}"
        raise UsageError(f"{folder}: not overwritten, {cause}; choose another folder")


def _results_of(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """`results.jsonl` of the artifact at `folder`, if it has this name and content and the file is sound.

    The same data made again may have another digest, which its results then get: they are results of these data.
    """
    try:
        old = Artifact.open(folder, verify=False)
        same = (old.manifest.name, old.manifest.content) == (manifest.name, manifest.content)
        if same and (results := old.results()):
            known = ({**x, "digest": manifest.digest} if "digest" in x else x for x in results)
            return {RESULTS: "".join(canonical(seal(x)) + "\n" for x in known).encode()}
    except ArtifactError:
        pass  # nothing there, or damaged and therefore replaced
    return {}
