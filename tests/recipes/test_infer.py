"""INFER against independent references: a float64 objective written out layer by layer, and the paper's counts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F

from ddhub import models
from ddhub.data.decode import Compensate, quantize
from ddhub.errors import TrainingError, UsageError
from recipes import infer
from recipes.inversion.batchnorm import gaps
from recipes.inversion.inversion import draws, objective, roll
from recipes.run.draws import generator
from recipes.run.units import numbered, units


def small_net(seed: int = 0) -> torch.nn.Module:
    """A double-precision ConvNet with BatchNorm whose running statistics are not the initial ones."""
    torch.manual_seed(seed)
    net = models.build("convnet3-bn-w8", classes=4, size=16).double()
    net.train()
    net(torch.randn(32, 3, 16, 16, dtype=torch.float64))
    return net.eval().requires_grad_(False)


def reference_loss(
    net: torch.nn.Module, natural: torch.Tensor, u: torch.Tensor, shift: tuple[int, int]
) -> torch.Tensor:
    """The specification's loss of one set `[C, 3, H, W]`, with the net unrolled by hand, β = 0.7 and g = 10."""
    x = torch.roll(natural + u, shift, dims=(-2, -1))
    regular = []
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            x = F.conv2d(x, module.weight, module.bias, padding=1)
        elif isinstance(module, torch.nn.BatchNorm2d):
            mean = sum(x[i] for i in range(len(x))).mean((-2, -1)) / len(x)
            square = sum((x[i] - mean[:, None, None]) ** 2 for i in range(len(x)))
            var = square.mean((-2, -1)) / len(x)
            regular.append(
                torch.sqrt(((module.running_var - var) ** 2).sum())
                + torch.sqrt(((module.running_mean - mean) ** 2).sum())
            )
            hat = (x - module.running_mean[:, None, None]) / torch.sqrt(module.running_var + module.eps)[:, None, None]
            x = F.relu(hat * module.weight[:, None, None] + module.bias[:, None, None])
            x = F.avg_pool2d(x, 2)
        elif isinstance(module, torch.nn.Linear):
            x = x.flatten(1) @ module.weight.T + module.bias
    picked = torch.log_softmax(x, 1)[torch.arange(len(x)), torch.arange(len(x))]
    return -picked.mean() + 0.7 * (10 * regular[0] + sum(regular[1:]))


def problem(sets: int = 3) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    net = small_net()
    torch.manual_seed(1)
    natural = torch.randn(sets, 4, 3, 16, 16, dtype=torch.float64)
    u = 0.3 * torch.randn(sets, 3, 16, 16, dtype=torch.float64)
    return net, natural, u.requires_grad_(), torch.randint(5, (sets, 2))


