"""Teachers that would take terabytes, or whose weights are something else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ddhub import models, teachers
from ddhub.artifact.manifest import canonical
from ddhub.teachers import TEACHER, WEIGHTS
from tests.hostile._threats import Make, enter
from tests.hostile.files import PICKLE, link
from tests.hostile.tensors import header

KNOWN: dict[str, Any] = {
    "model": "convnet3-bn-w8",
    "dataset": "tiny",
    "classes": ("airplane", "automobile", "bird"),
    "image_size": (3, 8, 8),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
    "accuracy": 61.25,
    "test": {"name": "tiny", "label": "Tiny", "images": 6, "fingerprint": "00"},
    "protocol": {"epochs": 3},
    "epochs": 3,
    "seed": 0,
    "source": {"name": "tiny", "hub_id": "", "split": "train", "fingerprint": "00", "notes": "", "license": "mit"},
    "license": "mit",
    "run": {"device": "cpu"},
}


def sound(folder: Path) -> None:
    """A teacher in place of the artifact."""
    shutil.rmtree(folder)
    teachers.write(folder, models.build("convnet3-bn-w8", classes=3, size=8), **KNOWN)


def change(edit: Callable[[Path], object], **facts: Any) -> Make:
    """The teacher, changed, with its hashes and its digest made right again."""

    def make(folder: Path) -> None:
        sound(folder)
        edit(folder)
        record = json.loads((folder / TEACHER).read_text()) | facts
        if "files" not in facts:
            data = (folder / WEIGHTS).read_bytes()
            record["files"] = {WEIGHTS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
        content = {key: value for key, value in record.items() if key not in ("run", "digest")}
        record["digest"] = hashlib.sha256(canonical(content).encode()).hexdigest()
        (folder / TEACHER).write_text(canonical(record) + "\n")

    return make


def say(**facts: Any) -> Make:
    return change(lambda folder: None, **facts)


def weigh(data: bytes) -> Make:
    return change(lambda folder: (folder / WEIGHTS).write_bytes(data))


def retype(name: str, value: torch.Tensor) -> Make:
    """Other values of one tensor."""

    def edit(folder: Path) -> None:
        state = safetensors.torch.load_file(folder / WEIGHTS)
        (folder / WEIGHTS).write_bytes(safetensors.torch.save({**state, name: value}))

    return change(edit)


def after(make: Make) -> Make:
    """What is done to the teacher's folder, its hashes left as they are."""
    return lambda folder: (sound(folder), make(folder))


def grow(name: str, size: int) -> Make:
    return lambda folder: os.truncate(folder / name, size)


ENTRY = {"sha256": "0" * 64, "bytes": 1}
WRONG_WEIGHTS = (
    ("a net ten thousand wide", "not the weights of 'convnet3-bn-w9999'", say(model="convnet3-bn-w9999")),
    ("images of a million pixels", "not the weights of", say(image_size=[3, 10**6, 10**6])),
    ("65536 classes", "not the weights of", say(classes=[f"class {i}" for i in range(65536)])),
    ("a pickle for weights", "a header of", weigh(PICKLE)),
    ("a header of 2^60 bytes", "a header of 1,152,921,504,606,846,976", weigh(header("{}", length=2**60))),
    ("a weight more", "other tensors", retype("more", torch.zeros(3))),
    ("a weight of another type", "'head.bias' is not as", retype("head.bias", torch.zeros(3).double())),
    ("a weight that is NaN", "'head.bias' holds a value", retype("head.bias", torch.full((3,), torch.nan))),
    ("a link for weights", "a link to a place outside", after(link(WEIGHTS))),
    ("3 GiB of weights", "where 2,147,483,648 are allowed", after(grow(WEIGHTS, 3 * 2**30))),
)
for name, word, make in WRONG_WEIGHTS:
    enter(name, WEIGHTS, (word,), make)

WRONG_FACTS = (
    ("other files of a teacher", "'files' must be", say(files={WEIGHTS: ENTRY, "../x": ENTRY})),
    ("a link for facts", "a link to a place outside", after(link(TEACHER))),
    ("5 MB of facts", "where 4,194,304 are allowed", after(grow(TEACHER, 5_000_000))),
    ("facts that are NaN", "NaN is not", after(lambda folder: (folder / TEACHER).write_text('{"accuracy":NaN}'))),
    ("facts nested deep", "nested more than 32", say(protocol=json.loads('{"a":' * 40 + "1" + "}" * 40))),
)
for name, word, make in WRONG_FACTS:
    enter(name, TEACHER, (word,), make)
