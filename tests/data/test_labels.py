"""Label schemes against formulas worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ddhub.data import labels
from ddhub.data.views import Views
from ddhub.errors import ArtifactError


def view(items: list[int], partner: list[int], weight: list[float]) -> Views:
    plain = Views.plain(torch.tensor(items))
    return Views(
        plain.epoch,
        plain.items,
        plain.offset,
        plain.flip,
        torch.tensor(partner),
        torch.tensor(weight),
        plain.box,
    )


X = torch.zeros(1, 3, 2, 2)


def test_interpolated_label_and_loss_equal_the_formula_by_hand() -> None:
    scheme = labels.Soft(torch.tensor([[30.0, 0.0], [-60.0, 30.0]]).half(), 30.0)
    target = scheme(view([0], [1], [0.75]), X)
    # z = 0.75 (30, 0) + 0.25 (-60, 30) = (7.5, 7.5), q = softmax(z / 30) = (1/2, 1/2)
    assert target.tolist() == [[7.5, 7.5]]
    # student logits (30 ln 3, 0): p = softmax((ln 3, 0)) = (3/4, 1/4)
    output = torch.tensor([[30 * math.log(3), 0.0]])
    wanted = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert scheme.loss(output, target).item() == pytest.approx(wanted, rel=1e-6)


def test_soft_loss_is_a_mean_over_the_batch_without_the_square_of_the_temperature() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    q, p = torch.softmax(target / 7, 1), torch.softmax(output / 7, 1)
    wanted = sum(float(q[i, c] * math.log(q[i, c] / p[i, c])) for i in range(5) for c in range(4)) / 5
    assert float(labels.distillation_loss(output, target, 7.0)) == pytest.approx(wanted, rel=1e-5)


def test_hard_labels_are_one_hot_rows_mixed_by_weight() -> None:
    scheme = labels.Hard(torch.tensor([2, 0, 2]), 3)
    target = scheme(view([0, 1, 0], [1, 1, 2], [0.25, 1.0, 0.5]), X)
    assert target.tolist() == [[0.75, 0.0, 0.25], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    output = torch.tensor([[0.0, 0.0, 0.0]]).repeat(3, 1)
    assert scheme.loss(output, target).item() == pytest.approx(math.log(3), rel=1e-6)


def test_teachers_are_asked_about_the_mixed_batch_and_averaged_as_logits() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(factor))
            self.modes: list[bool] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.modes.append(self.training)
            return self.factor * x.flatten(1)[:, :2]

    nets = [Scaled(1.0), Scaled(3.0)]
    scheme = labels.Teacher([net.train() for net in nets], 30.0)
    x = torch.tensor([[[[1.0, -2.0]]]])
    target = scheme(view([0], [0], [1.0]), x)
    assert target.tolist() == [[2.0, -4.0]] and not target.requires_grad
    assert nets[0].modes == [False] and not nets[1].factor.requires_grad


def test_a_temperature_of_the_protocol_replaces_the_labels_own_and_squares_by_hand() -> None:
    # target (0, 0), output (60, 0): KL = ln cosh(30 / T)
    output, target = torch.tensor([[60.0, 0.0]]), torch.zeros(1, 2)
    soft, taught = labels.Soft(torch.zeros(1, 2).half(), 30.0), labels.Teacher([torch.nn.Identity()], 30.0)
    for scheme in (soft, taught):
        assert scheme.loss(output, target).item() == pytest.approx(math.log(math.cosh(1)))
        assert scheme.loss(output, target, 15.0).item() == pytest.approx(math.log(math.cosh(2)))
        assert scheme.loss(output, target, 15.0, True).item() == pytest.approx(225 * math.log(math.cosh(2)))
        assert scheme.loss(output, target, None, True).item() == pytest.approx(900 * math.log(math.cosh(1)))
    hard = labels.Hard(torch.tensor([0]), 2)
    assert torch.equal(hard.loss(output, target + 0.5, 15.0, True), hard.loss(output, target + 0.5))


def test_teachers_with_batch_statistics_normalise_by_hand_and_stay_as_they_were() -> None:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(3)
    norm.running_mean.fill_(5.0)
    net = torch.nn.Sequential(norm, torch.nn.Dropout(0.5), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten())
    before = [value.clone() for value in net.state_dict().values()]
    x = torch.randn(6, 3, 4, 4)
    plain, batch = labels.Teacher([net], 1.0), labels.Teacher([net], 1.0, batch_stats=True)
    rows = view([0] * 6, [0] * 6, [1.0] * 6)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(batch(rows, x), ((x - mean) / torch.sqrt(var + norm.eps)).amax((2, 3)))
    torch.testing.assert_close(plain(rows, x), ((x - 5) / math.sqrt(1 + norm.eps)).amax((2, 3)))
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))
    assert not norm.training and norm.track_running_stats


@pytest.mark.parametrize(
    ("spec", "tensors", "message"),
    [
        ({"kind": "soft", "temperature": 1.0}, {}, r"labels.logits is missing, needed \[3, 2\]"),
        (
            {"kind": "soft", "temperature": 1.0},
            {"labels.logits": torch.zeros(3, 5)},
            r"\(3, 5\), needed \[3, 2\]",
        ),
        ({"kind": "teacher", "temperature": 1.0}, {}, "need their nets"),
        ({"kind": "oracle"}, {}, "'oracle' are not known.*pip install -U ddhub"),
    ],
)
def test_labels_that_cannot_be_built_say_why(spec: dict, tensors: dict, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        labels.build(spec, torch.tensor([0, 1, 1]), 2, tensors)
