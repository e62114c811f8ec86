"""Artifacts and manifests: what is written is read back, and no damage to it goes unseen."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from ddhub.artifact import consistency, tensors
from ddhub.artifact import pictures as stored_images
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import (
    MANIFEST,
    PARQUET,
    PREVIEW,
    README,
    RESULTS,
    STORED,
    TENSORS,
    Manifest,
    canonical,
    check_seal,
    check_text_seal,
    read_manifest,
    seal,
    seal_text,
)
from ddhub.errors import ArtifactError, UsageError
from ddhub.io import files as _files

CLASSES = ("airplane", "automobile", "bird")


def tiny(**changes: Any) -> Manifest:
    """A manifest of three classes of 3 x 4 x 6 pixels, before anything is stored."""
    fields: dict[str, Any] = {
        "name": "tiny-random-ipc2",
        "method": "random",
        "dataset": "tiny",
        "ipc": 2,
        "classes": CLASSES,
        "image_size": (3, 4, 6),
        "mean": (0.5, 0.25, 0.125),
        "std": (0.2, 0.2, 0.2),
        "pixel_range": ((0.0, 1.0), (0.0, 1.0), (-0.5, 1.5)),
        "encoding": {"codec": "png"},
        "decoder": {"kind": "identity"},
        "labels": {"kind": "soft", "temperature": 30.0},
        "protocol": {"epochs": 3},
        "recipe": {
            "path": "recipes/random_real.py",
            "repository": "ddhub",
            "commit": "abc",
            "modules": {"recipes/random_real.py": "0" * 64},
            "preset": None,
            "config": {"ipc": 2},
            "seed": 0,
            "run": {"device": "cpu", "seconds": 1.5},
        },
        "source": {
            "name": "tiny",
            "hub_id": "a/tiny",
            "split": "train",
            "fingerprint": "00",
            "notes": "",
            "license": "mit",
        },
        "teachers": [{"model": "convnet", "accuracy": 12.5}],
        "license": "mit",
        "citation": "@misc{tiny, author={Müller}}",
        "deviations": ["one"],
        "paper": [],
        "tensors": {},
        "content": "",
        "files": {},
    }
    return Manifest(**{**fields, **changes})


def content(size: tuple[int, int, int] = (3, 4, 6)) -> dict[str, Any]:
    """The rest of what `Artifact.write` takes: six images and two tensors."""
    rng = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(0, 256, (6, *size), dtype=torch.uint8, generator=rng),
        "image_labels": torch.tensor([0, 0, 1, 1, 2, 2]),
        "tensors": {
            "labels.logits": torch.randn(6, 3, generator=rng).half(),
            "decoder.delta": torch.randint(-128, 128, (2, 5), dtype=torch.int8, generator=rng),
        },
    }


def full(folder: Path) -> Artifact:
    """An artifact with every file that one may have."""
    artifact = Artifact.write(folder, manifest=tiny(), **content())
    artifact.add_result({"accuracy": 41.5, "seed": 0})
    artifact.add_result({"accuracy": 42.25, "seed": 1})
    (folder / README).write_text(seal_text("# Tiny\n\nA “card”."), encoding="utf-8", newline="")
    return artifact


def forge(folder: Path, change: Callable[[dict[str, Any]], None], *, count: bool = True, **files: bytes) -> None:
    """Put other files and fields into an artifact, and make its hashes, content and digest right again.

    The content stays as it is where the files cannot be read, or where not `count`.
    """
    record = json.loads((folder / MANIFEST).read_text())
    for key, data in files.items():
        name = {"parquet": PARQUET, "tensors": TENSORS}[key]
        (folder / name).write_bytes(data)
        record["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    change(record)
    if count:
        with contextlib.suppress(Exception):
            record["content"] = content_of(contents(folder), record)
    rest = {key: value for key, value in record.items() if key != "digest"}
    if isinstance(rest.get("recipe"), dict):
        rest["recipe"] = {key: value for key, value in rest["recipe"].items() if key != "run"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    record["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def content_of(files: Mapping[str, bytes], record: dict[str, Any]) -> str:
    """The content of what the files of an artifact hold, by what a manifest's record says of them."""
    m = SimpleNamespace(**record)
    count = m.tensors["images"]["shape"][0]
    images, labels = stored_images.read(files[PARQUET], count, tuple(m.image_size), len(m.classes), m.encoding)
    want = {name: entry for name, entry in m.tensors.items() if name not in STORED}
    stored = tensors.read(files[TENSORS], want) if want else {}
    return consistency.content(m, images, labels, stored)  # type: ignore[arg-type]


