"""Whatever goes wrong on the way: the exact artifact or a named error, and the next call without the fault succeeds.

What came of each fault is shown in a table at the end of the run. No row may send a token to the CDN: the fixtures see
to that, as to requests that the dummy hub does not know.
"""

from __future__ import annotations

from typing import Any

import pytest

from ddhub.artifact.manifest import PARQUET
from ddhub.errors import ArtifactError, HubError
from ddhub.remote.find import resolve
from hub.made import MANIFEST, REPO, RESULTS, is_exactly, version
from hub.server import DummyHub

pytestmark = pytest.mark.usefixtures("hasty", "signed_in")

PARTS = {
    "info": {"route": "info"},
    "HEAD manifest": {"route": "resolve", "method": "HEAD", "path": MANIFEST},
    "GET manifest": {"route": "resolve", "method": "GET", "path": MANIFEST},
    "GET results": {"route": "resolve", "method": "GET", "path": RESULTS},
    "HEAD images": {"route": "resolve", "method": "HEAD", "path": PARQUET},
    "GET images": {"route": "resolve", "method": "GET", "path": PARQUET},
    "CDN images": {"route": "cdn", "path": PARQUET},
}
EVERY = "info", "HEAD manifest", "GET manifest", "HEAD images", "CDN images"
HEADS = "HEAD manifest", "HEAD images"
BODIES = "GET manifest", "GET results", "CDN images"
SOME = "info", "HEAD manifest", "CDN images"
EXACT, HUB, BAD = "exact", "HubError", "ArtifactError"
FOR_EVER = None
# what goes wrong, how, how often, where; what comes of it
TABLE: list[tuple[str, dict[str, Any], int | None, tuple[str, ...], str]] = [
    ("status", {"status": 500}, 1, EVERY, EXACT),
    ("status", {"status": 503, "headers": {"Retry-After": "1"}}, 2, SOME, EXACT),
    ("status", {"status": 500}, FOR_EVER, EVERY, HUB),
    ("status", {"status": 401}, FOR_EVER, SOME, HUB),
    ("status", {"status": 403}, FOR_EVER, SOME, HUB),
    ("status", {"status": 403, "code": "GatedRepo"}, FOR_EVER, SOME, HUB),
    ("status", {"status": 404, "code": "RepoNotFound"}, FOR_EVER, SOME, HUB),
    ("status", {"status": 404, "code": "RevisionNotFound"}, FOR_EVER, SOME, HUB),
    ("status", {"status": 404, "code": "EntryNotFound"}, FOR_EVER, SOME, HUB),
    ("status", {"status": 422}, FOR_EVER, SOME, HUB),
    ("rate", {"retry_after": 0}, 2, SOME, EXACT),
    ("rate", {"retry_after": 1}, 2, SOME, EXACT),
    ("rate", {"retry_after": 3600}, 1, ("info",), HUB),
    ("delay", {"seconds": 5}, 1, SOME, EXACT),
    ("delay", {"seconds": 5}, FOR_EVER, ("info",), HUB),
    ("cut", {"bytes": -1}, 1, EVERY, EXACT),
    ("cut", {"bytes": 0}, 1, ("info", *BODIES), EXACT),
    ("cut", {"bytes": 300}, 1, ("info", *BODIES), EXACT),
    ("cut", {"bytes": 300}, FOR_EVER, ("info", *BODIES), HUB),
    ("flip", {"bit": 0}, 1, ("info", *BODIES), EXACT),
    ("flip", {"bit": 999}, 1, ("info", *BODIES), EXACT),
    ("flip", {"bit": 999}, FOR_EVER, BODIES, BAD),
    ("flip", {"bit": 0}, FOR_EVER, ("info",), HUB),
    ("size", {"delta": 1}, 1, (*HEADS, *BODIES), EXACT),
    ("size", {"delta": -1}, 1, (*HEADS, *BODIES), EXACT),
    ("size", {"delta": 7}, FOR_EVER, (*HEADS, *BODIES), HUB),
    ("size", {"delta": 1}, 1, ("info",), BAD),
    ("etag", {}, 1, HEADS, EXACT),
    ("etag", {}, FOR_EVER, HEADS, EXACT),
    ("commit", {"value": "c" * 40}, 1, HEADS, EXACT),
    ("commit", {"value": "c" * 40}, FOR_EVER, HEADS, BAD),
    ("commit", {"value": "main"}, FOR_EVER, HEADS, BAD),
    ("commit", {"value": "c" * 40}, 1, ("info",), HUB),
]
ROWS = [(kind, how, times, part, end) for kind, how, times, parts, end in TABLE for part in parts]


