"""The table of a stock: a TOML file that lists artifacts, the most valuable first.

    [[artifact]]
    name = "cifar10-datm-ipc10"
    method = "edf"
    preset = "datm-cifar10-ipc10"            # in a tier the preset of this name with -cpu or -gpu behind it
    baseline = "cifar10-random-ipc10"        # an artifact of this table or of the stock, trained as this one is
    students = [{ model = "convnet3", seeds = 3 }]      # under the artifact's protocol, if no other is named

    encoding = "avif:40"                     # as of the option --encoding; png if not given
    label_bits = 4                           # as of --label-bits; 16 if not given

    [artifact.settings]                      # settings of the method that differ from the preset, or from its defaults
    seed = 1

    [artifact.tier.gpu]                      # what differs in a tier
    preset = "smoke"                         # a preset as it is, without -gpu
    students = [{ model = "resnet18", seeds = 3, protocol = "datm", epochs = 300, batch_size = 100 }]

An artifact whose preset has no form for a tier is skipped there. All of the table is checked before anything is
computed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ddhub import models
from ddhub.artifact.encoding import parse
from ddhub.artifact.manifest import Manifest
from ddhub.data.label_bits import BITS
from ddhub.errors import UsageError, unknown
from ddhub.io.rules import is_name, is_whole, require
from ddhub.protocols.named import changed, protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.known import FOLDER, find
from recipes.run.options import configure, discover
from recipes.run.straight_through import require_lossy

TIERS = ("cpu", "gpu")
_MOST = 1_000_000  # of seeds and epochs: more are a slip of the pen
_KEYS_OF_A_TIER = ("preset", "settings", "students", "baseline", "encoding", "label_bits")
_KEYS = ("name", "method", "tier", *_KEYS_OF_A_TIER)


@dataclass(frozen=True, kw_only=True)
class Student:
    """Which students are trained.

    Attributes:
        model: a model of ddhub.
        seeds: how many, from 0.
        protocol: by name; the artifact's own if empty.
        epochs, batch_size: in place of the protocol's, if not 0.
    """

    model: str
    seeds: int = 1
    protocol: str = ""
    epochs: int = 0
    batch_size: int = 0

    def __post_init__(self) -> None:
        for name in ("model", "protocol"):
            require(isinstance(getattr(self, name), str), name, getattr(self, name), "a text")
        for name, least in {"seeds": 1, "epochs": 0, "batch_size": 0}.items():
            value = getattr(self, name)
            fits = is_whole(value) and least <= value <= _MOST
            require(fits, name, value, f"a whole number, {least} or more, at most {_MOST:,}")
        with torch.device("meta"):
            models.build(self.model, classes=10, size=256)  # raises what is wrong with the name
        self.plan(Protocol())

    def plan(self, own: Protocol) -> Protocol:
        """The protocol of these students on an artifact that has this one of its own."""
        changes = {"epochs": self.epochs, "batch_size": self.batch_size}
        base = protocol(self.protocol) if self.protocol else own
        return changed(base, **{key: value for key, value in changes.items() if value})


@dataclass(frozen=True, kw_only=True)
class Item:
    """An artifact of the table, in one tier: its recipe and Config, its students and the name of its baseline.

    Encoding and label bits are as `Run` takes them.
    """

    name: str
    recipe: ModuleType
    preset: str | None
    cfg: Any
    students: tuple[Student, ...] = ()
    baseline: str = ""
    encoding: str = "png"
    label_bits: int = 16

    @property
    def storage(self) -> dict[str, Any]:
        """How a run of it stores images and labels."""
        return {"encoding": self.encoding, "label_bits": self.label_bits}

    def is_made(self, m: Manifest) -> bool:
        """Whether a manifest is of an artifact of this recipe and these settings; younger ones at their defaults."""
        defaults, mine = (
            {key: [*x] if isinstance(x, tuple) else x for key, x in vars(cfg).items()}
            for cfg in (self.recipe.Config(), self.cfg)
        )
        file = f"recipes/{Path(str(self.recipe.__file__)).name}"
        same = (m.name, m.recipe["path"], {**defaults, **m.recipe["config"]}) == (self.name, file, mine)
        stored = all(m.encoding.get(key) == value for key, value in parse(self.encoding).items() if value)
        packed = m.labels["kind"] in ("hard", "teacher") or m.labels.get("bits", 16) == self.label_bits
        return same and stored and packed


def read_table(path: Path, tier: str, stocked: Collection[str]) -> tuple[list[Item], list[str]]:
    """The artifacts of a table in one tier, and a line for each that is skipped there.

    Args:
        path: the TOML file.
        tier: cpu or gpu.
        stocked: names of artifacts that may be baselines without being in the table.

    Raises:
        UsageError: a file that cannot be read, or anything in it that is unknown or impossible.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} cannot be read ({cause}); correct it, or name another file") from None
    rows = _checked(table, ("artifact",), str(path)).get("artifact", [])
    require(isinstance(rows, list) and bool(rows), f"{path}: artifact", rows, "one or more tables [[artifact]]")
    items: list[Item] = []
    skipped = []
    for number, row in enumerate(rows, 1):
        require(isinstance(row, dict), f"{path}: artifact {number}", row, "a table [[artifact]]")
    names = [row.get("name") for row in rows]
    for number, row in enumerate(rows, 1):
        subject = f"{path}: artifact {row.get('name', number)!r}"
        try:
            item = _item(row, tier)
        except UsageError as error:
            raise UsageError(f"{subject}: {error}") from None
        if names.count(row["name"]) > 1:
            raise UsageError(f"{subject} is there twice; give one of them another name")
        if item is None:
            skipped.append(f"{row['name']} is skipped: preset {row['preset']!r} has no form for tier {tier}")
            continue
        if item.baseline and item.baseline not in (known := {*names, *stocked}):
            raise UsageError(f"{subject}: {unknown('baseline', item.baseline, known, 'make it an artifact here')}")
        items.append(item)
    here = {item.name for item in items} | {*stocked}
    for item in items:
        if item.baseline and item.baseline not in here:
            raise UsageError(
                f"{path}: {item.baseline!r}, baseline of {item.name}, is skipped in tier {tier}; give it one"
            )
    return items, skipped