def same(record: dict[str, Any]) -> None:
    """No change."""


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def refused(folder: Path, *words: str) -> None:
    """`Artifact.open` raises one line that names the folder and holds all `words`."""
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text
    for word in words:
        assert word in text, text


# ---------------------------------------------------------------- round trip


def test_round_trip(tmp_path: Path) -> None:
    given = content()
    written = Artifact.write(tmp_path / "a", manifest=tiny(), **given)
    artifact = Artifact.open(tmp_path / "a")
    assert artifact.manifest == written.manifest
    assert torch.equal(artifact.images(), given["images"])
    assert torch.equal(artifact.image_labels(), given["image_labels"])
    assert artifact.image_labels().dtype == torch.int64
    tensors = artifact.tensors()
    assert set(tensors) == set(given["tensors"])
    for name, tensor in given["tensors"].items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    emptied = dataclasses.replace(artifact.manifest, tensors={}, content="", files={})
    assert emptied == tiny()
    assert artifact.results() == []
    assert set(artifact.file_bytes()) == {MANIFEST, PARQUET, TENSORS, PREVIEW}


def test_grey_images_without_tensors(tmp_path: Path) -> None:
    given = {**content((1, 5, 7)), "tensors": {}}
    one = {"mean": (0.5,), "std": (0.2,), "pixel_range": ((0.0, 1.0),)}
    manifest = tiny(image_size=(1, 5, 7), labels={"kind": "hard"}, **one)
    artifact = Artifact.open(Artifact.write(tmp_path / "a", manifest=manifest, **given).folder)
    assert torch.equal(artifact.images(), given["images"])
    assert artifact.tensors() == {}
    assert not (tmp_path / "a" / TENSORS).exists()


def test_budget(tmp_path: Path) -> None:
    artifact = Artifact.write(tmp_path / "a", manifest=tiny(), **content())
    want = {"images": 6 * 3 * 4 * 6, "image_labels": 6, "labels.logits": 36, "decoder.delta": 10}
    assert artifact.bytes_by_tensor() == want
    stored = sum((tmp_path / "a" / name).stat().st_size for name in (PARQUET, TENSORS))
    assert artifact.manifest.stored_bytes == stored and artifact.bits_per_class() == 8 * stored / 3
    many = tiny(classes=tuple(f"class {k}" for k in range(257)), labels={"kind": "hard"})
    artifact = Artifact.write(tmp_path / "b", manifest=many, **content())
    assert artifact.bytes_by_tensor()["image_labels"] == 12  # 257 class numbers need two bytes


