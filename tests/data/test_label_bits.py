"""Labels of 8 and 4 bits: what is unpacked is what a loop computes, within half a step of what was packed."""

from __future__ import annotations

import math

import pytest
import torch

from ddhub.data import labels
from ddhub.data.label_bits import pack, unpack
from ddhub.data.view_labels import Spec, shapes
from ddhub.errors import ArtifactError, UsageError

SOFT = {"kind": "soft", "temperature": 4.0}
DBR = {"kind": "dbr", "seed": 0, "temperature": 1.0}
TOP1 = {"kind": "top1", "seed": 0, "temperature": 1.0}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("classes", [10, 7, 1])
@pytest.mark.parametrize("views", [(), (3,)])
def test_logits_are_those_of_a_loop(bits: int, classes: int, views: tuple[int, ...]) -> None:
    logits = (8 * torch.randn(*views, 5, classes, generator=torch.Generator().manual_seed(0))).half()
    spec, packed = pack(SOFT, {"labels.logits": logits, "other": torch.ones(2)}, bits)
    assert spec == {**SOFT, "bits": bits}
    stored, scale = packed["labels.logits"], packed["labels.scale"]
    assert stored.dtype == torch.uint8 and stored.shape == (*views, 5, classes if bits == 8 else math.ceil(classes / 2))
    assert scale.dtype == torch.float16 and scale.shape == (*views, 5)
    rest, tensors = unpack(spec, packed, classes)
    assert rest == SOFT and set(tensors) == {"labels.logits", "other"}
    found = tensors["labels.logits"]
    assert found.dtype == torch.float16 and found.shape == logits.shape
    rows = zip(logits.flatten(0, -2).tolist(), found.flatten(0, -2).tolist(), scale.flatten().tolist(), strict=True)
    for given, unpacked, step in rows:
        for x, y in zip(given, unpacked, strict=True):
            code = min(2**bits - 1, round((x - min(given)) / step)) if step else 0
            assert y == pytest.approx(code * step, rel=1e-3, abs=1e-3)
            assert abs(y - (x - min(given))) <= 0.51 * step + 0.02 * (2**bits - 1 == code) * max(given) + 1e-2


@pytest.mark.parametrize(("bits", "most"), [(8, 0.01), (4, 0.12)])
def test_a_student_is_asked_for_nearly_the_same(bits: int, most: float) -> None:
    """In probabilities at temperature 4, of logits as spread as a teacher's."""
    logits = 4 * torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    classes = torch.zeros(200, dtype=torch.long)
    given = labels.build(SOFT, classes, 10, {"labels.logits": logits.half()})
    spec, packed = pack(SOFT, {"labels.logits": logits.half()}, bits)
    found = labels.build(spec, classes, 10, packed)
    assert isinstance(given, labels.Soft) and isinstance(found, labels.Soft)
    gap = (given.logits.float() / 4).softmax(1) - (found.logits.float() / 4).softmax(1)
    assert 0 < gap.abs().max() < most


@pytest.mark.parametrize("bits", [8, 4])
def test_distances_and_probabilities_have_fixed_steps(bits: int) -> None:
    top = 2**bits - 1
    distances = (20 * torch.rand(4, 6, 2)).half()
    spec, packed = pack(DBR, {"labels.distances": distances}, bits)
    found = unpack(spec, packed, 10)[1]["labels.distances"]
    assert torch.equal(found, ((distances.float() * top / 20).round() * 20 / top).half())
    assert packed["labels.distances"].numel() == 4 * 6 * 2 * bits // 8
    scheme = labels.build(spec, torch.zeros(6, dtype=torch.long), 10, packed)
    assert scheme.kind == "dbr" and torch.equal(scheme.distances, found)
    tensors = {
        "labels.top1": torch.randint(0, 10, (4, 7)).to(torch.uint8),
        "labels.probability": torch.rand(4, 7).half(),
    }
    spec, packed = pack(TOP1, tensors, bits)
    found = unpack(spec, packed, 10)[1]["labels.probability"]
    assert torch.equal(found, ((tensors["labels.probability"].float() * top).round() / top).half())
    made = shapes(Spec.parse(TOP1), epochs=4, items=7, classes=10)
    assert {k: (x.dtype, tuple(x.shape)) for k, x in unpack(spec, packed, 10)[1].items()} == made


def test_nothing_is_packed_of_labels_without_floats_or_in_16_bits() -> None:
    tensors = {"labels.logits": torch.randn(3, 5).half()}
    assert pack(SOFT, tensors, 16) == (SOFT, tensors)
    assert pack({"kind": "hard"}, {}, 4) == ({"kind": "hard"}, {})
    with pytest.raises(UsageError, match="label bits are 5; they must be 16, 8 or 4"):
        pack(SOFT, tensors, 5)


def test_what_does_not_fit_is_refused() -> None:
    spec, packed = pack(SOFT, {"labels.logits": torch.randn(3, 5).half()}, 4)
    classes = torch.zeros(3, dtype=torch.long)
    changes = [
        ({**spec, "bits": 5}, {}), ({**spec, "bits": True}, {}), ({**spec, "bits": 8}, {}), ({**spec, "bits": 16}, {}),
        (spec, {"labels.logits": packed["labels.logits"].half()}),
        (spec, {"labels.logits": packed["labels.logits"][:, :2]}),
        (spec, {"labels.logits": packed["labels.logits"] | 0xF0}),  # a sixth number
        (spec, {"labels.logits": packed["labels.logits"][0]}),
        (spec, {"labels.scale": packed["labels.scale"][:2]}),
        (spec, {"labels.scale": packed["labels.scale"].float()}),
        (spec, {"labels.scale": -packed["labels.scale"]}),
        (spec, {"labels.scale": torch.full((3,), 65504.0).half()}),
    ]  # fmt: skip
    for other, tensors in changes:
        with pytest.raises(ArtifactError, match="regenerate the artifact"):
            labels.build(other, classes, 5, {**packed, **tensors})
    with pytest.raises(ArtifactError, match="tensor labels.logits"):
        labels.build(spec, classes, 5, {})
    with pytest.raises(ArtifactError, match="tensor labels.scale"):
        labels.build(spec, classes, 5, {"labels.logits": packed["labels.logits"]})
