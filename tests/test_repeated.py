"""The stand-in for recordings that repeats operations: what a step must not do shows."""

from __future__ import annotations

import logging

import pytest
import torch
from repeated import Repeated
from torch import Tensor

from ddhub.training.capture import Captured
from ddhub.training.devices import computing

CPU = torch.device("cpu")


class Counter:
    """A sum that is changed in place, or put in the place of the one before."""

    def __init__(self, *, in_place: bool) -> None:
        self.total, self.factor, self.in_place = torch.zeros(2), 1.0, in_place

    def work(self, x: Tensor) -> Tensor:
        y = (x * self.factor).unsqueeze_(0)
        if self.in_place:
            self.total += y[0]
        else:
            self.total = self.total + y[0]
        return self.total.mul(2)

    def calls(self, factors: list[float]) -> list[float]:
        with computing(CPU, "fp32"):
            step = Captured(self.work, CPU, "a step")
            found = []
            for factor in factors:
                self.factor = factor
                found.append(float(step(torch.tensor([1.0, 0.0]))[0]))
        return found


def test_an_operation_is_repeated_with_the_arguments_of_the_call(repeated: list[Repeated]) -> None:
    assert Counter(in_place=True).calls([1.0] * 7) == [2, 4, 6, 8, 10, 12, 14]
    assert [one.calls for one in repeated] == [4]


def test_a_number_of_python_stays_as_it_was_recorded(repeated: list[Repeated]) -> None:
    assert Counter(in_place=True).calls([1.0] * 4 + [5.0] * 2) == [2, 4, 6, 8, 10, 12]


def test_a_tensor_that_replaces_another_is_not_found_again(repeated: list[Repeated]) -> None:
    assert Counter(in_place=False).calls([1.0] * 6) == [2, 4, 6, 8, 8, 8]


@pytest.mark.parametrize("work", [lambda x: x[x > 0].sum(), lambda x: x * float(x[0]), lambda x: x.unique()])
def test_a_step_that_waits_is_not_recorded(
    work: object, repeated: list[Repeated], caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(work)
    with computing(CPU, "fp32"):
        step = Captured(work, CPU, "a step")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            step(torch.ones(3))
    (line,) = caplog.messages
    assert line.startswith("a step cannot be captured (aten.") and not repeated
