"""Class activation maps: where in an image a net sees a class.

    A[i, j] = Σ_k W[y, k] · F_k[i, j]            mean over F, then a linear head          mean(A) + b_y = logit_y
    A[i, j] = Σ_k W[y, k, i, j] · F_k[i, j]      F flattened into a linear head           sum(A) + b_y = logit_y
    A[i, j] = ReLU(Σ_k α_k · F_k[i, j]),  α_k = mean over positions of ∂logit_y / ∂F_k    any other head

F `[K, h, w]` is the last feature map. The first formula is CAM (Zhou et al., 2016, arXiv 1512.04150), the second is CAM
for the heads of ConvNets, and the third is Grad-CAM (Selvaraju et al., 2017, arXiv 1610.02391). For a mean and a linear
head Grad-CAM equals CAM divided by h · w, up to the ReLU. `cam` uses the first two formulas for the nets of
`ddhub.models` and the third for other nets; `grad_cam` uses the third for every net. `smooth_grad_cam` is Smooth
Grad-CAM++ (Omeiza et al., 2019, arXiv 1908.01224), which averages gradients over noisy copies of the images.

    maps = cam(net, images, classes)                    # [B, h, w]
    critical = attention(maps, size=images.shape[2:])   # [B, H, W] in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub.errors import UsageError
from ddhub.models import Net


def cam(net: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Class activation maps A `[B, h, w]` of normalised images `[B, channels, H, W]` for their `classes` `[B]`.

    Args:
        net: returns logits `[B, C]`; it must be frozen and in eval mode, so that images do not influence one another.

    Raises:
        UsageError: the net has no feature maps, such as a transformer of tokens.
    """
    layer, depth = _last_map(net, images[:1])
    if isinstance(net, Net) and _is_linear_from(net, layer):
        weight = net.head.weight.detach()[classes]
        with torch.no_grad(), _features(layer, lambda output: output) as features:
            net(images)
        if net.head.in_features == depth:
            return torch.einsum("bk,bkhw->bhw", weight, features[0])
        return (weight.view_as(features[0]) * features[0]).sum(1)

    return _grad_cam(*_slopes(net, images, classes, layer))


def grad_cam(net: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM `[B, h, w]` for a net with any head; arguments and errors as for `cam`."""
    layer, _ = _last_map(net, images[:1])
    return _grad_cam(*_slopes(net, images, classes, layer))


def smooth_grad_cam(net: nn.Module, images: Tensor, classes: Tensor, noise: Tensor) -> Tensor:
    """Smooth Grad-CAM++ `[B, h, w]` as torchcam 0.4 computes it; arguments and errors as for `cam`.

    g_m is the gradient ∂logit_y / ∂F and F_m the feature map of noisy pass m of M; F is the feature map of the clean
    images; means are over m:

        α_k[i, j] = mean g² / (2 · mean g² + Σ_ab mean g³ · F_k + 1e-8)        w_k = Σ_ij α_k · ReLU(g_M)_k
        A = ReLU(Σ_k w_k · F_M,k)

    Args:
        noise: the noise added to the images, `[M, B, channels, H, W]`.
    """
    layer, _ = _last_map(net, images[:1])
    clean, slope = _slopes(net, images, classes, layer)
    square, cube = torch.zeros_like(slope), torch.zeros_like(slope)
    for added in noise:
        features, slope = _slopes(net, images + added, classes, layer)
        square += slope.square() / len(noise)
        cube += slope**3 / len(noise)
    share = square / (2 * square + (cube * clean).sum((2, 3), keepdim=True) + 1e-8)
    weight = (share * F.relu(slope)).sum((2, 3))
    return F.relu(torch.einsum("bk,bkhw->bhw", weight, features))


def _grad_cam(features: Tensor, slope: Tensor) -> Tensor:
    return F.relu(torch.einsum("bk,bkhw->bhw", slope.mean((2, 3)), features))


def _slopes(net: nn.Module, images: Tensor, classes: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """A layer's output F `[B, K, h, w]` and the gradient of each image's logit of its class with respect to it."""
    # The output becomes a leaf, so the graph starts there. In-place layers after it change a copy.
    with torch.enable_grad(), _features(layer, lambda output: output.detach().requires_grad_()) as features:
        logits = net(images).gather(1, classes[:, None])
    (slope,) = torch.autograd.grad(logits.sum(), features)
    return features[0].detach(), slope


def attention(maps: Tensor, size: tuple[int, int], cells: int = 1) -> Tensor:
    """Maps `[B, h, w]` scaled to [0, 1], `[B, H, W]`: ReLU, bilinear enlargement, minimum to 0, maximum to 1.

    A map that is constant after the ReLU becomes 0 everywhere.

    Args:
        maps: the maps that `cam` returns.
        size: (H, W) in pixels.
        cells: minimum and maximum are taken within each cell of a `cells` x `cells` grid, so that every patch of a
            mosaic has a critical part; `cells` divides H and W.
    """
    x = F.interpolate(F.relu(maps)[:, None].float(), size=size, mode="bilinear", align_corners=False)
    tiles = x.view(len(x), cells, size[0] // cells, cells, size[1] // cells)
    low, high = tiles.amin((2, 4), keepdim=True), tiles.amax((2, 4), keepdim=True)
    return torch.where(high > low, (tiles - low) / (high - low), torch.zeros_like(tiles)).view(len(x), *size)


def _is_linear_from(net: Net, layer: nn.Module) -> bool:
    """Whether only pooling, flattening and dropout lie between the layer's output and the head."""
    layers = list(net.features)
    after = layers[layers.index(layer) + 1 :] if layer in layers else layers
    return all(isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d | nn.Flatten | nn.Dropout) for module in after)


@contextmanager
def _features(layer: nn.Module, keep: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Collect `keep(output)` of a layer in forward passes; the net continues with a copy of the result."""
    kept: list[Tensor] = []

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept.append(keep(output))
        return kept[-1].clone()

    handle = layer.register_forward_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()


@torch.no_grad()
def _last_map(net: nn.Module, image: Tensor) -> tuple[nn.Module, int]:
    """The last module in the forward pass whose output has more than one position, and its channels K."""
    done: list[tuple[nn.Module, tuple[int, ...]]] = []

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output[0].numel() > max(output[0].shape, default=1):
            done.append((module, tuple(output.shape)))  # leaves out vectors and maps of one position

    handles = [module.register_forward_hook(hook) for module in net.modules()]
    try:
        net(image)
    finally:
        for handle in handles:
            handle.remove()
    module, shape = done[-1] if done else (net, ())
    high, wide = image.shape[2:]
    if len(shape) != 4 or shape[2] > high or shape[3] > wide:
        name = type(net).__name__
        raise UsageError(
            f"{name} does not end in feature maps [K, h, w], so that it has no CAM; use a convolutional net"
        )
    return module, shape[1]
