"""The two measures of Comp-DD: the complexity of images, and the share of accuracy that distilled data recovers.

    score of image i = 1 - share of positions with A_i > 0.5        A_i: its class activation map, in [0, 1]
    complexity of a class = mean score of its training images
    recovery ratio = accuracy on distilled data / accuracy on all data

From *Emphasizing Discriminative Features for Dataset Distillation in Complex Scenarios* (Wang et al., CVPR 2025,
arXiv 2410.17193): the ten classes of highest complexity of a category are its hard subset, the ten of lowest
complexity its easy subset (`birds-hard`, `birds-easy`, ...). Scores of the paper are in percent, here in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddhub.errors import UsageError

Cam = Callable[[nn.Module, Tensor, Tensor], Tensor]


def complexity_score(maps: Tensor, *, threshold: float = 0.5, strict: bool = True) -> Tensor:
    """Complexity scores `[N]` in [0, 1]: the share of each class activation map that is not active.

    Args:
        maps: `[N, h, w]` in [0, 1], usually with minimum 0 and maximum 1; the official code takes them at the
            resolution of the net's layer.
        threshold: the value above which a position is active.
        strict: True: a position at the threshold is not active (the official code); False: it is (the paper's formula).

    Raises:
        UsageError: the maps have another shape or values outside [0, 1].
    """
    if maps.ndim != 3 or not maps.numel():
        raise UsageError(f"maps are of shape {[*maps.shape]}; give [images, height, width]")
    _require_shares(maps)
    return _inactive(maps, threshold, strict)


def net_complexity(
    net: nn.Module,
    images: Tensor,
    cam: Cam,
    *,
    classes: Tensor | None = None,
    threshold: float = 0.5,
    strict: bool = True,
    batch: int = 64,
) -> Tensor:
    """Complexity scores `[N]` of images from a net's class activation maps, each scaled to [0, 1].

    The paper uses an ImageNet ResNet-18, images squashed to 224 x 224, and Smooth Grad-CAM++ maps, taken here at the
    last block (7 x 7), as the paper does not name the block. Large sets can be scored in several calls.

        net_complexity(net, images, ddhub.measures.cam.grad_cam)

    Args:
        net: returns logits `[B, classes]`; it must be frozen and in eval mode.
        images: normalised, `[N, C, H, W]`.
        cam: a function whose `cam(net, images, classes)` returns maps `[B, h, w]`.
        classes: the class `[N]` of each map; if None, the class that the net predicts, as in the official code.
        threshold: as for `complexity_score`.
        strict: as for `complexity_score`.
        batch: images per forward pass.

    Raises:
        UsageError: `classes` does not have one class an image, or the net has no feature maps.
    """
    if classes is not None and classes.shape != images.shape[:1]:
        raise UsageError(f"{[*classes.shape]} classes of {len(images)} images; give one each")
    scores, ends = [images.new_empty(0, dtype=torch.float64)], [images.new_empty(0)]
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        with torch.no_grad():
            y = net(x).argmax(1) if classes is None else classes[start : start + batch]
        maps = cam(net, x, y)
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        scaled = (maps - low) / (high - low + 1e-8)  # a constant map becomes 0, as in the official code
        scores.append(_inactive(scaled, threshold, strict))
        ends += [scaled.amin((1, 2)), scaled.amax((1, 2))]
    _require_shares(torch.cat(ends))  # of all batches, so that a GPU is waited for once
    return torch.cat(scores).cpu()


def _require_shares(values: Tensor) -> None:
    if not bool(((values >= 0) & (values <= 1)).all()):
        least, greatest = float(values.min()), float(values.max())
        raise UsageError(f"maps have values from {least:.3g} to {greatest:.3g}; scale each to [0, 1]")


def _inactive(maps: Tensor, threshold: float, strict: bool) -> Tensor:
    """The share `[N]` of the positions of each map `[N, h, w]` that are not active."""
    active = maps > threshold if strict else maps >= threshold
    return 1 - active.double().mean((1, 2))


def class_complexity(scores: Tensor, labels: Tensor, classes: int | None = None) -> Tensor:
    """The complexity `[classes]` of each class: the mean score of its images.

    Args:
        scores: the score `[N]` of each image.
        labels: the class `[N]` of each image.
        classes: number of classes; if None, the largest label + 1.

    Raises:
        UsageError: scores and labels differ in number, a label is out of range, or a class has no images.
    """
    if scores.ndim != 1 or scores.shape != labels.shape or not len(labels):
        raise UsageError(
            f"scores are {[*scores.shape]} and labels {[*labels.shape]}; give one score and one label an image"
        )
    count = int(labels.max()) + 1 if classes is None else classes
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise UsageError(f"labels are {int(labels.min())} to {int(labels.max())}, not within 0 to {count - 1}")
    sizes = labels.bincount(minlength=count)
    if int(sizes.min()) == 0:
        raise UsageError(f"class {int(sizes.argmin())} has no images; its complexity is not defined")
    return torch.zeros(count, dtype=torch.float64, device="cpu").index_add_(0, labels, scores.double()) / sizes


def recovery_ratio(distilled: float, full: float) -> float:
    """The share of the accuracy on all data that distilled data reaches, in percent: 100 · distilled / full.

    Args:
        distilled: accuracy in percent of a net trained on the distilled data.
        full: accuracy in percent of the same net trained on all data.

    Raises:
        UsageError: an accuracy is outside 0 to 100, or `full` is 0.

    >>> round(recovery_ratio(71.0, 87.8), 1)
    80.9
    """
    if not (0 <= distilled <= 100 and 0 < full <= 100):
        raise UsageError(f"accuracies are {distilled} and {full} %; the first is 0 to 100, the second above 0 to 100")
    return 100 * distilled / full
