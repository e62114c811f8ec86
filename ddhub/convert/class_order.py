"""From the numbers of classes that a file has to those of the data set: labels, their order, and how many of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddhub.convert.formats import Published
from ddhub.errors import ArtifactError, UsageError
from ddhub.sources.known import plain

# ImageWoof's classes as MTT, DATM and EDF number them, which is not in the order of the WordNet ids
_WOOF = "5,4,8,2,0,3,1,9,6,7"


def order_of(
    asked: Sequence[str | int], published: Published, kind: str, dataset: str, classes: Sequence[str]
) -> list[int]:
    """The data set's number of each class of the file.

    Args:
        asked: names or numbers of the data set's classes in the order of the file's labels; none is the same order.

    Raises:
        UsageError: not each class once, an order for classes that came with their names, or none where one is needed.
    """
    if not asked:
        if dataset == "imagewoof" and kind == "pt" and not published.named:
            raise UsageError(
                f"MTT, DATM and EDF number imagewoof's classes in an order of their own: say --class-order {_WOOF}, or "
                "--class-order 0,1,2,3,4,5,6,7,8,9 if these files do not"
            )
        return [*range(len(classes))]
    if published.named:
        raise UsageError("the classes came with their names; leave --class-order out")
    known = {plain(name): number for number, name in enumerate(classes)}
    known |= {str(number): number for number in range(len(classes))} if not all(x.isdigit() for x in classes) else {}
    order = [known.get(plain(str(name)), -1) for name in asked]
    if sorted(order) != [*range(len(classes))]:
        cause = f"has {len(asked)} entries, not each of the {len(classes)} classes of {dataset} once"
        raise UsageError(f"--class-order {cause}; give names or numbers: {', '.join(classes[:3])}, …")
    return order


def labels_of(published: Published, order: Sequence[int]) -> tuple[Tensor, Tensor | None, list[str]]:
    """Classes i64 `[N]` and logits f16 `[N, classes]` in the data set's numbers, and what there is to note.

    Raises:
        ArtifactError: labels that do not fit the images or the data set.
    """
    count, images, logits = len(order), len(published.images), None
    notes: list[str] = []
    if published.logits is not None and published.logits.shape != (images, count):
        shape = f"{[*published.logits.shape]}, and there are {images} images of {count} classes"
        raise ArtifactError(f"soft labels are {shape}; are these the labels of these images?")
    classes = published.classes if published.classes is not None else _by_position(published, count, notes)
    if len(classes) != images:
        raise ArtifactError(f"{len(classes)} labels for {images} images; are these the labels of these images?")
    wrong = ((classes < 0) | (classes >= count)).nonzero().flatten()
    if len(wrong):
        cause = f"label {int(classes[wrong[0]])} of image {int(wrong[0])} is none of 0..{count - 1}"
        raise ArtifactError(f"{cause}; is it the right --dataset?")
    numbers = torch.tensor(order)
    if published.logits is not None:
        logits = torch.empty(images, count, dtype=torch.float16)
        logits[:, numbers] = published.logits.half()
        if not logits.isfinite().all():
            raise ArtifactError("a soft label is beyond ±65504, the largest 16-bit float; are these logits?")
        moved = float((logits[:, numbers].float() - published.logits).abs().max())
        if moved:
            notes.append(f"Soft labels are stored as 16-bit floats, which moved a logit by at most {moved:.3g}.")
    return numbers[classes], logits, notes


def per_class(classes: Tensor, names: Sequence[str], ipc: int | None) -> int:
    """Images a class.

    Raises:
        ArtifactError: not as many of each.
        UsageError: another number than `ipc`.
    """
    counts = classes.bincount(minlength=len(names))
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[few] != counts[many]:
        cause = f"{int(counts[few])} images of {names[few]!r} and {int(counts[many])} of {names[many]!r}"
        raise ArtifactError(f"{cause}; an artifact has as many of each class")
    if ipc not in (None, int(counts[few])):
        raise UsageError(f"there are {int(counts[few])} images a class, not {ipc}; correct --ipc")
    return int(counts[few])


def _by_position(published: Published, count: int, notes: list[str]) -> Tensor:
    """The classes of images that have soft labels alone and come class by class, as DATM's code writes them."""
    assert published.logits is not None, "a file without classes has logits"
    images = len(published.images)
    if images % count:
        raise ArtifactError(f"{images} images are not as many of each of {count} classes; is it the right --dataset?")
    classes = torch.arange(count).repeat_interleave(images // count)
    agree = int((published.logits.argmax(1) == classes).sum())
    if 2 * agree < images:
        cause = f"soft labels are largest at the class of their place for {agree} of {images} images only"
        raise ArtifactError(f"{cause}; images must come class by class")
    notes.append(
        f"There are soft labels alone; the class of an image is that of its place, and {images - agree:,} of "
        f"{images:,} soft labels are largest at another class."
    )
    return classes
