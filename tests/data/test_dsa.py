"""dsa: every operation against one image at a time in plain numpy, gradients against finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddhub.data.dsa import COLUMNS, dsa
from ddhub.errors import UsageError

OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
FORMS = ("dsa", "idc")
N = 24
Image = NDArray[np.float64]


def some(n: int = N, shape: tuple[int, int, int] = (3, 6, 5)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=random, dtype=torch.float64)
    return x, torch.rand(n, COLUMNS, generator=random, dtype=torch.float64)


def color(x: Image, u: list[float]) -> Image:
    x = x + (u[1] - 0.5)
    grey = sum(x[c] for c in range(len(x))) / len(x)
    x = np.stack([(plane - grey) * 2 * u[2] + grey for plane in x])
    mean = x.sum() / x.size
    return (x - mean) * (u[3] + 0.5) + mean


def crop(x: Image, u: list[float], share: float) -> Image:
    _, h, w = x.shape
    most_y, most_x = math.floor(share * h + 0.5), math.floor(share * w + 0.5)
    dy, dx = math.floor(u[4] * (2 * most_y + 1)) - most_y, math.floor(u[5] * (2 * most_x + 1)) - most_x
    out = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            if 0 <= i + dy < h and 0 <= j + dx < w:
                out[:, i, j] = x[:, i + dy, j + dx]
    return out


def cutout(x: Image, u: list[float]) -> Image:
    out, spans = x.copy(), []
    for side, number in zip(x.shape[1:], u[6:8], strict=True):
        length = math.floor(side / 2 + 0.5)
        first = math.floor(number * (side + 1 if length % 2 == 0 else side)) - length // 2
        spans.append(slice(max(first, 0), max(first + length, 0)))
    out[:, spans[0], spans[1]] = 0
    return out


def flip(x: Image, u: list[float]) -> Image:
    return x[:, :, ::-1] if u[8] < 0.5 else x


def sampled(x: Image, matrix: list[list[float]], corners: bool) -> Image:
    """Pixel by pixel: where it comes from in [-1, 1], in pixels, and the four neighbours there."""
    _, h, w = x.shape
    out = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            # From the outer pixels' centres, or from their outer edges, half a pixel further.
            span_x, span_y = (w - 1, h - 1) if corners else (w, h)
            at = (2 * j - (w - 1)) / span_x, (2 * i - (h - 1)) / span_y
            px, py = (row[0] * at[0] + row[1] * at[1] for row in matrix)
            px, py = (px * span_x + w - 1) / 2, (py * span_y + h - 1) / 2
            for y in (math.floor(py), math.floor(py) + 1):
                for z in (math.floor(px), math.floor(px) + 1):
                    if 0 <= y < h and 0 <= z < w:
                        out[:, i, j] += (1 - abs(py - y)) * (1 - abs(px - z)) * x[:, y, z]
    return out


def scale(x: Image, u: list[float], corners: bool) -> Image:
    sx, sy = (1 / 1.2 + number * (1.2 - 1 / 1.2) for number in u[9:11])
    return sampled(x, [[sx, 0], [0, sy]], corners)


def rotate(x: Image, u: list[float], corners: bool) -> Image:
    angle = (u[11] - 0.5) * 30 / 180 * math.pi
    cos, sin = math.cos(angle), math.sin(angle)
    return sampled(x, [[cos, -sin], [sin, cos]], corners)


def naive(x: Image, u: list[float], ops: tuple[str, ...], form: str, share: float) -> Image:
    known: dict[str, Any] = {
        "color": lambda x: color(x, u),
        "crop": lambda x: crop(x, u, share),
        "cutout": lambda x: cutout(x, u),
        "flip": lambda x: flip(x, u),
        "scale": lambda x: scale(x, u, form == "dsa"),
        "rotate": lambda x: rotate(x, u, form == "dsa"),
    }
    if form == "dsa":
        chosen = [ops[int(u[0] * len(ops))]]
    else:
        others = [op for op in ops if op in ("crop", "scale", "rotate")]
        drawn = [others[int(u[0] * len(others))]] if others else []
        chosen = [*(op for op in ("flip", "color") if op in ops), *drawn, *(["cutout"] if "cutout" in ops else [])]
    for op in chosen:
        x = known[op](x)
    return x


def loop(x: Tensor, u: Tensor, ops: tuple[str, ...], form: str, share: float = 0.125) -> Tensor:
    rows = zip(x.numpy(), u.tolist(), strict=True)
    return torch.from_numpy(np.stack([naive(image, row, ops, form, share) for image, row in rows]))


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 7, 7), (3, 8, 8)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ops", [*((op,) for op in OPS), OPS, OPS[:2], ("rotate", "crop", "scale"), OPS[::-1]])
def test_operations_are_the_loop(ops: tuple[str, ...], form: str, shape: tuple[int, int, int]) -> None:
    x, u = some(shape=shape)
    share = 0.125 if shape[1] == 8 else 0.25
    found = dsa(x, u, ops, form=form, crop=share)  # type: ignore[arg-type]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, loop(x, u, ops, form, share), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_one_row_for_all(form: str) -> None:
    x, u = some()
    for row in u[:8]:
        shared = row.expand(N, -1)
        found = dsa(x, shared, OPS, form=form)  # type: ignore[arg-type]
        torch.testing.assert_close(found, loop(x, shared, OPS, form), rtol=0, atol=1e-12)


def test_float32_is_float64_rounded() -> None:
    x, u = some()
    u = u.float()  # the same numbers for both
    for form in FORMS:
        small, large = (dsa(y, u, OPS, form=form) for y in (x.float(), x))  # type: ignore[arg-type]
        assert small.dtype == torch.float32 and large.dtype == torch.float64
        torch.testing.assert_close(small.double(), large, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_finite_differences(op: str, form: str, channels: int) -> None:
    x, u = some(3, (channels, 4, 5))
    assert torch.autograd.gradcheck(lambda y: dsa(y, u, [op], form=form), x.requires_grad_())  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_gradients_find_their_images(form: str) -> None:
    """Sorted by operation inside, in the old order outside."""
    x, u = some(8, (1, 3, 3))
    assert torch.autograd.gradcheck(lambda y: dsa(y, u, OPS, form=form), x.requires_grad_())  # type: ignore[arg-type]


def test_by_hand() -> None:
    x = torch.arange(1.0, 17).view(1, 1, 4, 4)
    u = torch.full((1, COLUMNS), 0.5)
    assert torch.equal(dsa(x, u, ["crop"], crop=0.25), x)
    u[0, 4:6] = torch.tensor([0.0, 0.99])  # one row from above, one column from the right
    assert dsa(x, u, ["crop"], crop=0.25).tolist() == [[[[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]]]
    u[0, 6:8] = torch.tensor([0.0, 0.5])  # centre 0 of 5 rows: half of the box is outside
    assert dsa(x, u, ["cutout"]).tolist() == [[[[1, 0, 0, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]]]
    assert torch.equal(dsa(x, u, ["flip"]), x)
    u[0, 8] = 0.49
    assert torch.equal(dsa(x, u, ["flip"]), x.flip(3))
    torch.testing.assert_close(dsa(x, u, ["rotate"]), x)
    u[0, 1:4] = torch.tensor([1.0, 0.5, 0.5])
    torch.testing.assert_close(dsa(x, u, ["color"]), x + 0.5)
    u[0, 1:4] = torch.tensor([0.5, 0.0, 0.0])  # one channel has no saturation
    torch.testing.assert_close(dsa(x, u, ["color"]), (x + 8.5) / 2)
    rgb = torch.tensor([0.0, 3.0, 6.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(dsa(rgb, u, ["color"]), torch.full((1, 3, 2, 2), 3.0))


def test_no_operation_leaves_the_images() -> None:
    x, u = some()
    before = x.clone()
    for form in FORMS:
        assert torch.equal(dsa(x, u, (), form=form), x)  # type: ignore[arg-type]
        dsa(x, u, OPS, form=form)  # type: ignore[arg-type]
    assert torch.equal(x, before)


def test_a_rounded_one_is_the_last() -> None:
    x, _ = some(2)
    for form in FORMS:
        found = dsa(x, torch.ones(2, COLUMNS), OPS, form=form)  # type: ignore[arg-type]
        almost = torch.full((2, COLUMNS), 1 - 2**-50, dtype=torch.float64)
        torch.testing.assert_close(found, loop(x, almost, OPS, form), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ops": ["colour"]}, "unknown operation of DSA 'colour'; did you mean 'color'"),
        ({"form": "both"}, "dsa_form is 'both'; it must be 'dsa' or 'idc'"),
        ({"u": torch.rand(1, COLUMNS)}, r"the table of DSA is \[1, 12\]; it must be \[24, 12\]: a row an image"),
    ],
)
def test_mistakes_have_names(change: dict[str, Any], words: str) -> None:
    x, u = some()
    with pytest.raises(UsageError, match=words):
        dsa(**{"x": x, "u": u, "ops": OPS, **change})


@pytest.mark.cuda
@pytest.mark.parametrize("form", FORMS)
def test_cuda_equals_cpu(form: str) -> None:
    x, u = some()
    found = dsa(x.cuda(), u.cuda(), OPS, form=form)  # type: ignore[arg-type]
    torch.testing.assert_close(found.cpu(), dsa(x, u, OPS, form=form), rtol=0, atol=1e-12)  # type: ignore[arg-type]
