"""JSON that is endless, ambiguous or has no meaning, and manifests that say what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

from ddhub.artifact.manifest import MANIFEST, RESULTS, canonical
from tests.hostile._threats import Make, enter, say_tensor, set_field, threat

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def text(data: bytes, name: str = MANIFEST) -> Make:
    return lambda folder: (folder / name).write_bytes(data)


JSON = (
    ("NaN", "NaN is not a finite number", b'{"a": NaN}'),
    ("1e999", "1e999 is not a finite number", b'{"a": 1e999}'),
    ("an integer of 4 MB", "an integer of 4000000 digits", b'{"a": ' + b"9" * 4_000_000 + b"}"),
    ("an integer of 65 bits", "an integer of 20 digits", b'{"a": 18446744073709551616}'),
    ("a key twice", "the key 'name' twice", b'{"name": 1, "name": 2}'),
    ("a key of 4 MB", "a key of more than 200 characters", b'{"' + b"a" * 4_000_000 + b'": 1}'),
    ("lists in one another", "not JSON", b"[" * 2_000_000 + b"]" * 2_000_000),
    ("33 lists in one another", "nested more than 32 deep", b'{"a":' + b"[" * 33 + b"]" * 33 + b"}"),
    ("lists side by side", "no JSON object", b"[" + b"[]," * 1_300_000 + b"[]]"),
    ("half a character", "surrogates not allowed", b'{"a": "\\ud800"}'),
    ("no UTF-8", "not UTF-8 (byte 7)", b'{"a": "\xff"}'),
)
for name, word, data in JSON:
    enter(name, MANIFEST, (word,), text(data))
enter("results nested deep", f"{RESULTS}, line 1", ("not JSON",), text(b'{"a":' * 100_000 + b"\n", RESULTS))
enter("a result that is NaN", f"{RESULTS}, line 1", ("NaN is not",), text(b'{"accuracy":NaN}\n', RESULTS))


@threat(MANIFEST, "the digest differs")
def a_million_objects(folder: Path) -> None:
    record = json.loads((folder / MANIFEST).read_text())
    record["protocol"] = {"a": [{}] * 1_300_000}
    (folder / MANIFEST).write_text(canonical(record))


def cifar10(*order: int) -> Make:
    return set_field(dataset="cifar10", classes=[CIFAR10[i] for i in order])


def augment(**changes: object) -> Make:
    return set_field(protocol={"augment": changes})


MEANING = (
    ("classes in another order", "not those of cifar10 in their order", cifar10(0, 1, 2, 5, 4, 3, 6, 7, 8, 9)),
    ("classes that are missing", "not those of cifar10 in their order", cifar10(0, 1, 2)),
    ("more labels than images", "image_labels", say_tensor("image_labels", dtype="U8", shape=[7])),
    ("a mean of 1e300", "'mean' must be", set_field(mean=[1e300, 0, 0])),
    ("a deviation of 1e-300", "'std' must be", set_field(std=[1e-300, 1, 1])),
    ("a range of 1e300", "'pixel_range' must be", set_field(pixel_range=[[0, 1e300]] * 3)),
    ("a temperature of zero", "temperature is 0,", set_field(labels={"kind": "soft", "temperature": 0})),
    ("a temperature that is a text", "temperature is 'x'", set_field(labels={"kind": "soft", "temperature": "x"})),
    ("no temperature", "temperature is None", set_field(labels={"kind": "soft"})),
    ("unknown labels", "labels '__import__' are not known", set_field(labels={"kind": "__import__"})),
    (
        "mosaics that are not squares",
        "factor 2 for images of 4 x 6",
        set_field(decoder={"kind": "crops", "factor": 2, "side": 2}),
    ),
    ("an unknown decoder", "decoder 'os.system' is not known", set_field(decoder={"kind": "os.system"})),
    ("an augmentation that is a text", "augment is not an object", set_field(protocol={"augment": "dsa"})),
    ("no epochs", "epochs is 0", set_field(protocol={"epochs": 0})),
    ("a padding of a gigapixel", "crop_padding is 1000000000", augment(crop_padding=10**9)),
    ("a padding beyond the images", "crop_padding is 7, more than the images' side", augment(crop_padding=7)),
    ("a million years", "epochs is 1000000000000", set_field(protocol={"epochs": 10**12})),
    ("a batch of a terabyte", "batch_size is 1000000000000", set_field(protocol={"batch_size": 10**12})),
    ("a rate of 1e308", "lr is 1e+308", set_field(protocol={"lr": 1e308})),
    ("a learned rate of 1e308", "learned rate is 1e+308", set_field(labels={"kind": "hard", "lr": 1e308})),
    ("a momentum of five", "momentum is 5", set_field(protocol={"momentum": 5})),
    ("a megabyte of a name", "name is 'xxx", set_field(protocol={"name": "x" * 10**6})),
    ("a name that steers", "name is 'a\\x1b[2J'", set_field(protocol={"name": "a\x1b[2J"})),
    ("a thousand teachers", "teachers is", set_field(protocol={"teachers": ["a@0"] * 1000})),
    ("a weight of 1e308", "weight is 1e+308", set_field(labels={"kind": "dbr", "weight": 1e308})),
    ("a folder of the reader's", "'dataset' must be a name", set_field(dataset="folder:/etc")),
    ("a folder of the reader's home", "'dataset' must be a name", set_field(dataset="folder:~")),
    ("a folder above", "'dataset' must be a name", set_field(dataset="folder:..\\x")),
    ("a megabyte of a method", "'method' must be a text", set_field(method="x" * 10**6)),
    ("an unknown setting", "unknown field 'hook'", set_field(protocol={"hook": "os.system"})),
)
for name, word, make in MEANING:
    enter(name, MANIFEST, (word,), make)
