"""The house: who may import whom, and how files are named and sized.

A place is a module or a folder directly in `ddhub/`. It may import places of lower rows alone; those of one row do not
import each other. Imports inside functions count, and so do those for annotations: an import is deferred for what it
costs, never to hide a circle.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [
    {"ddhub"},  # the public names, lazy, and the version
    {"ddhub.errors"},
    {"ddhub.io", "ddhub.models"},
    {"ddhub.protocols", "ddhub.sources"},
    {"ddhub.data"},
    {"ddhub.artifact"},
    {"ddhub.remote", "ddhub.cards", "ddhub.measures"},
    {"ddhub.teachers"},
    {"ddhub.training"},
    {"ddhub.convert", "ddhub.publish"},
    {"ddhub.hub"},
    {"ddhub.gallery"},
    {"ddhub.cli"},
    {"recipes.run"},
    {"recipes.inversion"},
    {"recipes.patches", "recipes.gradients", "recipes.trajectories"},
    {"recipes.stock"},
    {"recipes"},  # the methods, and the program that runs them
    {"tools"},
    {"benchmarks"},
]
LEVEL = {place: level for level, row in enumerate(ROWS) for place in row}
TOPS = ("ddhub", "recipes", "benchmarks", "tools")
MAX_LINES = 330
MAX_ENTRIES = 18  # directly in ddhub/, beside the files that Python asks for: a list that is read at one glance
ASKED_FOR = {"__init__.py", "__main__.py", "py.typed"}
EXCEPTIONS: set[str] = set()  # only ever shorter


def modules() -> list[Path]:
    return sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))


def name_of(path: Path) -> str:
    """'ddhub.io.files' of ddhub/io/files.py; a folder's own name of its `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place_of(module: str) -> str:
    """The row's entry that a module belongs to."""
    parts = module.split(".")
    return next(word for size in (2, 1) if (word := ".".join(parts[:size])) in LEVEL)


NAMES = {name_of(path) for path in modules()}


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import of the project's own; the name is empty where a module is imported."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno}: write imports from the top"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((whole, "") if whole in NAMES else (str(node.module), alias.name))
    return [(module, name) for module, name in found if module.split(".")[0] in TOPS]


def arrows_up() -> list[str]:
    """'ddhub/x.py imports ddhub.y' for each import of a place that does not stand lower."""
    found = set()
    for path in modules():
        here = place_of(name_of(path))
        for module, name in imports(path):
            there = place_of(module)
            # The public names are for users; ddhub itself takes only its version from there.
            public = there == "ddhub" and name != "__version__" and here.startswith("ddhub.")
            if here not in ("ddhub", there) and (public or LEVEL[there] >= LEVEL[here]):
                found.add(f"{path.relative_to(ROOT)} imports {module}")
    return sorted(found)


def test_imports_go_down() -> None:
    arrows = arrows_up()
    assert [arrow for arrow in arrows if arrow not in EXCEPTIONS] == []
    assert sorted(EXCEPTIONS - set(arrows)) == []  # what is mended leaves the list


def test_a_folder_is_described_in_its_init_and_nothing_else() -> None:
    for path in modules():
        if path.name == "__init__.py" and path != ROOT / "ddhub" / "__init__.py":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{path}: code in the folder's own file"


def test_modules_have_names_that_can_be_read() -> None:
    hidden = [name_of(path) for path in modules() if path.name.startswith("_") and not path.name.startswith("__")]
    assert hidden == []  # an underscore is for names inside a file


def test_no_private_name_is_imported() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {module}.{name}"
        for path in modules()
        for module, name in imports(path)
        if name.startswith("_") and name != "__version__"
    ]
    assert found == []


def test_files_and_folders_are_small() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}
    entries = {path.name for path in (ROOT / "ddhub").iterdir()} - ASKED_FOR - {"__pycache__"}
    assert len(entries) <= MAX_ENTRIES, sorted(entries)
