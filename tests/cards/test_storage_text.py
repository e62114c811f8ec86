"""How images and labels are stored, in words: on the card, and for `ddhub info` and `ddhub list`."""

from __future__ import annotations

from typing import Any

import pytest
from test_results import tiny

from ddhub.artifact.encoding import parse
from ddhub.artifact.results import Entry
from ddhub.cards.card import render
from ddhub.cards.storage_text import encoding, label_bits, storage

RECORD = {"pixels": "0" * 64, "samples": "00", "tolerance": 2}


def images(count: int) -> dict[str, Any]:
    shape = [count, 3, 4, 6]
    return {"images": {"dtype": "U8", "shape": shape}, "image_labels": {"dtype": "U8", "shape": [count]}}


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [
        ("png", 66, "PNG, lossless, one picture an image"),
        ("png/22", 66, "PNG, lossless, one picture of 22 images a class"),
        ("avif:40/22", 66, "AVIF, quality 40, 4:4:4, one picture of 22 images a class"),
        ("avif:40:420/11", 66, "AVIF, quality 40, 4:2:0, 2 pictures of 11 images a class"),
        ("webp:30/1", 66, "WebP, quality 30, 4:2:0, one picture an image"),
        ("webp:30/22", 88, "WebP, quality 30, 4:2:0, pictures of 22 images"),  # of 3 classes, one has more
    ],
)
def test_an_encoding_in_words(text: str, count: int, words: str) -> None:
    how = parse(text)
    m = tiny(encoding=how if how["codec"] == "png" else how | RECORD, tensors=images(count))
    assert encoding(m) == words
    card = render(Entry(m, []))
    assert f" bits per class. Stored: images as {words}; labels as class numbers.\n" in card
    assert f"    num_examples: {count // how.get('sheet', 1)}\n" in card  # rows of the file, as the Hub counts them


@pytest.mark.parametrize(
    ("labels", "tensors", "bits"),
    [
        ({"kind": "hard"}, {}, None),
        ({"kind": "teacher", "temperature": 1.0}, {}, None),
        ({"kind": "soft"}, {"labels.logits": {"dtype": "F16", "shape": [6, 3]}}, 16),
        ({"kind": "soft"}, {"labels.logits": {"dtype": "F32", "shape": [6, 3]}}, 32),
        ({"kind": "soft", "bits": 4}, {"labels.logits": {"dtype": "U8", "shape": [6, 2]}}, 4),
        ({"kind": "top1", "bits": 8}, {"labels.probability": {"dtype": "U8", "shape": [5, 6]}}, 8),
        ({"kind": "dbr"}, {"labels.distances": {"dtype": "F16", "shape": [5, 6, 2]}}, 16),
    ],
)
def test_label_bits(labels: dict[str, Any], tensors: dict[str, Any], bits: int | None) -> None:
    m = tiny(labels=labels, tensors={**images(6), **tensors})
    assert label_bits(m) == bits
    words = f"labels of {bits} bits a number" if bits else "labels as class numbers"
    assert storage(m) == f"images as PNG, lossless, one picture an image; {words}"
