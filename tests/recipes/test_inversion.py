"""The steps of an inversion, recorded: by a stand-in, and as the operations that a CUDA graph would repeat."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from recorded import Played
from repeated import Repeated
from torch import Tensor, nn

from ddhub import models
from ddhub.training import capture
from ddhub.training.devices import computing
from recipes.inversion import inversion
from recipes.inversion.inversion import Inversion, draws, optimise
from recipes.patches.refine import Masking, refine

CPU = torch.device("cpu")
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
BOUNDS = ((0 - MEAN) / STD, (1 - MEAN) / STD)
PLAIN = Inversion(steps=9, lr=0.3, beta=0.1, first_bn=10.0, ahead=3)
MIXED = replace(PLAIN, back=2, crop_scale=0.4, flip=True, tv=1e-3, l2=1e-2)


def teacher() -> nn.Module:
    """A ConvNet for 6 classes and 16 px with BatchNorm statistics of its own."""
    torch.manual_seed(0)
    net = models.build("convnet3-bn-w8", classes=6, size=16).train()
    with torch.no_grad():
        net(torch.randn(32, 3, 16, 16))
    return net.eval().requires_grad_(False)


def share(step: int, x: Tensor) -> Tensor:
    """A mask of the step and of where the variables are."""
    return (x.abs() < 1 + 0.1 * step).float() * 0.6


def inverted(how: Inversion, precision: str = "fp32", masked: bool = True, last: bool = False) -> Tensor:
    """Two sets of 4 images after all steps, within `computing`; `last` are those whose channels lie last in memory."""
    start = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    if last:
        start = start.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 4))
    view = draws(how, [(0, k) for k in range(2)], size=(16, 16), device=CPU)
    more: dict[str, Any] = {"bounds": BOUNDS, "mask": share} if masked else {}
    with computing(CPU, precision):
        return optimise(teacher(), start, lambda x: x + 0.1, torch.arange(1, 5), how, view, precision=precision, **more)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("how", [PLAIN, MIXED], ids=["shifts", "crops-and-flips"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_recorded_steps_are_the_eager_ones(
    optimizer: str, how: Inversion, masked: bool, recorded: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = replace(how, optimizer=optimizer)
    found = inverted(how, masked=masked)
    (one,) = recorded
    assert one.played == how.steps - 3 and len(one.held) == 1 + masked
    plain = inverted(how, "exact", masked)  # step by step, with a rate that is a number
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(capture, "_WARM_UP", 100)  # the same optimizer, step by step
    assert torch.equal(inverted(how, masked=masked), found)
    assert len(recorded) == 1


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_images_are_optimised_alike_however_they_lie_in_memory(optimizer: str, recorded: list[Played]) -> None:
    how = replace(PLAIN, optimizer=optimizer)
    wanted = inverted(how)
    for precision in ("fp32", "exact"):
        torch.testing.assert_close(inverted(how, precision, last=True), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_step_depends_on_nothing_that_a_recording_does_not_see(
    optimizer: str, precision: str, repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = replace(MIXED, optimizer=optimizer)
    found = inverted(how, precision)
    (one,) = repeated
    assert one.calls == how.steps - 3
    monkeypatch.setattr(capture, "_WARM_UP", 100)
    assert torch.equal(inverted(how, precision), found)


def test_masks_are_made_again_beside_recorded_steps(repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch) -> None:
    start = (torch.rand(2, 4, 3, 16, 16) * 255).to(torch.uint8)
    masking = Masking(part="background", epsilon=0.5, every=2)

    def images() -> Tensor:
        with computing(CPU, "fp32"):
            return refine(
                teacher(), start, torch.arange(1, 5), MIXED, masking, [(0, 0), (0, 1)],
                mean=MEAN, std=STD, precision="fp32",
            )["images"]  # fmt: skip

    found = images()
    assert repeated[0].calls == MIXED.steps - 3
    monkeypatch.setattr(capture, "_WARM_UP", 100)
    assert torch.equal(images(), found) and not torch.equal(found, start)


def test_the_loss_is_read_every_some_hundred_steps_and_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 200 <= inversion._READ <= 500
    monkeypatch.setattr(inversion, "_READ", 4)
    with caplog.at_level(logging.INFO):
        inverted(replace(PLAIN, steps=10), masked=False)
    assert [line.partition(" of ")[0] for line in caplog.messages] == ["step 1", "step 5", "step 9", "step 10"]


def test_the_draws_of_a_step_are_its_rows() -> None:
    view = draws(MIXED, [(0, k) for k in range(3)], size=(16, 16), device=CPU)
    one = view.of(torch.tensor([4]))
    assert torch.equal(one.shift, view.shift[4:5])
    assert torch.equal(one.window, view.window[4:5]) and torch.equal(one.flip, view.flip[4:5])
    plain = draws(PLAIN, [(0, 0)], size=(16, 16), device=CPU).of(torch.tensor([0]))
    assert plain.window is None and plain.flip is None
