"""Teachers as artifacts: trained nets with what is known of them, found by name and checked to the byte.

    weights.safetensors   the net's state, parameters and buffers by their names
    teacher.json          canonical JSON: the facts below, `files` {sha256, bytes}, `run` (sealed), `digest`

    digest = sha256(canonical JSON of every field but run)          names the teacher, as NAME@DIGEST (12 digits or all)

    net, facts = open_teacher("cifar10-resnet18-w16-e4-s0")
    identify("out/cifar10-resnet18-w16-e4-s0")          # 'cifar10-resnet18-w16-e4-s0@0123456789ab'

A name is a folder if there is one at that path, else a folder near the artifact that asks, else a teacher bundled in
the package. An id may also be that of a model repository on the Hub, NAMESPACE/NAME: `from_hub`. Only what builds a net
imports torch.

| fact                     | what it is                                                                       |
|--------------------------|----------------------------------------------------------------------------------|
| name, model              | the folder's name; the architecture as `ddhub.models.build` knows it              |
| dataset, classes         | what it was trained on, and the names of its outputs in order                     |
| image_size, mean, std    | (channels, height, width) of its images and how they are normalised               |
| accuracy, test           | top-1 in percent, on the test images {name, label, images, fingerprint}           |
| protocol, epochs, seed   | how it was trained; 0 epochs are weights that others trained                      |
| source, license          | the training images as a manifest has them, and the licence of the weights        |
| run                      | facts of the run (device, seconds, versions), not of the content                  |
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddhub.artifact import bundled
from ddhub.artifact.fields import RULES
from ddhub.artifact.manifest import DAMAGED, REPAIR, TEXT_BYTES, canonical, check_seal, parse, read_bytes, seal
from ddhub.errors import ArtifactError, HubError, UsageError, first_line, unknown
from ddhub.io.files import replace_folder
from ddhub.io.rules import is_number

if TYPE_CHECKING:
    from torch import nn

    from ddhub.data.about import About
    from ddhub.remote.client import Access

TEACHER = "teacher.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1

Ask = Callable[[str, str], Path]  # name and digest of a teacher -> its folder

_ID = re.compile(r"(.+)@([0-9a-f]{12,64})")
_TEST = {"name": str, "label": str, "images": int, "fingerprint": str}
_AS_MANIFEST = ("name", "dataset", "classes", "image_size", "mean", "std", "protocol", "source", "license")
# fact: (what it must be, whether a value is that)
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **{name: RULES[name] for name in _AS_MANIFEST},
    "format": (f"{FORMAT}", lambda value: type(value) is int and value == FORMAT),
    "model": ("a text, not empty", lambda value: isinstance(value, str) and bool(value)),
    "accuracy": ("percent", lambda value: is_number(value) and 0 <= value <= 100),
    "test": (
        f"an object of {', '.join(_TEST)}",
        lambda value: isinstance(value, dict) and {key: type(value[key]) for key in value} == _TEST,
    ),
    "epochs": ("a whole number, 0 or more", lambda value: type(value) is int and value >= 0),
    "seed": ("a whole number", lambda value: type(value) is int),
    "run": ("an object", lambda value: isinstance(value, dict)),
    "files": (f"{WEIGHTS} with sha256 and bytes", lambda value: RULES["files"][1](value) and value.keys() == {WEIGHTS}),
}
_identified: dict[str, Path] = {}  # where `identify` found a teacher, so that its id leads back there in this process


def write(folder: str | Path, net: nn.Module, **known: Any) -> str:
    """Write a teacher where there is nothing; returns its digest (64 hex digits).

    A folder that holds the same teacher is left as it is. Killed at any point, this leaves a whole teacher or none:
    what was written is read back before it takes its place.

    Args:
        folder: its last part is the teacher's name.
        net: the trained net, one that `models.build(known["model"], ...)` can build again.
        known: model, dataset, classes, image_size, mean, std, accuracy, test, protocol, epochs, seed, source,
            license, run: the table above.

    Raises:
        UsageError: a folder that holds anything else, another teacher too: artifacts may name it by its digest.
        ArtifactError: facts that are missing or wrong, weights that are not the model's, a disk that is full.
    """
    import safetensors.torch

    target = Path(folder)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in sorted(net.state_dict().items())}
    weights = safetensors.torch.save(state)
    entry = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    record = {**known, "format": FORMAT, "name": target.resolve().name, "files": {WEIGHTS: entry}}
    _check(record)
    record = parse(canonical(record).encode(), "the teacher's facts")  # tuples become lists
    record |= {"digest": _digest(record), "run": seal(record["run"])}
    if is_teacher(target) and verify(target)["digest"] == record["digest"]:
        return str(record["digest"])
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        held = "another teacher" if is_teacher(target) else "something else"
        raise UsageError(f"{folder}: not overwritten, it holds {held}; move it away or choose another folder")
    try:
        replace_folder(target, {WEIGHTS: weights, TEACHER: (canonical(record) + "\n").encode()}, _build)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror}); free space or choose another") from None
    return str(record["digest"])


def from_hub(name: str, digest: str, *, owner: str | None = None, access: Access | None = None) -> Path:
    """The folder of a teacher on the Hub, checked: OWNER/NAME, or in DDHUB_NAMESPACE if `owner` is None.

    One that was downloaded before is not asked for again.

    Raises:
        HubError: the Hub cannot be asked, or has no such repository.
        ArtifactError: a damaged teacher, or another digest.
    """
    from ddhub.remote import cache, client, snapshot

    def read_contents(folder: Path) -> cache.Contents:
        record = read(folder)
        return cache.Contents(record["name"], record["digest"], record["files"])

    kind = cache.Kind("model", TEACHER, read_contents)
    repo = f"{owner or client.namespace()}/{name}"
    return snapshot.fetch(repo, kind, digest=digest, access=access or client.Access())


def open_teacher(
    name: str | Path, *, near: Path | None = None, ask: Ask = from_hub
) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher by name, every byte of it checked: the net, frozen and in eval mode on the CPU, and its facts.

    Args:
        name: a folder, or the name or the id (NAME@DIGEST) of a teacher.
        near: a folder that may hold it, such as the one in which the artifact that asks lies.
        ask: what gets one that is nowhere here, by name and digest.

    Raises:
        UsageError: an unknown name.
        ArtifactError: a file that is damaged, missing or not the model's, or another digest than the id's.
    """
    return _build(resolve(name, near=near, ask=ask))


