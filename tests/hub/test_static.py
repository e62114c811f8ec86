"""Artifacts from a folder or a web server that stands in for the Hub: whole and as its catalog says, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import ddhub
from ddhub.artifact.manifest import PARQUET, PREVIEW
from ddhub.errors import ArtifactError, HubError, UsageError
from ddhub.hub import download
from ddhub.remote import static
from ddhub.remote.find import resolve
from hub.made import MANIFEST, NAME, README, RESULTS, contents, digest, is_exactly, version

pytestmark = pytest.mark.usefixtures("hasty")


def put(tree: Path, number: int = 1, **catalog: Any) -> None:
    """A version in a tree as `ddhub push --to` makes it."""
    for path, data in version(number).items():
        (tree / NAME / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / NAME / path).write_bytes(data)
    entry = {"digest": digest(version(number)), "files": sorted(version(number)), **catalog}
    (tree / "catalog.json").write_text(json.dumps({"format": 1, "artifacts": {NAME: entry}}))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDHUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tree").mkdir()
    put(tmp_path / "tree")
    return tmp_path / "tree"


class Server(ThreadingHTTPServer):
    """Any web server, with a log."""

    asked: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/catalog.json")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tree: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), partial(Handler, directory=str(tree))) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_folder(tree: Path) -> None:
    assert resolve(NAME, source=tree) == tree / NAME
    assert is_exactly(resolve(NAME, source=str(tree)), version(1))
    x, _ = next(ddhub.load(NAME, source=tree).batches(0))
    assert x.shape[1:] == (3, 32, 32)
    for bad in ("tinny", "../tree/tiny", str(tree / NAME)):
        with pytest.raises(UsageError, match="unknown artifact"):
            resolve(bad, source=tree)
    with pytest.raises(UsageError, match="only artifacts on the Hub have revisions"):
        resolve(NAME, source=tree, revision="v1")


@pytest.mark.parametrize(
    ("catalog", "message"),
    [
        ({"digest": "0" * 64}, "'tiny' has digest 000000000000, its manifest is 'tiny'"),
        ({"digest": "../x"}, "the entry 'tiny' is not an object of digest and files"),
        ({"files": None}, "the entry 'tiny' is not an object of digest and files"),
        ({"more": 1}, "the entry 'tiny' is not an object of digest and files"),
    ],
)
def test_a_catalog_that_is_not_its_trees(tree: Path, server: Server, catalog: dict[str, Any], message: str) -> None:
    put(tree, **catalog)
    for source in (tree, server.url):
        with pytest.raises(ArtifactError, match=message):
            resolve(NAME, source=source)


def test_a_server_is_asked_for_what_is_listed_once(tree: Path, server: Server, tmp_path: Path) -> None:
    (tree / NAME / "more.txt").write_text("x")
    folder = resolve(NAME, source=server.url)
    assert folder == tmp_path / "cache" / "artifacts" / digest(version(1)) / NAME
    assert contents(folder) == version(1) and is_exactly(folder, version(1))
    assert sorted(server.asked) == ["/catalog.json", *(f"/{NAME}/{path}" for path in sorted(version(1)))]
    server.asked.clear()
    assert resolve(NAME, source=f"{server.url}/") == folder and server.asked == ["/catalog.json"]
    put(tree, 2)
    assert is_exactly(resolve(NAME, source=server.url), version(2))
    assert contents(download(NAME, tmp_path / "copy", source=server.url)) == version(2)


def test_a_damaged_copy_is_replaced(tree: Path, server: Server) -> None:
    folder = resolve(NAME, source=server.url)
    (folder / PARQUET).write_bytes(b"x" * len(version(1)[PARQUET]))
    assert is_exactly(resolve(NAME, source=server.url), version(1))
    (folder / PREVIEW).unlink()
    server.shutdown()
    server.server_close()
    with pytest.raises(HubError, match="the server cannot be reached"):
        resolve(NAME, source=server.url)


@pytest.mark.parametrize("path", [PARQUET, PREVIEW, MANIFEST])
@pytest.mark.parametrize("change", ["longer", "shorter", "other", "missing"])
def test_what_is_not_as_listed_leaves_nothing(tree: Path, server: Server, path: str, change: str) -> None:
    file = tree / NAME / path
    data = file.read_bytes()
    file.write_bytes({"longer": data + b"x", "shorter": data[:-1], "other": b"x" + data[1:]}.get(change, b""))
    if change == "missing":
        file.unlink()
    with pytest.raises((ArtifactError, HubError), match=path):
        resolve(NAME, source=server.url)
    assert not list((tree.parent / "cache").rglob("*.p*"))
    put(tree)
    assert is_exactly(resolve(NAME, source=server.url), version(1))


def test_without_the_server_what_was_downloaded_stays(
    tree: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HubError, match="not requested, as the network is off; load it once with the network on"):
        resolve(NAME, source=server.url, local_files_only=True)
    resolve(NAME, source=server.url)
    server.shutdown()
    server.server_close()
    assert is_exactly(resolve(NAME, source=server.url), version(1))
    assert "cannot be reached" in caplog.text and "using the last copy of its catalog" in caplog.text
    assert is_exactly(resolve(NAME, source=server.url, local_files_only=True), version(1))


def test_limits(tree: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDHUB_MAX_BYTES", "50000")
    with pytest.raises(UsageError, match="DDHUB_MAX_BYTES allows 50,000"):
        resolve(NAME, source=server.url)
    assert server.asked == ["/catalog.json", f"/{NAME}/{MANIFEST}"]
    (tree / NAME / README).write_bytes(b"x" * (2**22 + 1))
    monkeypatch.delenv("DDHUB_MAX_BYTES")
    with pytest.raises(ArtifactError, match="README.md: more than 4,194,304 bytes"):
        resolve(NAME, source=server.url)
    (tree / NAME / README).unlink()
    (tree / NAME / RESULTS).unlink()
    put(tree, files=[])
    assert is_exactly(resolve(NAME, source=server.url), {k: v for k, v in version(1).items() if k != RESULTS})


def test_redirects_are_not_followed(server: Server) -> None:
    with pytest.raises(
        HubError, match="redirects to 'http://127.0.0.1:.*/catalog.json'; give that address as the source"
    ):
        resolve(NAME, source=f"{server.url}/elsewhere")


@pytest.mark.parametrize(
    "url", ["http://example.org", "ftp://example.org", "file:///etc", "http://127.0.0.1.example.org", "https://"]
)
def test_only_addresses_that_cannot_be_changed_on_the_way(tree: Path, url: str) -> None:
    with pytest.raises(UsageError, match="is not an https:// address; name one, or a folder"):
        resolve(NAME, source=url)


def test_safe_addresses() -> None:
    for url in ("https://example.org/a", "http://localhost:80", "http://127.9.9.9/x", "http://[::1]:8"):
        assert static._safe(f"{url}/") == url