def test_a_preview_has_twenty_images_a_class_spread_over_it(tmp_path: Path) -> None:
    images = torch.zeros(150, 3, 4, 6, dtype=torch.uint8)
    images[:, 0] = torch.arange(150).view(-1, 1, 1)  # the number of an image is its red
    labels = torch.arange(150) // 50
    artifact = Artifact.write(
        tmp_path / "a", manifest=tiny(labels={"kind": "hard"}), images=images, image_labels=labels, tensors={}
    )
    grid = np.asarray(Image.open(artifact.folder / PREVIEW).convert("RGB"))
    assert grid.shape == (3 * 10 + 2, 20 * 14 + 2, 3)
    shown = [[int(grid[2 + 10 * row, 2 + 14 * column, 0]) for column in range(20)] for row in range(3)]
    assert shown == [[50 * row + column * 50 // 20 for column in range(20)] for row in range(3)]


def test_a_preview_of_compensated_images_shows_what_they_become(tmp_path: Path) -> None:
    images = torch.full((3, 3, 4, 6), 100, dtype=torch.uint8)
    tensors = {
        "decoder.compensators": torch.full((1, 1, 3, 4, 6), 10, dtype=torch.int8),
        "decoder.scale": torch.tensor([[1 / 255]]),
    }
    manifest = tiny(decoder={"kind": "compensate"}, labels={"kind": "hard"}, pixel_range=((0.0, 1.0),) * 3)
    artifact = Artifact.write(
        tmp_path / "a", manifest=manifest, images=images, image_labels=torch.arange(3), tensors=tensors
    )
    grid = np.asarray(Image.open(artifact.folder / PREVIEW).convert("RGB"))
    assert grid.shape == (3 * 10 + 2, 2 * 14 + 2, 3)  # the natural image, and the compensated one beside it
    assert (grid[2:10, 2:14] == 100).all() and (grid[2:10, 16:28] == 110).all()


SEEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "a pixel": lambda given: given["images"].view(-1)[7].add_(1),
    "a class": lambda given: given["image_labels"].__setitem__(1, 1),
    "a tensor": lambda given: given["tensors"]["labels.logits"].view(-1)[3].add_(1),
    "one more tensor": lambda given: given["tensors"].update({"labels.more": torch.zeros(1)}),
    "the label scheme": lambda given: given.update(manifest=tiny(labels={"kind": "soft", "temperature": 20.0})),
    "a learned rate": lambda given: given.update(
        manifest=tiny(labels={"kind": "soft", "temperature": 30.0, "lr": 0.1})
    ),
    "the pixel range": lambda given: given.update(manifest=tiny(pixel_range=((0.0, 1.0),) * 3)),
}


def test_content_is_what_a_student_sees_and_nothing_else(tmp_path: Path) -> None:
    first = Artifact.write(tmp_path / "a", manifest=tiny(), **content()).manifest
    recipe = {**tiny().recipe, "commit": "def", "modules": {}, "preset": "x", "run": {"seconds": 9}}
    other = tiny(name="other", method="x", recipe=recipe, citation="", teachers=[], protocol={"epochs": 4}, ipc=3)
    same_data = Artifact.write(tmp_path / "b", manifest=other, **content()).manifest
    assert re.fullmatch(r"[0-9a-f]{64}", first.content)
    assert same_data.content == first.content and same_data.digest != first.digest
    contents_of = {first.content}
    for number, (name, change) in enumerate(SEEN.items()):
        given = {"manifest": tiny(), **content()}
        change(given)
        found = Artifact.write(tmp_path / str(number), **given).manifest.content
        assert found not in contents_of, name
        contents_of.add(found)


def test_content_by_hand(tmp_path: Path) -> None:
    given = content()
    manifest = Artifact.write(tmp_path / "a", manifest=tiny(), **given).manifest
    arrays = {"images": given["images"].numpy(), "image_labels": given["image_labels"].numpy().astype(np.uint8)}
    arrays |= {name: tensor.numpy() for name, tensor in given["tensors"].items()}
    stored = {
        name: {**manifest.tensors[name], "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
        for name, array in arrays.items()
    }
    seen = {"image_size": [3, 4, 6], "pixel_range": [[0.0, 1.0], [0.0, 1.0], [-0.5, 1.5]], "tensors": stored}
    seen |= {"decoder": {"kind": "identity"}, "labels": {"kind": "soft", "temperature": 30.0}}
    text = json.dumps(seen, sort_keys=True, separators=(",", ":"))
    assert manifest.content == hashlib.sha256(text.encode()).hexdigest()


def test_another_content_than_that_of_the_manifest_is_refused(tmp_path: Path) -> None:
    full(tmp_path / "a")
    forge(tmp_path / "a", lambda record: record.update(content="0" * 64), count=False)
    refused(tmp_path / "a", MANIFEST, "not those of its content hash")
    forge(tmp_path / "a", lambda record: record.update(content=""), count=False)
    refused(tmp_path / "a", MANIFEST, "its content has no hash")


def test_same_input_same_bytes(tmp_path: Path) -> None:
    given = content()
    Artifact.write(tmp_path / "a", manifest=tiny(), **given)
    given["tensors"] = dict(reversed(given["tensors"].items()))
    given["images"] = given["images"].permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    Artifact.write(tmp_path / "b", manifest=tiny(), **given)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tensors = {"a": base, "b": base[:3], "c": base.view(2, 3).T}
    artifact = Artifact.write(
        tmp_path / "a", manifest=tiny(labels={"kind": "hard"}), **{**content(), "tensors": tensors}
    )
    read = artifact.tensors()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        full(tmp_path / "a")
        modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "a").rglob("*") if p.is_file()}
        assert modes == {0o644}
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    finally:
        os.umask(before)


