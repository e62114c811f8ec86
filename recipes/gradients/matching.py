"""Gradient matching as IDC does it (Kim et al., 2022, arXiv 2205.14959): one loop for images, one net after the other.

    formations  G(S_c): squares of the images of class c, enlarged; all of them, or `batch_syn` random ones
    loss        L_c = Σ_W d(∇_W CE(net(A(real of c)), c), ∇_W CE(net(A(G(S_c))), c)), W the weights of the convolutions
                alone, CE the mean, A one augmentation for the whole batch of a class; d: mse, the sum of the squares,
                or l1, the sum of the absolute values
    step        SGD with momentum on all of S after every class: v ← m · v + ∂L_c/∂S, S ← S - rate · v
    net         new in every outer iteration, and trained on `n_data` real images after every inner iteration

A class's loss depends on its own images alone, and the net does not change from class to class. So the gradients of all
classes can be computed together, each at the images S_c as its turn finds them: before it they have moved on by the
momentum of c steps without a gradient, after it by that of K - 1 - c. With g_j = m + m² + ... + m^j:

    S ← S - rate · g_c · v          v ← m^(c+1) · v + ∂L_c/∂S          S ← S - rate · (1 + g_(K-1-c)) · v
    v ← m^(K-1-c) · v

Everything is in float32; the draws of an outer iteration come from (seed, its number) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ddhub import models
from ddhub.data.decode import crops
from ddhub.sources.source import Source
from recipes.gradients.contrast import Contrast

DISTANCES = ("mse", "l1")


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How images are matched.

    Attributes:
        seed: of all draws.
        net: architecture, a ConvNet of `ddhub.models`.
        inner: inner iterations of an outer one.
        n_data: real images that the net is trained on after each.
        batch_real, batch_syn: images of a class in a batch; of the formations at most so many.
        rate, momentum: of the images.
        distance: mse or l1.
        augment: operations of A (`ddhub.data.dsa`, form idc).
        together: classes whose gradients are computed at once.
    """

    seed: int
    net: str
    inner: int
    n_data: int
    batch_real: int
    batch_syn: int
    rate: float
    momentum: float
    distance: str
    augment: tuple[str, ...]
    together: int


def first_images(source: Source, count: int) -> Tensor:
    """Rows `[classes, count]` of the first images of every class."""
    return torch.stack([(source.labels == c).nonzero().flatten()[:count] for c in range(len(source.classes))])


def mixed(images: Tensor, factor: int) -> Tensor:
    """Stored images `[K, n, C, H, W]` from real ones u8 `[K, f² · n, C, H, W]`, in unit scale: IDC's "mix".

    The n images from number k · n on are shrunk to tile k, nearest pixels; the first rows and columns of tiles are
    larger by one pixel where the factor does not divide the side.
    """
    n = images.shape[1] // factor**2
    x = images.float() / 255
    out = x[:, :n].clone()
    parts = [[len(p) for p in torch.arange(side).tensor_split(factor)] for side in images.shape[3:]]
    for k in range(factor**2):
        row, column = divmod(k, factor)
        high, wide = parts[0][row], parts[1][column]
        top, left = sum(parts[0][:row]), sum(parts[1][:column])
        tile = F.interpolate(x[:, k * n : (k + 1) * n].flatten(0, 1), (high, wide), mode="nearest")
        out[..., top : top + high, left : left + wide] = tile.unflatten(0, out.shape[:2])
    return out


def formations(images: Tensor, corners: Tensor, pick: Tensor, side: int) -> Tensor:
    """Formations `[k, P, C, H, W]` of stored images `[k, n, C, H, W]` in unit scale.

    Args:
        images: of k classes.
        corners: of all formations of a class, `[k, F, 2]`: for one slot after the other those of the n images.
        pick: `[k, P]`, which of the F.
        side: of a formation, in stored pixels.
    """
    count, n = images.shape[:2]
    which = (pick % n + n * torch.arange(count, device=images.device)[:, None]).flatten()
    places = corners.gather(1, pick[:, :, None].expand(-1, -1, 2)).flatten(0, 1)
    size = (images.shape[3], images.shape[4])
    return crops(images.flatten(0, 1), places, which, side, size).unflatten(0, pick.shape)