def identify(name: str | Path, *, near: Path | None = None) -> str:
    """The id `NAME@DIGEST` (12 hex digits) of a teacher, as a protocol names it; found and checked as it is opened.

    A process that has identified a teacher finds it again by that id, wherever its folder is.
    """
    folder = resolve(name, near=near)
    record = verify(folder)
    known = f"{record['name']}@{record['digest'][:12]}"
    _identified[known] = folder.resolve()
    return known


def fitting(ids: Sequence[str], about: About, ask: Ask = from_hub) -> list[nn.Module]:
    """The teachers of these ids, for data that `about` describes; they may lie beside the artifact (`about.near`).

    What is nowhere here is got by `ask`.

    Raises:
        UsageError: an unknown name.
        ArtifactError: a damaged teacher, another digest, or classes, image size or normalisation of other data.
    """
    nets = []
    for name in ids:
        if not _ID.fullmatch(name):
            raise ArtifactError(f"teacher {name!r} is not an id NAME@DIGEST; ddhub.teachers.identify(name) makes one")
        net, record = open_teacher(name, near=about.near, ask=ask)
        for key in ("classes", "image_size", "mean", "std"):
            if tuple(record[key]) != tuple(getattr(about, key)):
                raise ArtifactError(
                    f"teacher {name!r} has another {key} than {about.name!r}; name a teacher of {about.dataset}"
                )
        nets.append(net)
    return nets


def catalog() -> dict[str, dict[str, Any]]:
    """The facts of every bundled teacher by name, sorted; needs no torch."""
    return {path.parent.name: read(path.parent) for path in sorted(bundled.BUNDLED.glob(f"*/{TEACHER}"))}


def is_teacher(folder: str | Path) -> bool:
    """Whether a folder calls itself a teacher."""
    return os.path.isfile(Path(folder) / TEACHER)


def folder_of(name: str) -> Path | None:
    """The folder of the teacher that `name` is: a path, or one bundled in the package; None for all else."""
    path = Path(name)
    known = bundled.BUNDLED / path.name
    if is_teacher(path):
        return path
    return known if str(path) == path.name and not os.path.exists(path) and is_teacher(known) else None