def test_preview(tmp_path: Path) -> None:
    given = content()
    Artifact.write(tmp_path / "a", manifest=tiny(), **given)
    picture = Image.open(tmp_path / "a" / PREVIEW)
    assert picture.mode == "P"  # of 256 colours, more than these few pixels have
    grid = np.asarray(picture.convert("RGB"))
    assert grid.shape == (3 * (8 + 2) + 2, 2 * (12 + 2) + 2, 3)
    # image 3 is the second of class 1; each of its pixels fills two by two
    tile = grid[12:20, 16:28]
    want = given["images"][3].permute(1, 2, 0).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert np.array_equal(tile, want.numpy())
    assert (grid[:2] == 255).all() and (grid[:, -2:] == 255).all()


def test_datasets_reads_the_parquet(tmp_path: Path) -> None:
    given = content()
    Artifact.write(tmp_path / "a", manifest=tiny(), **given)
    script = (
        "import sys, json, numpy as np, datasets\n"
        "d = datasets.load_dataset('parquet', data_files=sys.argv[1], split='train')\n"
        "pixels = [np.asarray(row['image']).tolist() for row in d]\n"
        "print(json.dumps([pixels, d['label'][:], d.features['label'].names]))\n"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"}
    env |= {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, str(tmp_path / "a" / PARQUET)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    pixels, labels, names = json.loads(done.stdout)
    assert torch.equal(torch.tensor(pixels).permute(0, 3, 1, 2), given["images"].long())
    assert labels == given["image_labels"].tolist()
    assert names == [*CLASSES]


# ---------------------------------------------------------------- digest, seals


def test_digest_is_stable() -> None:
    manifest = tiny()
    record = dataclasses.asdict(manifest)
    del record["recipe"]["run"]
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    assert manifest.digest == hashlib.sha256(text.encode()).hexdigest()
    assert manifest.digest == "bc1ede3d864fbc185bca1b49e2d8b6979835de2f9a08f11510e53f3afabadca4"


def test_digest_ignores_the_run_and_nothing_else() -> None:
    recipe = tiny().recipe
    assert tiny(recipe={**recipe, "run": {"device": "cuda"}}).digest == tiny().digest
    assert tiny(recipe={**recipe, "seed": 1}).digest != tiny().digest
    assert tiny(deviations=[]).digest != tiny().digest


def test_seals() -> None:
    sealed = seal({"b": 1, "a": [1.5, "é"]})
    text = '{"a":[1.5,"\\u00e9"],"b":1}'
    assert canonical({"b": 1, "a": [1.5, "é"]}) == text
    assert sealed["seal"] == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert seal(sealed) == sealed
    assert check_seal(sealed, "x") == {"b": 1, "a": [1.5, "é"]}
    with pytest.raises(ArtifactError, match="line 3: the seal differs"):
        check_seal({**sealed, "b": 2}, "line 3")
    with pytest.raises(ArtifactError, match="line 3: the seal is missing"):
        check_seal({"b": 2}, "line 3")

    body = "# Card\nsays “yes”\n"
    short = hashlib.sha256(body.encode()).hexdigest()[:16]
    assert seal_text(body) == seal_text(body[:-1]) == f"{body}<!-- seal: {short} -->\n"
    check_text_seal(seal_text(body), "README.md")
    for text in (body, "", seal_text(body) + "\n", seal_text(body)[:-1], "x" + seal_text(body)):
        with pytest.raises(ArtifactError, match=r"README\.md: the seal .* \(ddhub card\)"):
            check_text_seal(text, "README.md")


# ---------------------------------------------------------------- damage


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    full(folder)
    rng = random.Random(0)
    tried = 0
    for name, data in contents(folder).items():
        # those with a sha256 need few; every byte of the two short ones that have only seals
        count = {MANIFEST: 400, RESULTS: len(data), README: len(data)}.get(name, 15)
        for position in rng.sample(range(len(data)), k=count):
            damaged = bytearray(data)
            damaged[position] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
            (folder / name).write_bytes(damaged)
            refused(folder)
            tried += 1
        (folder / name).write_bytes(data)
    Artifact.open(folder)
    assert tried > 500


def test_every_cut_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    full(folder)
    for name, data in contents(folder).items():
        for length in (0, 1, len(data) // 3, len(data) - 1):
            if name == RESULTS and length == 0:
                continue  # no result yet: as good as no file
            (folder / name).write_bytes(data[:length])
            refused(folder, name)
        (folder / name).unlink()
        if name in (RESULTS, README):
            Artifact.open(folder)
        else:
            refused(folder, name if name != MANIFEST else "not an artifact: no manifest.json")
        (folder / name).mkdir()
        refused(folder)
        (folder / name).rmdir()
        (folder / name).write_bytes(data)
    Artifact.open(folder)


def test_a_foreign_file_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    full(folder)
    for name in (".gitattributes", ".DS_Store", "data/.DS_Store"):
        (folder / name).write_text("")
    (folder / "__pycache__").mkdir()  # an installer compiles recipe.py
    (folder / ".git").mkdir()
    Artifact.open(folder)
    for name in ("notes.txt", "data/train-00001-of-00002.parquet"):
        (folder / name).write_text("")
        refused(folder, name, "not part of the artifact")
        (folder / name).unlink()
    (folder / "more").mkdir()
    refused(folder, "more", "not part of the artifact")


def test_not_an_artifact(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "is not an artifact: no manifest.json")
    refused(tmp_path, "is not an artifact: no manifest.json")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "no JSON object but a list"),
        (b"\xff{}", "not UTF-8 (byte 0)"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": -1e999}', "-1e999 is not a finite number"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"{}", "missing field 'citation'"),
        (b'{"format": 2}', "needs a newer ddhub (format 2, this one reads up to 1): pip install"),
    ],
)
def test_manifest_that_is_none(tmp_path: Path, data: bytes, cause: str) -> None:
    folder = tmp_path / "a"
    full(folder)
    (folder / MANIFEST).write_bytes(data)
    refused(folder, MANIFEST, cause)
    with pytest.raises(ArtifactError):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 0),
        ("format", True),
        ("format", "1"),
        ("name", "Tiny"),
        ("name", "a/b"),
        ("name", "a\n"),
        ("name", None),
        ("method", ""),
        ("dataset", 3),
        ("ipc", 0),
        ("ipc", True),
        ("ipc", 2.0),
        ("classes", []),
        ("classes", ["a", "a", "b"]),
        ("classes", "abc"),
        ("classes", [["a"], ["b"], ["c"]]),
        ("image_size", [3, 4]),
        ("image_size", [2, 4, 6]),
        ("image_size", [3, 4, 7]),
        ("mean", [0.5]),
        ("mean", [0.5, 0.5, None]),
        ("mean", [0.5, 0.5, 10**400]),
        ("std", [0.2, 0.2, 0]),
        ("pixel_range", [[0, 1], [0, 1], [1, 1]]),
        ("pixel_range", [0, 1, 2]),
        ("decoder", {}),
        ("labels", {"kind": 3}),
        ("labels", []),
        ("protocol", None),
        ("recipe", {"path": "x"}),
        ("recipe", 7),
        ("source", {"name": "tiny"}),
        ("teachers", {}),
        ("teachers", [1]),
        ("license", ""),
        ("citation", None),
        ("deviations", [1]),
        ("paper", [[]]),
        ("tensors", []),
        ("tensors", {}),
        ("tensors", {"images": {"dtype": "F8", "shape": [1]}}),
        ("tensors", {"images": {"dtype": "U8", "shape": [-1]}}),
        ("tensors", {"images": {"dtype": ["U8"], "shape": [1]}}),
        ("files", {}),
        ("files", {"../x": {"sha256": "0" * 64, "bytes": 1}}),
        ("files", {PARQUET: {"sha256": "0", "bytes": 1}}),
    ],
)
def test_wrong_field(tmp_path: Path, field: str, value: Any) -> None:
    folder = tmp_path / "a"
    full(folder)
    forge(folder, lambda record: record.update({field: value}))
    refused(folder, MANIFEST)


