"""Adam, AdamW and SGD without the classes of `torch.optim`: the same bits, and no compiler imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from ddhub.training.optimizer import Optimizer, restart, set_rate

ADAM = {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-8}
CASES: list[tuple[str, type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("adamw", torch.optim.AdamW, {**ADAM, "weight_decay": 0.1}),
    ("adam", torch.optim.Adam, {**ADAM, "weight_decay": 0.0}),
    ("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, "nesterov": True}),
    ("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, "nesterov": False}),
    ("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}),
]


def variables() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3, 3, 3), (7,), (2, 5))
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    return [values[0].to(memory_format=torch.channels_last), *values[1:]]


def moved(optimizer: Any, parameters: list[Tensor], steps: range) -> None:
    """Take these steps, in some of which a variable has no gradient."""
    for number in steps:
        draws = torch.Generator().manual_seed(number)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (number + 1)
        for place, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=draws)
            parameter.grad = gradient if (number + place) % 3 else None
        optimizer.step()


def groups(parameters: list[Tensor], settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**settings, "params": parameters[:1]}, {**settings, "params": parameters[1:], "weight_decay": 0.0}]


@pytest.mark.parametrize(("kind", "reference", "settings"), CASES, ids=["adamw", "adam", "nesterov", "momentum", "sgd"])
def test_every_bit_is_that_of_torch(kind: str, reference: type[Any], settings: dict[str, Any]) -> None:
    wanted, found, late = variables(), variables(), variables()
    moved(reference(groups(wanted, settings)), wanted, range(9))
    optimizer = Optimizer(kind, groups(found, settings))
    moved(optimizer, found, range(5))
    for there, here in zip(late, found, strict=True):
        there.copy_(here)
    resumed = Optimizer(kind, groups(late, settings))
    resumed.load_state_dict(optimizer.state_dict())
    moved(resumed, late, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(wanted, late, strict=True))


@pytest.mark.parametrize(("kind", "settings"), [(kind, settings) for kind, _, settings in CASES[:3]])
def test_a_restarted_one_is_as_new(kind: str, settings: dict[str, Any]) -> None:
    found, wanted = variables(), variables()
    optimizer = Optimizer(kind, groups(found, settings))
    moved(optimizer, found, range(4))
    restart(optimizer)
    for here, there in zip(found, wanted, strict=True):
        there.copy_(here)
    moved(optimizer, found, range(1, 4))
    moved(Optimizer(kind, groups(wanted, settings)), wanted, range(1, 4))
    for here, there in zip(found, wanted, strict=True):
        torch.testing.assert_close(here, there)


def test_rates_are_set_and_gradients_dropped() -> None:
    parameters = variables()
    optimizer = Optimizer("sgd", groups(parameters, CASES[2][2]))
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer.zero_grad()
    assert parameters[0].grad is None


def test_a_student_is_trained_without_importing_a_compiler() -> None:
    code = "import sys, ddhub; from dataclasses import replace; data = ddhub.load('cifar10-random-ipc1');"
    code += "from ddhub.training import loop; plan = replace(data.protocol, epochs=1);"
    code += "loop.fit(data.using(protocol=plan), 'convnet3-w8', 0, 'fp32');"
    code += "assert not {'torch._dynamo', 'sympy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
