"""The stock's site, as files: its pages, its links, its size, and what a second run does."""

from __future__ import annotations

import posixpath
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from gallery.conftest import Page

from ddhub.artifact import bundled, results
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST
from ddhub.errors import UsageError
from ddhub.gallery.site import Built, build
from ddhub.gallery.templates import POLICY

Stock = tuple[Path, Built]


def test_every_artifact_and_every_method_has_a_page(pages: dict[str, Page]) -> None:
    names = [path.name for path in bundled.folders_of_results()]
    assert {f"artifacts/{name}.html" for name in names} < pages.keys()
    assert {"index.html", "compare.html", "reference/index.html", "methods/index.html"} < pages.keys()
    assert {f"methods/{name}.html" for name in ("infer", "nrr-dd", "udd", "edf", "random-real")} < pages.keys()
    shown = {facts["data-name"] for tag, facts in pages["index.html"].elements if tag == "li" and "data-name" in facts}
    assert shown == {*names}


def test_pages_are_well_formed(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert (page.broken, page.open) == ([], []), name
        assert len(page.ids) == len({*page.ids}), name
        assert [tag for tag, _ in page.elements].count("h1") == 1, name
        assert page.all("html", "lang") == ["en"], name


def test_every_link_and_every_file_resolves_inside_the_site(stock: Stock, pages: dict[str, Page]) -> None:
    folder, built = stock
    used = set()
    for name, page in pages.items():
        addresses = [x for tag, key in (("a", "href"), ("link", "href"), ("img", "src"), ("script", "src"))
                     for x in page.all(tag, key)]  # fmt: skip
        for address in addresses:
            parts = urlsplit(address)
            assert not parts.scheme and not parts.netloc, (name, address)
            path = posixpath.join(posixpath.dirname(name), unquote(parts.path))
            target = posixpath.normpath(path) if parts.path else name
            assert (folder / target).is_file() and target in built.files, (name, address)
            if parts.fragment:
                assert parts.fragment in pages[target].ids, (name, address)
            used.add(target)
    assert {*built.files} - used == {"site.json"}  # nothing is there that no page shows


def test_every_picture_has_a_text_and_a_size(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for tag, facts in page.elements:
            if tag == "img":
                assert facts["alt"] and int(facts["width"]) > 0 and int(facts["height"]) > 0, name


def test_no_page_has_code_or_style_of_its_own(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        metas = [facts for tag, facts in page.elements if tag == "meta"]
        assert [x["content"] for x in metas if x.get("http-equiv") == "Content-Security-Policy"] == [POLICY]
        for tag, facts in page.elements:
            assert tag not in ("style", "iframe", "object", "base"), name
            assert not any(key.startswith("on") or key == "style" for key in facts), (name, tag)
            assert tag != "script" or "src" in facts or facts["type"] == "application/json", name


def test_numbers_are_those_that_were_recorded(pages: dict[str, Page]) -> None:
    for folder in bundled.folders_of_results():
        entry = results.read(folder)
        page = pages[f"artifacts/{entry.manifest.name}.html"]
        assert f"{entry.bytes:,}" in page.text and entry.manifest.digest in page.text
        for mean in entry.means():
            assert mean.text in page.text
            assert mean.first.protocol in pages["compare.html"].text


def test_a_page_says_how_to_load_repeat_and_cite(pages: dict[str, Page]) -> None:
    text = pages["artifacts/cifar10-infer-ipc10.html"].text
    assert 'data = ddhub.load("cifar10-infer-ipc10")' in text
    assert 'load_dataset("ddhub/cifar10-infer-ipc10", split="train")' in text
    assert "python -m recipes infer cifar10-infer-ipc10 --preset" in text
    assert "@misc{cifar10-infer-ipc10" in text and "krizhevsky2009cifar" in text
    assert "random, equal images" in text and "random, equal bytes" in text


def test_the_site_is_small_and_shows_pictures(stock: Stock) -> None:
    folder, built = stock
    assert sum((folder / name).stat().st_size for name in built.files) <= 15_000_000
    for path in bundled.folders_of_results():
        if bundled.has_data(path):
            assert any(name.startswith(f"pictures/{path.name}-") for name in built.files)


def test_built_twice_it_is_the_same_byte_for_byte(stock: Stock, tmp_path: Path) -> None:
    folder, built = stock
    again = build(tmp_path / "site", bundled.at_hand())
    assert again.files == built.files
    for name in built.files:
        assert (folder / name).read_bytes() == (tmp_path / "site" / name).read_bytes(), name


def made(out: Path, *folders: Path) -> Built:
    return build(out, {folder: results.read(folder) for folder in folders})


def test_a_second_run_writes_what_changed(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    first = made(out, tiny)
    assert sorted(first.written) == sorted(first.files)
    assert made(out, tiny).written == []
    record = Artifact.open(tiny).results()[0]
    Artifact.open(tiny).add_result({**record, "seed": 7, "accuracy": 99.0})
    again = made(out, tiny)
    assert {*again.written} == {"index.html", "compare.html", "artifacts/tiny.html", "methods/random-real.html"}
    assert not any(name.endswith(".webp") for name in again.written) and again.removed == []


def test_what_is_gone_leaves_the_site_and_nothing_else_does(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    made(out, tiny)
    (out / "CNAME").write_text("example.org")
    built = made(out)
    assert "artifacts/tiny.html" in built.removed and not (out / "artifacts").exists()
    assert (out / "CNAME").read_text() == "example.org"


def test_a_run_that_was_cut_goes_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    with monkeypatch.context() as patch:
        patch.setattr("ddhub.gallery.site.start", lambda shelf: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made(out, tiny)
    assert "index.html" in made(out, tiny).files


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="there is something that is no gallery"):
        made(tmp_path)
    assert [x.name for x in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_list_is_made_anew(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    outside = tmp_path / "mine.txt"
    outside.write_text("mine")
    made(out, tiny)
    for text in (
        "[]", "{", '{"files": ["../mine.txt", 3], "pictures": 1}', '{"files": 5, "format": 1}',
        '{"files": [], "format": 1, "pictures": []}', '{"files": ["", ".", "a\\u0000b", "artifacts"], "format": 1}',
    ):  # fmt: skip
        (out / "site.json").write_text(text)
        assert "index.html" in made(out, tiny).files
        assert outside.read_text() == "mine"


def test_an_artifact_without_data_is_shown_with_its_results(tiny: Path, tmp_path: Path) -> None:
    (tiny / "data" / "train-00000-of-00001.parquet").unlink()
    built = made(tmp_path / "site", tiny)
    assert not any(name.endswith(".webp") for name in built.files)
    assert "The data are not kept here" in (tmp_path / "site" / "artifacts" / "tiny.html").read_text()


def test_a_site_of_nothing_is_a_site(tmp_path: Path) -> None:
    made(tmp_path / "site")
    page = Page((tmp_path / "site" / "index.html").read_text())
    assert page.broken == [] and "0 artifacts" in page.text


def test_a_published_artifact_has_a_link_to_where_it_is(tiny: Path, tmp_path: Path) -> None:
    entry = results.read(tiny)
    build(tmp_path / "site", {tiny: entry}, {entry.manifest.digest: "lab/tiny"})
    page = Page((tmp_path / "site" / "artifacts" / "tiny.html").read_text())
    assert "https://huggingface.co/datasets/lab/tiny" in page.all("a", "href")
    assert 'load_dataset("lab/tiny", split="train")' in page.text


def test_the_folder_is_of_any_web_server(stock: Stock, tmp_path: Path) -> None:
    folder, _ = stock
    moved = shutil.copytree(folder, tmp_path / "deep" / "below", ignore=shutil.ignore_patterns("*.webp"))
    assert (moved / "index.html").read_bytes() == (folder / "index.html").read_bytes()
    assert (folder / MANIFEST).exists() is False  # no artifact's own files are in it
