"""How much of a stored image a net makes use of: the response of a proxy to the squares that it decodes to.

    response   r = ReLU(Σ_channels A ⊙ ∂l_c / ∂A), A behind the proxy's last ReLU, l_c the logit of the image's class;
               only linear layers follow, so that without the ReLU the sum over all positions is l_c - bias_c
    map        M: the responses of the squares, bilinear, at their places; the greatest where they overlap; the greatest
               of an image is 1

A reconstruction: of UDD's measure (arXiv 2408.16268) nothing is published but that a proxy's responses guide it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub.data.decode import crops
from ddhub.errors import UsageError
from ddhub.models import Net

_BATCH = 500  # images a forward pass


class Proxy:
    """A frozen net trained on real data, and the normalisation it was trained with; in float32 on its device.

    Args:
        net: in eval mode; its features end in ReLU, pool and flattening.
        mean, std: per channel in unit scale, `[C, 1, 1]`.

    Raises:
        UsageError: a net that ends otherwise.
    """

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        kinds = [type(layer) for layer in list(net.features)[-3:]] if isinstance(net, Net) else []
        if not isinstance(net, Net) or kinds != [nn.ReLU, nn.AvgPool2d, nn.Flatten]:
            raise UsageError("responses are those of a ConvNet (ReLU, pool, linear at its end); name another proxy")
        self.net, self.mean, self.std = net, mean, std

    @torch.no_grad()
    def log_probabilities(self, x: Tensor) -> Tensor:
        """`[B, classes]` of images `[B, C, H, W]` in unit scale."""
        parts = ((x - self.mean) / self.std).split(_BATCH)
        return torch.cat([F.log_softmax(self.net(part), dim=1) for part in parts])

    def responses(self, x: Tensor, labels: Tensor) -> Tensor:
        """Gradient times activation, summed over channels, without the ReLU: `[B, h, w]` of images in unit scale."""
        parts = zip(((x - self.mean) / self.std).split(_BATCH), labels.split(_BATCH), strict=True)
        return torch.cat([self._response(*part) for part in parts])

    def _response(self, x: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            active = self.net.features[:-2](x)
        active.requires_grad_()
        logits = self.net.head(self.net.features[-2:](active)).gather(1, labels[:, None])
        (slope,) = torch.autograd.grad(logits.sum(), active)
        response: Tensor = (active.detach() * slope).sum(1)
        return response


def maps(proxy: Proxy, images: Tensor, labels: Tensor, corners: Tensor, side: int) -> Tensor:
    """M `[N, P, P]` of images `[N, C, H, W]` in unit scale, P the height padded to a multiple of the side.

    Args:
        proxy: whose responses.
        images, labels: stored images and their classes `[N]`.
        corners: of each image's formations, `[N, F, 2]`.
        side: of the formations.
    """
    count, slots = corners.shape[:2]
    which = torch.arange(count, device=images.device).repeat_interleave(slots)
    flat = corners.flatten(0, 1)
    x = crops(images, flat, which, side, (images.shape[2], images.shape[3]))
    responses = F.relu(proxy.responses(x, labels[which]))[:, None]
    responses = F.interpolate(responses, (side, side), mode="bilinear", align_corners=False)
    padded = images.shape[2] + -images.shape[2] % side
    rows, columns = (flat[:, :, None] + torch.arange(side, device=flat.device)).unbind(1)
    positions = (rows[:, :, None] * padded + columns[:, None]).view(count, -1)
    canvas = torch.zeros(count, padded**2, dtype=responses.dtype, device=images.device)
    canvas = canvas.scatter_reduce(1, positions, responses.reshape(count, -1), "amax").view(count, padded, padded)
    top = canvas.amax((1, 2), keepdim=True)
    return torch.where(top > 0, canvas / top, canvas)
