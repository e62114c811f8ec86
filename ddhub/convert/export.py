"""Export: the training set that an artifact stands for, for other tools.

    export("cifar10-infer-ipc10", "datasets", "out/infer")          # then datasets.load_from_disk("out/infer")

Every item is decoded and left un-augmented. Items come class by class, within a class in the decoder's order.

| to            | what is written                                                                     | pixels        |
|---------------|-------------------------------------------------------------------------------------|---------------|
| `imagefolder` | CLASS/00000.png; `metadata.jsonl`, a line an image: file_name, label, logits        | 8 bits        |
| `npz`         | a file: images f32 [N, C, H, W], labels i64 [N], logits f16 [N, classes], classes, | unit scale    |
|               | facts (JSON)                                                                        |               |
| `datasets`    | a folder of `Dataset.save_to_disk`: image, label (ClassLabel), logits               | 8 bits        |
| `pt`          | images.pt f32 [N, C, H, W], labels.pt f32 [N, classes] or i64 [N], hard_labels.pt   | normalised by |
|               | i64 [N], lr.pt                                                                      | mean and std  |

Logits are there where the artifact stores one label an item: soft labels, to be read at `labels.temperature` of the
facts. Labels of a teacher, and those that are stored per view, say nothing of an item without augmentation; the class
remains. `lr.pt` is the learned step size of artifacts that have one. The facts (mean, std, classes, protocol, license,
citation, …) are in `ddhub.json` of a folder. Values of 8 bits are rounded and clipped to [0, 1]: a compensated image is
not on that grid, and `Export.change` says how far it was moved. npz and pt hold what a student sees, to the bit.

Folders of `imagefolder` bear the classes' names, so that a tool that numbers them in alphabetical order, as torchvision
does, numbers them right; where the names are not in that order, or no file names, they become NUMBER-NAME.

`pt` is what DD-Ranking's evaluators take: `image_tensor` normalised (a tensor gets no transform there), `soft_labels`
as logits (its own are teachers' outputs), `hard_labels`, `syn_lr`. Its soft evaluator assumes classes in order, with
its `ipc` items each: N / classes. This was read in its README and evaluators, not run. It normalises test images
itself, those of CIFAR-100 with the constants of CIFAR-10: compare them with mean and std of the facts first.
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
from ddhub.errors import DDHubError, UsageError, first_line, unknown
from ddhub.io.files import is_alive
from ddhub.remote.find import resolve

RECORD = "ddhub.json"
_BATCH = 256


@dataclass(kw_only=True)
class _Set:
    """The items to write; `change` is the largest difference that rounding to 8 bits has made so far."""

    manifest: Manifest
    decoder: Decoder
    items: Tensor  # i64 [N], class by class
    labels: Tensor  # i64 [N]
    logits: Tensor | None  # f16 [N, classes]
    change: float = field(default=0.0)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.items), *self.manifest.image_size

    def batches(self) -> Iterator[Tensor]:
        """Images in unit scale, f32 [B, C, H, W]."""
        return (self.decoder(items) for items in self.items.split(_BATCH))

    def pngs(self) -> Iterator[bytes]:
        """The images as PNG files of 8 bits."""
        for x in self.batches():
            rounded = x.mul(255).round().clamp(0, 255)
            self.change = max(self.change, float((rounded / 255 - x).abs().max()))
            for image in rounded.byte().permute(0, 2, 3, 1).numpy():
                out = io.BytesIO()
                Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(out, format="PNG")
                yield out.getvalue()

    def rows(self) -> Iterator[dict[str, Any]]:
        """label, and logits where there are some, of every item."""
        for row, label in enumerate(self.labels.tolist()):
            yield {"label": label} if self.logits is None else {"label": label, "logits": self.logits[row].tolist()}

    def record(self) -> str:
        m = self.manifest
        keys = ["name", "digest", "method", "dataset", "ipc", "classes", "image_size", "mean", "std", "labels"]
        keys += ["protocol", "source", "license", "citation"]
        return json.dumps({key: getattr(m, key) for key in keys}, indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: `change` is the largest difference, in unit scale, between a value and its 8 bits."""

    path: Path
    items: int
    logits: bool
    change: float


def export(name: str | Path, to: str, out: str | Path) -> Export:
    """Write the reconstructed set of an artifact to `out`, whole or not at all.

    Args:
        name: a bundled artifact's name or an artifact's folder.
        to: imagefolder, npz, datasets or pt.
        out: a folder, for npz a file; nothing may be there.

    Raises:
        UsageError: an unknown name or format, or an `out` that exists.
        ArtifactError: a damaged artifact.
        DDHubError: a disk that is full or read-only.
    """
    if to not in _WRITERS:
        raise unknown("format", to, _WRITERS, "ddhub export --help")
    target = Path(out)
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} is there already; choose another OUT, or move it away")
    contents = _read(resolve(name))
    try:
        with _made_whole(target) as part:
            _WRITERS[to](contents, part)
            if part.is_dir():
                (part / RECORD).write_text(contents.record())
    except OSError as error:
        cause = error.strerror or first_line(error)
        raise DDHubError(f"{target}: cannot be written ({cause}); free space or choose another place") from None
    return Export(path=target, items=len(contents.items), logits=contents.logits is not None, change=contents.change)