def resolve(name: str | Path, *, near: Path | None = None, ask: Ask = from_hub) -> Path:
    """The folder of a teacher by path, name or id (NAME@DIGEST); one that is known by its id alone is got by `ask`.

    Raises:
        UsageError: no such teacher; the message offers the nearest name.
        ArtifactError: teachers of that name, but none with the id's digest.
    """
    match = _ID.fullmatch(str(name))
    stem, digest = match.groups() if match else (str(name), "")
    places = [folder for folder in _candidates(str(name), stem, near) if is_teacher(folder)]
    for folder in places:
        if not digest or str(read(folder)["digest"]).startswith(digest):
            return folder
    hint = "a teacher lies beside its artifact, or is named by its folder"
    if digest and RULES["name"][1](stem):
        try:
            return ask(stem, digest)
        except HubError as error:
            hint += f"; {error}"
    if not places:
        known = {path.parent.name for root in (bundled.BUNDLED, near) if root for path in root.glob(f"*/{TEACHER}")}
        raise unknown("teacher", stem, known, hint)
    other = read(places[0])["digest"][:12]
    raise ArtifactError(f"{places[0]}: its digest is {other}, not {digest[:12]}; get the teacher that was asked for")


def _candidates(name: str, stem: str, near: Path | None) -> Iterator[Path]:
    """Where a teacher may be: at a path, where it was identified, near the one that asks, in the package."""
    yield Path(name)
    if name in _identified:
        yield _identified[name]
    if not RULES["name"][1](stem):  # a path is not a name, so that a manifest cannot lead elsewhere
        return
    yield Path(stem)
    if near is not None:
        yield near / stem
    yield bundled.BUNDLED / stem


def read(folder: str | Path) -> dict[str, Any]:
    """The checked facts of the teacher in `folder`, without looking at its weights; needs no torch.

    Raises:
        ArtifactError: no teacher there, or a damaged file.
    """
    path = Path(folder) / TEACHER
    data = read_bytes(path, limit=TEXT_BYTES)
    record = parse(data, str(path))
    number = record.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise ArtifactError(f"{path}: needs a newer ddhub (format {number}): pip install -U ddhub")
    if record.get("digest") != _digest(record) or (canonical(record) + "\n").encode() != data:
        raise ArtifactError(f"{path}: the digest differs from the content ({DAMAGED}); {REPAIR}")
    digest = record.pop("digest")
    if isinstance(record.get("run"), dict):
        record["run"] = check_seal(record["run"], f"{path}, run")
    try:
        _check(record)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    return {**record, "digest": digest}


def verify(folder: str | Path) -> dict[str, Any]:
    """As `read`, with the weights hashed too. ArtifactError when they are not what the facts say."""
    return _verified(Path(folder))[0]


def _verified(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The facts and the file of weights, read once."""
    record, path = read(folder), folder / WEIGHTS
    data = read_bytes(path)
    if {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} != record["files"].get(WEIGHTS):
        raise ArtifactError(f"{path}: sha256 or size differ from {TEACHER} ({DAMAGED}); {REPAIR}")
    return record, data


def _build(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The net in a folder, with weights and facts checked."""
    import torch

    from ddhub import models
    from ddhub.artifact import tensors

    record, data = _verified(folder)
    channels, size = record["image_size"][:2]
    build = partial(models.build, record["model"], classes=len(record["classes"]), size=size, channels=channels)
    try:
        # compared before there is a net: a model's name can ask for terabytes
        weights = tensors.read(data, tensors.describe_net(build))
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # initial weights are drawn, and replaced
            net = build()
        net.load_state_dict(weights)
    except UsageError:
        raise
    except Exception as error:  # torch has errors of many kinds
        path = folder / WEIGHTS
        raise ArtifactError(
            f"{path}: not the weights of {record['model']!r} ({first_line(error)}); name the right model"
        ) from None
    return net.eval().requires_grad_(False), record


def _check(record: dict[str, Any]) -> None:
    """ArtifactError for a fact that is missing, unknown or of the wrong kind."""
    for key in sorted(record.keys() ^ _RULES.keys()):
        state = "missing" if key in _RULES else "unknown"
        raise ArtifactError(f"teacher: {state} fact {key!r}; correct what wrote it")
    for key, (want, fits) in _RULES.items():
        if not fits(record[key]):
            raise ArtifactError(f"teacher: {key!r} must be {want}; correct what wrote it")


def _digest(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key not in ("run", "digest")}
    return hashlib.sha256(canonical(content).encode()).hexdigest()
