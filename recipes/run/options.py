"""The methods, and their settings as command-line options."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ddhub.errors import UsageError, unknown
from ddhub.io.rules import is_number, is_whole, require
from ddhub.protocols.named import protocol
from ddhub.sources.known import FOLDER
from recipes.run.presets import Presets

METHODS = Path(__file__).parents[1]  # `recipes/`, where a method is a file


def discover() -> dict[str, ModuleType]:
    """Every recipe by its command name: the modules of this package whose names do not start with `_`."""
    methods = {}
    for info in pkgutil.iter_modules([str(METHODS)]):
        if not info.ispkg and info.name != "__main__":
            methods[info.name.replace("_", "-")] = importlib.import_module(f"recipes.{info.name}")
    return methods


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    over: float | None = None,
    high: float | None = None,
    under: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a Config, which is also an option of the command line.

    Args:
        default: its value if nothing else is said; its type is the field's.
        text: its help, short enough for a line.
        low, over: the least value, or the bound that it must be above.
        high, under: the largest value, or the bound that it must be below.
        choices: all values that it may have.
    """
    return field(
        default=default,
        metadata={"help": text, "low": low, "over": over, "high": high, "under": under, "choices": tuple(choices)},
    )


def check_options(cfg: Any) -> None:
    """UsageError for a field of a Config that is not of its type, out of its bounds or none of its choices.

    A field whose name ends in `protocol` is the name of one.
    """
    for item in fields(cfg):
        value, rule = getattr(cfg, item.name), item.metadata
        if rule.get("choices") and value not in rule["choices"]:
            raise unknown(item.name, str(value), rule["choices"])
        require(_fits(item.default, value), item.name, value, _KINDS[type(item.default)])
        if isinstance(value, (int, float)) and not _is_inside(value, rule):
            kind = "" if isinstance(item.default, int) else "a finite number"
            require(False, item.name, value, _bounds(rule, kind))
        if item.name.endswith("protocol"):
            protocol(value)


_KINDS = {
    str: "a text", bool: "true or false", int: "a whole number", float: "a finite number", tuple: "a list of texts"
}  # fmt: skip


def _fits(default: Any, value: object) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return is_whole(value)
    if isinstance(default, float):
        return is_number(value)
    return isinstance(value, type(default))


def _is_inside(value: float, rule: Mapping[str, Any]) -> bool:
    low, over, high, under = (rule.get(key) for key in ("low", "over", "high", "under"))
    above = (low is None or value >= low) and (over is None or value > over)
    return above and (high is None or value <= high) and (under is None or value < under)


def _bounds(rule: Mapping[str, Any], kind: str) -> str:
    """'1 or more', 'a finite number above 0', 'in [0, 1)'."""
    low, over, high, under = (rule.get(key) for key in ("low", "over", "high", "under"))
    if high is None and under is None:
        words = f"{low:g} or more" if over is None else f"above {over:g}"
        return f"{kind}{', ' * (over is None)}{' ' * (over is not None)}{words}" if kind else words
    left = f"[{low:g}" if over is None else f"({over:g}"
    return f"in {left}, {high:g}]" if under is None else f"in {left}, {under:g})"


def configure(recipe: ModuleType, preset: str | None, changes: Mapping[str, Any], quick: bool = False) -> Any:
    """The recipe's Config: its preset (`smoke` is every recipe's smallest), then the changes that are not None.

    Without a preset images of one's own, `folder:PATH`, have the method's defaults for such. With `quick`, the method's
    cuts are between preset and changes.

    Raises:
        UsageError: an unknown preset, or a method without cuts.
    """
    tables = recipe.PRESETS
    command = recipe.__name__.rpartition(".")[2].replace("_", "-")
    if preset not in (None, "smoke") and preset not in tables:
        raise unknown("preset", preset, [*tables, "smoke"], f"python -m recipes {command} --presets")
    base, settings = _base(recipe, preset), {}
    given = {key: value for key, value in changes.items() if value is not None}
    if isinstance(tables, Presets):
        is_own = preset is None and given.get("dataset", base.dataset).startswith(FOLDER)
        settings = tables.typed({**(tables.own if is_own or quick else {}), **(tables.quick if quick else {})})
    elif quick:
        raise UsageError(f"{command} says nothing of --quick (a table [quick] in its presets); give its settings")
    return replace(base, **{**settings, **given})


def _base(recipe: ModuleType, preset: str | None) -> Any:
    """The Config of a known preset, or the method's defaults; no other preset is built."""
    if preset is None:
        return recipe.Config()
    return recipe.SMOKE if preset == "smoke" else recipe.PRESETS[preset]


def introduction(recipe: ModuleType, preset: str | None, cfg: Any) -> list[str]:
    """What a log begins with: the preset, then a line for each setting that is not the preset's, with both values."""
    rows = _differing(cfg, _base(recipe, preset if preset in (*recipe.PRESETS, "smoke") else None))
    wide = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    title = (f"preset {preset}" if preset else "the method's defaults") + (", but" if rows else "")
    return [title, *(f"  {name:{wide[0]}}  {value:{wide[1]}}  in place of {other}" for name, value, other in rows)]


def scaled(recipe: ModuleType, preset: str | None, cfg: Any) -> list[str]:
    """How a Config differs from the row that its preset is a smaller tier of, one line a field, for the card."""
    presets = recipe.PRESETS
    full = presets.full(preset or "") if isinstance(presets, Presets) else ""
    if not full:
        return []
    return [f"{name} is {value}; preset {full} has {other}." for name, value, other in _differing(cfg, presets[full])]


def _differing(cfg: Any, base: Any) -> list[tuple[str, str, str]]:
    """The fields that two Configs have otherwise: (name, value, value of the other), as texts."""
    names = [x.name for x in fields(cfg) if getattr(cfg, x.name) != getattr(base, x.name)]
    return [(name, _text(getattr(cfg, name)), _text(getattr(base, name))) for name in names]


def _text(value: object) -> str:
    return (", ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "none"


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
