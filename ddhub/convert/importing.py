"""Import: what others have published, as an artifact.

    import_artifact("logged/images_best.pt", "out/cifar100-datm-ipc10", dataset="cifar100", method="datm",
                    scale="normalized")

Formats and what they hold are those of `ddhub.convert.formats`. Pixels become bytes (`ddhub.artifact.quantise`), soft
labels 16-bit floats; how far that moves them stands among the artifact's deviations, beside all else that is known to
differ from what was published. The manifest says that the artifact was imported: `recipe.config` has the options and
the sha256 of every file, and the card shows the command.

Soft labels are logits. Where there are no others, images must come class by class, as the codes of MTT and DATM write
them. Images that are whitened (ZCA) have no unit scale and are refused; those codes write them unwhitened, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddhub import teachers
from ddhub.artifact import bundled
from ddhub.artifact.fields import RULES
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import Manifest
from ddhub.artifact.origin import PATH, provenance
from ddhub.artifact.quantise import Constants, Moved, eight_bits
from ddhub.convert import formats
from ddhub.convert.class_folders import read_folder
from ddhub.convert.class_order import labels_of, order_of, per_class
from ddhub.convert.dataset import DataSet, check_images, data_set, decoder_of
from ddhub.convert.formats import Published
from ddhub.data.about import About
from ddhub.errors import ArtifactError, UsageError, unknown
from ddhub.io.rules import is_name, is_number
from ddhub.protocols.named import protocol, protocols
from ddhub.protocols.protocol import Protocol
from ddhub.training.devices import versions

_ABOUT = ("name", "dataset", "classes", "image_size", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be said of published files; of those that `ddhub export` wrote, nothing need be.

    Attributes:
        dataset, method, ipc: the data set that was distilled, by which method, to how many images a class.
        format: auto, pt, idc, folder or npz.
        labels, lr: files of `pt`, where they do not lie beside the images; the learned step size may be a number.
        scale: of float images: unit, or normalized by `mean` and `std` (the data set's if not given).
        size: side in pixels, where it is not the data set's; images of class folders are resized to it.
        factor: of IDC's multi-formation: 1, or images are mosaics of factor · factor tiles, each a training image.
        class_order: the data set's classes (names or numbers) in the order of the file's labels.
        teachers: teachers that label every batch, in place of the file's labels; they lie beside the artifact.
        temperature: of soft labels and teachers; the protocol's, else 1, if not given.
        protocol: recommended to students; the one that is called like the method, if not given.
        license, citation, source_url: what the publisher says, and where the files came from.

    Raises:
        UsageError: an option that cannot be.
    """

    dataset: str | None = None
    method: str | None = None
    ipc: int | None = None
    format: str = "auto"
    labels: str | Path | None = None
    lr: float | str | Path | None = None
    scale: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None
    factor: int | None = None
    class_order: Sequence[str | int] = ()
    teachers: Sequence[str] = ()
    temperature: float | None = None
    protocol: str | None = None
    license: str | None = None
    citation: str | None = None
    source_url: str | None = None

    def __post_init__(self) -> None:
        if self.format not in formats.FORMATS:
            raise unknown("format", self.format, formats.FORMATS, "ddhub import --help")
        if self.scale == "zca":
            raise UsageError(f"--zca: {formats.WHITENED}")
        if self.scale not in (None, "unit", "normalized"):
            raise unknown("scale", self.scale, ("unit", "normalized"))
        if self.temperature is not None and not (is_number(self.temperature) and self.temperature > 0):
            raise UsageError(f"--temperature is {self.temperature}; give a number above 0")
        for key in ("mean", "std"):
            value = getattr(self, key)
            if value is not None and not RULES[key][1]([*value]):
                raise UsageError(f"--{key} is {value}; give {RULES[key][0]}, one a channel")


