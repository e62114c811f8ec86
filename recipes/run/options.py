"""The methods, and their settings as command-line options."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ddhub.errors import unknown

METHODS = Path(__file__).parents[1]  # `recipes/`, where a method is a file


def discover() -> dict[str, ModuleType]:
    """Every recipe by its command name: the modules of this package whose names do not start with `_`."""
    found = {}
    for info in pkgutil.iter_modules([str(METHODS)]):
        if not info.ispkg and info.name != "__main__":
            found[info.name.replace("_", "-")] = importlib.import_module(f"recipes.{info.name}")
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
