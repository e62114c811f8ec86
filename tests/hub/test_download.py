"""From a name to a checked folder: the order of places, pins, revisions, limits, and what is asked of the Hub."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import ddhub
from ddhub.artifact.bundled import BUNDLED
from ddhub.artifact.manifest import PARQUET, PREVIEW, parse
from ddhub.errors import ArtifactError, HubError, UsageError
from ddhub.hub import download
from ddhub.remote import client
from ddhub.remote.find import resolve
from hub.made import MANIFEST, NAME, README, REPO, RESULTS, contents, digest, is_exactly, version
from hub.server import DummyHub

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of the test's own, empty at first."""
    path = tmp_path / "catalog.json"
    path.write_text('{"format": 1, "artifacts": {}}')
    monkeypatch.setattr(client.pins, "__defaults__", (path,))
    return path


def pin(path: Path, commit: str, **changes: str) -> None:
    entry = {"repo": REPO, "revision": commit, "digest": digest(version(1)), "tag": "v1", **changes}
    client.write_pin(path, NAME, client.Pin(**entry))


def test_a_folder_comes_before_a_bundled_name_before_the_catalog_before_the_hub(
    hub: DummyHub, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddhub.artifact.bundled.BUNDLED", tmp_path / "bundled")
    hub.put("ddhub/tiny", version(4))
    assert is_exactly(resolve(NAME), version(4))
    pin(catalog, hub.put(REPO, version(1)))
    assert is_exactly(resolve(NAME), version(1))
    asked = len(hub.log)
    for number, folder in ((2, tmp_path / "bundled" / NAME), (3, tmp_path / NAME)):
        for path, data in version(number).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        assert is_exactly(resolve(NAME), version(number))
    assert len(hub.log) == asked


def test_the_namespace_of_bare_names(hub: DummyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(REPO, version(1))
    with pytest.raises(UsageError, match=r"unknown artifact 'tiny'.*\(ddhub list; ddhub/tiny: no such repository"):
        resolve(NAME)
    monkeypatch.setenv("DDHUB_NAMESPACE", "lab")
    assert is_exactly(resolve(NAME), version(1))
    monkeypatch.setenv("DDHUB_NAMESPACE", "../etc")
    with pytest.raises(UsageError, match="DDHUB_NAMESPACE is '../etc', not the name of a user or organization"):
        resolve(NAME)


@pytest.mark.parametrize(
    "name", ["../x", "a/b/c", "a b", "lab/", "/lab", "lab/ti..ny", "lab/.git", "lab/x.git", "-a/b"]
)
def test_what_is_no_name_is_not_asked_for(hub: DummyHub, name: str) -> None:
    with pytest.raises(UsageError, match="unknown artifact"):
        resolve(name)
    assert not hub.log


def test_a_bundled_name_at_a_revision_is_the_hubs(hub: DummyHub) -> None:
    name = "cifar10-random-ipc10"
    hub.put(f"ddhub/{name}", version(1, name))
    assert resolve(name) == BUNDLED / name
    assert is_exactly(resolve(f"{name}@main"), version(1, name))


def test_one_request_says_what_there_is_and_only_listed_files_are_asked_for(hub: DummyHub) -> None:
    hostile = {"../up.py": b"x", "C:\\x": b"x", "x.py": b"x", "data/more.parquet": b"x" * 99, "a\x1b[31m\u202e": b"x"}
    hub.put(REPO, {**version(1), **hostile})
    folder = resolve(REPO)
    assert is_exactly(folder, version(1))
    assert [request.route for request in hub.log[:1]] == ["info"] and len(hub.requests("info")) == 1
    assert {request.file for request in hub.log[1:]} == version(1).keys() - {README}
    assert {request.path.split("/resolve/")[1][:40] for request in hub.requests("resolve")} == {folder.name}
    asked = len(hub.log)
    resolve(REPO)
    assert [request.route for request in hub.log[asked:]] == ["info"]


def test_the_client_says_who_asks_and_signs_in_only_where_it_must(
    signed_in: DummyHub, catalog: Path, tmp_path: Path
) -> None:
    commit = signed_in.put(REPO, version(1))
    resolve(REPO)
    assert all(f"ddhub/{ddhub.__version__}" in request.headers["user-agent"] for request in signed_in.log)
    with_token = {request.route for request in signed_in.log if "authorization" in request.headers}
    assert with_token == {"info", "resolve"}
    signed_in.log.clear()
    resolve(REPO, token=False, cache_dir=tmp_path / "1")
    pin(catalog, commit)
    resolve(NAME, cache_dir=tmp_path / "2")
    assert not [request for request in signed_in.log if "authorization" in request.headers]
    resolve(NAME, token=signed_in.token, cache_dir=tmp_path / "3")
    assert [request for request in signed_in.log if "authorization" in request.headers]


def test_revisions(hub: DummyHub, caplog: pytest.LogCaptureFixture) -> None:
    from huggingface_hub import HfApi

    first = hub.put(REPO, version(1))
    HfApi(token=hub.token).create_tag(REPO, tag="v1", repo_type="dataset")
    second = hub.put(REPO, version(2))
    caplog.set_level(logging.INFO, "ddhub")
    for asked, number, commit in [
        (REPO, 2, second),
        (f"{REPO}@v1", 1, first),
        (f"{REPO}@main", 2, second),
        (f"{REPO}@{first}", 1, first),
    ]:
        caplog.clear()
        folder = resolve(asked)
        assert is_exactly(folder, version(number)) and folder.name == commit
        levels = {record.levelname for record in caplog.records if commit in record.getMessage()}
        assert levels == (set() if asked.endswith(first) else {"INFO", "WARNING"})
    with pytest.raises(HubError, match="lab/tiny: the Hub .* has no such revision of it; choose another"):
        resolve(REPO, revision="v9")
    with pytest.raises(HubError, match="no such revision"):
        resolve(REPO, revision="0" * 40)
    with pytest.raises(UsageError, match="revision 'v2' is given too"):
        resolve(f"{REPO}@v1", revision="v2")
    for bad in ("../main", "a b", "x" * 201, "-x"):
        with pytest.raises(UsageError, match="is not a commit, branch or tag"):
            resolve(REPO, revision=bad)
    with pytest.raises(UsageError, match="only artifacts on the Hub have revisions"):
        resolve(BUNDLED / "cifar10-random-ipc10", revision="v1")


def test_a_pin_holds_whatever_happens_to_the_branch(hub: DummyHub, catalog: Path, caplog: Any) -> None:
    pin(catalog, hub.put(REPO, version(1)))
    hub.put(REPO, version(2))
    assert is_exactly(resolve(NAME), version(1))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    hub.log.clear()
    assert is_exactly(resolve(NAME), version(1)) and not hub.log


def test_a_pin_of_another_commit_or_digest_is_an_error(hub: DummyHub, catalog: Path) -> None:
    commit = hub.put(REPO, version(1))
    pin(catalog, "0" * 40)
    with pytest.raises(HubError, match="no such revision"):
        resolve(NAME)
    pin(catalog, commit, digest="0" * 64)
    with pytest.raises(ArtifactError, match=r"lab/tiny: its digest is \w{12}, not 000000000000 as expected; it was"):
        resolve(NAME)
    pin(catalog, hub.put(REPO, version(2)))
    for _ in range(2):
        with pytest.raises(ArtifactError, match="its digest is"):
            resolve(NAME)
    with pytest.raises(ArtifactError, match="its digest is"):
        resolve(NAME, local_files_only=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"format": 2, "artifacts": {}}', "not a catalog of format 1"),
        ('{"format": 1, "artifacts": []}', "not a catalog of format 1"),
        ('{"format": 1, "artifacts": {"../x": {}}}', "the entry '../x' is not an object of"),
        ('{"format": 1, "artifacts": {"x": {"repo": "a/b"}}}', "the entry 'x' is not an object of repo, revision"),
    ],
)
def test_a_damaged_catalog_is_an_error(catalog: Path, text: str, message: str) -> None:
    catalog.write_text(text)
    with pytest.raises(ArtifactError, match=f"catalog.json: {message}"):
        client.pins()


