"""Where an artifact comes from: the code that made it, and of an imported one the command.

A manifest names the repository, the commit and the file that made the artifact, with the sha256 of that file and of
every module of the project that it imports, directly or not. Nothing here imports torch.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ddhub.artifact.manifest import Manifest

ROOT = Path(__file__).parents[2]
REPOSITORY = "ddhub"
UNCOMMITTED = "+"  # ends the commit of a working tree that differs from it

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


def provenance(file: Path) -> dict[str, Any]:
    """The keys repository, commit and modules of a manifest's `recipe`, for the file of a recipe or of the package."""
    paths = sorted(_closure(file.resolve()))
    modules = {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return {"repository": REPOSITORY, "commit": _commit(paths), "modules": modules}


def _closure(file: Path) -> set[Path]:
    """A file and every module of the project that it imports, directly or not."""
    seen, new = set(), {file}
    while new:
        seen |= new
        new = {path for module in new for path in _imported(module)} - seen
    return seen


@cache
def _imported(file: Path) -> frozenset[Path]:
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = (ROOT / name.replace(".", "/") for name in names if name.split(".")[0] in ("ddhub", "recipes"))
    files = (path for stem in ours for path in (stem.with_suffix(".py"), stem / "__init__.py"))
    return frozenset(path for path in files if path.is_file())


def _commit(modules: Sequence[Path]) -> str:
    """The repository's commit, with `+` when it does not hold these modules as they are; empty outside a checkout."""
    if not (ROOT / "pyproject.toml").is_file():
        return ""
    import subprocess  # here because `ddhub list`, which asks no repository, would wait for it

    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        diff = subprocess.run(
            ["git", "status", "--porcelain", "-uall", "--", *map(str, modules)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + (UNCOMMITTED if diff.stdout.strip() else "")
