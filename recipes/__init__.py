"""The recipe framework: what stands between `recipes/<name>.py` and a finished artifact.

A recipe is one file with a docstring, a frozen `Config`, `PRESETS`, `SMOKE`, `plan(cfg)` and `distill(cfg, run)`:

    def distill(cfg: Config, run: Run) -> Artifact:
        source = run.source(cfg.dataset, "train")
        pick = run.stage("select", lambda: {"rows": choose(source, cfg)})
        return run.write(...)

`run.stage(name, fn)` saves what `fn` returned in the work folder and returns it next time: that is resume, `--until`
and progress in one. A stage is keyed by the settings it depends on, so a changed setting is never served stale.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import pkgutil
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddhub import models, sources
from ddhub._fields import is_name
from ddhub.artifact import Artifact
from ddhub.data import resolve_device
from ddhub.errors import UsageError, unknown
from ddhub.manifest import Manifest
from ddhub.protocols import Protocol
from ddhub.sources import Source
from ddhub.training import describe, resolve_precision, versions

log = logging.getLogger(__name__)


class Finished(Exception):
    """Raised after the stage that `--until` names."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of a plan: a stage, its images through forward and backward, and a probe of images per second."""

    stage: str
    images: int
    rate: Callable[[], float] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do, for `--dry-run`: its stages in order and the bytes that the artifact would store."""

    steps: list[Step]
    artifact_bytes: int


def discover() -> dict[str, ModuleType]:
    """Every recipe by its command name: the modules of this package whose names do not start with `_`."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            found[info.name.replace("_", "-")] = importlib.import_module(f"{__name__}.{info.name}")
    return found


def configure(recipe: ModuleType, preset: str | None, changes: Mapping[str, Any]) -> Any:
    """The recipe's Config: its preset (`smoke` is every recipe's smallest), then the changes that are not None.

    Raises:
        UsageError: an unknown preset.
    """
    presets = {**recipe.PRESETS, "smoke": recipe.SMOKE}
    if preset is not None and preset not in presets:
        raise unknown("preset", preset, presets, f"{recipe.__name__}.PRESETS")
    base = recipe.Config() if preset is None else presets[preset]
    return replace(base, **{key: value for key, value in changes.items() if value is not None})


def generator(*words: object) -> torch.Generator:
    """A generator on the CPU seeded by words such as (seed, "shift", teacher, set): independent streams by name."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def training_rate(model: str, source: Source, run: Run, seconds: float = 0.5) -> float:
    """Images per second through forward and backward of a net, measured for `seconds` on the run's device."""
    shape = source.images.shape
    net = models.build(model, classes=len(source.classes), size=shape[2], channels=shape[1])
    net = net.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = min(128, shape[0])
    x = (source.images[:batch].to(run.device).float() / 255).contiguous(memory_format=torch.channels_last)
    done, begin = -1, time.perf_counter()
    while done < 1 or time.perf_counter() - begin < seconds:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = net(x).float().square().mean()
        loss.backward()
        float(loss.detach())
        done += 1
        if done == 0:  # the first pass warms up and is not counted
            begin = time.perf_counter()
    return done * batch / (time.perf_counter() - begin)


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
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.work} cannot be made ({error.strerror}); choose another OUT or --work") from None
        self.seconds: dict[str, float] = {}
        self.peak_bytes = 0
        self.train_source: Source | None = None

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Log to `log.txt` in the work folder too, beginning with config, device and versions."""
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

    def source(self, name: str, split: str) -> Source:
        """Real data by name from the run's data root; the training split is the manifest's `source`."""
        found = sources.open_source(name, split, root=self.root)
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
        pixel_range: list[list[float]] | None = None,
    ) -> Artifact:
        """Write the artifact: stored images u8 `[N, C, H, W]`, their classes, tensors, and all that a card says."""
        source = self.train_source
        assert source is not None, "a recipe opens its training data with run.source(name, 'train')"
        path = Path(str(self.recipe.__file__))
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
            pixel_range=pixel_range or [[0.0, 1.0]] * shape[0],  # type: ignore[arg-type]
            decoder=decoder,
            labels=labels,
            protocol=asdict(protocol),
            recipe={
                "path": f"recipes/{path.name}",
                "preset": self.preset if self.cfg == configure(self.recipe, self.preset, {}) else None,
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


def option_fields(recipe: ModuleType) -> list[tuple[str, str, Any, str]]:
    """The Config's fields as command-line options: (flag, field name, default value, help)."""
    defaults = recipe.Config()
    return [
        (
            f"--{item.name.replace('_', '-')}",
            item.name,
            getattr(defaults, item.name),
            item.metadata.get("help", ""),
        )
        for item in fields(recipe.Config)
    ]


def select(source: Source, per_class: int, generator: torch.Generator) -> Tensor:
    """Rows of `per_class` random images of every class, `[classes · per_class]`, class by class.

    Raises:
        UsageError: more images asked for than a class has.
    """
    rows = []
    for label, name in enumerate(source.classes):
        own = (source.labels == label).nonzero().flatten()
        if per_class > len(own):
            raise UsageError(
                f"{per_class} images per class asked for, but class {name!r} of {source.name!r} has {len(own)}; "
                "lower --ipc"
            )
        rows.append(own[torch.randperm(len(own), generator=generator)[:per_class]])
    return torch.cat(rows)
