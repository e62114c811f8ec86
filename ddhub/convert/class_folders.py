"""Import of images in one folder a class, as SRe2L (`new000/class000_id000.jpg`) and RDED (`00000/…`) publish them.

The names of the folders are the names of the classes, their WordNet ids, or numbers from 0 on after a common prefix;
`numbers` assigns a class to each folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ddhub.convert.export import class_folders
from ddhub.convert.formats import ImportedData
from ddhub.errors import ArtifactError, UsageError
from ddhub.io.files import max_bytes
from ddhub.sources.folder import read_tree
from ddhub.sources.known import FOLDER, KNOWN, plain
from ddhub.sources.resize import RULE, Batch, Fit, decode, header_of

_FILES = 256
_REPAIR = "fetch it again or remove it"


def read_folder(path: Path, classes: Sequence[str], channels: int, side: int | None, resize: bool) -> ImportedData:
    """Read the images below `path`, class by class, within a class in the order of file names.

    Args:
        path: the folder of the class folders.
        classes: the data set's classes, in the order of its labels.
        channels: 1 or 3.
        side: side of the images in pixels; by default that of the first image.
        resize: True: images of other sizes are cut and resized (`ddhub.sources.resize.RULE`); False: they are refused.

    Raises:
        ArtifactError: the folders do not fit the classes.
        SourceError: the tree is missing, or a file is damaged or, unless `resize`, has another size.
        UsageError: the images are not square and no side is given, or are larger than DDHUB_MAX_BYTES.
    """
    images = read_tree(f"{FOLDER}{path}").splits["train"]
    number, rule, named = numbers([*images.classes], classes, path)
    names = sorted(images.classes, key=number.__getitem__)
    files = [file for name in names for file in images.classes[name]]
    labels = torch.tensor([number[name] for name in names for _ in images.classes[name]], device="cpu")
    width, height, _ = header_of(files[0], _REPAIR)
    if side is None and width != height:
        raise UsageError(f"{files[0]}: {width}x{height} pixels, not square; give a side to resize to: --size")
    side = side or width
    shape = (len(files), channels, side, side)
    if (total := int(np.prod(shape, dtype=np.int64))) > max_bytes():
        raise UsageError(f"{path}: {total:,} bytes of pixels, and DDHUB_MAX_BYTES allows {max_bytes():,}; raise it")
    fit = Fit(channels, side, None if resize else side, True, _REPAIR, f"resize all of them: --size {side}")
    pixels, jpeg, resized, converted = torch.empty(shape, dtype=torch.uint8, device="cpu"), 0, 0, Counter[str]()
    for start in range(0, len(files), _FILES):
        part = files[start : start + _FILES]
        chunk = decode(fit, Batch([*map(str, part)], part, labels[start : start + _FILES].numpy()))
        pixels[start : start + _FILES] = torch.from_numpy(chunk.pixels)
        jpeg, resized, converted = jpeg + chunk.jpeg, resized + chunk.resized, converted + chunk.converted
    notes = [f"Class folders {rule}."]
    if jpeg:
        notes.append(f"{jpeg:,} of the {len(files):,} images were published as JPEG; the decoded pixels are stored.")
    if resized:
        notes.append(f"{resized:,} images had another size: {RULE} to {side} px.")
    notes += [f"{count:,} images of mode {mode} were converted." for mode, count in sorted(converted.items())]
    if images.others:
        notes.append(f"{len(images.others):,} files that are not images were left out.")
    return ImportedData(
        images=pixels, classes=labels, scale="unit", named=named, files=tuple(files), notes=tuple(notes)
    )


def numbers(folders: Sequence[str], classes: Sequence[str], path: Path) -> tuple[dict[str, int], str, bool]:
    """The class number of each folder, the rule that assigned it, and whether the rule uses names of classes.

    Raises:
        ArtifactError: the number of folders is not that of the classes, or the names of folders fit no rule.
    """
    if len(folders) != len(classes):
        raise ArtifactError(f"{path}: {len(folders)} class folders, and the data set has {len(classes)} classes")
    wordnet_ids = KNOWN["imagenet-1k"].classes
    ids = {
        name: wordnet_ids[i] for spec in KNOWN.values() for i, name in zip(spec.imagenet, spec.classes, strict=False)
    }
    spellings = {
        "bear the names of the classes": [*classes],
        "bear the numbers and names of the classes": class_folders(classes),
        "bear the WordNet ids of the classes": [ids.get(name, "") for name in classes],
    }
    for rule, names in spellings.items():
        known = {plain(name): number for number, name in enumerate(names)}
        assigned = {folder: known[plain(folder)] for folder in folders if plain(folder) in known}
        if len({*assigned.values()}) == len(classes):
            return assigned, rule, True
    matches = [re.fullmatch(r"(\D*)(\d{1,6})", folder) for folder in folders]
    counted = {match[0]: int(match[2]) for match in matches if match}
    one_prefix = len({match[1] for match in matches if match}) == 1
    if one_prefix and sorted(counted.values()) == [*range(len(classes))]:
        return counted, f"are numbered from {min(counted, key=lambda x: counted[x])} on", False
    strange = sorted(folder for folder in folders if plain(folder) not in map(plain, classes))
    raise ArtifactError(
        f"{path}: folder {(strange or sorted(folders))[0]!r} is not one of the classes ({', '.join(classes[:4])}, …), "
        f"and the folders are not numbered from 0 to {len(classes) - 1}; rename them"
    )
