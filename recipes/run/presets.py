"""Presets: a method's table of settings, `recipes/presets/METHOD.toml`, and the Configs that its names stand for.

    [[rows]]                              settings of the papers, one row a data set and number of images a class (ipc)
    steps = 2000                          what all rows of this block share
    columns = ["dataset", "ipc", "lr"]    what they do not
    values = [["cifar10", 1, 0.1], ["cifar10", 10, 0.2]]

    [row.cifar10-ipc10]                   what this row alone has

    [variant.hard-labels]                 a control, or a method that differs in a few settings
    name = "{row}-hard-labels{tier}"      this name, if nothing else is said
    rows = ["cifar10-*"]                  which rows have it: names or patterns; all if not given
    without = ["cifar10-ipc1"]            which of those have not
    tiers = ["cpu"]                       only together with these tiers
    labels = "hard"
    [variant.hard-labels.row."cifar10-ipc1 cifar10-ipc10"]      what differs for some rows: names or patterns

    [tier.cpu]                            the same at another scale; the keys of a variant but `name` and `tiers`

    [smoke]                               the method's smallest configuration
    [own]                                 defaults for images of one's own, some hundred or thousand of them
    [quick]                               --quick: what is cut so that 1,000 such images take minutes on two cores
    [deviations]                          lists of texts for cards, where a method keeps them here

A name is a row, alone or with a variant and a tier: `cifar10-ipc10-hard-labels-cpu`. Settings of the row come first,
then those of the variant, then those of the tier; everything else is as in `Config()`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

Settings = dict[str, Any]
_PARTS = {"small": "smoke", "own": "own", "quick": "quick", "deviations": "deviations"}  # field -> part of a table


@dataclass(frozen=True)
class Change:
    """A variant or a tier: settings on top of a row's.

    Attributes:
        name: the form of the preset's name, with `{row}` and `{tier}`.
        rows, without: names or patterns of the rows that have it, and of those that have not.
        tiers: the tiers that it goes with; empty is all, and none.
        settings: for all its rows.
        special: further ones by names or patterns of rows, separated by spaces.
    """

    name: str
    rows: tuple[str, ...]
    without: tuple[str, ...]
    tiers: tuple[str, ...]
    settings: Settings
    special: dict[str, Settings]

    def fits(self, row: str) -> bool:
        """Whether a row has it."""
        return _matches(row, self.rows) and not _matches(row, self.without)

    def of(self, row: str) -> Settings:
        """The settings for a row."""
        merged = dict(self.settings)
        for names, settings in self.special.items():
            merged |= settings if _matches(row, names.split()) else {}
        return merged


@dataclass(frozen=True)
class Presets(Mapping[str, Any]):
    """The Configs of a method by name.

    Attributes:
        base: the Config with its defaults.
        rows: settings by the name of the row.
        variants, tiers: by name.
        small: settings of `smoke`.
        own, quick: settings for images of one's own, and those of `--quick` on top of them or of a preset.
        deviations: how the implementation differs from the papers, in lists by name, for cards.
    """

    base: Any
    rows: dict[str, Settings] = field(default_factory=dict)
    variants: dict[str, Change] = field(default_factory=dict)
    tiers: dict[str, Change] = field(default_factory=dict)
    small: Settings = field(default_factory=dict)
    own: Settings = field(default_factory=dict)
    quick: Settings = field(default_factory=dict)
    deviations: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, tuple[str, str, str]] = field(default_factory=dict, init=False)  # -> row, variant, tier

    def __post_init__(self) -> None:
        for row in self.rows:
            for tier in ("", *(name for name, change in self.tiers.items() if change.fits(row))):
                end = f"-{tier}" if tier else ""
                self.names[f"{row}{end}"] = row, "", tier
                for variant, change in self.variants.items():
                    if change.fits(row) and (not change.tiers or tier in change.tiers):
                        self.names[change.name.format(row=row, tier=end)] = row, variant, tier

    def __getitem__(self, name: str) -> Any:
        row, variant, tier = self.names[name]
        settings = dict(self.rows[row])
        settings |= self.variants[variant].of(row) if variant else {}
        settings |= self.tiers[tier].of(row) if tier else {}
        return self._config(settings)

    def _config(self, settings: Settings) -> Any:
        return replace(self.base, **self.typed(settings))

    def typed(self, settings: Settings) -> Settings:
        """Settings of the table as the fields' types."""
        return {key: _typed(getattr(self.base, key), x) for key, x in settings.items()}

    @property
    def smoke(self) -> Any:
        """The Config that goes through all stages in seconds."""
        return self._config(self.small)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def full(self, name: str) -> str:
        """The preset that one of a tier is a smaller form of: without the tier, and if need be without the variant."""
        row, variant, tier = self.names.get(name, ("", "", ""))
        whole = self.variants[variant].name.format(row=row, tier="") if variant else row
        return (whole if whole in self.names else row) if tier else ""


def read_presets(file: str, base: Any) -> Presets:
    """The presets of the method in `file`, from the table beside it.

    Args:
        file: the method's `__file__`.
        base: its `Config()`.
    """
    path = Path(file)
    table = tomllib.loads((path.parent / "presets" / f"{path.stem}.toml").read_text())
    rows: dict[str, Settings] = {}
    for block in table["rows"]:
        shared = {key: value for key, value in block.items() if key not in ("columns", "values")}
        for values in block["values"]:
            row = {**shared, **dict(zip(block["columns"], values, strict=True))}
            name = f"{row['dataset']}-ipc{row['ipc']}"
            rows[name] = {**row, **table.get("row", {}).get(name, {})}
    variants = {name: _change(entry, f"{{row}}-{name}{{tier}}") for name, entry in table.get("variant", {}).items()}
    tiers = {name: _change(entry, "") for name, entry in table.get("tier", {}).items()}
    parts = {name: table.get(key, {}) for name, key in _PARTS.items()}
    return Presets(base, rows, variants, tiers, **parts)


def _change(entry: Settings, name: str) -> Change:
    known = {"name": name, "rows": ["*"], "without": [], "tiers": [], "row": {}}
    words = {key: entry.get(key, default) for key, default in known.items()}
    lists = {key: tuple(words[key]) for key in ("rows", "without", "tiers")}
    settings = {key: value for key, value in entry.items() if key not in known}
    return Change(name=words["name"], **lists, settings=settings, special=words["row"])


def _matches(row: str, patterns: tuple[str, ...] | list[str]) -> bool:
    return any(fnmatchcase(row, pattern) for pattern in patterns)


def _typed(default: Any, value: Any) -> Any:
    """A value of the table as the field's type: TOML has no tuples, and 1 may stand for 1.0."""
    return type(default)(value)