@pytest.mark.parametrize(
    ("key", "value"), [("repo", "x"), ("revision", "main"), ("digest", "ab"), ("tag", "a b"), ("repo", 3)]
)
def test_a_pin_is_what_it_must_be(catalog: Path, key: str, value: Any) -> None:
    sound = {"repo": REPO, "revision": "0" * 40, "digest": "0" * 64, "tag": "v1"}
    catalog.write_text(json.dumps({"format": 1, "artifacts": {"x": {**sound, key: value}}}))
    with pytest.raises(ArtifactError, match=f"catalog.json: 'x': {key} is {value!r}"):
        client.pins()


def test_pins_are_written_whole_and_sorted(catalog: Path) -> None:
    pins = [client.Pin(f"lab/{name}", "1" * 40, "2" * 64, "v1") for name in "ba"]
    for one in pins:
        client.write_pin(catalog, one.repo[4:], one)
    assert list(client.pins(catalog)) == ["a", "b"] and client.pins(catalog)["b"] == pins[0]
    assert client.pins(catalog.parent / "none.json") == {}


def test_the_size_is_known_and_limited_before_the_download(hub: DummyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(REPO, version(1))
    monkeypatch.setenv("DDHUB_MAX_BYTES", "50000")
    with pytest.raises(
        UsageError, match=r"lab/tiny: 5\d,\d{3} bytes, and DDHUB_MAX_BYTES allows 50,000; set it higher"
    ):
        resolve(REPO)
    assert {request.file for request in hub.requests("resolve")} == {MANIFEST, RESULTS}
    monkeypatch.setenv("DDHUB_MAX_BYTES", "2 GB")
    with pytest.raises(UsageError, match="DDHUB_MAX_BYTES is '2 GB', not a number of bytes"):
        resolve(REPO)
    monkeypatch.delenv("DDHUB_MAX_BYTES")
    assert is_exactly(resolve(REPO), version(1))


def test_a_manifest_of_any_size_is_not_downloaded(hub: DummyHub) -> None:
    hub.put(REPO, {**version(1), MANIFEST: b" " * (2**22 + 1)})
    with pytest.raises(ArtifactError, match=r"manifest.json has 4,194,305 bytes, more than 4,194,304"):
        resolve(REPO)
    assert {request.file for request in hub.requests("resolve")} == {RESULTS}


OTHER_PICTURE = version(1)[PREVIEW][:-1] + b"x"  # of the same size


def spoilt(change: dict[str, bytes | None]) -> dict[str, bytes]:
    return {path: data for path, data in {**version(1), **change}.items() if data is not None}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (spoilt({MANIFEST: None}), "no manifest.json at commit"),
        (spoilt({PARQUET: None}), f"{PARQUET} at commit .* is missing or differs from the manifest"),
        (spoilt({PARQUET: version(2)[PARQUET]}), f"{PARQUET} at commit .* is missing or differs from the manifest"),
        (spoilt({PREVIEW: OTHER_PICTURE}), f"{PREVIEW} at commit .* is missing or differs from the manifest"),
        (
            spoilt({PREVIEW: version(1)[PREVIEW] + b"x"}),
            f"{PREVIEW} at commit .* is missing or differs from the manifest",
        ),
        (spoilt({MANIFEST: b"{}"}), "manifest.json: "),
        (spoilt({MANIFEST: version(1)[MANIFEST].replace(b'"ipc": 1', b'"ipc": 2')}), "manifest.json: the digest"),
        (version(1, "other"), "lab/tiny: holds 'other', not 'tiny'"),
    ],
)
def test_a_repository_that_is_no_sound_artifact_is_refused(
    hub: DummyHub, files: dict[str, bytes], message: str
) -> None:
    hub.put(REPO, files)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=message):
            resolve(REPO)
    with pytest.raises((ArtifactError, HubError)):
        resolve(REPO, local_files_only=True)
    assert not hub.requests("cdn")


