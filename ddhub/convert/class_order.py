"""Conversion of a file's class numbers to those of the data set: the order of classes, labels, images per class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddhub.convert.formats import ImportedData
from ddhub.errors import ArtifactError, UsageError
from ddhub.sources.known import plain

# the order of ImageWoof's classes in the codes of MTT, DATM and EDF, which is not that of the WordNet ids
_WOOF = "5,4,8,2,0,3,1,9,6,7"


def order_of(
    class_order: Sequence[str | int], imported: ImportedData, kind: str, dataset: str, classes: Sequence[str]
) -> list[int]:
    """The data set's number of each class of the file, in the order of the file's labels.

    Args:
        class_order: names or numbers of the data set's classes in the order of the file's labels; empty if the same.
        imported: the imported files.
        kind: their format.
        dataset, classes: the data set's name and classes.

    Raises:
        UsageError: the order lacks a class, is given for files with class names, or is missing and needed.
    """
    if not class_order:
        if dataset == "imagewoof" and kind == "pt" and not imported.named:
            raise UsageError(
                f"MTT, DATM and EDF number imagewoof's classes in another order: give --class-order {_WOOF}, or "
                "--class-order 0,1,2,3,4,5,6,7,8,9 if these files do not"
            )
        return [*range(len(classes))]
    if imported.named:
        raise UsageError("the files have the names of the classes; leave --class-order out")
    known = {plain(name): number for number, name in enumerate(classes)}
    known |= {str(number): number for number in range(len(classes))} if not all(x.isdigit() for x in classes) else {}
    order = [known.get(plain(str(name)), -1) for name in class_order]
    if sorted(order) != [*range(len(classes))]:
        cause = f"has {len(class_order)} entries, not each of the {len(classes)} classes of {dataset} once"
        raise UsageError(f"--class-order {cause}; give names or numbers: {', '.join(classes[:3])}, …")
    return order


def labels_of(imported: ImportedData, order: Sequence[int]) -> tuple[Tensor, Tensor | None, list[str]]:
    """Classes i64 `[N]`, logits f16 `[N, classes]` or None, both with the data set's numbers, and notes.

    Raises:
        ArtifactError: the labels do not fit the images or the data set.
    """
    count, images, logits = len(order), len(imported.images), None
    notes: list[str] = []
    if imported.logits is not None and imported.logits.shape != (images, count):
        shape = f"{[*imported.logits.shape]}, and there are {images} images of {count} classes"
        raise ArtifactError(f"soft labels are {shape}; are these the labels of these images?")
    classes = imported.classes if imported.classes is not None else _by_position(imported, count, notes)
    if len(classes) != images:
        raise ArtifactError(f"{len(classes)} labels for {images} images; are these the labels of these images?")
    wrong = ((classes < 0) | (classes >= count)).nonzero().flatten()
    if len(wrong):
        cause = f"label {int(classes[wrong[0]])} of image {int(wrong[0])} is not one of 0..{count - 1}"
        raise ArtifactError(f"{cause}; is it the right --dataset?")
    numbers = torch.tensor(order, device="cpu")
    if imported.logits is not None:
        logits = torch.empty(images, count, dtype=torch.float16, device="cpu")
        logits[:, numbers] = imported.logits.half()
        if not logits.isfinite().all():
            raise ArtifactError("a soft label is beyond ±65504, the largest 16-bit float; are these logits?")
        moved = float((logits[:, numbers].float() - imported.logits).abs().max())
        if moved:
            notes.append(f"Soft labels are stored as 16-bit floats, which moved a logit by at most {moved:.3g}.")
    return numbers[classes], logits, notes


def per_class(classes: Tensor, names: Sequence[str], ipc: int | None) -> int:
    """The number of images per class.

    Raises:
        ArtifactError: classes have different numbers of images.
        UsageError: the number is not `ipc`.
    """
    counts = classes.bincount(minlength=len(names))
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[few] != counts[many]:
        cause = f"{int(counts[few])} images of {names[few]!r} and {int(counts[many])} of {names[many]!r}"
        raise ArtifactError(f"{cause}; an artifact must have the same number of each class")
    if ipc not in (None, int(counts[few])):
        raise UsageError(f"there are {int(counts[few])} images a class, not {ipc}; correct --ipc")
    return int(counts[few])


def _by_position(imported: ImportedData, count: int, notes: list[str]) -> Tensor:
    """The classes of images that have only soft labels and are sorted by class, as DATM's code writes them."""
    assert imported.logits is not None, "a file without classes has logits"
    images = len(imported.images)
    if images % count:
        raise ArtifactError(f"{images} images are not divisible by {count} classes; is it the right --dataset?")
    classes = torch.arange(count, device="cpu").repeat_interleave(images // count)
    agree = int((imported.logits.argmax(1) == classes).sum())
    if 2 * agree < images:
        cause = f"only {agree} of {images} soft labels are largest at the class of their position"
        raise ArtifactError(f"{cause}; images must be sorted by class")
    notes.append(
        f"The files have only soft labels; classes were taken from the order of images, and {images - agree:,} of "
        f"{images:,} soft labels are largest at another class."
    )
    return classes
