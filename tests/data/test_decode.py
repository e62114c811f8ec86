"""Decoders against a naive loop over items, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddhub.data import decode
from ddhub.errors import ArtifactError

UNIT = [(0.0, 1.0)] * 3


def parts(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Natural images of 3 classes and 4 sets, with compensators of 2 nets."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (12, 3, 5, 6), dtype=torch.uint8, generator=random)
    stored = torch.randint(-127, 128, (2, 4, 3, 5, 6), generator=random).to(torch.int8)
    return images, stored, torch.rand(2, 4, generator=random) / 127


def test_compensate_equals_a_naive_loop_bit_for_bit() -> None:
    images, stored, scale = parts()
    decoder = decode.Compensate(images, stored, scale)
    wanted, pixels = [], images.numpy()
    for label in range(3):
        for m in range(3):
            for k in range(4):
                x = pixels[label * 4 + k].astype(np.float32) / np.float32(255)
                if m > 0:
                    x = x + stored[m - 1, k].numpy().astype(np.float32) * scale[m - 1, k].numpy()
                wanted.append(np.clip(x, np.float32(0), np.float32(1)))
    assert len(decoder) == 36
    assert np.array_equal(decoder(torch.arange(36)).numpy(), np.stack(wanted))
    mixed = torch.tensor([35, 0, 17, 17])
    assert np.array_equal(decoder(mixed).numpy(), np.stack(wanted)[mixed.numpy()])


def test_compensate_names_the_stored_image_of_each_item() -> None:
    decoder = decode.Compensate(*parts())
    assert decoder.image_of(torch.tensor([0, 3, 4, 11, 12, 35])).tolist() == [0, 3, 0, 3, 4, 11]


def test_natural_items_are_the_stored_pixels_exactly() -> None:
    images, stored, scale = parts()
    decoder = decode.Compensate(images, stored, scale)
    natural = torch.cat([torch.arange(4) + 12 * label for label in range(3)])
    assert torch.equal(decoder(natural), images.float() / 255)


def test_identity_in_unit_range_and_in_a_range_of_its_own() -> None:
    images = parts()[0]
    items = torch.tensor([5, 0, 11])
    assert torch.equal(decode.Identity(images, UNIT)(items), images[items].float() / 255)
    wide = decode.Identity(images, [(-1.0, 2.0), (0.0, 1.0), (0.5, 4.5)])(items)
    byte = images[items].double() / 255
    assert torch.allclose(wide[:, 0].double(), -1 + 3 * byte[:, 0], atol=1e-6)
    assert torch.allclose(wide[:, 2].double(), 0.5 + 4 * byte[:, 2], atol=1e-6)


def test_zero_compensators_quantise_to_zero() -> None:
    stored, scale = decode.quantize(torch.zeros(1, 2, 3, 4, 4))
    assert not bool(stored.any()) and bool((scale > 0).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.scale": None}, "lacks tensor 'decoder.scale'"),
        ({"decoder.scale": torch.ones(2, 3)}, "do not fit"),
        ({"decoder.compensators": torch.zeros(2, 5, 3, 5, 6, dtype=torch.int8)}, "do not fit"),
        ({"decoder.compensators": torch.zeros(2, 4, 3, 5, 6)}, "do not fit"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], message: str) -> None:
    images, stored, scale = parts()
    tensors = {"decoder.compensators": stored, "decoder.scale": scale, **change}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(ArtifactError, match=message):
        decode.build({"kind": "compensate"}, images, tensors, UNIT)


def test_unknown_decoder_says_upgrade() -> None:
    with pytest.raises(ArtifactError, match="'fractal' is not known.*pip install -U ddhub"):
        decode.build({"kind": "fractal"}, parts()[0], {}, UNIT)