def test_unknown_missing_and_renamed_fields(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    full(folder)
    sound = (folder / MANIFEST).read_bytes()
    forge(folder, same)
    assert (folder / MANIFEST).read_bytes() == sound  # the forger works
    forge(folder, lambda record: record.update({"colour": "red"}))
    refused(folder, MANIFEST, "unknown field 'colour'")
    for field in [field.name for field in dataclasses.fields(Manifest)]:
        (folder / MANIFEST).write_bytes(sound)
        forge(folder, lambda record, field=field: record.pop(field), count=False)  # type: ignore[misc]
        refused(folder, f"missing field {field!r}")
    (folder / MANIFEST).write_bytes(sound)
    forge(folder, lambda record: record["recipe"]["run"].update({"seconds": 1.0}))
    refused(folder, "recipe.run: the seal differs")
    (folder / MANIFEST).write_bytes(sound)
    forge(folder, lambda record: record.update({"format": 2, "colour": "red"}))
    refused(folder, "needs a newer ddhub (format 2")


def parquet(rows: list[Any], labels: list[int | None], name: str = "image") -> bytes:
    out = io.BytesIO()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    array = pa.array([row if row is None else {"bytes": row, "path": None} for row in rows], kind)
    table = pa.table({name: array, "label": pa.array(labels, pa.int64())})
    pq.write_table(table, out, compression="none", use_dictionary=False)
    return out.getvalue()


def png(mode: str = "RGB", size: tuple[int, int] = (6, 4), form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, format=form)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (parquet([png()] * 6, [0, 0, 1, 1, 2, 2])[:-20], "cannot be read"),
        (b"PAR1" * 10, "cannot be read"),
        (parquet([png()] * 5, [0] * 5), "5 rows, the manifest says 6"),
        (parquet([png()] * 6, [0] * 6, name="picture"), "cannot be read"),
        (parquet([png()] * 6, [0, 1, 2, 3, 0, 1]), "label 3 is 3"),
        (parquet([png()] * 6, [0, 1, -1, 2, 0, 1]), "label 2 is -1"),
        (parquet([png()] * 6, [0, None, 2, 2, 0, 1]), "label 1 is None"),
        (parquet([png()] * 5 + [png(size=(4, 6))], [0] * 6), "image 5 is not a PNG of (3, 4, 6)"),
        (parquet([png("L")] * 6, [0] * 6), "image 0 is not a PNG of (3, 4, 6)"),
        (parquet([png("RGBA")] * 6, [0] * 6), "image 0"),
        (parquet([png()] * 2 + [png(form="BMP")] * 4, [0] * 6), "image 2"),
        (parquet([png()[:-30]] * 6, [0] * 6), "image 0"),
        (parquet([png(), b""] * 3, [0] * 6), "image 1"),
        (parquet([png(), None] * 3, [0] * 6), "image 1"),
    ],
)
def test_wrong_parquet_with_the_right_hash(tmp_path: Path, data: bytes, cause: str) -> None:
    folder = tmp_path / "a"
    full(folder)
    forge(folder, same, parquet=data)
    refused(folder, PARQUET, cause)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"extra": torch.zeros(2)}, "other tensors"),
        ({"labels.logits": torch.zeros(6, 3)}, "'labels.logits' is not as the manifest says"),
        ({"labels.logits": torch.zeros(3, 6).half()}, "'labels.logits' is not as the manifest"),
        ({"labels.logits": torch.full((6, 3), torch.inf).half()}, "not finite"),
    ],
)
def test_wrong_tensors_with_the_right_hash(tmp_path: Path, change: dict[str, torch.Tensor], cause: str) -> None:
    folder = tmp_path / "a"
    full(folder)
    forge(folder, same, tensors=safetensors.torch.save({**content()["tensors"], **change}))
    refused(folder, TENSORS, cause)


