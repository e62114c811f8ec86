"""Files of tensors that are not what the manifest says, or not what they say themselves."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from test_artifact import forge

from ddhub.artifact.manifest import MANIFEST, TENSORS
from ddhub.artifact.tensors import describe
from tests.hostile._threats import Make, enter, put, say_tensor, threat

DELTA = {"dtype": "I8", "shape": [2, 5], "data_offsets": [36, 46]}
LOGITS = {"dtype": "F16", "shape": [6, 3], "data_offsets": [0, 36]}


def header(entries: str, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(entries) if length is None else length) + entries.encode() + body


def tensors(body: bytes = bytes(46), delta: Any = None, logits: Any = None, **more: Any) -> Make:
    """A safetensors file with other entries for the two tensors that the manifest lists."""
    entries = {"decoder.delta": {**DELTA, **(delta or {})}, "labels.logits": {**LOGITS, **(logits or {})}, **more}
    return put(tensors=header(json.dumps(entries), body))


@threat(TENSORS, "a header of 87,000,000 bytes", "262,144 are allowed")
def a_header_of_87_MB(folder: Path) -> None:
    entry = '"tensor%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    entries = ",".join(entry % number for number in range(1_300_000))
    put(tensors=header(f"{{{entries}}}".ljust(87_000_000)))(folder)


NO_HEADER = (
    ("a header of 2^63 bytes", "a header of 9,223,372,036,854,775,808", header("{}", length=2**63)),
    ("a header longer than the file", "a header of 300 bytes in a file of 10", header("{}", length=300)),
    ("a header that is a list", "its header is not a JSON object", header("[]")),
    ("a header nested deep", "its header: ", header("[" * 200_000)),
    ("a tensor twice", "the key 'a' twice", header('{"a":{},"a":{}}')),
)
for name, word, data in NO_HEADER:
    enter(name, TENSORS, ("cannot be read", word), put(tensors=data))

OTHERS = (
    ("metadata", "other tensors", tensors(__metadata__={"x": "y"})),
    ("one tensor more", "other tensors", tensors(x=DELTA)),
    ("another type", "'labels.logits' is not as", tensors(logits={"dtype": "BF16"})),
    ("another shape", "'labels.logits' is not as", tensors(logits={"shape": [3, 6]})),
    ("a hole between tensors", "not at bytes 36 to 46", tensors(bytes(50), {"data_offsets": [40, 50]})),
    ("tensors that overlap", "not at bytes 36 to 46", tensors(bytes(40), {"data_offsets": [30, 40]})),
    ("bytes behind the tensors", "50 bytes of tensors, not 46", tensors(bytes(50))),
    ("tensors cut short", "40 bytes of tensors, not 46", tensors(bytes(40))),
    ("offsets beyond the file", "not at bytes", tensors(delta={"data_offsets": [36, 2**62]})),
    ("offsets that are not numbers", "'decoder.delta' is not as", tensors(delta={"data_offsets": ["0", None]})),
    ("an infinite logit", "'labels.logits' holds a value that is not finite", tensors(b"\x00\x7c" + bytes(44))),
    ("a logit that is NaN", "'labels.logits' holds a value that is not finite", tensors(b"\x01\x7e" + bytes(44))),
)
for name, word, make in OTHERS:
    enter(name, TENSORS, (word,), make)

SAID = (
    ("a dimension of zero", "'tensors' must be", say_tensor("x", dtype="U8", shape=[2**40, 0])),
    ("a negative dimension", "'tensors' must be", say_tensor("x", dtype="U8", shape=[-1])),
    ("nine dimensions", "'tensors' must be", say_tensor("x", dtype="U8", shape=[1] * 9)),
    ("an unknown type", "'tensors' must be", say_tensor("x", dtype="F4", shape=[1])),
    ("a tensor named /x", "'tensors' must be", say_tensor("/x", dtype="U8", shape=[1])),
    ("a size that overflows", "DDHUB_MAX_BYTES", say_tensor("x", dtype="F64", shape=[2**40, 2**40])),
)
for name, word, make in SAID:
    enter(name, MANIFEST, (word,), make)


@threat(MANIFEST, "'tensors' must be", "at most 64")
def sixty_five_tensors(folder: Path) -> None:
    more = {f"t{i}": {"dtype": "U8", "shape": [1]} for i in range(63)}
    forge(folder, lambda record: record["tensors"].update(more))


def decoded(**changes: Any) -> Make:
    """The artifact with two compensators for its six images, and what is wrong with their tensors."""
    found = {
        "decoder.compensators": torch.zeros(1, 2, 3, 4, 6, dtype=torch.int8),
        "decoder.scale": torch.full((1, 2), 0.01),
        "labels.logits": torch.zeros(12, 3, dtype=torch.float16),
    } | {name.replace("__", "."): value for name, value in changes.items()}

    def change(record: dict[str, Any]) -> None:
        stored = {name: record["tensors"][name] for name in ("images", "image_labels")}
        record.update(decoder={"kind": "compensate"}, tensors=stored | describe(found))

    return lambda folder: forge(folder, change, tensors=safetensors.torch.save(found))


MEANT = (
    ("a scale of 2", "a scale is not in [0, 1]", decoded(decoder__scale=torch.full((1, 2), 2.0))),
    ("a negative scale", "a scale is not in [0, 1]", decoded(decoder__scale=torch.full((1, 2), -0.01))),
    ("a scale of 1e38", "a scale is not in [0, 1]", decoded(decoder__scale=torch.full((1, 2), 1e38))),
    ("scales of doubles", "do not fit images", decoded(decoder__scale=torch.full((1, 2), 0.01).double())),
    ("compensators that do not fit", "do not fit images", decoded(decoder__scale=torch.full((2, 2), 0.01))),
    ("logits of another number", "needed [12, 3]", decoded(labels__logits=torch.zeros(6, 3).half())),
    ("logits of 1e300", "not within", decoded(labels__logits=torch.full((12, 3), 1e300, dtype=torch.float64))),
    ("logits that are integers", "labels.logits is torch.int64", decoded(labels__logits=torch.zeros(12, 3).long())),
)
for name, word, make in MEANT:
    enter(name, MANIFEST, (word,), make)
