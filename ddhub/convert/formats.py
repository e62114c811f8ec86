"""What others publish, as tensors: files of DATM and MTT, of IDC, class folders of SRe2L and RDED, npz.

| format   | what is read                                                                                             |
|----------|----------------------------------------------------------------------------------------------------------|
| `pt`     | images_X.pt `[N, C, H, W]`, labels_X.pt (classes `[N]`, or logits `[N, classes]`) and, if they are there, |
|          | lr_X.pt and hard_labels_X.pt beside it; or a folder with X = best or none; or what `ddhub export` wrote   |
| `idc`    | one .pt file: a list of images and labels, of images in unit scale                                       |
| `folder` | one folder a class (`ddhub.convert.class_folders`) |
| `npz`    | images (u8, or floats), labels; logits, classes and facts as `ddhub export` writes them                  |

Nothing of a file is run: `ddhub.convert.pt`; npz is read without pickle, and its sizes are checked before it is
unpacked.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ddhub.artifact.manifest import read_bytes
from ddhub.convert import pt
from ddhub.convert.export import RECORD
from ddhub.errors import ArtifactError, DDHubError, UsageError, first_line
from ddhub.io.files import max_bytes
from ddhub.io.json import parse

FORMATS = ("auto", "pt", "idc", "folder", "npz")
_KEYS = ("images", "labels", "logits", "classes", "facts")  # of an npz file
_TEXT_BYTES = 2**24  # of facts and of the names of classes
WHITENED = "whitened pixels have no unit scale: import the images_zca_*.pt of the same run, with the whitening undone"
_UNWHITENED = (
    "The images were learned ZCA-whitened and are stored as published with the whitening undone; students here see "
    "them normalised by mean and std, not whitened."
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was read, as the files have it: their scale, their numbers of classes.

    `facts` are those of `ddhub export`. `scale` is "unit" or "normalized" where the format says it, else None. `named`
    says that the numbers of classes are the data set's own, since the classes came with their names.
    """

    images: Tensor  # u8 or floats [N, C, H, W]
    classes: Tensor | None = None  # i64 [N]
    logits: Tensor | None = None  # floats [N, classes]
    lr: float | None = None
    scale: str | None = None
    named: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()  # all that was read
    notes: tuple[str, ...] = ()  # sentences on what became of the content


def guess(path: Path) -> str:
    """The format of a path. UsageError when there is nothing at it or no telling."""
    if path.is_dir():
        return "pt" if any(path.glob("images*.pt")) else "folder"
    if not path.is_file():
        raise UsageError(f"no file or folder {str(path)!r}; give the path of what was published")
    if path.suffix == ".npz":
        return "npz"
    if path.suffix in (".pt", ".pth"):
        return "idc" if isinstance(pt.load(path), (list, tuple)) else "pt"
    raise UsageError(f"{path}: its format cannot be told from its name; say --format {', '.join(FORMATS[1:])}")


def read_pt(path: Path, labels: Path | None) -> Published:
    """DATM's and MTT's files. Raises ArtifactError and UsageError."""
    if path.is_dir():
        candidates = [path / name for name in ("images_best.pt", "images.pt") if (path / name).is_file()]
        if not candidates:
            raise UsageError(f"{path} has no images_best.pt and no images.pt; name the file of the images")
        path = candidates[0]
    unwhitened = path.name.startswith("images_zca")
    if not unwhitened and path.name.startswith("images") and (twins := sorted(path.parent.glob("images_zca*.pt"))):
        raise UsageError(f"{path}: ZCA-whitened, as {twins[0].name} beside it says; {WHITENED}")
    ending = path.name.removeprefix("images").removeprefix("_zca") if path.name.startswith("images") else None

    def neighbour(start: str) -> Path | None:
        file = path.with_name(f"{start}{ending}")
        return file if ending is not None and file.is_file() else None

    images = _images(pt.load(path), path)
    labels = labels or neighbour("labels")
    if labels is None:
        raise UsageError(f"no labels beside {path}; name their file: --labels FILE")
    classes, logits = targets(pt.load(labels), labels)
    hard, rate = neighbour("hard_labels"), neighbour("lr")
    if hard:
        classes = targets(pt.load(hard), hard)[0]
    record = path.with_name(RECORD) if path.name == "images.pt" and path.with_name(RECORD).is_file() else None
    return Published(
        images=images,
        classes=classes,
        logits=logits,
        lr=read_rate(rate) if rate else None,
        scale="normalized" if record else "unit" if unwhitened else None,
        named=record is not None,
        record=parse(read_bytes(record, limit=_TEXT_BYTES), str(record)) if record else {},
        files=tuple(file for file in (path, labels, hard, rate, record) if file),
        notes=(_UNWHITENED,) if unwhitened else (),
    )


def read_idc(path: Path) -> Published:
    """IDC's file. Raises ArtifactError."""
    loaded = pt.load(path)
    if not isinstance(loaded, (list, tuple)) or len(loaded) != 2:
        raise ArtifactError(f"{path}: no list of images and labels; import it as --format pt?")
    classes, logits = targets(loaded[1], path)
    return Published(images=_images(loaded[0], path), classes=classes, logits=logits, files=(path,))