def test_broken_tensors_with_the_right_hash(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    full(folder)
    data = (folder / TENSORS).read_bytes()
    for broken in (b"", data[:-1], data + b"\0", data[:20], b"\xff" * 8 + data[8:]):
        forge(folder, same, tensors=broken)
        refused(folder, TENSORS, "cannot be read")


# ---------------------------------------------------------------- writing


def test_results(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    artifact = full(folder)
    want = [{"accuracy": 41.5, "seed": 0}, {"accuracy": 42.25, "seed": 1}]
    assert artifact.results() == want
    assert Artifact.open(folder).results() == want
    with pytest.raises(ArtifactError, match="not writable as JSON"):
        artifact.add_result({"accuracy": float("nan")})
    (folder / f".{RESULTS}.tmp-99").write_text("left by a killed process")
    artifact.add_result({"accuracy": 43.0})
    assert artifact.results() == [*want, {"accuracy": 43.0}]
    assert not [*folder.glob(".*")]
    lines = (folder / RESULTS).read_bytes()
    (folder / RESULTS).write_bytes(lines.replace(b"42.25", b"92.25"))
    with pytest.raises(ArtifactError, match=r"results\.jsonl, line 2: the seal differs"):
        artifact.add_result({"accuracy": 44.0})  # nothing is added to a damaged file


def test_replaces_only_an_artifact(tmp_path: Path) -> None:
    given = content()

    def write(folder: Path) -> None:
        Artifact.write(folder, manifest=tiny(), **given)

    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "empty")
    write(tmp_path / "deep" / "er")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / MANIFEST).write_text("{")
    write(tmp_path / "damaged")

    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path / "file")
    for name in ("thesis.txt", ".git", MANIFEST + ".bak", "recipe.py"):
        folder = tmp_path / f"of {name}"
        if name in ("thesis.txt", ".git"):
            write(folder)
        else:
            folder.mkdir()
        (folder / name).write_text("mine")
        before = contents(folder)
        with pytest.raises(UsageError, match="not overwritten"):
            write(folder)
        assert contents(folder) == before
    assert not [path for path in tmp_path.iterdir() if ".tmp-" in path.name]


