"""Held-out training images: two parts of the training images, that depend on their number alone."""

from __future__ import annotations

import pytest
import torch

from ddhub.errors import UsageError
from ddhub.sources.source import open_source


def test_the_parts_are_the_training_images() -> None:
    whole = open_source("cifar10-mini")
    stays, held = open_source("cifar10-mini/100"), open_source("cifar10-mini/100", "test")
    assert torch.bincount(held.labels).tolist() == [10] * 10
    assert torch.bincount(stays.labels).tolist() == [190] * 10
    rows = {tuple(x.flatten()[:200].tolist()) for x in whole.images}
    parts = [{tuple(x.flatten()[:200].tolist()) for x in part.images} for part in (stays, held)]
    assert parts[0] | parts[1] == rows and not parts[0] & parts[1]
    assert torch.equal(held.images, open_source("cifar10-mini/100", "test").images)
    assert (
        len({stays.fingerprint, held.fingerprint, whole.fingerprint, open_source("cifar10-mini/50").fingerprint}) == 4
    )
    assert (stays.name, held.address, held.split) == ("cifar10-mini/100", "cifar10-mini/100", "test")
    assert held.label.endswith("of 100 held-out training images)")
    assert stays.label.endswith("without 100 held-out training images)")


def test_what_stays_can_be_split_again() -> None:
    outer, inner = open_source("cifar10-mini/100"), open_source("cifar10-mini/100/50", "test")
    stays = open_source("cifar10-mini/100/50")
    assert (stays.name, len(stays.labels), len(inner.labels)) == ("cifar10-mini/100/50", 1850, 50)
    assert {x.numpy().tobytes() for x in (*stays.images, *inner.images)} == {x.numpy().tobytes() for x in outer.images}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10-mini/x", "'x' is no number of held-out images; give for example cifar10-mini/5000"),
        ("cifar10-mini/0", "'0' is no number of held-out images"),
        ("cifar10-mini/55", "55 images cannot be shared by 10 classes; use a multiple"),
        ("cifar10-mini/2000", "has 200 images, and 200 would be held out; hold out fewer"),
        ("cifar10-mini/100/3", "3 images cannot be shared by 10 classes; use a multiple"),
        ("cifar10-mini/x/100", "'x' is no number of held-out images; give for example cifar10-mini/5000"),
        ("cifar11/100", "unknown data set 'cifar11'"),
    ],
)
def test_other_names_are_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(name)
    assert words in str(caught.value)


def test_a_split_that_is_neither_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown split 'validation'"):
        open_source("cifar10-mini/100", "validation")
