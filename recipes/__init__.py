"""The recipe framework: what stands between `recipes/<name>.py` and a finished artifact.

A recipe is one file: docstring, frozen `Config`, `PRESETS`, `SMOKE`, `plan(cfg, source, run)`, `distill(cfg, run)`:

    def distill(cfg: Config, run: Run) -> Artifact:
        source = run.source(cfg.dataset, "train")
        pick = run.stage("select", lambda: {"rows": choose(source, cfg)})
        return run.write(...)

`run.stage(name, fn)` saves what `fn` returned in the work folder and returns it next time: that is resume, `--until`
and progress in one. A stage is keyed by the settings it depends on, so a changed setting is never served stale.
`run.stages([(name, fn, settings), ...])` does so for computations that do not need one another; under torchrun the
ranks share them, while what one `run.stage` computes is computed by rank 0 and handed to all. `distill` itself runs on
every rank, up to `run.write`, from which rank 0 alone comes back.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ddhub.errors import UsageError, unknown
from ddhub.sources import Source
from recipes._plan import Plan, Step, training_rate
from recipes._run import Finished, Run

# (data set, ipc, labels) -> student -> (accuracy, sd or None), in percent
Paper = dict[tuple[str, int, str], dict[str, tuple[float, float | None]]]

__all__ = [
    "Finished", "Paper", "Plan", "Run", "Step", "configure", "discover", "generator", "option_fields", "paper_rows",
    "select", "training_rate",
]  # fmt: skip


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


def paper_rows(paper: Paper, cfg: Any, method: str) -> list[dict[str, Any]]:
    """The paper's numbers for a configuration as the card shows them, one a student; none if it has no such row."""
    key = (cfg.dataset, cfg.ipc, cfg.labels)
    where = f"{method}, {cfg.dataset} ipc {cfg.ipc}, {cfg.labels} labels"
    rows = paper.get(key, {}).items()
    return [{"model": model, "accuracy": mean, "sd": sd, "where": where} for model, (mean, sd) in rows]


def select(source: Source, per_class: int, generator: torch.Generator, option: str = "--ipc") -> Tensor:
    """Rows of `per_class` random images of every class, `[classes · per_class]`, class by class.

    Args:
        source: the real data.
        per_class: how many.
        generator: of the draw.
        option: what an error asks to lower.

    Raises:
        UsageError: more images asked for than a class has.
    """
    rows = []
    for label, name in enumerate(source.classes):
        own = (source.labels == label).nonzero().flatten()
        if per_class > len(own):
            raise UsageError(
                f"{per_class} images per class asked for, but class {name!r} of {source.name!r} has {len(own)}; "
                f"lower {option}"
            )
        rows.append(own[torch.randperm(len(own), generator=generator)[:per_class]])
    return torch.cat(rows)