@pytest.mark.usefixtures("pictures_in_git")
def test_a_file_of_which_the_hub_says_no_sha256_is_hashed(hub: DummyHub) -> None:
    hub.put(REPO, spoilt({PREVIEW: OTHER_PICTURE}))
    for _ in range(2):
        with pytest.raises(ArtifactError, match=f"{PREVIEW}: its sha256 differs"):
            resolve(REPO)
    with pytest.raises((ArtifactError, HubError)):
        resolve(REPO, local_files_only=True)
    hub.put(REPO, version(1))
    assert is_exactly(resolve(REPO), version(1))


@pytest.mark.parametrize("path", [MANIFEST, PARQUET, RESULTS])
def test_a_damaged_file_in_the_cache_is_found_and_fetched_once_more(
    hub: DummyHub, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.put(REPO, version(1))
    for name in (REPO, f"{REPO}@{commit}"):
        file = resolve(name) / path
        file.resolve().write_bytes(file.read_bytes()[:-3] + b"abc")
        with pytest.raises(ArtifactError, match=path):
            resolve(name, local_files_only=True)
        hub.log.clear()
        assert is_exactly(resolve(name), version(1))
        assert {request.file for request in hub.log} == {"", path}
    assert "removed from the cache and downloaded once more" in caplog.text


def test_a_link_out_of_the_cache_is_not_followed(hub: DummyHub, tmp_path: Path) -> None:
    commit = hub.put(REPO, version(1))
    secret = tmp_path / "secret"
    file = resolve(REPO) / PREVIEW
    secret.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(ArtifactError, match=f"{PREVIEW}: a link to a place outside"):
        resolve(REPO, revision=commit, local_files_only=True)
    assert is_exactly(resolve(REPO, revision=commit), version(1))
    assert secret.exists() and "blobs" in os.readlink(file)


def test_blobs_that_repositories_share_are_inside(hub: DummyHub) -> None:
    """As huggingface_hub 2 has what came by Xet: blobs/HASH is a link itself, to CACHE/blobs/XX/HASH."""
    commit = hub.put(REPO, version(1))
    file = resolve(REPO) / PARQUET
    blob = file.parent / os.readlink(file)
    shared = file.parents[4] / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    hub.log.clear()
    assert is_exactly(resolve(REPO, revision=commit), version(1)) and not hub.log
    shared.write_bytes(b"poison")
    assert is_exactly(resolve(REPO, revision=commit), version(1))
    assert not shared.exists() or shared.read_bytes() != b"poison"


def test_force_download_asks_for_everything_again(hub: DummyHub) -> None:
    hub.put(REPO, version(1))
    resolve(REPO)
    hub.log.clear()
    assert is_exactly(resolve(REPO, force_download=True), version(1))
    assert {request.file for request in hub.log} == {"", *version(1)} - {README}


def test_another_cache_is_used_for_all(hub: DummyHub, tmp_path: Path) -> None:
    hub.put(REPO, version(1))
    folder = resolve(REPO, cache_dir=tmp_path / "mine")
    assert folder.is_relative_to(tmp_path / "mine") and not (tmp_path / "hf" / "hub").exists()


def test_gated_and_private_repositories_say_what_to_do(hub: DummyHub) -> None:
    hub.put(REPO, version(1))
    hub.gate(REPO)
    with pytest.raises(
        HubError, match=r"lab/tiny.*: gated; request access on its page .*, then sign in \(hf auth login\)"
    ):
        resolve(REPO)
    assert is_exactly(resolve(REPO, token=hub.read_token), version(1))
    with pytest.raises(HubError, match=r"lab/tiny: the Hub .* refuses it \(401 Unauthorized\); check the token"):
        resolve(REPO, token="hf_wrong")


def test_the_disk_is_full(hub: DummyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    hub.put(REPO, version(1))
    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(ddhub.DDHubError, match="results.jsonl: cannot be stored .No space left on device.; free space"):
        resolve(REPO)


def test_download_brings_the_card_and_a_copy(hub: DummyHub, tmp_path: Path) -> None:
    commit = hub.put(REPO, version(1))
    folder = download(REPO)
    assert contents(folder) == version(1) and folder.name == commit
    assert contents(download(REPO, tmp_path / "deep" / "copy")) == version(1)
    assert not [path for path in (tmp_path / "deep" / "copy").rglob("*") if path.is_symlink()]
    with pytest.raises(UsageError, match="copy: there is something; choose another folder"):
        download(REPO, tmp_path / "deep" / "copy")
    assert contents(download("cifar10-random-ipc10", tmp_path / "bundled")) == contents(
        BUNDLED / "cifar10-random-ipc10"
    )


def test_load_is_the_artifact_as_it_was_published(hub: DummyHub, tmp_path: Path) -> None:
    commit = hub.put(REPO, version(1))
    for path, data in version(1).items():
        (tmp_path / NAME / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / NAME / path).write_bytes(data)
    there, here = ddhub.load(REPO, revision=commit), ddhub.load(tmp_path / NAME)
    assert there.about.digest == here.about.digest == parse(version(1)[MANIFEST], "")["digest"]
    (x, y), (other, labels) = next(there.batches(3)), next(here.batches(3))
    assert x.equal(other) and y.equal(labels)
