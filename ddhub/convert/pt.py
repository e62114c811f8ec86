"""Safe reader of tensors in a `.pt` file of unknown origin: no code in the file is run.

    load(Path("images_best.pt"))        # a Tensor, a number, or a list or dict of them

A `.pt` file is a zip of a pickle and the bytes of tensors. A pickle can run any function that it names, so there are
three defences. The names in the pickle are read without executing it, and all but those that rebuild a plain tensor are
refused; torch loads the file with `weights_only=True`; and the bytes are mapped into memory, so that no tensor can be
larger than the file. Checksums are compared. `weights_only=True` alone lets a file allocate a `bytearray` of a
terabyte and compares no checksums. Files of torch before version 1.6 are not zip files and are refused.
"""

from __future__ import annotations

import pickletools
import stat
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddhub.errors import ArtifactError, DDHubError, UsageError, first_line
from ddhub.io.files import max_bytes

AGAIN = "save its tensors again: torch.save(tensor, FILE)"

_PICKLE = 2**20  # limit in bytes; the pickle of a few tensors has a few hundred
_STORAGES = ("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double")
_HARMLESS = {
    "collections OrderedDict",
    *(f"torch._utils {name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")),
    *(f"torch {name}Storage" for name in _STORAGES),
}
_CALLS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


def load(path: Path) -> Any:
    """The content of a file of `torch.save`, on the CPU; its tensors are views of the mapped file.

    Raises:
        ArtifactError: the file is missing, damaged, of another format, or needs pickle for more than tensors.
        UsageError: the file is larger than DDHUB_MAX_BYTES.
    """
    sizes = _check(path)
    try:
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises errors of many kinds for damaged bytes
        raise ArtifactError(f"{path}: cannot be read ({first_line(error)}); {AGAIN}") from None
    for tensor in _tensors(content, path):
        if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() not in sizes:
            raise ArtifactError(f"{path}: a tensor in it is not as long as its bytes; {AGAIN}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ArtifactError(f"{path}: a tensor in it repeats its bytes; {AGAIN}")
    return content


def check_size(path: Path) -> None:
    """Raise ArtifactError for anything but a file, UsageError above DDHUB_MAX_BYTES, OSError if it cannot be read."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path}: not a file; give the path of one")
    if status.st_size > max_bytes():
        cause = f"{status.st_size:,} bytes, and DDHUB_MAX_BYTES allows {max_bytes():,}"
        raise UsageError(f"{path}: {cause}; raise it if you trust the file")


def _check(path: Path) -> set[int]:
    """The sizes in bytes of a file's members, after checks of its zip directory, pickle and checksums."""
    try:
        check_size(path)
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            names = [member.filename for member in members]
            pickles = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
            if len(set(names)) < len(names) or len(pickles) != 1 or pickles[0].file_size > _PICKLE:
                raise ArtifactError(f"{path}: not a file of torch.save; {AGAIN}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ArtifactError(f"{path}: compressed, so not a file of torch.save; {AGAIN}")
            _check_pickle(path, file.read(pickles[0]))
            if damaged := file.testzip():  # torch does not compare checksums
                raise ArtifactError(f"{path}: {damaged!r} in it is damaged (CRC-32 differs); fetch it again")
            return {member.file_size for member in members}
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from None
    except DDHubError:
        raise
    except Exception as error:  # zipfile and pickletools raise errors of many kinds for damaged bytes
        cause = f"cut off, or not a file of torch.save in PyTorch 1.6 or newer ({first_line(error)})"
        raise ArtifactError(f"{path}: {cause}; fetch it again, or {AGAIN}") from None


def _check_pickle(path: Path, data: bytes) -> None:
    """Raise ArtifactError for a pickle that names anything but plain tensors."""
    for code, argument, _ in pickletools.genops(data):
        if code.name in _CALLS or (code.name == "GLOBAL" and argument not in _HARMLESS):
            name = str(argument or code.name).replace(" ", ".")[:100]
            raise ArtifactError(f"{path}: needs pickle ({name!r}), which is never run; {AGAIN}")


def _tensors(content: object, path: Path) -> list[Tensor]:
    """The tensors of a loaded file. Raises ArtifactError for anything but tensors and numbers in one list or dict."""
    values = content if isinstance(content, (list, tuple)) else [content]
    values = [*content.values()] if isinstance(content, dict) else values
    odd = next((x for x in values if not isinstance(x, (Tensor, int, float))), None)
    if odd is not None:
        raise ArtifactError(f"{path}: holds a {type(odd).__name__}, not tensors and numbers; {AGAIN}")
    return [x for x in values if isinstance(x, Tensor)]