def import_artifact(path: str | Path, out: str | Path, **options: Any) -> Artifact:
    """Write an artifact of published files, whole or not at all.

    Args:
        path: a file or a folder.
        out: the artifact's folder; its last part is the name.
        options: the fields of `Options`.

    Raises:
        UsageError: an option that is missing or does not fit; nothing is written.
        ArtifactError, SourceError: files that are damaged, need pickle, or do not fit the data set; nothing is written.
    """
    ask, path, out = Options(**options), Path(path), Path(out)
    if not is_name(out.name):
        raise UsageError(f"{out.name!r} cannot name an artifact; use lower-case letters, digits, '.', '_' and '-'")
    kind = formats.guess(path) if ask.format == "auto" else ask.format
    published, data = _read(path, kind, ask)
    method = ask.method or published.record.get("method")
    if not method:
        raise UsageError("no method; say which one made the images: --method datm")
    plan = _protocol(ask.protocol, method, data.name, published.record)
    mean, std = (tuple(getattr(ask, key) or published.record.get(key) or getattr(data, key)) for key in ("mean", "std"))
    check_images(path, published.images, data, ask.size, (mean, std))
    order = order_of(ask.class_order, published, kind, data.name, data.classes)
    classes, logits, notes = labels_of(published, order)
    ipc = per_class(classes, data.classes, ask.ipc)
    decoder = decoder_of(path, published.images, ask.factor or 1, published.logits is not None and not ask.teachers)
    images, pixel_range, moved = _pixels(path, kind, published, ask.scale, (mean, std))
    if not published.named:
        first = ", ".join(f"{number} {data.classes[k]}" for number, k in enumerate(order[:10]))
        notes.append(f"The published files number the classes, which were taken as {first}{', …' * (len(order) > 10)}.")
    if not moved.exact:
        low, high = min(a for a, _ in pixel_range), max(b for _, b in pixel_range)
        notes.append(
            f"Pixels were floats and are stored as 8 bits, a range a channel, from {low:.4g} to {high:.4g} in unit "
            f"scale, which moved a pixel by at most {moved.largest:.5f} (rms {moved.rms:.5f})."
        )
    if decoder["kind"] == "crops":
        notes.append(
            f"Images are mosaics of {ask.factor} x {ask.factor} tiles: so said who imported them, not the file."
        )
    if ask.teachers and logits is not None:
        notes.append("The published soft labels were left out, since teachers label.")
    manifest = Manifest(
        name=out.name,
        method=method,
        dataset=data.name,
        ipc=ipc,
        classes=data.classes,
        image_size=tuple(images.shape[1:]),  # type: ignore[arg-type]
        mean=mean,
        std=std,
        pixel_range=pixel_range,
        encoding={"codec": "png"},
        decoder=decoder,
        labels=_scheme(ask, published, plan),
        protocol=plan.to_json(),
        recipe={
            "path": PATH,
            **provenance(Path(__file__)),
            "preset": None,
            "config": _config(path, kind, ask, published),
            "seed": 0,
            "run": {"versions": versions()},
        },
        source=published.record.get("source", data.source),
        teachers=[],
        license=ask.license
        or published.record.get("license")
        or f"not stated; made from data under: {data.source['license']}",
        citation=ask.citation if ask.citation is not None else published.record.get("citation", ""),
        deviations=["Imported: how it was made is known from its publisher alone.", *published.notes, *notes],
        paper=[],
        tensors={},
        content="",
        files={},
    )
    if ask.teachers:
        manifest = _labelled_by(ask.teachers, manifest, out)
    return Artifact.write(
        out,
        manifest=manifest,
        images=images,
        image_labels=classes,
        tensors={"labels.logits": logits} if manifest.labels["kind"] == "soft" and logits is not None else {},
    )


def _read(path: Path, kind: str, ask: Options) -> tuple[Published, DataSet]:
    """What was published, its facts checked, and the data set that it was made from."""
    if ask.labels is not None and kind != "pt":
        raise UsageError(f"--labels names a file beside images of --format pt, and {path} is read as {kind}")
    if kind == "idc" and ask.factor is None:
        cause = "an IDC file does not say its multi-formation factor, without which mosaics would pass for images"
        raise UsageError(f"{path}: {cause}; say --factor 2 (IDC's on small images) or 1 (IDC-I's, or decoded images)")
    if kind != "idc" and ask.factor is not None:
        raise UsageError(f"--factor is for IDC's files, and {path} is read as {kind}; leave it out")
    data = data_set(ask.dataset, ask.size) if ask.dataset else None
    if kind == "folder":
        if data is None:
            raise UsageError(f"{path}: class folders do not say of what data set; name it: --dataset cifar10")
        return read_folder(path, data.classes, data.channels, ask.size or data.side, ask.size is not None), data
    if kind == "pt":
        published = formats.read_pt(path, Path(ask.labels) if ask.labels else None)
    elif kind == "idc":
        published = formats.read_idc(path)
    else:
        published = formats.read_npz(path, data.channels if data else None)
    for key in published.record.keys() & RULES.keys():
        if not RULES[key][1](published.record[key]):
            raise ArtifactError(f"{path}: of its facts, {key!r} is not {RULES[key][0]}; export it again")
    if data is None:
        if "dataset" not in published.record:
            raise UsageError(f"{path} does not say of what data set it is; name it: --dataset cifar10")
        data = data_set(published.record["dataset"], ask.size)
    if published.named and tuple(published.record.get("classes", ())) != data.classes:
        raise ArtifactError(f"{path}: its classes are not those of {data.name}, in order; is it the right --dataset?")
    return published, data


