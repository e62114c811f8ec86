"""Without a network: what was downloaded loads, what was not says so, and nothing old is passed off as new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ddhub
from ddhub.artifact.manifest import PARQUET
from ddhub.errors import ArtifactError, HubError, UsageError
from ddhub.remote.find import resolve
from hub.made import MANIFEST, REPO, is_exactly, version
from hub.server import DummyHub

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("hasty")


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    text = "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    caplog.clear()
    return text


def test_what_was_loaded_by_its_commit_is_never_asked_for_again(
    hub: DummyHub, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.put(REPO, version(1))
    resolve(REPO, revision=commit)
    hub.stop()
    assert is_exactly(resolve(f"{REPO}@{commit}"), version(1))
    assert not warnings(caplog)


def test_a_copy_is_used_with_a_warning_when_the_hub_is_away(hub: DummyHub, caplog: pytest.LogCaptureFixture) -> None:
    old = hub.put(REPO, version(1))
    resolve(REPO)
    hub.put(REPO, version(2))
    assert f"main is commit {old}" in warnings(caplog)
    hub.stop()
    assert is_exactly(resolve(REPO), version(1))
    said = warnings(caplog)
    assert (
        "cannot be reached ([Errno 111] Connection refused)" in said
        and f"using the cached copy of commit {old}" in said
    )
    assert is_exactly(resolve(REPO, local_files_only=True), version(1))
    assert not warnings(caplog)
    with pytest.raises(HubError, match="lab/tiny: the Hub .* cannot be reached"):
        resolve(REPO, revision="v1")
    hub.start()
    assert is_exactly(resolve(REPO), version(2))


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_copy_is_used_with_a_warning_when_the_hub_fails(
    hub: DummyHub, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    old = hub.put(REPO, version(1))
    resolve(REPO)
    hub.put(REPO, version(2))
    warnings(caplog)
    hub.fault("status", status=status, times=None)
    assert is_exactly(resolve(REPO), version(1))
    assert f"answers {status}" in (said := warnings(caplog)) and f"using the cached copy of commit {old}" in said


def test_a_copy_is_used_when_the_download_of_a_newer_version_breaks_off(hub: DummyHub) -> None:
    hub.put(REPO, version(1))
    resolve(REPO)
    hub.put(REPO, version(2))
    hub.fault("cut", bytes=100, route="cdn", path=PARQUET, times=None)
    assert is_exactly(resolve(REPO), version(1))
    hub.clear_faults()
    assert is_exactly(resolve(REPO), version(2))


@pytest.mark.parametrize(
    ("status", "code"), [(401, None), (401, "RepoNotFound"), (403, "GatedRepo"), (404, "RepoNotFound")]
)
def test_a_refusal_is_an_error_whatever_the_cache_has(hub: DummyHub, status: int, code: str | None) -> None:
    hub.put(REPO, version(1))
    resolve(REPO)
    hub.fault("status", status=status, code=code, times=None)
    with pytest.raises(HubError, match="lab/tiny"):
        resolve(REPO)


def test_a_repository_that_is_gone_or_private_is_an_error(hub: DummyHub) -> None:
    commit = hub.put(REPO, version(1))
    resolve(REPO)
    hub.hide(REPO)
    with pytest.raises(HubError, match="no such repository .* or one that needs a token"):
        resolve(REPO)
    assert is_exactly(resolve(REPO, token=hub.token), version(1))
    hub.delete(REPO)
    with pytest.raises(HubError, match="no such repository"):
        resolve(REPO, token=hub.token)
    assert is_exactly(resolve(REPO, revision=commit), version(1))  # this one cannot be another by now


def test_a_part_of_an_artifact_in_the_cache_is_none(hub: DummyHub) -> None:
    hub.put(REPO, version(1))
    (resolve(REPO) / PARQUET).unlink()
    with pytest.raises(ArtifactError, match=f"{PARQUET}: missing; download"):
        resolve(REPO, local_files_only=True)
    hub.stop()
    with pytest.raises(HubError, match="cannot be reached"):
        resolve(REPO)


def test_nothing_in_the_cache_says_what_to_do(hub: DummyHub) -> None:
    with pytest.raises(HubError, match="lab/tiny: no copy of main in the Hub's cache, .*; load it once with"):
        resolve(REPO, local_files_only=True)
    with pytest.raises(UsageError, match=r"unknown artifact 'tiny'; .* \(ddhub list; ddhub/tiny: no copy of main"):
        resolve("tiny", local_files_only=True)
    assert not hub.log


@pytest.mark.parametrize("there", [True, False])
def test_hf_hub_offline_in_a_process_of_its_own(hub: DummyHub, there: bool, tmp_path: Path) -> None:
    """Neither torch nor a request is needed to find out where an artifact is."""
    hub.put(REPO, version(1))
    if there:
        resolve(REPO, cache_dir=tmp_path / "hf" / "hub")
    asked = len(hub.log)
    find = "from ddhub.remote.find import resolve; print(resolve('lab/tiny'))"
    code = f"import sys; {find}; assert 'torch' not in sys.modules"
    env = {**hub.environment(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=ROOT)
    assert len(hub.log) == asked
    if there:
        assert is_exactly(Path(done.stdout.strip()), version(1)) and not done.stderr
    else:
        assert "lab/tiny: no copy of main in the Hub's cache" in done.stderr


def test_what_was_downloaded_trains_offline(hub: DummyHub) -> None:
    hub.put(REPO, version(1))
    ddhub.load(REPO)
    hub.stop()
    x, _ = next(ddhub.load(REPO, local_files_only=True).batches(0))
    assert x.shape[1:] == (3, 32, 32)


def test_only_the_manifest_is_no_copy(hub: DummyHub) -> None:
    hub.put(REPO, version(1))
    folder = resolve(REPO, whole=False)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "results.jsonl"]
    with pytest.raises(HubError, match="no copy of main"):
        resolve(REPO, local_files_only=True)