def _read(folder: Path) -> _Set:
    artifact = Artifact.open(folder)
    m, tensors = artifact.manifest, artifact.tensors()
    decoder = decode.build(m.decoder, artifact.images(), tensors, m.pixel_range)
    labels = artifact.image_labels()[decoder.image_of(torch.arange(len(decoder)))]
    items = labels.argsort(stable=True)
    logits = tensors["labels.logits"] if m.labels["kind"] == "soft" else None
    logits = logits[items] if logits is not None and logits.dim() == 2 else None
    return _Set(manifest=m, decoder=decoder, items=items, labels=labels[items], logits=logits)


def _imagefolder(contents: _Set, folder: Path) -> None:
    names = class_folders(contents.manifest.classes)
    for name in names:
        (folder / name).mkdir(parents=True)
    seen = [0] * len(names)
    with (folder / "metadata.jsonl").open("w") as file:
        for png, row in zip(contents.pngs(), contents.rows(), strict=True):
            path = f"{names[row['label']]}/{seen[row['label']]:05d}.png"
            seen[row["label"]] += 1
            (folder / path).write_bytes(png)
            file.write(json.dumps({"file_name": path, **row}) + "\n")


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class, in alphabetical order: the classes' names, or NUMBER-NAME.

    >>> class_folders(["cat", "dog"]), class_folders(["dog", "T-shirt/top"])
    (['cat', 'dog'], ['0-dog', '1-T-shirt_top'])
    """
    safe = [re.sub(r"[^\w ()-]", "_", name).strip() for name in classes]
    distinct = len({name.casefold() for name in safe}) == len(safe)  # also where a disk ignores case
    if safe == [*classes] == sorted(classes) and distinct:
        return safe
    width = len(str(len(safe) - 1))
    return [f"{number:0{width}d}-{name}" for number, name in enumerate(safe)]


def _npz(contents: _Set, path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "labels": contents.labels.numpy(),
        **({} if contents.logits is None else {"logits": contents.logits.numpy()}),
        "classes": np.array(contents.manifest.classes),
        "facts": np.array(contents.record()),
    }
    with zipfile.ZipFile(path, "w") as file:  # as numpy.savez, but image by image and without the time of day
        with file.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": contents.shape}
            np.lib.format.write_array_header_1_0(member, header)
            for x in contents.batches():
                member.write(x.numpy().astype("<f4", copy=False).tobytes())
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _datasets(contents: _Set, folder: Path) -> None:
    import pyarrow as pa

    try:
        import datasets
    except ImportError:
        raise UsageError("--to datasets needs the package: pip install datasets") from None
    classes = list(contents.manifest.classes)
    kinds: dict[str, Any] = {"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)}
    if contents.logits is not None:
        kinds["logits"] = datasets.List(datasets.Value("float32"), length=len(classes))
    features = datasets.Features(kinds)
    scratch = folder.with_name("rows.arrow")
    with pa.OSFile(str(scratch), "wb") as file, pa.ipc.new_stream(file, features.arrow_schema) as writer:
        rows: list[dict[str, Any]] = []
        for number, (png, row) in enumerate(zip(contents.pngs(), contents.rows(), strict=True), 1):
            rows.append({"image": {"bytes": png, "path": None}, **row})
            if len(rows) == _BATCH or number == len(contents.items):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=features.arrow_schema))
                rows = []
    datasets.Dataset.from_file(str(scratch)).save_to_disk(folder)


def _pt(contents: _Set, folder: Path) -> None:
    m = contents.manifest
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (m.mean, m.std))
    images = torch.empty(contents.shape)
    for part, x in zip(images.split(_BATCH), contents.batches(), strict=True):
        part.copy_((x - mean) / std)
    folder.mkdir()
    torch.save(images, folder / "images.pt")
    torch.save(contents.labels if contents.logits is None else contents.logits.float(), folder / "labels.pt")
    torch.save(contents.labels, folder / "hard_labels.pt")
    if "lr" in m.labels:
        torch.save(torch.tensor(float(m.labels["lr"])), folder / "lr.pt")


_WRITERS: dict[str, Callable[[_Set, Path], None]] = {
    "imagefolder": _imagefolder,
    "npz": _npz,
    "datasets": _datasets,
    "pt": _pt,
}
FORMATS = tuple(_WRITERS)


@contextmanager
def _made_whole(target: Path) -> Iterator[Path]:
    """A path in a hidden folder beside `target`: what is there when the block ends well becomes `target`.

    The folder goes in any case, and so do those of processes that are gone. Raises OSError.
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