def loss_of(net: torch.nn.Module, natural: torch.Tensor, u: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The losses `[K]` that `compensators` minimises, β = 0.7 and g = 10."""
    return objective(net, roll(natural + u[:, None], shift), torch.arange(natural.shape[1]), beta=0.7, first_bn=10.0)


def test_objective_and_its_gradient_equal_the_written_out_loss() -> None:
    net, natural, u, shift = problem()
    loss = loss_of(net, natural, u, shift)
    (found,) = torch.autograd.grad(loss.sum(), u)
    for k in range(3):
        own = u[k].detach().clone().requires_grad_()
        wanted = reference_loss(net, natural[k], own, tuple(shift[k].tolist()))
        assert loss[k].item() == pytest.approx(wanted.item(), rel=1e-6, abs=0)
        (gradient,) = torch.autograd.grad(wanted, own)
        torch.testing.assert_close(found[k], gradient, rtol=1e-6, atol=1e-9)


def test_single_precision_objective_is_that_of_double_precision_to_1e6() -> None:
    net, natural, u, shift = problem()
    wanted = loss_of(net, natural, u, shift)
    found = loss_of(net.float(), natural.float(), u.float(), shift)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("more", [{}, {"crop_scale": 0.3, "flip": True}])
def test_batched_compensators_equal_one_at_a_time(more: dict[str, Any]) -> None:
    net, natural, _, _ = problem()
    cfg = replace(infer.SMOKE, steps=4, **more)
    together = infer.compensators(net, natural, cfg, nets=1, sets=[0, 1, 2], precision="fp32")
    for k in range(3):
        alone = infer.compensators(net, natural[k : k + 1], cfg, nets=1, sets=[k], precision="fp32")
        torch.testing.assert_close(together[k], alone[0], rtol=1e-6, atol=1e-9)


def test_units_hold_1024_small_images_and_at_least_one_set() -> None:
    assert units(7, 10 * 32 * 32) == [range(7)]
    assert units(48, 100 * 32 * 32) == [range(0, 10), range(10, 20), range(20, 30), range(30, 40), range(40, 48)]
    assert units(2, 1000 * 224 * 224) == [range(0, 1), range(1, 2)]
    assert numbered("x", 1) == ["x"] and numbered("x", 2) == ["x-0", "x-1"]


def test_a_teacher_has_as_many_stages_as_units() -> None:
    cfg = replace(infer.SMOKE, teachers=("a", "b"))
    assert infer.compensator_units(cfg, 3, 4) == [("compensators-a", 0, range(3)), ("compensators-b", 1, range(3))]
    found = infer.compensator_units(cfg, 3, 2**19)  # half a unit each
    assert [(stage, m, list(part)) for stage, m, part in found] == [
        ("compensators-a-0", 0, [0, 1]),
        ("compensators-a-1", 0, [2]),
        ("compensators-b-0", 1, [0, 1]),
        ("compensators-b-1", 1, [2]),
    ]


class Recorder:
    """A run that only notes its units."""

    precision = "fp32"
    seen: ClassVar[dict[str, str]] = {}

    def stages(self, units: list[tuple[str, Any, dict[str, Any]]]) -> list[dict[str, torch.Tensor]]:
        self.found = {name: settings for name, _, settings in units}
        return [{"u": torch.zeros(1, 3, 8, 8)} for _ in units]


def test_the_settings_of_a_stage_say_no_more_than_they_have_to() -> None:
    run, nets = Recorder(), [torch.nn.Identity()]
    natural = torch.zeros(1, 10, 3, 8, 8)
    cfg = replace(infer.SMOKE, teachers=("a",))
    infer._compensators(cfg, run, nets, natural, torch.ones(3, 1, 1))
    old = {"seed": 0, "steps": 3, "lr": 0.25, "beta": 1.0, "first_bn": 10.0, "shift": 4}
    old |= {"teacher": "a", "teacher_epochs": 1, "net": 0, "sets": 1}  # as the first artifacts' stages were keyed
    assert run.found == {"compensators-a": old}
    infer._compensators(replace(cfg, flip=True), run, nets, natural, torch.ones(3, 1, 1))
    assert run.found == {"compensators-a": {**old, "flip": True}}
    infer._compensators(cfg, run, nets, torch.zeros(2, 10, 3, 256, 256), torch.ones(3, 1, 1))
    assert {name: settings["sets"] for name, settings in run.found.items()} == {
        "compensators-a-0": [0, 1],
        "compensators-a-1": [1, 2],
    }


def test_shifts_are_those_of_the_first_artifacts() -> None:
    view = draws(infer.inversion(infer.SMOKE), [(5, 1, 0), (5, 1, 7)], size=(8, 8), device=torch.device("cpu"))
    for place, k in enumerate((0, 7)):
        assert torch.equal(view.shift[:, place], torch.randint(5, (3, 2), generator=generator(5, "shift", 1, k)))
    assert view.window is None and view.flip is None


def test_adam_follows_the_schedule_of_the_specification() -> None:
    net, natural, _, _ = problem(sets=1)
    cfg = replace(infer.SMOKE, steps=2, lr=0.25, shift=0)
    found = infer.compensators(net, natural, cfg, nets=0, sets=[0], precision="fp32")
    u, first, second = torch.zeros_like(natural[:, 0]), 0.0, 0.0
    for t in range(2):
        u.requires_grad_()
        loss = objective(net, natural + u[:, None], torch.arange(4), cfg.beta, cfg.first_bn)
        (g,) = torch.autograd.grad(loss.sum(), u)
        first, second = 0.5 * first + 0.5 * g, 0.9 * second + 0.1 * g * g
        rate = 0.5 * 0.25 * (1 + math.cos(math.pi * t / 2))
        step = (first / (1 - 0.5 ** (t + 1))) / (torch.sqrt(second / (1 - 0.9 ** (t + 1))) + 1e-8)
        u = (u - rate * step).detach()
    torch.testing.assert_close(found, u, rtol=1e-9, atol=1e-12)


def test_gaps_leave_out_the_batchnorm_that_never_fires() -> None:
    net = models.build("efficientnetb0", classes=10).eval().requires_grad_(False)
    layers = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with gaps(net, 2) as found:
        net(torch.randn(4, 3, 32, 32))
    assert (len(layers), len(found)) == (49, 48)
    assert all(gap.shape == (2,) and bool(gap.isfinite().all()) for gap in found)
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_roll_equals_torch_roll_of_each_set() -> None:
    x = torch.randn(4, 2, 3, 6, 5)
    shift = torch.tensor([[0, 0], [1, 4], [4, 0], [3, 2]])
    wanted = torch.stack([torch.roll(x[k], tuple(shift[k].tolist()), (-2, -1)) for k in range(4)])
    assert torch.equal(roll(x, shift), wanted)


@pytest.mark.parametrize(
    ("ipc", "classes", "nets", "sets"),
    [(10, 10, 4, 7), (50, 10, 4, 35), (10, 100, 4, 9), (50, 100, 4, 48), (100, 100, 4, 96), (10, 200, 4, 9),
     (50, 200, 4, 49), (10, 1000, 3, 9), (50, 1000, 3, 49)],
)  # fmt: skip
def test_natural_sets_are_those_of_the_budget_table(ipc: int, classes: int, nets: int, sets: int) -> None:
    assert infer.natural_sets(ipc, classes, nets) == sets


def test_ipc_1_is_too_small_and_the_message_says_what_is_enough() -> None:
    with pytest.raises(UsageError, match="K = 0.*use --ipc 2 or more"):
        infer.natural_sets(1, 10, 4)
    assert infer.natural_sets(2, 10, 4) == 1


def test_quantisation_keeps_the_clipped_sum_within_half_a_step() -> None:
    torch.manual_seed(0)
    u = 0.8 * torch.randn(2, 3, 3, 8, 8)
    natural = torch.randint(256, (2 * 3, 3, 8, 8), dtype=torch.uint8)  # 2 classes, 3 sets
    stored, scale = quantize(u)
    assert stored.dtype == torch.int8 and scale.shape == (2, 3) and bool((scale <= 1 / 127).all())
    decoder = Compensate(natural, stored, scale)
    for item in range(len(decoder)):
        label, rest = divmod(item, 9)
        m, k = divmod(rest, 3)
        pixels = natural[label * 3 + k].float() / 255
        exact = pixels if m == 0 else (pixels + u[m - 1, k]).clamp(0, 1)
        slack = 0 if m == 0 else 0.5 * float(scale[m - 1, k]) + 1e-6
        assert float((decoder(torch.tensor([item]))[0] - exact).abs().max()) <= slack


def test_compensators_that_are_not_numbers_are_an_error() -> None:
    net, natural, _, _ = problem(sets=1)
    with pytest.raises(TrainingError, match="not finite.*lower --lr"):
        infer.compensators(net, natural * math.nan, infer.SMOKE, nets=0, sets=[0], precision="fp32")
