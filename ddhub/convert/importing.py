"""Import of distilled data that others have published, as an artifact.

    import_artifact("logged/images_best.pt", "out/cifar100-datm-ipc10", dataset="cifar100", method="datm",
                    scale="normalized")

`ddhub.convert.formats` defines the formats. Pixels become bytes (`ddhub.artifact.quantise`), soft labels 16-bit floats;
the artifact's deviations list the largest changes and all other known differences from the published files. The
manifest records the import: `recipe.config` has the options and the sha256 of every file; the card shows the command.

Soft labels are logits. If there are no class labels, images must be sorted by class, as the codes of MTT and DATM write
them. ZCA-whitened images have no unit scale and are refused; those codes write unwhitened images, too.
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
from ddhub.convert.formats import ImportedData
from ddhub.data.about import About
from ddhub.errors import ArtifactError, UsageError, unknown
from ddhub.io.private import without_folders
from ddhub.io.rules import is_name, is_number
from ddhub.protocols.named import protocol, protocols
from ddhub.protocols.protocol import Protocol
from ddhub.training.devices import versions

_ABOUT = ("name", "dataset", "classes", "image_size", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an import; all have defaults for files that `ddhub export` wrote.

    Attributes:
        dataset, method, ipc: the distilled data set, the method, and the number of images per class.
        format: auto, pt, idc, folder or npz.
        labels, lr: files of `pt` in another folder than the images; the learned step size may also be a number.
        scale: scale of float images: unit, or normalized by `mean` and `std` (by default the data set's).
        size: side in pixels, if it is not the data set's; images of class folders are resized to it.
        factor: IDC's multi-formation factor; above 1, images are mosaics of factor · factor training images.
        class_order: the data set's classes (names or numbers) in the order of the file's labels.
        teachers: teachers that label every batch instead of the file's labels; in the folder that holds the artifact.
        temperature: temperature of soft labels and teachers; by default the protocol's, else 1.
        protocol: the recommended protocol; by default the one with the name of the method.
        license, citation, source_url: the publisher's license and citation, and the address of the files.

    Raises:
        UsageError: an option has an invalid value.
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


def import_artifact(path: str | Path, out: str | Path, **fields: Any) -> Artifact:
    """Write an artifact from published files, completely or not at all.

    Args:
        path: the published file or folder.
        out: the artifact's folder; its last part is the artifact's name.
        fields: fields of `Options`.

    Raises:
        UsageError: an option is missing or does not fit.
        ArtifactError, SourceError: files are damaged, need pickle or do not fit the data set.
    """
    options, path, out = Options(**fields), Path(path), Path(out)
    if not is_name(out.name):
        raise UsageError(f"{out.name!r} cannot name an artifact; use lower-case letters, digits, '.', '_' and '-'")
    kind = formats.guess(path) if options.format == "auto" else options.format
    imported, data = _read(path, kind, options)
    method = options.method or imported.metadata.get("method")
    if not method:
        raise UsageError("no method; say which one made the images: --method datm")
    plan = _protocol(options.protocol, method, data.name, imported.metadata)
    mean, std = (
        tuple(getattr(options, key) or imported.metadata.get(key) or getattr(data, key)) for key in ("mean", "std")
    )
    check_images(path, imported.images, data, options.size, (mean, std))
    order = order_of(options.class_order, imported, kind, data.name, data.classes)
    classes, logits, notes = labels_of(imported, order)
    ipc = per_class(classes, data.classes, options.ipc)
    decoder = decoder_of(
        path, imported.images, options.factor or 1, imported.logits is not None and not options.teachers
    )
    images, pixel_range, moved = _pixels(path, kind, imported, options.scale, (mean, std))
    if not imported.named:
        first = ", ".join(f"{number} {data.classes[k]}" for number, k in enumerate(order[:10]))
        notes.append(f"The published files number the classes, which were taken as {first}{', …' * (len(order) > 10)}.")
    if not moved.exact:
        low, high = min(a for a, _ in pixel_range), max(b for _, b in pixel_range)
        notes.append(
            f"Pixels were floats and are stored as 8 bits, a range a channel, from {low:.4g} to {high:.4g} in unit "
            f"scale, which moved a pixel by at most {moved.largest:.5f} (rms {moved.rms:.5f})."
        )
    if decoder["kind"] == "crops":
        tiles = f"{options.factor} x {options.factor} tiles"
        notes.append(f"Images are mosaics of {tiles}: a statement of the importer, not the file.")
    if options.teachers and logits is not None:
        notes.append("The published soft labels were left out, as teachers label the images.")
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
        labels=_scheme(options, imported, plan),
        protocol=plan.to_json(),
        recipe={
            "path": PATH,
            **provenance(Path(__file__)),
            "preset": None,
            "config": _config(path, kind, options, imported),
            "seed": 0,
            "run": {"versions": versions()},
        },
        source=imported.metadata.get("source", data.source),
        teachers=[],
        license=options.license
        or imported.metadata.get("license")
        or f"not stated; made from data under: {data.source['license']}",
        citation=options.citation if options.citation is not None else imported.metadata.get("citation", ""),
        deviations=["Imported: how it was made is known only from its publisher.", *imported.notes, *notes],
        paper=[],
        tensors={},
        content="",
        files={},
    )
    if options.teachers:
        manifest = _labelled_by(options.teachers, manifest, out)
    return Artifact.write(
        out,
        manifest=manifest,
        images=images,
        image_labels=classes,
        tensors={"labels.logits": logits} if manifest.labels["kind"] == "soft" and logits is not None else {},
    )


def _read(path: Path, kind: str, options: Options) -> tuple[ImportedData, DataSet]:
    """The published data, with checked metadata, and the data set that it was distilled from."""
    if options.labels is not None and kind != "pt":
        raise UsageError(f"--labels names a file for images of --format pt, and {path} is read as {kind}")
    if kind == "idc" and options.factor is None:
        cause = "an IDC file does not have its multi-formation factor, without which mosaics look like images"
        raise UsageError(f"{path}: {cause}; give --factor 2 (IDC's on small images) or 1 (IDC-I's, or decoded images)")
    if kind != "idc" and options.factor is not None:
        raise UsageError(f"--factor is for IDC's files, and {path} is read as {kind}; leave it out")
    data = data_set(options.dataset, options.size) if options.dataset else None
    if kind == "folder":
        if data is None:
            raise UsageError(f"{path}: class folders do not name their data set; give it: --dataset cifar10")
        return read_folder(path, data.classes, data.channels, options.size or data.side, options.size is not None), data
    if kind == "pt":
        imported = formats.read_pt(path, Path(options.labels) if options.labels else None)
    elif kind == "idc":
        imported = formats.read_idc(path)
    else:
        imported = formats.read_npz(path, data.channels if data else None)
    for key in imported.metadata.keys() & RULES.keys():
        if not RULES[key][1](imported.metadata[key]):
            raise ArtifactError(f"{path}: {key!r} in its metadata is not {RULES[key][0]}; export it again")
    if data is None:
        if "dataset" not in imported.metadata:
            raise UsageError(f"{path} does not name its data set; give it: --dataset cifar10")
        data = data_set(imported.metadata["dataset"], options.size)
    if imported.named and tuple(imported.metadata.get("classes", ())) != data.classes:
        raise ArtifactError(f"{path}: its classes are not those of {data.name}, in order; is it the right --dataset?")
    return imported, data


def _protocol(name: str | None, method: str, dataset: str, metadata: dict[str, Any]) -> Protocol:
    """The recommended protocol: by name, from the metadata, or by method and data set. Raises UsageError."""
    if name:
        return protocol(name)
    if "protocol" in metadata:
        return Protocol.from_json(metadata["protocol"])
    for known in (f"{method}-{dataset}", method):
        if known in protocols():
            return protocol(known)
    raise UsageError(f"no protocol is called {method!r}; name one: --protocol {', '.join(protocols())}")


def _pixels(
    path: Path, kind: str, imported: ImportedData, scale: str | None, constants: Constants
) -> tuple[Tensor, tuple[tuple[float, float], ...], Moved]:
    """The images as bytes, their pixel range, and the change of pixels, by `ddhub.artifact.quantise`."""
    known = "unit" if imported.images.dtype == torch.uint8 else imported.scale
    if known and scale not in (None, known):
        raise UsageError(f"{path}: --{scale} is not possible, its pixels are {known}; leave it out")
    scale = known or scale or ("unit" if kind == "idc" else None)
    if scale is None:
        raise UsageError(f"{path} does not name the scale of its pixels; give --normalized, --unit or --zca")
    try:
        return eight_bits(imported.images, constants if scale == "normalized" else None)
    except (ArtifactError, UsageError) as error:
        raise type(error)(f"{path}: {error}") from None


def _scheme(options: Options, imported: ImportedData, plan: Protocol) -> dict[str, Any]:
    """The manifest's `labels`."""
    labels = imported.metadata.get("labels", {})
    rate = labels.get("lr") if imported.lr is None else imported.lr
    if options.lr is not None:
        try:
            rate = float(options.lr)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            rate = formats.read_rate(Path(options.lr))  # type: ignore[arg-type]
    if rate is not None and not (is_number(rate) and rate > 0):
        raise UsageError(f"the learned step size is {rate}, not a number above 0; correct it: --lr")
    learned = {} if rate is None else {"lr": rate}
    if imported.logits is None and not options.teachers:
        if options.temperature:
            raise UsageError("--temperature is for soft labels and teachers, and these labels are hard; leave it out")
        return {"kind": "hard", **learned}
    stored = labels.get("temperature") if labels.get("kind") == "soft" else None
    temperature = options.temperature or stored or plan.temperature or 1.0
    if not (is_number(temperature) and temperature > 0):
        raise UsageError(f"the temperature of the labels is {temperature}, not a number above 0; give --temperature")
    return {"kind": "teacher" if options.teachers else "soft", "temperature": float(temperature), **learned}


