"""Names that no file can have, folders that are not there, readers that leave, and the package as a program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import fail

import ddhub
from ddhub.artifact import bundled
from ddhub.artifact.bundled import BUNDLED
from ddhub.cli import app
from ddhub.errors import ArtifactError, UsageError
from ddhub.remote.find import resolve

ROOT = Path(__file__).parents[2]
LONG = "x" * 5000
VARIANT = "cifar10-nrr-dd-ipc10-kd"  # of which only the results are kept


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("ddhub.cli.program.keep_freed_memory", lambda: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAMED = {
    "compare": [],
    "info": [],
    "verify": [],
    "preview": [],
    "train": [],
    "download": [],
    "card": [],
    "cite": [],
    "push": ["--to", "./public"],
    "recode": ["out"],
    "export": ["out", "--to", "npz"],
}


@pytest.mark.parametrize("command", NAMED)
@pytest.mark.parametrize("name", [LONG, f"{LONG}/{LONG}", "a\ud800b", "a\0b", "", "\n"])
def test_a_name_that_no_file_can_have_is_an_unknown_artifact(command: str, name: str) -> None:
    code, line = fail(command, name, *NAMED[command])
    assert code in (1, 2) and "Traceback" not in line
    assert len(line) < 1200, len(line)  # with all names that there are
    assert (
        "unknown artifact" in line or "is not an artifact" in line or "no folder" in line or "unknown teacher" in line
    )


@pytest.mark.parametrize(
    "words",
    [
        ("preview", "cifar10-random-ipc1", "--to", f"{LONG}.png"),
        ("export", "cifar10-random-ipc1", LONG, "--to", "npz"),
        ("download", "cifar10-random-ipc1", "--to", LONG),
        ("recode", "cifar10-random-ipc1", f"{LONG}/a"),
        ("push", "cifar10-random-ipc1", "--to", f"./{LONG}"),
        ("import", LONG, "out/a"),
        ("compare", "cifar10-random-ipc1", "--plot", f"{LONG}.png"),
        ("train", "cifar10-random-ipc1", "--test", f"folder:{LONG}"),
        ("train", "cifar10-random-ipc1", "--data", LONG),
        ("train", "cifar10-random-ipc1", "--teacher", LONG),
        ("data", "info", f"folder:{LONG}"),
        ("data", "info", LONG),
        ("data", "prepare", "cifar10", "--data", LONG),
    ],
)
def test_a_path_that_no_file_can_have_is_one_line(words: tuple[str, ...]) -> None:
    code, line = fail(*words)
    assert code in (1, 2) and line.count("x" * 4900) <= 1


@pytest.mark.parametrize("name", ["./nothing", "../nothing", "~/nothing", "/nowhere/nothing", "a/b/c", "here/nothing"])
def test_a_folder_that_is_not_there_is_not_asked_for_on_the_hub(name: str, here: Path) -> None:
    (here / "here").mkdir()
    with pytest.raises(UsageError, match=r"unknown artifact '.*': no such folder; give an artifact's folder"):
        resolve(name)  # the test's network would tell


def test_a_source_without_a_catalog_says_what_it_is(tmp_path: Path) -> None:
    for source, state in (
        (tmp_path, "has no catalog.json"),
        (tmp_path / "no", "is no folder, and so has no catalog.json"),
    ):
        with pytest.raises(UsageError, match=rf"{state}; give a folder or an address that ddhub push --to has written"):
            ddhub.load("a", source=source)


def test_an_artifact_without_its_data_says_so_however_it_is_named(tmp_path: Path) -> None:
    alone = shutil.copytree(BUNDLED / VARIANT, tmp_path / VARIANT)
    for name in (VARIANT, alone, str(alone), f"./{VARIANT}"):
        with pytest.raises(ArtifactError, match=f"^{VARIANT}: its data are not kept here, only its results; make it"):
            ddhub.load(name)
        assert "its data are not kept here" in fail("preview", name)[1]
    assert bundled.has_data(BUNDLED / "cifar10-random-ipc1")


@pytest.mark.parametrize("name", [None, 3, b"cifar10-random-ipc1", ["cifar10-random-ipc1"], object])
def test_what_is_no_name_is_said_in_a_line(name: object) -> None:
    with pytest.raises(UsageError, match="is no name; give that of an artifact"):
        ddhub.load(name)  # type: ignore[arg-type]


def test_the_package_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "ddhub", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"ddhub, version {ddhub.__version__}\n")


@pytest.mark.parametrize(
    "words", ["list", "list --all --json", "data list", "compare", "info cifar10-infer-ipc10 --json"]
)
def test_a_reader_that_leaves_is_a_quiet_end(words: str) -> None:
    """Whether all was written before or not; the shell's own status of a pipe is that of each of its programs."""
    for reader in ("head -1", "true"):
        line = f"{sys.executable} -m ddhub {words} | {reader}; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.splitlines()[-1] == "0" and done.stderr == "", (reader, done.stderr)


@pytest.mark.parametrize("language", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_a_terminal_that_knows_few_characters_gets_what_it_knows(language: str) -> None:
    env = {**os.environ, "LC_ALL": language, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "ddhub", "list"], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and done.stderr == "" and "cifar10-idc-ipc1 " in done.stdout


def test_an_error_of_the_system_that_nobody_foresaw_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/dev/full")

    monkeypatch.setattr(app.cli, "main", refuse)
    assert fail("list") == (1, "error: /dev/full: No space left on device; check the path and its rights")
