"""Class activation maps: where in an image a net sees a class.

    A[i, j] = Σ_k W[y, k] · F_k[i, j]            mean over F, then a linear head          mean(A) + b_y = logit_y
    A[i, j] = Σ_k W[y, k, i, j] · F_k[i, j]      F flattened into a linear head           sum(A) + b_y = logit_y
    A[i, j] = ReLU(Σ_k α_k · F_k[i, j]),  α_k = mean over positions of ∂logit_y / ∂F_k    any other head

F `[K, h, w]` is the last map of features. The first is CAM (Zhou et al., 2016, arXiv 1512.04150), the second the same
for the heads of ConvNets, the third Grad-CAM (Selvaraju et al., 2017, arXiv 1610.02391), which for a mean and a linear
head is the first divided by h · w. The nets of `ddhub.models` have the first two kinds of head; `grad_cam` is the third
for any. Its form over noisy images is Smooth Grad-CAM++ (Omeiza et al., 2019, arXiv 1908.01224), `smooth_grad_cam`.

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
    """The maps A `[B, h, w]` of normalised images `[B, channels, H, W]`, each for its class of `classes` `[B]`.

    Args:
        net: returns logits `[B, C]`; frozen and in eval mode, so that images do not influence one another.

    Raises:
        UsageError: a net without maps of features, such as a transformer of tokens.
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
    """Grad-CAM `[B, h, w]` of any head: arguments and errors as those of `cam`."""
    layer, _ = _last_map(net, images[:1])
    return _grad_cam(*_slopes(net, images, classes, layer))


def smooth_grad_cam(net: nn.Module, images: Tensor, classes: Tensor, noise: Tensor) -> Tensor:
    """Smooth Grad-CAM++ `[B, h, w]` as torchcam 0.4 computes it: arguments and errors as those of `cam`.

    With g_m the gradient ∂logit_y / ∂F and F_m the features of noisy pass m of M, F those of the clean images, and
    means over m:

        α_k[i, j] = mean g² / (2 · mean g² + Σ_ab mean g³ · F_k + 1e-8)        w_k = Σ_ij α_k · ReLU(g_M)_k
        A = ReLU(Σ_k w_k · F_M,k)

    Args:
        noise: what is added to the images, `[M, B, channels, H, W]`.
    """
    layer, _ = _last_map(net, images[:1])
    clean, slope = _slopes(net, images, classes, layer)
    square, cube = torch.zeros_like(slope), torch.zeros_like(slope)
    for more in noise:
        features, slope = _slopes(net, images + more, classes, layer)
        square += slope.square() / len(noise)
        cube += slope**3 / len(noise)
    share = square / (2 * square + (cube * clean).sum((2, 3), keepdim=True) + 1e-8)
    weight = (share * F.relu(slope)).sum((2, 3))
    return F.relu(torch.einsum("bk,bkhw->bhw", weight, features))


def _grad_cam(features: Tensor, slope: Tensor) -> Tensor:
    return F.relu(torch.einsum("bk,bkhw->bhw", slope.mean((2, 3)), features))


def _slopes(net: nn.Module, images: Tensor, classes: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """A layer's output F `[B, K, h, w]` and the gradient of each image's logit of its class with respect to it."""
    # A leaf from here on: nothing before it is part of the graph. What a net does in place it does to a copy.
    with torch.enable_grad(), _features(layer, lambda output: output.detach().requires_grad_()) as features:
        logits = net(images).gather(1, classes[:, None])
    (slope,) = torch.autograd.grad(logits.sum(), features)
    return features[0].detach(), slope


def attention(maps: Tensor, size: tuple[int, int], cells: int = 1) -> Tensor:
    """Maps `[B, h, w]` as shares in [0, 1], `[B, H, W]`: ReLU, enlarged bilinearly, least to 0 and greatest to 1.

    Where nothing speaks for the class, or everything equally much, all is 0.

    Args:
        maps: of `cam`.
        size: (H, W).
        cells: the least and the greatest are those of each cell of a `cells` x `cells` grid, so that every patch of a
            mosaic has its critical part; it divides H and W.
    """
    x = F.interpolate(F.relu(maps)[:, None].float(), size=size, mode="bilinear", align_corners=False)
    tiles = x.view(len(x), cells, size[0] // cells, cells, size[1] // cells)
    low, high = tiles.amin((2, 4), keepdim=True), tiles.amax((2, 4), keepdim=True)
    return torch.where(high > low, (tiles - low) / (high - low), torch.zeros_like(tiles)).view(len(x), *size)


def _is_linear_from(net: Net, layer: nn.Module) -> bool:
    """Whether nothing but means, the flattening and dropout stands between a layer's output and the head."""
    layers = list(net.features)
    after = layers[layers.index(layer) + 1 :] if layer in layers else layers
    return all(isinstance(one, nn.AdaptiveAvgPool2d | nn.AvgPool2d | nn.Flatten | nn.Dropout) for one in after)


@contextmanager
def _features(layer: nn.Module, keep: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Collect what `keep` makes of a layer's output in the next forward pass; the net goes on with a copy of it."""
    features: list[Tensor] = []

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        features.append(keep(output))
        return features[-1].clone()

    handle = layer.register_forward_hook(hook)
    try:
        yield features
    finally:
        handle.remove()


@torch.no_grad()
def _last_map(net: nn.Module, image: Tensor) -> tuple[nn.Module, int]:
    """The module that returns the last map of more than one position, as modules finish, and its channels K."""
    done: list[tuple[nn.Module, tuple[int, ...]]] = []

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output[0].numel() > max(output[0].shape, default=1):
            done.append((module, tuple(output.shape)))  # neither a vector nor a map of one position

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
            f"{name} ends in no maps of features [K, h, w], so that it has no CAM; use a convolutional net"
        )
    return module, shape[1]