def test_results_survive_only_the_same_content(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    kept = full(folder).results()
    recipe = {**tiny().recipe, "run": {"device": "another"}}
    again = Artifact.write(folder, manifest=tiny(recipe=recipe), **content())
    assert again.results() == kept
    assert not (folder / README).exists()  # it shows the run
    again.add_result({"accuracy": 40.0, "digest": again.manifest.digest})
    other = Artifact.write(folder, manifest=tiny(deviations=[]), **content())
    assert other.manifest.digest != again.manifest.digest  # and the results are of the artifact of that digest
    assert other.results() == [*kept, {"accuracy": 40.0, "digest": other.manifest.digest}]
    changed = {**content(), "images": 255 - content()["images"]}
    assert Artifact.write(folder, manifest=tiny(), **changed).results() == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"images": torch.zeros(6, 3, 4, 6)}, r"images are torch\.float32"),
        ({"images": torch.zeros(6, 3, 6, 4, dtype=torch.uint8)}, r"store torch\.uint8 \[N > 0"),
        ({"images": torch.zeros(0, 3, 4, 6, dtype=torch.uint8)}, "images"),
        ({"image_labels": torch.tensor([0, 1])}, "image_labels are"),
        ({"image_labels": torch.zeros(6)}, "image_labels are"),
        ({"image_labels": torch.tensor([0, 0, 0, 0, 0, 3])}, r"leave 0\.\.2"),
        ({"image_labels": torch.tensor([0, 0, 0, 0, 0, -1])}, r"leave 0\.\.2"),
        ({"tensors": {"images": torch.zeros(1)}}, "'images' is reserved"),
        ({"tensors": {"A b": torch.zeros(1)}}, "'A b' is reserved or not of"),
        ({"tensors": {"a": torch.zeros(0)}}, "'a' is"),
        ({"tensors": {"a": torch.zeros(1, dtype=torch.complex64)}}, "'a' is torch.complex64"),
        ({"tensors": {"a": torch.tensor([torch.nan])}}, "'a' holds a value that is not finite"),
    ],
)
def test_input_that_is_no_artifact(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        Artifact.write(tmp_path / "a", manifest=tiny(), **{**content(), **change})
    assert not [*tmp_path.iterdir()]


def test_manifest_of_a_recipe_is_checked() -> None:
    with pytest.raises(ArtifactError, match="field 'ipc' must be a positive integer"):
        tiny(ipc=0)
    with pytest.raises(ArtifactError, match="not writable as JSON"):
        tiny(protocol={"path": Path("x")})
    with pytest.raises(ArtifactError, match="not writable as JSON"):
        tiny(protocol={"rate": float("inf")})


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(tmp_path / "a")
    before = contents(tmp_path)
    real = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.name == MANIFEST or path.name.startswith(f".{RESULTS}"):
            real(path, data[:10])
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(ArtifactError, match=r"cannot be written \(No space left on device\)"):
        Artifact.write(tmp_path / "a", manifest=tiny(ipc=3), **content())
    with pytest.raises(ArtifactError, match=r"cannot be written \(No space left on device\)"):
        Artifact.open(tmp_path / "a").add_result({"accuracy": 1.0})
    assert contents(tmp_path) == before


KILL = """
import json, os, signal, sys
from pathlib import Path
import torch
sys.path[:0] = sys.argv[2:]
from test_artifact import content, tiny
from ddhub.artifact.folder import Artifact

torch.set_num_threads(1)
folder = Path(sys.argv[1]) / "a"
given = content()
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")

def kill_at(step):
    # SIGKILL right before the step-th thing that the process does to the file system
    left = [step]
    def hook(event, args):
        if event in EVENTS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def fork(work, step):
    child = os.fork()
    if child == 0:
        kill_at(step)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

old = Artifact.write(folder, manifest=tiny(), **given).manifest.digest
new = tiny(ipc=3)
seen = {"old": 0, "new": 0, "none": 0}
step = 0
while True:
    step += 1
    code = fork(lambda: Artifact.write(folder, manifest=new, **given), step)
    if not folder.exists():
        seen["none"] += 1
    else:
        seen["old" if Artifact.open(folder).manifest.digest == old else "new"] += 1
    Artifact.write(folder, manifest=tiny(), **given)
    assert os.listdir(folder.parent) == ["a"], os.listdir(folder.parent)
    if code == 0:
        break
    assert code == -signal.SIGKILL

artifact = Artifact.open(folder)
artifact.add_result({"step": 0})
step = 0
while True:
    step += 1
    code = fork(lambda: artifact.add_result({"step": 1}), step)
    results = Artifact.open(folder).results()
    assert results in ([{"step": 0}], [{"step": 0}, {"step": 1}])
    if code == 0:
        break
    (folder / "results.jsonl").unlink()
    artifact.add_result({"step": 0})
seen["results"] = step

(folder / "results.jsonl").unlink()
children = []
for worker in range(4):
    child = os.fork()
    if child == 0:
        for number in range(10):
            artifact.add_result({"worker": worker, "number": number})
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
assert len(artifact.results()) == 40
assert sorted(os.listdir(folder.parent)) == ["a"] and not list(folder.glob(".*"))
print(json.dumps(seen))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_at_any_point_and_many_at_once(tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILL, str(tmp_path), str(here), str(here.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["old"] > 10 and seen["none"] == 1 and seen["new"] > 5, seen
    assert seen["results"] > 3, seen


def test_an_interrupted_replacement_is_undone(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    full(tmp_path / "a")
    before = contents(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / f".a.tmp-{ended.pid}-old")
    (tmp_path / f".a.tmp-{ended.pid}").mkdir()
    (tmp_path / ".a.tmp-1").mkdir()  # of a process that lives
    (tmp_path / ".ab.tmp-99").mkdir()  # of another folder

    def refuse(folder: Path) -> None:
        raise ArtifactError("refused")

    with pytest.raises(ArtifactError, match="refused"):
        _files.replace_folder(tmp_path / "a", {"x/y": b"1"}, refuse)
    assert contents(tmp_path / "a") == before
    assert sorted(os.listdir(tmp_path)) == [".a.tmp-1", ".ab.tmp-99", "a"]


def test_a_manifest_is_read_without_torch(tmp_path: Path) -> None:
    full(tmp_path / "a")
    script = (
        "import sys\n"
        "from ddhub.artifact.manifest import read_manifest\n"
        "m = read_manifest(sys.argv[1])\n"
        "m.bytes_by_tensor(), m.bits_per_class(), m.digest\n"
        "print({'torch', 'pyarrow', 'PIL', 'numpy', 'safetensors'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "set()", done.stderr
