"""Export of an artifact's decoded training set for other tools.

    export("cifar10-infer-ipc10", "datasets", "out/infer")          # then datasets.load_from_disk("out/infer")

Every item is decoded and not augmented. Items are sorted by class, within a class in the decoder's order.

| to            | files and their contents                                                            | pixels        |
|---------------|-------------------------------------------------------------------------------------|---------------|
| `imagefolder` | CLASS/00000.png; `metadata.jsonl`, a line an image: file_name, label, logits        | 8 bits        |
| `npz`         | a file: images f32 [N, C, H, W], labels i64 [N], logits f16 [N, classes], classes, | unit scale    |
|               | facts (JSON)                                                                        |               |
| `datasets`    | a folder of `Dataset.save_to_disk`: image, label (ClassLabel), logits               | 8 bits        |
| `pt`          | images.pt f32 [N, C, H, W], labels.pt f32 [N, classes] or i64 [N], hard_labels.pt   | normalised by |
|               | i64 [N], lr.pt                                                                      | mean and std  |

Logits are written if the artifact stores one soft label an item; their temperature is `labels.temperature` of the
metadata. For labels of a teacher or labels stored per view only the class is written, as they do not apply to an item
without augmentation. `lr.pt` is the learned step size of artifacts that have one. The metadata (mean, std, classes,
protocol, license, citation, …) is in `ddhub.json` of a folder and in `facts` of an npz file. 8-bit values are rounded
and clipped to [0, 1]; `Export.change` is the largest change, which is above 0 for compensated images. npz and pt hold
exactly the values that a student sees.

Folders of `imagefolder` have the names of the classes, as tools such as torchvision number folders alphabetically. If
the names are not in alphabetical order, or not valid file names, they become NUMBER-NAME.

`pt` has the arguments of DD-Ranking's evaluators: `image_tensor` normalised (it is not transformed there),
`soft_labels` as logits, `hard_labels`, `syn_lr`. The soft evaluator assumes items sorted by class, with `ipc` =
N / classes items each. This is taken from DD-Ranking's README and code, and has not been run. DD-Ranking normalises
test images itself, and those of CIFAR-100 with the constants of CIFAR-10: compare them with mean and std of the
metadata first.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import Manifest
from ddhub.data import decode
from ddhub.data.decode import Decoder
from ddhub.data.label_bits import unpack
from ddhub.errors import DDHubError, UsageError, first_line, unknown
from ddhub.io.files import is_alive
from ddhub.remote.find import resolve

METADATA = "ddhub.json"
_BATCH = 256


@dataclass(kw_only=True)
class _TrainingSet:
    """The decoded training set; `change` is the largest difference from rounding to 8 bits so far, in unit scale."""

    manifest: Manifest
    decoder: Decoder
    items: Tensor  # i64 [N], class by class
    labels: Tensor  # i64 [N]
    logits: Tensor | None  # f16 [N, classes]
    change: float = field(default=0.0)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return len(self.items), *self.manifest.image_size

    def batches(self) -> Iterator[Tensor]:
        """Images in unit scale, f32 [B, C, H, W]."""
        return (self.decoder(items) for items in self.items.split(_BATCH))

    def pngs(self) -> Iterator[bytes]:
        """The images as PNG files with 8 bits a channel."""
        for x in self.batches():
            rounded = x.mul(255).round().clamp(0, 255)
            self.change = max(self.change, float((rounded / 255 - x).abs().max()))
            for image in rounded.byte().permute(0, 2, 3, 1).numpy():
                out = io.BytesIO()
                Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(out, format="PNG")
                yield out.getvalue()

    def rows(self) -> Iterator[dict[str, Any]]:
        """A dict for every item: its label and, if there are any, its logits."""
        for row, label in enumerate(self.labels.tolist()):
            yield {"label": label} if self.logits is None else {"label": label, "logits": self.logits[row].tolist()}

    def metadata(self) -> str:
        """The description of the set as JSON, from the manifest."""
        m = self.manifest
        keys = ["name", "digest", "method", "dataset", "ipc", "classes", "image_size", "mean", "std", "labels"]
        keys += ["protocol", "source", "license", "citation"]
        return json.dumps({key: getattr(m, key) for key in keys}, indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class Export:
    """The outcome of an export; `change` is the largest difference from rounding to 8 bits, in unit scale."""

    path: Path
    items: int
    logits: bool
    change: float


def export(name: str | Path, to: str, out: str | Path) -> Export:
    """Write the decoded training set of an artifact to `out`, completely or not at all.

    Args:
        name: the name of an artifact, or its folder.
        to: imagefolder, npz, datasets or pt.
        out: the path of a new folder, for npz of a new file.

    Raises:
        UsageError: the name or the format is unknown, or `out` exists.
        ArtifactError: the artifact is damaged.
        DDHubError: the disk is full or read-only.
    """
    if to not in _WRITERS:
        raise unknown("format", to, _WRITERS, "ddhub export --help")
    target = Path(out)
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists already; choose another OUT, or move it away")
    data = _read(resolve(name))
    try:
        with _written_whole(target) as part:
            _WRITERS[to](data, part)
            if part.is_dir():
                (part / METADATA).write_text(data.metadata())
    except OSError as error:
        cause = error.strerror or first_line(error)
        raise DDHubError(f"{target}: cannot be written ({cause}); free space or choose another folder") from None
    return Export(path=target, items=len(data.items), logits=data.logits is not None, change=data.change)


def _read(folder: Path) -> _TrainingSet:
    artifact = Artifact.open(folder)
    m, tensors = artifact.manifest, artifact.tensors()
    decoder = decode.build(m.decoder, artifact.images(), tensors, m.pixel_range)
    labels = artifact.image_labels()[decoder.image_of(torch.arange(len(decoder), device="cpu"))]
    items = labels.argsort(stable=True)
    _, unpacked = unpack(m.labels, tensors, len(m.classes))
    logits = unpacked["labels.logits"] if m.labels["kind"] == "soft" else None
    logits = logits[items] if logits is not None and logits.dim() == 2 else None
    return _TrainingSet(manifest=m, decoder=decoder, items=items, labels=labels[items], logits=logits)


def _imagefolder(data: _TrainingSet, folder: Path) -> None:
    names = class_folders(data.manifest.classes)
    for name in names:
        (folder / name).mkdir(parents=True)
    counts = [0] * len(names)
    with (folder / "metadata.jsonl").open("w") as file:
        for png, row in zip(data.pngs(), data.rows(), strict=True):
            path = f"{names[row['label']]}/{counts[row['label']]:05d}.png"
            counts[row["label"]] += 1
            (folder / path).write_bytes(png)
            file.write(json.dumps({"file_name": path, **row}) + "\n")


def class_folders(classes: Sequence[str]) -> list[str]:
    """Names of class folders in alphabetical order: the names of the classes, or NUMBER-NAME.

    >>> class_folders(["cat", "dog"]), class_folders(["dog", "T-shirt/top"])
    (['cat', 'dog'], ['0-dog', '1-T-shirt_top'])
    """
    safe = [re.sub(r"[^\w ()-]", "_", name).strip() for name in classes]
    distinct = len({name.casefold() for name in safe}) == len(safe)  # also on a disk that ignores case
    if safe == [*classes] == sorted(classes) and distinct:
        return safe
    width = len(str(len(safe) - 1))
    return [f"{number:0{width}d}-{name}" for number, name in enumerate(safe)]


def _npz(data: _TrainingSet, path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "labels": data.labels.numpy(),
        **({} if data.logits is None else {"logits": data.logits.numpy()}),
        "classes": np.array(data.manifest.classes),
        "facts": np.array(data.metadata()),
    }
    with zipfile.ZipFile(path, "w") as file:  # as numpy.savez, but in batches and without time stamps
        with file.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": data.shape}
            np.lib.format.write_array_header_1_0(member, header)
            for x in data.batches():
                member.write(x.numpy().astype("<f4", copy=False).tobytes())
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _datasets(data: _TrainingSet, folder: Path) -> None:
    import pyarrow as pa

    try:
        import datasets
    except ImportError:
        raise UsageError("--to datasets needs the package: pip install datasets") from None
    classes = list(data.manifest.classes)
    kinds: dict[str, Any] = {"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)}
    if data.logits is not None:
        kinds["logits"] = datasets.List(datasets.Value("float32"), length=len(classes))
    features = datasets.Features(kinds)
    scratch = folder.with_name("rows.arrow")
    with pa.OSFile(str(scratch), "wb") as file, pa.ipc.new_stream(file, features.arrow_schema) as writer:
        rows: list[dict[str, Any]] = []
        for number, (png, row) in enumerate(zip(data.pngs(), data.rows(), strict=True), 1):
            rows.append({"image": {"bytes": png, "path": None}, **row})
            if len(rows) == _BATCH or number == len(data.items):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=features.arrow_schema))
                rows = []
    datasets.Dataset.from_file(str(scratch)).save_to_disk(folder)


def _pt(data: _TrainingSet, folder: Path) -> None:
    m = data.manifest
    mean, std = (torch.tensor(x, device="cpu").view(-1, 1, 1) for x in (m.mean, m.std))
    images = torch.empty(data.shape, device="cpu")
    for part, x in zip(images.split(_BATCH), data.batches(), strict=True):
        part.copy_((x - mean) / std)
    folder.mkdir()
    torch.save(images, folder / "images.pt")
    torch.save(data.labels if data.logits is None else data.logits.float(), folder / "labels.pt")
    torch.save(data.labels, folder / "hard_labels.pt")
    if "lr" in m.labels:
        torch.save(torch.tensor(float(m.labels["lr"]), device="cpu"), folder / "lr.pt")


_WRITERS: dict[str, Callable[[_TrainingSet, Path], None]] = {
    "imagefolder": _imagefolder,
    "npz": _npz,
    "datasets": _datasets,
    "pt": _pt,
}
FORMATS = tuple(_WRITERS)


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """A path in a hidden folder next to `target`, which is renamed to `target` if the block succeeds.

    The hidden folder is removed afterwards, and those of dead processes are removed first. Raises OSError.
    """
    start = f".{target.name}.tmp-"
    part = target.with_name(f"{start}{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f"{glob.escape(start)}*"):
        number = old.name[len(start) :]
        if number.isdigit() and (old == part or not is_alive(int(number))):
            shutil.rmtree(old, ignore_errors=True)
    part.mkdir()
    try:
        yield part / "out"
        os.rename(part / "out", target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
