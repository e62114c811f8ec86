"""A run of a recipe: its work folder, its stages, and the artifact at the end."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ddhub.artifact.codec import Coded, encode
from ddhub.artifact.encoding import parse
from ddhub.artifact.folder import Artifact
from ddhub.artifact.images import stored_bytes
from ddhub.artifact.manifest import Manifest
from ddhub.artifact.origin import provenance
from ddhub.data.label_bits import pack
from ddhub.errors import UsageError
from ddhub.io.private import without_folders
from ddhub.io.rules import is_name
from ddhub.protocols.protocol import Protocol
from ddhub.sources import source as sources
from ddhub.sources.folder import usual_side
from ddhub.sources.known import FOLDER
from ddhub.sources.source import Source
from ddhub.training import ranks
from ddhub.training.devices import computing, describe, resolve_device, resolve_precision, versions
from recipes.run.options import introduction, scaled
from recipes.run.stages import Unit, make_folder, results

log = logging.getLogger(__name__)

Call = tuple[str, Callable[[], dict[str, Tensor]], Mapping[str, Any] | None]  # what `Run.stage` is called with


class Finished(Exception):
    """Raised after the stage that `--until` names, and where a rank other than 0 has done its part."""


def _hash(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


class Run:
    """One run of a recipe: where it writes, what it computes on, and the stages it has behind it.

    Attributes:
        out: the artifact's folder; `out.work` beside it holds the stages and `log.txt`.
        device, precision: where and how the stages compute.
        work: the folder of the stages; it can be shared by runs, since stages are keyed by their settings.
        encoding, label_bits: how images and labels are stored (`ddhub.artifact.encoding`, `ddhub.data.label_bits`).
        budget, beside: stored bytes that the artifact may have, 0 being any number, and those of its tensors
            (`recipes.run.budget`).
        facts: further facts of the run for the manifest, by name.
    """

    def __init__(
        self,
        recipe: ModuleType,
        cfg: Any,
        out: Path,
        *,
        preset: str | None = None,
        root: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        until: str | None = None,
        work: Path | None = None,
        encoding: str = "png",
        label_bits: int = 16,
    ) -> None:
        if not is_name(out.name):
            raise UsageError(f"{out.name!r} cannot name an artifact; use lower-case letters, digits, '.', '_' and '-'")
        if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} exists and is not an artifact; choose another OUT")
        self.recipe, self.cfg, self.out, self.preset, self.root, self.until = (
            recipe,
            cfg,
            out,
            preset,
            root,
            until,
        )
        self.device = resolve_device(ranks.device(device))
        self.precision = resolve_precision(precision, self.device)
        self.work = work or out.with_name(out.name + ".work")
        self.encoding, self.label_bits = parse(encoding), label_bits
        self.budget = self.beside = 0  # bytes of the artifact, and of the tensors that will lie beside its images
        self._coded: Coded | None = None
        self.seconds: dict[str, float] = {}
        self.computed: dict[str, dict[str, Any]] = {}  # device, precision, versions and peak bytes of every stage
        self.facts: dict[str, Any] = {}
        self.train_source: Source | None = None

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Log to `log.txt` in the work folder too, beginning with config, device and versions; rank 0 alone does."""
        if ranks.rank() > 0:
            yield
            return
        make_folder(self.work)
        handler = logging.FileHandler(self.work / "log.txt")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            for line in introduction(self.recipe, self.preset, self.cfg):
                log.info("%s", f"{self.out.name}: {line}" if line[0] != " " else line)
            log.info("%s, precision %s, %s", describe(self.device), self.precision, versions())
            yield
        finally:
            root.removeHandler(handler)
            handler.close()

    def source(self, name: str, split: str, size: int | None = None) -> Source:
        """Real data by name from the run's data root; the training split is the manifest's `source`.

        Without a size, a folder of images of many sizes gets one that suits them.
        """
        if size is None and name.startswith(FOLDER) and (size := usual_side(name)) and not self.train_source:
            log.info("the images are of many sizes and become squares of %d px; --size sets another", size)
        opened = sources.open_source(name, split, root=self.root, size=size)
        if split == "train":
            self.train_source = opened
        return opened

    def path(self, stage: str, settings: Mapping[str, Any]) -> Path:
        """Where a stage's result lies: named by the stage, its settings and the data, wherever it was computed."""
        data = self.train_source.fingerprint if self.train_source else ""
        key = _hash([stage, dict(settings), data])
        return self.work / f"{stage}-{key}.safetensors"

    def stage(
        self,
        name: str,
        fn: Callable[[], dict[str, Tensor]],
        settings: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """What `fn` returns, computed once: a dict of tensors, saved whole or not at all; under torchrun by rank 0.

        Args:
            name: of the stage, for the log, the file and `--until`.
            fn: computes the tensors; called only when no saved result is there.
            settings: what the result depends on; the whole Config if not given.
        """
        return self._computed([(name, fn, settings)])[0]

    def stages(self, units: Sequence[Call]) -> list[dict[str, Tensor]]:
        """What `stage` returns for each of several (name, fn, settings), in order; under torchrun the ranks share them.

        No `fn` may need the result of another, and none may call `stage`: the ranks compute their own side by side.
        """
        if ranks.world() == 1:
            return [self.stage(*unit) for unit in units]
        return self._computed(units)

    def _computed(self, units: Sequence[Call]) -> list[dict[str, Tensor]]:
        names = [name for name, _, _ in units]
        last = names.index(self.until) + 1 if self.until in names else len(names)
        todo = []
        for name, fn, settings in units[:last]:
            todo.append(Unit(name, self.path(name, asdict(self.cfg) if settings is None else settings), fn))
        machine = {"device": describe(self.device), "precision": self.precision, "versions": versions()}
        with computing(self.device, self.precision):
            done = results(todo, self.device, machine)
        for unit, (_, record) in zip(todo, done, strict=True):
            self.seconds[unit.name] = float(record["seconds"])
            rest = {key: value for key, value in record.items() if key != "seconds"}
            self.computed[unit.name] = {**rest, "peak_bytes": int(record["peak_bytes"])}
        if self.until in names:
            raise Finished(self.until)
        return [tensors for tensors, _ in done]

    def coded(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images u8 `[N, C, H, W]` of classes `[N]` as a student will see them: label these, and write these.

        Lossless encodings change nothing. Of a lossy one the quality is lowered as far as the budget asks for.

        Raises:
            UsageError: images that the encoding does not take, or that no quality brings within the budget.
        """
        self._coded = encode(images, labels, self.encoding)
        if self.budget and not self._fits(self._coded):
            self._coded = self._of_less_quality(images, labels)
        return self._coded.images

    @property
    def seen(self) -> dict[str, str]:
        """What tells the pixels of a lossy encoding from others, for the settings of stages that look at them."""
        return {"pixels": self._coded.encoding["pixels"]} if self._coded and "pixels" in self._coded.encoding else {}

    def _fits(self, coded: Coded) -> bool:
        return stored_bytes(coded, self._source.classes) + self.beside <= self.budget

    def _of_less_quality(self, images: Tensor, labels: Tensor) -> Coded:
        """Images coded at the highest quality that keeps to the budget. UsageError if none does."""
        least, most, fitting = 0, self.encoding.get("quality", 0), None  # most does not fit
        while least < most:
            middle = (least + most) // 2
            coded = encode(images, labels, {**self.encoding, "quality": middle})
            if self._fits(coded):
                fitting, least = coded, middle + 1
            else:
                most = middle
        if fitting is None:
            raise UsageError(
                f"{len(images)} images do not fit into {self.budget:,} bytes; raise --bytes, lower --ipc, or choose "
                "another --encoding"
            )
        log.info("quality %d in place of %d keeps to the bytes", least - 1, self.encoding["quality"])
        return fitting

    @property
    def _source(self) -> Source:
        assert self.train_source is not None, "a recipe opens its training data with run.source(name, 'train')"
        return self.train_source

    def write(
        self,
        *,
        images: Tensor,
        image_labels: Tensor,
        tensors: dict[str, Tensor],
        decoder: dict[str, Any],
        labels: dict[str, Any],
        protocol: Protocol,
        citation: str,
        deviations: list[str],
        paper: list[dict[str, Any]],
        teachers: list[dict[str, Any]] | None = None,
        method: str = "",
        measured: Mapping[str, float | str] | None = None,
        pixel_range: Sequence[tuple[float, float]] = (),
    ) -> Artifact:
        """Write the artifact: stored images u8 `[N, C, H, W]`, their classes, tensors, and all that a card says.

        The method is the recipe's own, unless one of another name is given that the recipe has as a preset. What was
        `measured` on the images, by name, is a fact of the run: `recipe["run"]["measured"]`. The bytes of a channel are
        spread over its `pixel_range`, [0, 1] if not given. Images are those that `coded` returned.

        Raises:
            Finished: on every rank but 0, which has nothing left to do.
            UsageError: more bytes than the budget allows.
        """
        if ranks.rank() > 0:
            raise Finished("artifact")
        if self._coded is None or self._coded.images is not images:
            self.coded(images, image_labels)
        assert self._coded is not None and (self._coded.images is images or torch.equal(self._coded.images, images)), (
            "a recipe labels and writes what run.coded returned"
        )
        labels, tensors = pack(labels, tensors, self.label_bits)
        source = self._source
        if self.budget and (size := stored_bytes(self._coded, source.classes, tensors)) > self.budget:
            raise UsageError(f"{self.out.name} takes {size:,} bytes, and --bytes is {self.budget:,}; lower --ipc")
        path = Path(str(self.recipe.__file__))
        presets = {**self.recipe.PRESETS, "smoke": self.recipe.SMOKE}
        shape = tuple(images.shape[1:])
        manifest = Manifest(
            name=self.out.name,
            method=method or path.stem.replace("_", "-"),
            dataset=source.name,
            ipc=self.cfg.ipc,
            classes=source.classes,
            image_size=shape,  # type: ignore[arg-type]
            mean=source.mean,
            std=source.std,
            pixel_range=tuple(pixel_range) or ((0.0, 1.0),) * shape[0],
            encoding=self._coded.encoding,
            decoder=decoder,
            labels=labels,
            protocol=protocol.to_json(),
            recipe={
                "path": f"recipes/{path.name}",
                **provenance(path),
                "preset": self.preset if self.cfg == presets.get(self.preset) else None,
                "config": without_folders(asdict(self.cfg)),
                "seed": self.cfg.seed,
                "run": {
                    "device": describe(self.device),
                    "precision": self.precision,
                    "versions": versions(),
                    "ranks": ranks.world(),  # side by side: the seconds are a sum over them
                    "seconds": round(sum(self.seconds.values()), 1),
                    "stages": {name: {"seconds": x, **self.computed[name]} for name, x in self.seconds.items()},
                    "peak_bytes": max((x["peak_bytes"] for x in self.computed.values()), default=0),
                    **({"measured": dict(measured)} if measured else {}),
                    **self.facts,
                },
            },
            source={
                "name": source.name,
                "hub_id": source.hub_id,
                "split": source.split,
                "fingerprint": source.fingerprint,
                "notes": source.notes,
                "license": source.license,
            },
            teachers=teachers or [],
            license=source.license,
            citation=citation,
            deviations=[*deviations, *scaled(self.recipe, self.preset, self.cfg)],
            paper=paper,
            tensors={},
            content="",
            files={},
        )
        return Artifact.write(
            self.out,
            manifest=manifest,
            images=self._coded,
            image_labels=image_labels,
            tensors=tensors,
        )