def read_npz(path: Path, channels: int | None) -> Published:
    """An npz file; images [N, H, W, C] and, of one channel, [N, H, W] become [N, C, H, W].

    Raises:
        ArtifactError: a file that is damaged, needs pickle or lacks an array.
        UsageError: arrays above DDHUB_MAX_BYTES.
    """
    arrays = _arrays(path)
    if missing := [key for key in ("images", "labels") if key not in arrays]:
        raise ArtifactError(f"{path}: no array {missing[0]!r} in it; save images= and labels=")
    record = parse(str(arrays["facts"]).encode(), f"{path}, facts") if "facts" in arrays else {}
    if "classes" in arrays:
        record["classes"] = arrays["classes"].tolist()
    images = _tensor(arrays["images"], path, "images")
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and channels not in (None, images.shape[1]) and images.shape[3] == channels:
        images = images.permute(0, 3, 1, 2)
    classes, logits = targets(_tensor(arrays["labels"], path, "labels"), path)
    if "logits" in arrays:
        logits = targets(_tensor(arrays["logits"], path, "logits"), path)[1]
    return Published(
        images=_images(images, path),
        classes=classes,
        logits=logits,
        scale="unit" if "facts" in arrays else None,
        named="classes" in record,
        record=record,
        files=(path,),
    )


def hashes(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """The sha256 (hex) of what was read, by what it is of; of a tree one, over the paths and hashes of its files.

    Raises:
        ArtifactError: a file that cannot be read.
    """
    if not path.is_dir() or path in (file.parent for file in files):
        return {f"sha256 of {file.name}": _sha256(file) for file in files}
    lines = sorted(f"{file.relative_to(path).as_posix()} {_sha256(file)}\n" for file in files)
    return {f"sha256 of {len(files)} files": hashlib.sha256("".join(lines).encode()).hexdigest()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(2**20):
                digest.update(data)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check name and rights") from None
    return digest.hexdigest()


def read_rate(path: Path) -> float:
    """The step size in a .pt file: a number, or a tensor of one. Raises ArtifactError."""
    loaded = pt.load(path)
    if isinstance(loaded, torch.Tensor) and loaded.numel() == 1:
        loaded = loaded.item()
    if not isinstance(loaded, (int, float)):
        raise ArtifactError(f"{path}: holds no single number; give the learned step size itself: --lr 0.01")
    return float(loaded)


def targets(loaded: object, path: Path) -> tuple[Tensor | None, Tensor | None]:
    """Labels as (classes i64 [N], None) or (None, logits [N, classes]); one-hot rows are classes.

    Raises:
        ArtifactError: neither of the two, values that are not finite, or rows of probabilities.
    """
    if not isinstance(loaded, torch.Tensor):
        raise ArtifactError(f"{path}: its labels are a {type(loaded).__name__}, no tensor; {pt.AGAIN}")
    labels = loaded.detach()
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if labels.ndim == 1 and len(labels) and whole:
        return labels.long(), None
    if labels.ndim != 2 or not labels.numel() or not labels.is_floating_point():
        shape = f"{str(labels.dtype).removeprefix('torch.')} {[*labels.shape]}"
        raise ArtifactError(f"{path}: labels are {shape}, not whole numbers [N] or logits [N, classes]; correct them")
    labels = labels.float()
    if not labels.isfinite().all():
        raise ArtifactError(f"{path}: a soft label holds a value that is not finite; correct it")
    if labels.min() >= 0 and bool(((labels.sum(1) - 1).abs() < 1e-3).all()):
        if bool((labels.amax(1) == 1).all()):
            return labels.argmax(1), None
        raise ArtifactError(f"{path}: soft labels are probabilities (rows sum to 1); save their logarithms instead")
    return None, labels


def _images(loaded: object, path: Path) -> Tensor:
    if not isinstance(loaded, torch.Tensor):
        raise ArtifactError(f"{path}: its images are a {type(loaded).__name__}, no tensor; is it the right file?")
    images = loaded.detach()
    fits = images.ndim == 4 and images.shape[1] in (1, 3) and images.numel()
    if not fits or not (images.dtype == torch.uint8 or images.is_floating_point()):
        shape = f"{str(images.dtype).removeprefix('torch.')} {[*images.shape]}"
        raise ArtifactError(f"{path}: images are {shape}, not floats or u8 [N, 1 or 3, H, W]; is it the right file?")
    return images


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of an npz file that have a meaning here, by name."""
    try:
        pt.check_size(path)
        with zipfile.ZipFile(path) as file:
            members = [x for x in file.infolist() if x.filename.removesuffix(".npy") in _KEYS]
            if len({x.filename for x in members}) < len(members):
                raise ArtifactError(f"{path}: two arrays of one name; save it again with numpy.savez")
            if (total := sum(x.file_size for x in members)) > max_bytes():
                cause = f"{total:,} bytes, and DDHUB_MAX_BYTES allows {max_bytes():,}"
                raise UsageError(f"{path}: {cause}; raise it if you trust the file")
            arrays = {}
            for member in members:
                with file.open(member) as data:
                    arrays[member.filename.removesuffix(".npy")] = _array(data, member, path)
            return arrays
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or first_line(error)}); fetch it again") from None
    except DDHubError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have errors of many kinds for damaged bytes
        raise ArtifactError(f"{path}: cut off, damaged or no npz ({first_line(error)}); fetch it again") from None


def _array(data: IO[bytes], member: zipfile.ZipInfo, path: Path) -> Any:
    """One array, whose header is checked against its bytes first."""
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, kind = header[np.lib.format.read_magic(data)](data)
    if kind.kind == "U" and member.file_size > _TEXT_BYTES:
        raise ArtifactError(f"{path}: {member.filename} has {member.file_size:,} bytes, too many for texts; correct it")
    if kind.hasobject:
        raise ArtifactError(f"{path}: {member.filename} needs pickle, which is never run; save numbers alone")
    if int(np.prod(shape, dtype=object)) * kind.itemsize != member.file_size - data.tell():
        raise ArtifactError(f"{path}: {member.filename} is not as long as its header says; save it again")
    data.seek(0)
    return np.lib.format.read_array(data, allow_pickle=False)


def _tensor(array: Any, path: Path, name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except TypeError:
        raise ArtifactError(f"{path}: {name} are {array.dtype}, not numbers; save numbers") from None
