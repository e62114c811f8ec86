"""Score a net on real images that it was not trained on: top-1 accuracy, un-augmented.

evaluate(model, "cifar10")
evaluate(model, (images, labels), mean=data.about.mean, std=data.about.std)        # u8 [N, C, H, W], whole [N]
evaluate(model, torchvision.datasets.CIFAR10(root, train=False, transform=...))    # whose items are normalised
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ddhub.data.transfer import sent
from ddhub.errors import UsageError, first_line
from ddhub.sources.source import Source, open_source
from ddhub.training.devices import computing, layout, placed, resolve_device, resolve_precision

_BATCH = 500
_KINDS = "the name of a data set, a Source, a pair (images, labels), or a torch data set of (image, class)"


def evaluate(
    model: nn.Module,
    test: str | Source | tuple[Any, Any] | Dataset[Any],
    *,
    root: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
) -> float:
    """Top-1 accuracy in percent on all test images, un-augmented.

    Args:
        model: a net that takes normalised images `[B, C, H, W]`.
        test: a data set's name (its test split) or a Source; images `[N, C, H, W]` and class numbers `[N]`, as tensors
            or arrays; or a torch data set of both. Of the last two, bytes are normalised by `mean` and `std`, and
            floats taken as they are.
        root: where real data lies.
        mean, std: the normalisation the net was trained with, per channel; the data set's own if not given.
        device, precision: as for `ddhub.train`.

    Raises:
        UsageError: a net that does not take the images, or gives other than a number for each class; test images
            that are none.
        SourceError: no test data.
    """
    require_net(model)
    where = resolve_device(device)
    precise = resolve_precision(precision, where)
    if isinstance(test, str):
        test = open_source(test, "test", root=root)
    net = placed(model, where)
    own = (test.mean, test.std) if isinstance(test, Source) else (None, None)
    scale = _scale(own[0] if mean is None else mean, own[1] if std is None else std, where)
    classes = len(test.classes) if isinstance(test, Source) else None
    said, known = [], []  # on the device until the end, as nothing waits for a GPU before
    with computing(where, precise), _in_eval_mode(net), torch.no_grad():
        for images, labels in _batches(test):
            output = answered(net, _normalised(images, scale, where), precise, classes)
            if int(labels.max()) >= output.shape[1]:
                cause = (
                    f"gives {output.shape[1]} numbers an image, and the test images have a class {int(labels.max())}"
                )
                raise UsageError(f"net {type(net).__name__} {cause}; score it on data of its own classes")
            said.append(output.argmax(1))
            known.append(labels)
    if not known:
        raise UsageError("there are no test images; give some")
    return 100 * float((torch.cat(said).cpu() == torch.cat(known)).float().mean())


@contextmanager
def _in_eval_mode(net: nn.Module) -> Iterator[None]:
    """Eval mode within; then every layer is in the mode that it was in, so that the caller's own loop goes on."""
    modes = {layer: layer.training for layer in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training


def answered(net: nn.Module, x: Tensor, precision: str, classes: int | None) -> Tensor:
    """The logits f32 `[B, classes]` of a net for normalised images `[B, C, H, W]`; of any number of classes for None.

    Raises:
        UsageError: a net that does not take them, or gives something else.
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return checked(net, x.contiguous(memory_format=layout(net, x.device)), classes).float()


def checked(net: nn.Module, x: Tensor, classes: int | None) -> Tensor:
    """What a net gives for a batch. UsageError unless it takes the batch and gives a number a class and image."""
    needs = f"[{len(x)}, {classes or 'classes'}] from images {_kind(x)}"
    try:
        output: Tensor = net(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        types = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in net.parameters()})) or "none"
        cause = f"does not take the images ({first_line(error)}); its weights are {types}"
        raise UsageError(f"net {type(net).__name__} {cause}, and the data need {needs}") from error
    if not isinstance(output, Tensor) or output.ndim != 2 or [*output.shape] != [len(x), classes or output.shape[1]]:
        given = _kind(output) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise UsageError(f"net {type(net).__name__} gives {given}, and the data need {needs}; change its last layer")
    return output


def require_net(model: object) -> None:
    """UsageError unless it is a net."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is of type {type(model).__name__}; give a net (torch.nn.Module)")


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {[*x.shape]}"


def _batches(test: object) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and class numbers on the CPU, some at a time. UsageError for what has none."""
    if isinstance(test, Source):
        yield from zip(test.images.split(_BATCH), test.labels.split(_BATCH), strict=True)
    elif isinstance(test, (tuple, list)) and len(test) == 2:
        try:
            images, labels = (torch.as_tensor(part, device="cpu") for part in test)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"test images or labels are no arrays ({first_line(error)}); give {_KINDS}") from None
        _check(images, labels)
        yield from zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    elif isinstance(test, Dataset) and hasattr(test, "__len__"):
        for first in range(0, len(test), _BATCH):
            try:
                items = [test[row] for row in range(first, min(first + _BATCH, len(test)))]
                images = torch.stack([image for image, _ in items])
                labels = torch.tensor([int(label) for _, label in items], device="cpu")
            except (TypeError, ValueError, RuntimeError) as error:
                cause = f"its items are no pairs (image tensor, class) of one size ({first_line(error)})"
                raise UsageError(f"test is a {type(test).__name__}, and {cause}; give it a transform") from error
            _check(images, labels)
            yield images, labels
    else:
        raise UsageError(f"test is of type {type(test).__name__}; give {_KINDS}")


def _check(images: Tensor, labels: Tensor) -> None:
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if images.ndim != 4 or not images.numel() or labels.shape != images.shape[:1] or not whole:
        given = f"{_kind(images)} and {_kind(labels)}"
        raise UsageError(f"test images and labels are {given}; they must be [N, C, H, W] and whole numbers [N]")
    if int(labels.min()) < 0:
        raise UsageError("a label of the test images is below 0; they must be class numbers")


def _scale(
    mean: Sequence[float] | None, std: Sequence[float] | None, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    if mean is None or std is None:
        return None
    try:
        centre, spread = (torch.tensor([*map(float, x)], device=device).view(-1, 1, 1) for x in (mean, std))
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"mean is {mean!r} and std {std!r}; give a number for each channel") from None
    return centre, spread


def _normalised(images: Tensor, scale: tuple[Tensor, Tensor] | None, device: torch.device) -> Tensor:
    x = sent(images, device)
    if images.is_floating_point():
        return x.to(torch.float32)
    if images.dtype != torch.uint8 or scale is None:
        cause = f"{_kind(images)}, and bytes need mean= and std=" if images.dtype == torch.uint8 else _kind(images)
        raise UsageError(f"test images are {cause}; give bytes with the net's mean= and std=, or normalised floats")
    if any(len(part) not in (1, images.shape[1]) for part in scale):
        raise UsageError(f"test images have {images.shape[1]} channels, and mean and std {len(scale[0])}; give as many")
    return (x.to(torch.float32) / 255 - scale[0]) / scale[1]
