"""Random changes of an artifact's files: `damage` leaves its hashes as they are, `forge_*` make them right again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

from test_artifact import content_of

from ddhub.artifact.manifest import MANIFEST, PARQUET, PREVIEW, RESULTS, TENSORS, canonical, seal
from ddhub.errors import ArtifactError

Files = dict[str, bytes]
# Values of every type, at the edges of what their field, a 64-bit integer, a float32 or a terminal can hold.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 255, 256, 65536, 2**31, 2**63 - 1, -(2**63), 2**64, 10**400),
    *(0.5, -0.0, 1e-300, 1e-45, 1e308, -1e308, float("nan"), float("inf")),
    *("", "x", "hard", "soft", "teacher", "identity", "../x", "\ud800", "\x1b[2J\u202e", "é", "a" * 10_000),
    *([], {}, [[]], [{}], {"kind": "hard"}, {"kind": "teacher", "temperature": 1.0}, [0] * 1000, [1, 1, 1], {"": 1}),
]


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """A bit flipped, bytes exchanged, inserted, removed or repeated, or the end cut; often near an end."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not data:
            return rng.randbytes(rng.randrange(20))
        last = len(data) - 1
        at = rng.choice((rng.randrange(len(data)), min(last, rng.randrange(80)), max(0, last - rng.randrange(400))))
        length = rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 200)))
        match rng.randrange(7):
            case 0:
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + rng.randbytes(length) + data[at + length :]
            case 2:
                data = data[:at] + rng.randbytes(length) + data[at:]
            case 3:
                data = data[:at] + data[at + length :]
            case 4:
                data = data[: at + length] + data[at:]
            case 5:
                data = data[:at] + bytes([rng.choice((0, 1, 127, 128, 255))]) * length + data[at + length :]
            case 6:
                data = data[:at]
    return data


def change_json(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one value in it, at any depth, exchanged, removed, added or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value])
        match rng.randrange(12):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, rng.choice(("x", "kind", "__proto__", "a" * 300)): rng.choice(VALUES)}
            case 2:
                return {**{k: v for k, v in value.items() if k != key}, f"{key}.": value[key]}
        return {**value, key: change_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + value[at:] * 2
            case 2:
                return [*value[:at], rng.choice(VALUES), *value[at:]]
            case 3:
                return rng.sample(value, len(value))
        return [*value[:at], change_json(value[at], rng), *value[at + 1 :]]
    if type(value) in (int, float) and abs(value) < 1e300 and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1e6, value / 3, str(value)))
    return rng.choice(VALUES)


def damage(files: Files, rng: random.Random) -> Files:
    """Any change of any files, after which nothing is made right."""
    name, other = rng.choice([*files]), rng.choice([*files])
    match rng.randrange(10):
        case 0:
            return {key: data for key, data in files.items() if key != name}
        case 1:
            return {**files, name: files[other]}
        case 2:
            return {**files, rng.choice(("notes.txt", "data/x.parquet", ".x", f"{name}.bak")): files[other]}
        case 3:
            return {**files, MANIFEST: written(change_json(json.loads(files[MANIFEST]), rng))}
        case 4:
            lines = files[RESULTS].splitlines(keepends=True)
            return {**files, RESULTS: b"".join(rng.choices(lines, k=rng.randrange(4)))}
    return {**files, name: change_bytes(files[name], rng)}


def written(record: Any) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def made_right(files: Files, record: Any, stored: Files | None = None) -> Files:
    """The files with a manifest that has right hashes, as far as they are in it, and right content and digest.

    The content is that of `files`, or of those `stored`, if they can be read; else it stays as it is.
    """
    if not isinstance(record, dict):
        return {**files, MANIFEST: written(record)}
    entries = record.get("files")
    for name, data in files.items():
        if isinstance(entries, dict) and name in entries:
            entries = {**entries, name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    record = {**record, "files": entries} if "files" in record else dict(record)
    with contextlib.suppress(Exception):
        record["content"] = content_of(stored or files, record)
    recipe, rest = record.get("recipe"), {key: value for key, value in record.items() if key != "digest"}
    try:
        if isinstance(recipe, dict) and isinstance(recipe.get("run"), dict):
            record["recipe"] = {**recipe, "run": seal(recipe["run"])}
        if isinstance(recipe, dict):
            rest["recipe"] = {key: value for key, value in recipe.items() if key != "run"}
        record["digest"] = hashlib.sha256(canonical(rest).encode()).hexdigest()
    except ArtifactError:
        pass  # NaN, which has no digest
    return {**files, MANIFEST: written(record)}


def forge_manifest(files: Files, rng: random.Random) -> Files:
    """Another manifest, of the right digest; hashes of files that it changes stay changed."""
    record = json.loads(files[MANIFEST])
    for _ in range(rng.choice((1, 1, 2, 4))):
        record = change_json(record, rng) if isinstance(record, dict) else record
    right = made_right({}, record, files)
    return {**files, **right}


def forge_bytes(files: Files, rng: random.Random) -> Files:
    """Other bytes of a file, and the hashes right."""
    name = rng.choice((PARQUET, PARQUET, PARQUET, TENSORS, TENSORS, PREVIEW))
    return made_right({**files, name: change_bytes(files[name], rng)}, json.loads(files[MANIFEST]))


def forge_header(files: Files, rng: random.Random) -> Files:
    """Another header of the tensors; sometimes the manifest says what the header says."""
    data, record = files[TENSORS], json.loads(files[MANIFEST])
    length = int.from_bytes(data[:8], "little")
    header, body = change_json(json.loads(data[8 : 8 + length]), rng), data[8 + length :]
    if isinstance(header, dict) and rng.random() < 0.5:
        for name, entry in header.items():
            if isinstance(entry, dict):
                record["tensors"][name] = {key: value for key, value in entry.items() if key != "data_offsets"}
    if rng.random() < 0.1:
        body = change_bytes(body, rng)
    text = json.dumps(header).encode()
    return made_right({**files, TENSORS: len(text).to_bytes(8, "little") + text + body}, record)


KINDS: tuple[Callable[[Files, random.Random], Files], ...] = (damage, forge_manifest, forge_bytes, forge_header)