def name(row: tuple[str, dict[str, Any], int | None, str, str]) -> str:
    kind, how, times, part, _ = row
    shown = " ".join(str(value)[:12] for value in how.values() if not isinstance(value, dict))
    return f"{kind} {shown or 'other'}, {'always' if times is None else f'{times} x'}, {part}"


def outcome(files: dict[str, bytes], **asked: Any) -> str:
    """What asking for the artifact comes to: it and nothing else, or an error of these two kinds, in one line."""
    try:
        folder = resolve(REPO, **asked)
    except (HubError, ArtifactError) as error:
        assert "\n" not in str(error) and ("lab/tiny" in str(error) or "lab--tiny" in str(error))
        return f"{HUB if isinstance(error, HubError) else BAD}: {error}"
    assert is_exactly(folder, files)
    return EXACT


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_fault_gives_the_artifact_or_a_named_error(
    hub: DummyHub, row: Any, record_property: Any, request: pytest.FixtureRequest
) -> None:
    kind, how, times, part, end = row
    if kind == "delay":
        request.getfixturevalue("impatient")
    commit = hub.put(REPO, version(1))
    hub.fault(kind, times=times, **PARTS[part], **how)
    first = outcome(version(1))
    record_property("fault", (name(row), first))
    assert first.startswith(end)
    hub.clear_faults()
    assert outcome(version(1)) == EXACT
    asked = len(hub.log)
    assert outcome(version(1), local_files_only=True) == outcome(version(1), revision=commit) == EXACT
    assert len(hub.log) == asked


@pytest.mark.parametrize("ignored", [False, True], ids=["the rest is sent", "Range is ignored"])
def test_a_cut_download_is_resumed(hub: DummyHub, ignored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    hub.put(REPO, version(1))
    hub.fault("cut", bytes=10_000, **PARTS["CDN images"])
    if ignored:
        hub.fault("ignore_range", **PARTS["CDN images"])
    assert outcome(version(1)) == EXACT
    ranges = [request.headers.get("range") for request in hub.requests("cdn") if request.file == PARQUET]
    assert ranges == [None, None if ignored else "bytes=8192-"]  # the hub forgets the header that it ignores


@pytest.mark.parametrize("part", HEADS)
@pytest.mark.parametrize("times", [1, FOR_EVER])
def test_a_stale_etag_never_brings_back_the_version_before(hub: DummyHub, part: str, times: int | None) -> None:
    old = hub.put(REPO, version(1))
    assert outcome(version(1)) == EXACT
    stale = next(path for path in resolve(REPO).rglob(PARTS[part]["path"])).readlink().name
    hub.put(REPO, version(2))
    hub.fault("etag", times=times, value=stale, **PARTS[part])
    first = outcome(version(2))
    assert first == EXACT or (times is FOR_EVER and first.startswith(BAD))
    hub.clear_faults()
    assert outcome(version(2)) == EXACT
    assert outcome(version(1), revision=old) == EXACT


@pytest.mark.parametrize("part", HEADS)
def test_an_answer_for_another_commit_does_not_become_that_commit(hub: DummyHub, part: str) -> None:
    old = hub.put(REPO, version(1))
    hub.put(REPO, version(2))
    hub.fault("commit", times=None, value=old, **PARTS[part])
    assert outcome(version(2)).startswith(BAD)
    hub.clear_faults()
    assert outcome(version(1), revision=old) == EXACT
    assert outcome(version(2)) == EXACT


def test_a_branch_that_moves_during_the_download_is_not_followed(hub: DummyHub) -> None:
    hub.put(REPO, version(1))
    old = hub.head(REPO)
    hub.fault("status", status=500, times=1, **PARTS["HEAD images"])
    original = hub.answer

    def moving(request: Any, on_cdn: bool) -> Any:
        if request.path.endswith(PARQUET) and hub.head(REPO) == old:
            hub.put(REPO, version(2))
        return original(request, on_cdn)

    hub._servers[0].answer = moving
    try:
        assert outcome(version(1)) == EXACT
    finally:
        hub._servers[0].answer = original
    assert hub.head(REPO) != old
    assert outcome(version(2)) == EXACT