def only(items: Sequence[Item], names: Sequence[str]) -> list[Item]:
    """The artifacts of these names; all if none is given. Raises UsageError."""
    for name in names:
        if name not in (known := [item.name for item in items]):
            raise unknown("artifact", name, known, "of this table and tier")
    return [item for item in items if item.name in names or not names]


def _checked(row: Mapping[str, Any], known: Sequence[str], subject: str) -> Mapping[str, Any]:
    require(isinstance(row, dict), subject, row, "a table")
    for key in row:
        if key not in known:
            raise unknown("key", key, known, subject)
    return row


def _item(row: Mapping[str, Any], tier: str) -> Item | None:
    """An artifact in a tier; None if its preset has no form for it."""
    _checked(row, _KEYS, "artifact")
    require(is_name(row.get("name")), "name", row.get("name"), "a name of a-z, 0-9, '.', '_' and '-'")
    methods = discover()
    require(isinstance(row.get("method"), str), "method", row.get("method"), "the name of a method")
    if row["method"] not in methods:
        raise unknown("method", row["method"], methods, "python -m recipes --help")
    recipe = methods[row["method"]]
    tiers = _checked(row.get("tier", {}), TIERS, "tier")
    special = {name: _checked(x, _KEYS_OF_A_TIER, f"tier.{name}") for name, x in tiers.items()}
    for where in (row, *special.values()):
        require(isinstance(where.get("settings", {}), dict), "settings", where.get("settings"), "a table")
    found = {name: _in_tier(row, special.get(name, {}), recipe, name) for name in TIERS}  # the other is checked, too
    return found[tier]


def _in_tier(row: Mapping[str, Any], special: Mapping[str, Any], recipe: ModuleType, tier: str) -> Item | None:
    merged = {**row, **special, "settings": {**row.get("settings", {}), **special.get("settings", {})}}
    preset = special.get("preset", row.get("preset"))
    if preset is not None:
        require(isinstance(preset, str), "preset", preset, "a text")
    if "preset" in row and "preset" not in special:
        if not any(x in recipe.PRESETS for x in (preset, *(f"{preset}-{x}" for x in TIERS))):
            raise unknown("preset", str(preset), recipe.PRESETS, f"python -m recipes {row['method']} --presets")
        preset = f"{preset}-{tier}"
        if preset not in recipe.PRESETS:
            return None
    students = merged.get("students", [])
    require(isinstance(students, list), "students", students, "a list of tables")
    baseline = merged.get("baseline", "")
    require(isinstance(baseline, str) and baseline != row["name"], "baseline", baseline, "another artifact's name")
    keys = [item.name for item in fields(Student)]
    encoding, bits = merged.get("encoding", "png"), merged.get("label_bits", 16)
    require(isinstance(encoding, str), "encoding", encoding, "a text")
    require(bits in BITS, "label_bits", bits, "16, 8 or 4")
    cfg = configure(recipe, preset, _typed(recipe, merged["settings"]))
    require_lossy(cfg, parse(encoding))  # raises what is wrong with the encoding
    if not cfg.dataset.startswith(FOLDER):
        find(cfg.dataset)
    return Item(
        name=row["name"],
        recipe=recipe,
        preset=preset,
        cfg=cfg,
        students=tuple(_student(_checked(x, keys, "student")) for x in students),
        baseline=baseline,
        encoding=encoding,
        label_bits=bits,
    )


def _student(row: Mapping[str, Any]) -> Student:
    require("model" in row, "model", None, "the name of a model")
    return Student(**row)


def _typed(recipe: ModuleType, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a Config takes them: TOML has no tuples, and 1 may stand for 1.0."""
    defaults = vars(recipe.Config())
    _checked(settings, tuple(defaults), "settings")
    kinds = {key: tuple if isinstance(x, list) else float if is_whole(x) else type(x) for key, x in settings.items()}
    return {key: kinds[key](x) if isinstance(defaults[key], kinds[key]) else x for key, x in settings.items()}