def weight_gradients(net: models.Net, x: Tensor, labels: Tensor, *, graph: bool) -> tuple[list[Tensor], Tensor]:
    """Of each class the gradients of its mean cross-entropy, `[k, *W.shape]` for every convolution's weight W.

    Args:
        net: whose weights; frozen in all else.
        x: a batch of every class, `[k, B, C, H, W]`.
        labels: the classes `[k]`.
        graph: the gradients can be differentiated.

    Returns:
        The gradients, and the features `[k, B, D]`.
    """
    weights: dict[str, Tensor] = {name: value for name, value in net.features.named_parameters() if value.ndim == 4}
    if len(x) == 1:
        features = net.features(x[0])
        loss = F.cross_entropy(net.head(features), labels.expand(len(features)))
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=graph)
        return [one[None] for one in gradients], features[None]

    def of_class(weights: dict[str, Tensor], x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        features = functional_call(net.features, weights, (x,))
        return F.cross_entropy(net.head(features), label.expand(len(x))), features

    with torch.set_grad_enabled(graph):
        each, features = vmap(grad(of_class, has_aux=True), in_dims=(None, 0, 0))(weights, x, labels)
    return list(each.values()), features


def distance(kind: str, a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Σ_W d(a_W, b_W) over tensors `[k, ...]` and classes: a scalar."""
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    return torch.stack([gap.square().sum() if kind == "mse" else gap.abs().sum() for gap in gaps]).sum()


def image_gradients(
    net: models.Net,
    images: Tensor,
    shown: Callable[[Tensor, slice], Tensor],
    real: Callable[[slice], Tensor],
    settings: Matching,
    pick: Tensor | None = None,
    contrast: Contrast | None = None,
    *,
    apart: bool = False,
) -> tuple[Tensor, Tensor]:
    """∂(L_g + lambda · L_c)/∂S `[K, n, C, H, W]` of all classes, each of its own loss, and the sum of L_g.

    Args:
        net: whose gradients are matched.
        images: S `[K, n, C, H, W]`, of each class as its turn finds it.
        shown: formations `[k, P, C, H, W]` of the images of some classes, normalised and augmented.
        real: real images `[k, B, C, H, W]` of some classes, normalised and augmented.
        settings: distance, and how many classes at once.
        pick: the formations `[K, P]`; `contrast` asks for them.
        contrast: the loss beside, if any.
        apart: the gradients of both losses are computed one by one, and their norms measured.
    """
    labels, gradients, total = torch.arange(len(images), device=images.device), [], images.new_zeros(())
    for first in range(0, len(images), settings.together):
        part = slice(first, first + settings.together)
        wanted, _ = weight_gradients(net, real(part), labels[part], graph=False)
        leaf = images[part].detach().requires_grad_()
        synthetic, features = weight_gradients(net, shown(leaf, part), labels[part], graph=True)
        losses = [distance(settings.distance, wanted, synthetic)]
        total += losses[0].detach()
        if contrast is not None and pick is not None:
            losses.append(contrast.loss(features, part, pick[part]))
            losses = losses if apart else [losses[0] + contrast.weight * losses[1]]
        gradients.append([torch.autograd.grad(loss, leaf, retain_graph=loss is not losses[-1])[0] for loss in losses])
    parts = [torch.cat(each) for each in zip(*gradients, strict=True)]
    return (contrast.joined(*parts) if apart and contrast is not None else parts[0]), total


def turns(images: Tensor, velocity: Tensor, settings: Matching) -> Tensor:
    """S `[K, ...]` of every class as its turn finds it."""
    return images - settings.rate * _sum(_turn(images), settings.momentum) * velocity


def stepped(images: Tensor, velocity: Tensor, gradient: Tensor, settings: Matching) -> tuple[Tensor, Tensor]:
    """S and v `[K, ...]` after the steps of all classes, from what `turns` returned and the gradients there."""
    turn, m = _turn(images), settings.momentum
    after = len(images) - 1 - turn
    velocity = m ** (turn + 1) * velocity + gradient
    return images - settings.rate * (1 + _sum(after, m)) * velocity, m**after * velocity


def _turn(images: Tensor) -> Tensor:
    """The number of each class, beside `[K, ...]`."""
    turn = torch.arange(len(images), dtype=images.dtype, device=images.device)
    return turn.view(-1, *[1] * (images.ndim - 1))


def _sum(j: Tensor, m: float) -> Tensor:
    """m + m² + ... + m^j."""
    return m * (1 - m**j) / (1 - m)