def _protocol(name: str | None, method: str, dataset: str, record: dict[str, Any]) -> Protocol:
    if name:
        return protocol(name)
    if "protocol" in record:
        return Protocol.from_json(record["protocol"])
    for known in (f"{method}-{dataset}", method):
        if known in protocols():
            return protocol(known)
    raise UsageError(f"no protocol is called {method!r}; name one for students: --protocol {', '.join(protocols())}")


def _pixels(
    path: Path, kind: str, published: Published, scale: str | None, constants: Constants
) -> tuple[Tensor, tuple[tuple[float, float], ...], Moved]:
    """The images as bytes: `ddhub.artifact.quantise`."""
    known = "unit" if published.images.dtype == torch.uint8 else published.scale
    if known and scale not in (None, known):
        raise UsageError(f"{path}: --{scale} is not possible, its pixels are {known}; leave it out")
    scale = known or scale or ("unit" if kind == "idc" else None)
    if scale is None:
        raise UsageError(f"{path} does not say in which scale its pixels are: say --normalized, --unit or --zca")
    try:
        return eight_bits(published.images, constants if scale == "normalized" else None)
    except (ArtifactError, UsageError) as error:
        raise type(error)(f"{path}: {error}") from None


def _scheme(ask: Options, published: Published, plan: Protocol) -> dict[str, Any]:
    """The manifest's `labels`."""
    scheme = published.record.get("labels", {})
    rate = scheme.get("lr") if published.lr is None else published.lr
    if ask.lr is not None:
        try:
            rate = float(ask.lr)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            rate = formats.read_rate(Path(ask.lr))  # type: ignore[arg-type]
    if rate is not None and not (is_number(rate) and rate > 0):
        raise UsageError(f"the learned step size is {rate}, no number above 0; correct it: --lr")
    learned = {} if rate is None else {"lr": rate}
    if published.logits is None and not ask.teachers:
        if ask.temperature:
            raise UsageError("--temperature is for soft labels and teachers, and these labels are hard; leave it out")
        return {"kind": "hard", **learned}
    told = scheme.get("temperature") if scheme.get("kind") == "soft" else None
    temperature = ask.temperature or told or plan.temperature or 1.0
    if not (is_number(temperature) and temperature > 0):
        raise UsageError(f"the temperature of the labels is {temperature}, no number above 0; say --temperature")
    return {"kind": "teacher" if ask.teachers else "soft", "temperature": float(temperature), **learned}


def _config(path: Path, kind: str, ask: Options, published: Published) -> dict[str, Any]:
    """What `recipe.config` says: the options that were given, names of files without their folders, and hashes."""
    given = {key: value for key, value in asdict(ask).items() if value not in (None, ()) and key != "citation"}
    given = {key: [*value] if isinstance(value, (tuple, list)) else value for key, value in given.items()}
    if "teachers" in given:
        given["teachers"] = [Path(name).name for name in ask.teachers]
    for key in ("labels", "lr"):
        if isinstance(given.get(key), (str, Path)):
            given[key] = Path(given[key]).name
    return {**given, "path": path.resolve().name, "format": kind, **formats.hashes(path, published.files)}


def _labelled_by(names: Sequence[str], manifest: Manifest, out: Path) -> Manifest:
    """The manifest of labels of kind `teacher` with the teachers' ids, once they were opened and fit.

    Raises:
        UsageError: a teacher that is nowhere, or not where the artifact would find it.
        ArtifactError: a teacher that is damaged or of other data.
    """
    near = out.resolve().parent
    ids = [teachers.identify(name, near=near) for name in names]
    folders = [teachers.resolve(known, near=near).resolve() for known in ids]
    for name, folder in zip(names, folders, strict=True):
        if Path(name).is_dir() and folder.parent not in (near, bundled.BUNDLED.resolve()):
            raise UsageError(f"teacher {name!r} lies where the artifact would not find it; put its folder into {near}")
    about = About(**{key: getattr(manifest, key) for key in _ABOUT}, digest="", near=near)
    teachers.fitting(ids, about)
    records = [teachers.read(folder) for folder in folders]
    return replace(
        manifest,
        labels={**manifest.labels, "teachers": [{key: fact[key] for key in ("name", "digest")} for fact in records]},
        teachers=[{key: fact[key] for key in ("model", "accuracy", "epochs")} for fact in records],
    )
