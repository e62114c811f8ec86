"""`ddhub gallery`: what it shows, what it says, and what it needs."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ddhub.artifact import bundled
from ddhub.cli.app import cli
from ddhub.gallery import site
from ddhub.gallery.serving import server
from ddhub.gallery.site import Built


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["gallery", *map(str, words)])


def test_only_the_named_ones_are_shown_where_asked(tiny: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "site", tiny, "cifar10-udd-ipc1-rbp", "--only")
    assert done.exit_code == 0, done.exception
    assert done.output.startswith(f"{tmp_path}/site/index.html: 2 artifacts, ")
    assert sorted(x.name for x in (tmp_path / "site" / "artifacts").iterdir()) == [
        "cifar10-udd-ipc1-rbp.html",  # of which only the results are there
        "tiny.html",
    ]


def test_the_bundled_ones_are_shown_too(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def build(out: Path, entries: dict[Path, Any], repos: dict[str, str]) -> Built:
        asked.update(entries=entries, repos=repos)
        return Built([], [], [])

    monkeypatch.setattr(site, "build", build)
    assert run(tmp_path / "site", tiny).exit_code == 0
    assert asked["entries"].keys() == {*bundled.folders_of_results(), tiny}


def test_what_cannot_be_shown_is_an_error_of_one_line(tmp_path: Path) -> None:
    assert "there is none; name an artifact" in str(run(tmp_path / "site", "--only").exception)
    assert "unknown artifact" in str(run(tmp_path / "site", "nothing-such", "--only").exception)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "no gallery; choose another folder" in str(run(tmp_path / "full").exception)


def test_without_the_extra_it_says_how_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pdoc" else object())
    assert str(run(tmp_path / "site").exception) == "ddhub gallery needs pdoc: pip install 'ddhub[gallery]'"


def test_open_shows_the_start_page(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(click, "launch", shown.append)
    run(tmp_path / "site", tiny, "--only", "--open")
    assert shown == [(tmp_path / "site" / "index.html").as_uri()]


def test_a_server_gives_the_files_and_their_policy_to_this_machine(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")
    with server(tmp_path) as (address, _):
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"hello"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}../{Path(__file__).name}")


def test_pictures_are_what_a_student_sees(tmp_path: Path) -> None:
    from ddhub.artifact.folder import Artifact
    from ddhub.gallery.pictures import draw

    artifact = Artifact.open(bundled.BUNDLED / "cifar10-idc-ipc1")
    made = draw(artifact)
    (tmp_path / "sheet.webp").write_bytes(made.files["sheet"])
    picture = Image.open(tmp_path / "sheet.webp").convert("RGB")
    stored = artifact.images()
    assert picture.size == (32, 320) and made.facts["sheet"]["classes"] == [*range(10)]
    for row in range(10):  # to the bit
        cell = picture.crop((0, 32 * row, 32, 32 * row + 32))
        label = [*artifact.image_labels()].index(row)
        assert cell.tobytes() == stored[label].permute(1, 2, 0).contiguous().numpy().tobytes()
    assert made.facts["decoded"]["width"] == 32 * 5  # a mosaic, and its four tiles
    assert made.facts["views"] == {"width": 32 * 7, "height": 32 * 5, "epochs": 6}
    assert json.dumps(made.facts)
    assert draw(artifact).files == made.files


def test_two_artifacts_of_one_name_are_an_error(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "tiny"
    shutil.copytree(tiny, other)
    done = run(tmp_path / "site", tiny, other, "--only")
    assert str(done.exception).startswith(f"{tiny} has the name of another that is to be shown")
    assert not (tmp_path / "site").exists()
