"""The methods, and their settings as command-line options."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ddhub.errors import unknown
from ddhub.io.rules import is_number, is_whole, require

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
    """UsageError for a field of a Config that is not of its type, out of its bounds or none of its choices."""
    for item in fields(cfg):
        value, rule = getattr(cfg, item.name), item.metadata
        if rule.get("choices") and value not in rule["choices"]:
            raise unknown(item.name, str(value), rule["choices"])
        require(_fits(item.default, value), item.name, value, _KINDS[type(item.default)])
        if isinstance(value, (int, float)) and not _is_inside(value, rule):
            kind = "" if isinstance(item.default, int) else "a finite number"
            require(False, item.name, value, _bounds(rule, kind))


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


def configure(recipe: ModuleType, preset: str | None, changes: Mapping[str, Any]) -> Any:
    """The recipe's Config: its preset (`smoke` is every recipe's smallest), then the changes that are not None.

    Raises:
        UsageError: an unknown preset.
    """
    if preset is None:
        base = recipe.Config()
    elif preset == "smoke":
        base = recipe.SMOKE
    elif preset in recipe.PRESETS:
        base = recipe.PRESETS[preset]
    else:
        command = recipe.__name__.rpartition(".")[2].replace("_", "-")
        raise unknown("preset", preset, [*recipe.PRESETS, "smoke"], f"python -m recipes {command} --presets")
    return replace(base, **{key: value for key, value in changes.items() if value is not None})


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
