"""Provenance: the commit and the modules that a manifest names."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from ddhub.artifact import origin
from ddhub.artifact.origin import provenance

ROOT = Path(__file__).parents[2]


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *name, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a project of three modules, of which the recipe imports one, and that one another."""
    for name, text in {
        "pyproject.toml": "",
        "recipes/mine.py": "import json\n\ndef f():\n    from ddhub.a import x\n",
        "ddhub/a.py": "import ddhub.deep.b\n",
        "ddhub/deep/__init__.py": "",
        "ddhub/deep/b.py": "",
        "ddhub/other.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "all")
    monkeypatch.setattr(origin, "ROOT", tmp_path)
    origin._imported.cache_clear()
    return tmp_path


def test_the_modules_are_the_file_and_what_it_imports_with_their_hashes(clone: Path) -> None:
    made = provenance(clone / "recipes" / "mine.py")
    want = ("ddhub/a.py", "ddhub/deep/b.py", "recipes/mine.py")
    assert made["modules"] == {name: hashlib.sha256((clone / name).read_bytes()).hexdigest() for name in want}
    assert made["repository"] == "ddhub" and made["commit"] == git(clone, "rev-parse", "HEAD")


def test_a_commit_that_does_not_hold_the_modules_as_they_are_is_marked(clone: Path) -> None:
    head, mine = git(clone, "rev-parse", "HEAD"), clone / "recipes" / "mine.py"
    (clone / "ddhub" / "other.py").write_text("changed, and not imported")
    assert provenance(mine)["commit"] == head
    (clone / "ddhub" / "deep" / "b.py").write_text("changed")
    assert provenance(mine)["commit"] == f"{head}+"
    git(clone, "commit", "-qam", "more")
    (clone / "recipes" / "new.py").write_text("")  # in no commit at all
    assert provenance(mine)["commit"] == git(clone, "rev-parse", "HEAD")
    assert provenance(clone / "recipes" / "new.py")["commit"].endswith("+")


def test_outside_a_clone_there_is_no_commit(clone: Path) -> None:
    (clone / "pyproject.toml").unlink()
    assert provenance(clone / "recipes" / "mine.py")["commit"] == ""


def test_the_recipes_of_the_project() -> None:
    origin._imported.cache_clear()
    modules = provenance(ROOT / "recipes" / "random_real.py")["modules"]
    assert {"recipes/random_real.py", "recipes/run/run.py", "ddhub/artifact/folder.py"} <= modules.keys()
    assert not {"recipes/infer.py", "ddhub/cli/app.py"} & modules.keys()
