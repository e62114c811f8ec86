"""Compiled nets: on a CPU what lies between two convolutions of a ConvNet is one loop over the map.

A ConvNet spends 40 % of a step on norm, ReLU and pooling, each of which reads and writes whole maps. `torch.compile`
joins them: 1.6 times the images per second (ConvNet-3, 32 px, training, one core). The first step then takes 15 to 30
seconds more, so it pays for long runs alone; a ResNet gains nothing (ResNet-18: 1.01, of width 16: 1.12 times).

    run = compiled(net, x, images)     # run(x) is net(x), up to the rounding of float32
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from math import prod

import torch
from torch import Tensor, nn

from ddhub.errors import first_line

log = logging.getLogger(__name__)

_PAYS = 4e9  # numbers that the convolutions of a run write: 23,000 images of ConvNet-3, 93,000 of width 32

_KINDS = 128  # of nets and batches in a process


def compiled(net: nn.Module, x: Tensor, images: int) -> nn.Module:
    """The net as it is, or compiled for batches of the shape of x, where that pays: what trains it calls the result.

    Which of the two depends on the arguments alone, so that a run that was interrupted goes on alike; but where torch
    cannot compile, the net is returned as it is, and the log says so.

    Args:
        net: in training mode, on the device.
        x: a batch `[B, C, H, W]` that it takes.
        images: how many it will be trained with in all.
    """
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    if not on_cpu or not any(isinstance(layer, nn.AvgPool2d) for layer in net.modules()):
        return net
    if images * _written(net, x) < _PAYS:
        return net
    if cause := _hindrance():
        log.info("steps are not compiled (%s)", cause)
        return net
    # torch compiles a function for 8 kinds of nets and batches, and of the next takes the steps uncompiled
    torch._dynamo.config.cache_size_limit = max(_KINDS, torch._dynamo.config.cache_size_limit)
    log.info("steps are compiled: the first takes 15 to 30 s more")
    program: object = torch.compile(net, dynamic=False)
    assert isinstance(program, nn.Module)
    return program


def _written(net: nn.Module, x: Tensor) -> int:
    """Numbers that the convolutions write for one image like those of x."""
    counts: list[int] = []
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_hook(lambda _, __, out: counts.append(prod(out.shape[1:]))) for layer in layers]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(x[:1])
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return sum(counts)


@cache
def _hindrance() -> str:
    """Why torch cannot compile here; empty if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch itself imports for compiling
            torch.compile(torch.sin)(torch.zeros(8))
    except Exception as error:  # torch has errors of many kinds: no compiler, no support for this Python, …
        return first_line(error)
    return ""
