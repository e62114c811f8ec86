"""What the catalog pins against what the Hub has: `ddhub verify --remote`; and `list`, `info`, `download` of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ddhub.artifact import bundled
from ddhub.artifact.manifest import PARQUET, PREVIEW
from ddhub.cli.app import cli
from ddhub.errors import HubError, UsageError
from ddhub.remote import client
from hub.made import MANIFEST, NAME, REPO, RESULTS, contents, digest, version
from hub.server import DummyHub
from hub.store import Blob, Commit, Repo

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture
def published(hub: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commit of a published artifact that a catalog pins."""
    from huggingface_hub import HfApi

    commit = hub.put(REPO, version(1))
    HfApi(token=hub.token).create_tag(REPO, tag="v1", repo_type="dataset")
    hub.put(REPO, version(2))
    path = tmp_path / "catalog.json"
    client.write_pin(path, NAME, client.Pin(REPO, commit, digest(version(1)), "v1"))
    monkeypatch.setattr(client.pins, "__defaults__", (path,))
    hub.log.clear()
    return commit


def run(*words: str) -> tuple[int, str]:
    """Exit code and stdout."""
    done = CliRunner().invoke(cli, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def verify() -> dict[str, Any]:
    code, text = run("verify", "--remote", "--json")
    [report] = json.loads(text)
    assert code == (0 if report["ok"] else 1) and report["name"] == NAME
    return dict(report)


@pytest.mark.usefixtures("pictures_in_git")
def test_files_without_a_sha256_on_the_hub_are_downloaded(hub: DummyHub, published: str) -> None:
    assert verify()["ok"] and {request.file for request in hub.log} == {"", MANIFEST, PREVIEW, RESULTS}


def test_nothing_is_downloaded_but_small_files(hub: DummyHub, published: str) -> None:
    report = verify()
    assert report == {
        "name": NAME,
        "repo": REPO,
        "tag": "v1",
        "revision": published,
        "digest": digest(version(1)),
        "ok": True,
    }
    assert {request.file for request in hub.log} == {"", MANIFEST, RESULTS}
    code, text = run("verify", NAME, "--remote")
    assert code == 0 and text == f"tiny: ok, lab/tiny v1 is commit {published}\n"
    with pytest.raises(UsageError, match="unknown published artifact 'tini'; did you mean 'tiny'"):
        run("verify", "tini", "--remote")


@pytest.mark.parametrize("what", ["tag moved", "tag gone", "repository gone", "private", "history rewritten", "away"])
def test_a_difference_is_an_error_of_code_1(hub: DummyHub, published: str, what: str) -> None:
    repo = hub.repos["dataset", REPO]
    if what == "tag moved":
        hub.move(REPO, "v1", hub.head(REPO))
        message = f"tag v1 is commit {hub.head(REPO)}, the catalog says {published}"
    elif what == "tag gone":
        del repo.refs["refs/tags/v1"]
        message = f"tag v1 is gone, the catalog says {published}"
    elif what == "repository gone":
        hub.delete(REPO)
        message = "no such repository"
    elif what == "private":
        hub.hide(REPO)
        message = "no such repository"
    elif what == "history rewritten":
        hub.delete(REPO)
        hub.put(REPO, version(3))
        message = "has no such revision of it"
    else:
        hub.stop()
        message = "cannot be reached"
    report = verify()
    assert not report["ok"] and message in report["error"]


def other_picture() -> bytes:
    """As long as the preview, so that its size does not give it away."""
    return version(1)[PREVIEW][:-1] + b"x"


@pytest.mark.parametrize("path", [MANIFEST, PARQUET, PREVIEW])
@pytest.mark.parametrize("storage", ["large files", "pictures in git"])
def test_other_files_under_the_same_commit(
    request: pytest.FixtureRequest, path: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the Hub can do that, but another one can say that it is the Hub."""
    if storage == "pictures in git":
        request.getfixturevalue("pictures_in_git")
    published = request.getfixturevalue("published")
    original = Repo.resolve

    def resolve(self: Repo, revision: str) -> Commit:
        commit = original(self, revision)
        data = other_picture() if path == PREVIEW else version(2)[path]
        other = replace(commit, files={**commit.files, path: Blob(data, self.is_lfs(path, len(data)))})
        return other if commit.oid == published else commit

    monkeypatch.setattr(Repo, "resolve", resolve)
    report = verify()
    assert not report["ok"] and ("its digest is" in report["error"] if path == MANIFEST else path in report["error"])


def test_an_empty_catalog_and_nothing_to_verify(hub: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.pins, "__defaults__", (tmp_path / "none.json",))
    assert run("verify", "--remote") == (0, "nothing is published yet: the catalog is empty\n")
    assert run("verify", "--remote", "--json") == (0, "[]\n")
    with pytest.raises(UsageError, match="nothing to check; name an artifact, or give --remote"):
        run("verify")


def test_list_remote(hub: DummyHub, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card = b"---\ntags:\n- ddhub\n---\n"
    monkeypatch.setenv("DDHUB_NAMESPACE", "lab")
    head = hub.put(REPO, {"README.md": card})
    other = hub.put("lab/second", {"README.md": card})
    hub.put("lab/elses", {"README.md": b"---\ntags:\n- else\n---\n"})
    code, text = run("list", "--remote", "--json")
    rows = json.loads(text)
    assert code == 0 and [(row["name"], row["commit"], row["pinned"]) for row in rows] == [
        ("lab/second", other, None),
        (REPO, head, published),
    ]
    code, text = run("list", "--remote")
    assert text.splitlines()[0].split() == ["name", "commit", "modified", "in", "the", "catalog"]
    assert f"at {published[:12]}" in text.splitlines()[2]
    monkeypatch.setenv("DDHUB_NAMESPACE", "nobody")
    assert "lab/tiny  not listed" in run("list", "--remote")[1]
    hub.stop()
    with pytest.raises(HubError, match="nobody: the Hub .* cannot be reached"):
        run("list", "--remote")


def test_info_of_a_remote_name_needs_no_images(hub: DummyHub, published: str) -> None:
    code, text = run("info", NAME, "--json")
    assert code == 0 and json.loads(text)["digest"] == digest(version(1))
    assert {request.file for request in hub.log} == {"", MANIFEST, RESULTS}


def test_download_of_a_remote_name(hub: DummyHub, published: str, tmp_path: Path) -> None:
    code, text = run("download", NAME, "--to", str(tmp_path / "copy"))
    assert (code, text) == (0, f"{tmp_path / 'copy'}\n") and contents(tmp_path / "copy") == version(1)
    code, text = run("download", REPO, "--revision", "main")
    assert contents(Path(text.strip())) == version(2)
    assert run("verify", str(tmp_path / "copy"))[0] == 1  # its card is none of ddhub's


def test_nothing_is_written_into_the_cache_of_the_hub(hub: DummyHub, published: str) -> None:
    for words in (("card", NAME), ("train", NAME, "--record")):
        with pytest.raises(
            UsageError, match="is in the Hub's cache; make a copy to write to: ddhub download NAME --to"
        ):
            run(*words)


def test_completion_knows_the_catalog(published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddhub.cli.options import complete_artifacts

    monkeypatch.setattr(bundled, "BUNDLED", tmp_path)
    assert [item.value for item in complete_artifacts(None, None, "tin")] == [NAME]  # type: ignore[arg-type]
