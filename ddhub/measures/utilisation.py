"""Utilisation of stored images: how much a proxy net responds to each pixel of the crops that they decode to.

    response   r = ReLU(Σ_channels A ⊙ ∂l_c / ∂A); A is the output of the proxy's last ReLU, l_c the logit of the
               image's class; only linear layers follow, so that without the ReLU the sum of r over all positions is
               l_c - bias_c
    map        M: the responses of the crops, resized bilinearly and put at the positions of the crops; the maximum
               where crops overlap; scaled so that the maximum of an image is 1

This is a reconstruction: of UDD's measure (arXiv 2408.16268) only the use of a proxy's responses is published.
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
    """A frozen net trained on real data, with its normalisation; it computes in float32 on the net's device.

    Args:
        net: a net in eval mode whose features end in ReLU, average pooling and flattening.
        mean, std: per channel in unit scale, `[C, 1, 1]`.

    Raises:
        UsageError: the net's features end in other layers.
    """

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        kinds = [type(layer) for layer in list(net.features)[-3:]] if isinstance(net, Net) else []
        if not isinstance(net, Net) or kinds != [nn.ReLU, nn.AvgPool2d, nn.Flatten]:
            raise UsageError(
                "the proxy must be a ConvNet that ends in ReLU, pooling and a linear layer; name another proxy"
            )
        self.net, self.mean, self.std = net, mean, std

    @torch.no_grad()
    def log_probabilities(self, x: Tensor) -> Tensor:
        """Log-probabilities `[B, classes]` of images `[B, C, H, W]` in unit scale."""
        parts = ((x - self.mean) / self.std).split(_BATCH)
        return torch.cat([F.log_softmax(self.net(part), dim=1) for part in parts])

    def responses(self, x: Tensor, labels: Tensor) -> Tensor:
        """Gradient times activation, summed over channels, before the ReLU: `[B, h, w]` of images in unit scale."""
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
    """Utilisation maps M `[N, P, P]` of images in unit scale; P is the height padded to a multiple of `side`.

    Args:
        proxy: the net whose responses are mapped.
        images, labels: stored images `[N, C, H, W]` and their classes `[N]`.
        corners: row and column of the top left corner of each image's F crops, `[N, F, 2]`.
        side: side of the crops in pixels.
    """
    count, slots = corners.shape[:2]
    image_index = torch.arange(count, device=images.device).repeat_interleave(slots)
    flat = corners.flatten(0, 1)
    x = crops(images, flat, image_index, side, (images.shape[2], images.shape[3]))
    response = F.relu(proxy.responses(x, labels[image_index]))[:, None]
    response = F.interpolate(response, (side, side), mode="bilinear", align_corners=False)
    padded = images.shape[2] + -images.shape[2] % side
    rows, columns = (flat[:, :, None] + torch.arange(side, device=flat.device)).unbind(1)
    pixel_index = (rows[:, :, None] * padded + columns[:, None]).view(count, -1)
    canvas = torch.zeros(count, padded**2, dtype=response.dtype, device=images.device)
    canvas = canvas.scatter_reduce(1, pixel_index, response.reshape(count, -1), "amax").view(count, padded, padded)
    top = canvas.amax((1, 2), keepdim=True)
    return torch.where(top > 0, canvas / top, canvas)