def _config(path: Path, kind: str, options: Options, imported: ImportedData) -> dict[str, Any]:
    """The manifest's `recipe.config`: the given options, with file names without folders, and hashes of the files."""
    given = {key: value for key, value in asdict(options).items() if value not in (None, ()) and key != "citation"}
    texts = {key: given.pop(key) for key in ("license", "source_url") if key in given}
    given = without_folders({key: str(value) if isinstance(value, Path) else value for key, value in given.items()})
    for key in ("labels", "lr"):
        if isinstance(given.get(key), str):
            given[key] = Path(given[key]).name
    return {**given, **texts, "path": path.resolve().name, "format": kind, **formats.hashes(path, imported.files)}


def _labelled_by(names: Sequence[str], manifest: Manifest, out: Path) -> Manifest:
    """The manifest with the ids and records of its teachers, which are opened and checked first.

    Raises:
        UsageError: a teacher cannot be imported, or is not in the folder that holds the artifact.
        ArtifactError: a teacher is damaged or fits other data.
    """
    near = out.resolve().parent
    ids = [teachers.identify(name, near=near) for name in names]
    folders = [teachers.resolve(known, near=near).resolve() for known in ids]
    for name, folder in zip(names, folders, strict=True):
        if Path(name).is_dir() and folder.parent not in (near, bundled.BUNDLED.resolve()):
            raise UsageError(
                f"teacher {name!r} is in a folder where the artifact does not find it; put its folder into {near}"
            )
    about = About(**{key: getattr(manifest, key) for key in _ABOUT}, digest="", near=near)
    teachers.fitting(ids, about)
    records = [teachers.read(folder) for folder in folders]
    return replace(
        manifest,
        labels={
            **manifest.labels,
            "teachers": [{key: record[key] for key in ("name", "digest")} for record in records],
        },
        teachers=[{key: record[key] for key in ("model", "accuracy", "epochs")} for record in records],
    )
