"""One image to a square of pixels: modes, sizes, orientation, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddhub.errors import SourceError
from ddhub.sources.resize import Batch, Chunk, Fit, decode, header_of, is_grey

RANDOM = np.random.default_rng(0)


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def run(data: bytes, channels: int = 3, side: int = 8, **options: Any) -> Chunk:
    return decode(Fit(channels, side, None, **options), Batch(["x"], [data], np.zeros(1, np.int64)))


def flat(mode: str, colour: Any, format: str = "PNG") -> bytes:
    return saved(Image.new(mode, (8, 8), colour), format)


@pytest.mark.parametrize(
    ("data", "mode", "pixel"),
    [
        (flat("L", 70), "L", (70, 70, 70)),
        (flat("1", 1), "1", (255, 255, 255)),
        (flat("LA", (70, 255)), "LA", (70, 70, 70)),
        (flat("RGBA", (10, 20, 30, 255)), "RGBA", (10, 20, 30)),
        (flat("RGBA", (10, 20, 30, 0)), "RGBA", (255, 255, 255)),
        (flat("RGBA", (0, 100, 255, 51)), "RGBA", (204, 224, 255)),
        (saved(Image.new("RGB", (8, 8), (9, 8, 7)).quantize(4)), "P", (9, 8, 7)),
        (saved(Image.new("P", (8, 8), 0), transparency=b"\x00"), "P", (255, 255, 255)),
        (flat("CMYK", (255, 0, 0, 0), "TIFF"), "CMYK", (0, 255, 255)),
    ],
)
def test_modes_become_rgb(data: bytes, mode: str, pixel: tuple[int, int, int]) -> None:
    chunk = run(data)
    assert chunk.pixels.shape == (1, 3, 8, 8)
    assert tuple(chunk.pixels[0, :, 4, 4]) == pixel
    assert dict(chunk.converted) == {mode: 1} and (chunk.jpeg, chunk.resized) == (0, 0)


def test_modes_that_stay() -> None:
    assert run(flat("RGB", (1, 2, 3))).converted == {}
    grey = run(flat("L", 7), channels=1)
    assert grey.pixels.shape == (1, 1, 8, 8) and grey.pixels.min() == 7 and grey.converted == {}
    assert run(flat("RGB", (9, 9, 9), "JPEG")).jpeg == 1


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_more_than_8_bits_are_refused(mode: str) -> None:
    data = saved(Image.new(mode, (8, 8)), "TIFF" if mode == "F" else "PNG")
    with pytest.raises(SourceError, match=f"x: not an image \\(mode {mode} has more than 8 bits a channel\\); fetch"):
        run(data)


@pytest.mark.parametrize(("width", "height"), [(13, 30), (30, 13), (12, 12), (5, 5), (8, 9), (3, 17)])
def test_the_square_is_the_centre_averaged(width: int, height: int) -> None:
    """Against a naive loop: each pixel is the mean of its surroundings, weighted by a triangle (antialiased)."""
    pixels = RANDOM.integers(0, 256, (height, width), dtype=np.uint8)
    short = min(width, height)
    top, left = (height - short) // 2, (width - short) // 2
    cut = pixels[top : top + short, left : left + short].astype(float)
    scale = short / 8
    weights = np.zeros((8, short))
    for i in range(8):
        centre = (i + 0.5) * scale
        for j in range(short):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / max(scale, 1))
    weights /= weights.sum(1, keepdims=True)
    chunk = run(saved(Image.fromarray(pixels)), channels=1)
    assert chunk.resized == 1
    np.testing.assert_allclose(chunk.pixels[0, 0], weights @ cut @ weights.T, atol=1.01)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8, 0] = 255  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright: then red is on top
    data = saved(Image.fromarray(pixels), exif=exif)
    turned = run(data, upright=True).pixels[0, 0]  # 8 wide, 16 high: the middle 8 rows
    assert (turned[:4] == 255).all() and (turned[4:] == 0).all()
    kept = run(data).pixels[0, 0]
    assert (kept[:, :4] == 255).all() and (kept[:, 4:] == 0).all()
    (tmp_path / "x.png").write_bytes(data)
    assert header_of(tmp_path / "x.png", "") == (8, 16, "RGB")
    (tmp_path / "x.png").write_bytes(saved(Image.fromarray(pixels)))
    assert header_of(tmp_path / "x.png", "") == (16, 8, "RGB")


def test_headers(tmp_path: Path) -> None:
    for mode, grey in (("1", True), ("L", True), ("LA", True), ("RGB", False), ("P", False), ("RGBA", False)):
        (tmp_path / "x.png").write_bytes(flat(mode, 0))
        assert is_grey(header_of(tmp_path / "x.png", "")[2]) is grey
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(SourceError, match=r"x.png: not an image \(cannot identify image file\); repair it$"):
        header_of(tmp_path / "x.png", "repair it")
