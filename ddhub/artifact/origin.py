"""Imported artifacts on their cards: how to know them, and the command that made them. Nothing here imports torch."""

from __future__ import annotations

from ddhub.artifact.manifest import Manifest

PATH = "ddhub/importing.py"  # `recipe.path` of a manifest
_REPEATED = ("class_order", "mean", "std", "teachers")  # options that take several values: joined by commas


def is_imported(m: Manifest) -> bool:
    """Whether an artifact was imported, by `ddhub.convert.importing`."""
    return bool(m.recipe["path"] == PATH)


def command(m: Manifest) -> list[str]:
    """The words of the command that imports an artifact again, where the published files lie in the current folder."""
    config = m.recipe["config"]
    words = ["ddhub", "import", str(config.get("path", "")), m.name]
    for key in ("dataset", "method", "ipc", "format", "labels", "lr", "mean", "std", "size", "factor", "class_order",
                "teachers", "temperature", "protocol", "license", "source_url"):  # fmt: skip
        value = config.get(key)
        if value is not None:
            text = ",".join(map(str, value)) if key in _REPEATED and isinstance(value, list) else str(value)
            words += [f"--{key.replace('_', '-')}", text]
    if config.get("scale") in ("unit", "normalized"):
        words.append(f"--{config['scale']}")
    return [*words, "--citation", "CITATION.bib"] if m.citation else words
