"""Copies from the host to a device that nothing waits for.

    views = views.to(device)          # every tensor by `sent`

A plain `tensor.to(device)` from ordinary memory waits until a GPU has done all that it was given before. From pinned
memory the copy takes its place in the queue, and the host goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; itself if it is there."""
    target = torch.device(device)
    if tensor.device.type != "cpu" or target.type == "cpu":
        return tensor.to(target)
    return (tensor.pin_memory() if target.type == "cuda" else tensor).to(target, non_blocking=True)
