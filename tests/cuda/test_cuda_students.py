"""Students on a GPU: captured as eager, whatever net, optimizer, schedule and precision; no epoch waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gpu import DEVICE, Said, apart, debugging, steady
from test_training import TINY
from torch import Tensor, nn

from ddhub import models
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.sources.source import open_source
from ddhub.training import loop
from ddhub.training.batches import DistilledData
from ddhub.training.capture import eager
from ddhub.training.devices import seeded
from recipes.run.teachers import real_data

pytestmark = pytest.mark.cuda

DSA = Augment(dsa="color_crop_cutout_flip_scale_rotate")
ADAMW = replace(TINY, epochs=4, lr=1e-3)
SLOW = replace(TINY, epochs=4, lr=1e-4)
ONE_CYCLE = Protocol(
    epochs=4, batch_size=16, optimizer="sgd", lr=0.01, schedule="one-cycle", warmup=1, nesterov=True, augment=DSA
)
DROPS = Protocol(
    epochs=4, batch_size=16, optimizer="sgd", lr=0.01, schedule="steps", milestones=(2,), decay=0.1, restart=True
)
# Net, protocol, precision, and how far captured and eager may be apart: a share of what was learned, in 20 steps.
# Captured steps launch the kernels of eager ones, so that nothing should be left but the order of atomic sums; a rate,
# a batch or an optimizer's state that was recorded for good would change a tenth or more. Other kernels of a CPU bring
# ConvNets 6e-4 and ResNet-18 3e-3 apart, at 1e-3 ResNet-18 0.2.
CASES = {
    "resnet18-adamw": ("resnet18-w8", SLOW, "fp32", 1e-2),
    "convnet3-adamw": ("convnet3-w16", ADAMW, "fp32", 1e-3),
    "convnet3-one-cycle": ("convnet3-w16", ONE_CYCLE, "fp32", 1e-3),
    "convnet3-steps-restart": ("convnet3-w16", DROPS, "fp32", 5e-3),
    "efficientnet-dropout": ("efficientnetb0", SLOW, "fp32", 5e-2),
    "resnet18-bf16": ("resnet18-w8", SLOW, "bf16", 5e-2),
    "convnet3-bf16": ("convnet3-w16", ADAMW, "bf16", 1e-2),
}
HOST = 1e-2  # of other kernels and of a CPU's, in float32


def data(plan: Protocol, items: int = 72) -> DistilledData:
    """Real images: whole batches of 16, and one of 8."""
    source = open_source("cifar10-mini")
    return real_data(replace(source, images=source.images[:items], labels=source.labels[:items]), plan)


@torch.no_grad()
def answers(net: nn.Module) -> Tensor:
    x = open_source("cifar10-mini", "test").images[:64].float() / 255
    return net.cpu().eval()(x)


def student(case: str, device: torch.device | None = None, precision: str = "") -> Tensor:
    """What a student learned: its answers less those of a new net. It is trained on the GPU if nothing else is said."""
    name, plan, own, _ = CASES[case]
    net, _, _ = loop.fit(data(plan).to(device or DEVICE), name, 3, precision or own, progress=False)
    with seeded(torch.device("cpu"), 3):
        return answers(net) - answers(models.build(name, classes=10))


@pytest.mark.parametrize("case", CASES)
def test_captured_is_eager(case: str, recordings: list[str], within: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "computing", steady)
        captured = student(case)
        assert recordings == ["a student's step"] * len({16, 8})
        with eager():
            wanted = student(case)
    within("captured and eager", apart(captured, wanted), CASES[case][3])
    assert len(recordings) == 2


@pytest.mark.parametrize("case", ["convnet3-adamw", "convnet3-one-cycle", "convnet3-steps-restart"])
def test_a_gpu_is_a_cpu(case: str, within: Said) -> None:
    exact, wanted = student(case, precision="exact"), student(case, torch.device("cpu"), "fp32")
    within("captured and exact", apart(student(case), exact), HOST)
    within("exact and the CPU", apart(exact, wanted), HOST)


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_waits_for_nothing(case: str, recordings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, plan, precision, _ = CASES[case]
    epoch, watched = loop._epoch, []

    def watching(*args: object) -> None:
        with debugging("error" if args[-1] != 0 else "default"):  # in the first one nothing is recorded yet
            epoch(*args)  # type: ignore[arg-type]
        watched.append(args[-1])

    monkeypatch.setattr(loop, "_epoch", watching)
    loop.fit(data(replace(plan, epochs=5)).to(DEVICE), name, 3, precision, progress=False)
    assert watched == [0, 1, 2, 3, 4] and len(recordings) == 2


def test_memory_is_the_same_after_200_replays(recordings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    epoch, seen = loop._epoch, []

    def measured(*args: object) -> None:
        epoch(*args)  # type: ignore[arg-type]
        torch.cuda.synchronize()
        seen.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))

    monkeypatch.setattr(loop, "_epoch", measured)
    loop.fit(data(replace(DROPS, epochs=50)).to(DEVICE), "resnet18-w8", 3, "bf16", progress=False)
    allocated, reserved = zip(*seen[9:], strict=True)
    assert recordings and max(allocated) - min(allocated) < 2**20 and max(reserved) - min(reserved) <= 2**22
