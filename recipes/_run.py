"""A run of a recipe: its work folder, its stages, and the artifact at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddhub import sources
from ddhub._fields import is_name
from ddhub.artifact import Artifact
from ddhub.data import resolve_device
from ddhub.errors import UsageError
from ddhub.manifest import Manifest
from ddhub.protocols import Protocol
from ddhub.sources import Source
from ddhub.training import describe, resolve_precision, versions

log = logging.getLogger(__name__)


class Finished(Exception):
    """Raised after the stage that `--until` names."""


def _hash(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _commit() -> str:
    """The repository's commit, with `+` when the working tree differs; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        diff = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if diff.stdout.strip() else "")


class Run:
    """One run of a recipe: where it writes, what it computes on, and the stages it has behind it.

    Attributes:
        out: the artifact's folder; `out.work` beside it holds the stages and `log.txt`.
        device, precision: where and how the stages compute.
        work: the folder of the stages; it can be shared by runs, since stages are keyed by their settings.
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
    ) -> None:
        if not is_name(out.name):
            raise UsageError(f"{out.name!r} cannot name an artifact; use lower-case letters, digits, '.', '_' and '-'")
        if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} exists and is no artifact; choose another OUT")
        self.recipe, self.cfg, self.out, self.preset, self.root, self.until = (
            recipe,
            cfg,
            out,
            preset,
            root,
            until,
        )
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.work = work or out.with_name(out.name + ".work")
        self.seconds: dict[str, float] = {}
        self.peak_bytes = 0
        self.train_source: Source | None = None

    def _make_work(self) -> None:
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.work} cannot be made ({error.strerror}); choose another OUT or --work") from None

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Log to `log.txt` in the work folder too, beginning with config, device and versions."""
        self._make_work()
        handler = logging.FileHandler(self.work / "log.txt")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            log.info("%s: %s", self.out.name, json.dumps(asdict(self.cfg)))
            log.info("%s, precision %s, %s", describe(self.device), self.precision, versions())
            yield
        finally:
            root.removeHandler(handler)
            handler.close()

    def source(self, name: str, split: str, size: int | None = None) -> Source:
        """Real data by name from the run's data root; the training split is the manifest's `source`."""
        found = sources.open_source(name, split, root=self.root, **({"size": size} if size else {}))
        if split == "train":
            self.train_source = found
        return found

    def path(self, stage: str, settings: Mapping[str, Any]) -> Path:
        """Where a stage's result lies: named by the stage, its settings, the data, and how it was computed."""
        data = self.train_source.fingerprint if self.train_source else ""
        key = _hash([stage, dict(settings), data, self.device.type, self.precision])
        return self.work / f"{stage}-{key}.safetensors"

    def stage(
        self,
        name: str,
        fn: Callable[[], dict[str, Tensor]],
        settings: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """What `fn` returns, computed once: a dict of tensors, saved whole or not at all.

        Args:
            name: of the stage, for the log, the file and `--until`.
            fn: computes the tensors; called only when no saved result is there.
            settings: what the result depends on; the whole Config if not given.
        """
        path = self.path(name, asdict(self.cfg) if settings is None else settings)
        if path.exists():
            with safe_open(path, "pt") as file:
                facts = file.metadata()
                result = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            log.info("stage %s: found in %s", name, path.name)
        else:
            log.info("stage %s: starting", name)
            self._make_work()
            begin = time.perf_counter()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            result = {key: value.detach().cpu().contiguous() for key, value in fn().items()}
            facts = {"seconds": f"{time.perf_counter() - begin:.1f}", "peak_bytes": str(self._peak())}
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            save_file(result, part, metadata=facts)
            os.replace(part, path)
            log.info("stage %s: %s s", name, facts["seconds"])
        self.seconds[name] = float(facts["seconds"])
        self.peak_bytes = max(self.peak_bytes, int(facts["peak_bytes"]))
        if name == self.until:
            raise Finished(name)
        return result

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def scaled(self) -> list[str]:
        """How the configuration differs from the full-scale preset: `NAME` for `NAME-cpu`, one line a field."""
        full = (self.preset or "").removesuffix("-cpu")
        reference = self.recipe.PRESETS.get(full)
        if reference is None:
            return []
        return [
            f"{item.name} is {_words(getattr(self.cfg, item.name))}; preset {full} has "
            f"{_words(getattr(reference, item.name))}."
            for item in fields(reference)
            if getattr(self.cfg, item.name) != getattr(reference, item.name)
        ]

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
    ) -> Artifact:
        """Write the artifact: stored images u8 `[N, C, H, W]`, their classes, tensors, and all that a card says."""
        source = self.train_source
        assert source is not None, "a recipe opens its training data with run.source(name, 'train')"
        path = Path(str(self.recipe.__file__))
        presets = {**self.recipe.PRESETS, "smoke": self.recipe.SMOKE}
        shape = tuple(images.shape[1:])
        manifest = Manifest(
            name=self.out.name,
            method=path.stem.replace("_", "-"),
            dataset=source.name,
            ipc=self.cfg.ipc,
            classes=source.classes,
            image_size=shape,  # type: ignore[arg-type]
            mean=source.mean,
            std=source.std,
            pixel_range=((0.0, 1.0),) * shape[0],
            decoder=decoder,
            labels=labels,
            protocol=protocol.to_json(),
            recipe={
                "path": f"recipes/{path.name}",
                "preset": self.preset if self.cfg == presets.get(self.preset) else None,
                "config": json.loads(json.dumps(asdict(self.cfg))),
                "seed": self.cfg.seed,
                "run": {
                    "commit": _commit(),
                    "device": describe(self.device),
                    "precision": self.precision,
                    "versions": versions(),
                    "seconds": round(sum(self.seconds.values()), 1),
                    "stages": self.seconds,
                    "peak_bytes": self.peak_bytes,
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
            deviations=[*deviations, *self.scaled()],
            paper=paper,
            tensors={},
            files={},
        )
        return Artifact.write(
            self.out,
            manifest=manifest,
            images=images,
            image_labels=image_labels,
            tensors=tensors,
            recipe_text=path.read_text(),
        )
