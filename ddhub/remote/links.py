"""Checks that the artifacts of the catalog are still on the Hub, without downloading images; a list of what it holds.

Large files are compared with the manifest by the sha256 that the Hub lists. Only the manifest and the small files, for
which the Hub lists no sha256, are downloaded, into a temporary cache.
"""

from __future__ import annotations

import tempfile
from typing import Any

from ddhub.errors import ArtifactError, HubError, unknown
from ddhub.io.files import max_bytes
from ddhub.remote.cache import ARTIFACT, RepoCache
from ddhub.remote.client import Access, Missing, Pin, api, namespace, patiently, pins
from ddhub.remote.snapshot import get, get_growing, list_files, plan


def check_pin(pin: Pin) -> None:
    """Compare a pin with the present state of the Hub.

    Raises:
        HubError: the Hub cannot be reached, the commit or the tag is gone, or the tag names another commit.
        ArtifactError: the manifest or a file differs from the pinned one.
    """
    with tempfile.TemporaryDirectory(prefix="ddhub-links-") as folder:
        access = Access(token=False, cache_dir=folder)
        try:
            listing = list_files(pin.repo, ARTIFACT, pin.tag, access)
            moved = "" if listing.commit == pin.revision else f"is commit {listing.commit}"
        except Missing:
            moved = "is gone"
        if moved:
            listing = list_files(pin.repo, ARTIFACT, pin.revision, access)  # raises if the commit is gone too
        cache = RepoCache(pin.repo, ARTIFACT, pin.digest, access)
        get_growing(cache, listing)
        for name, sha256 in plan(cache, listing).items():
            if len(listing.files[name].hash) < 64:
                get(cache, listing, name, limit=max_bytes(), sha256=sha256)
        if moved:
            raise HubError(f"{pin.repo}: tag {pin.tag} {moved}, the catalog says {pin.revision}; publish it again")


def report(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """One record for each of `names`, or for the whole catalog: its pin, `ok`, and `error` if the check failed.

    Raises:
        UsageError: a name is not in the catalog.
    """
    known = pins()
    for name in names:
        if name not in known:
            raise unknown("published artifact", name, known, "ddhub list --remote")
    reports = []
    for name in names or known:
        pin = known[name]
        entry = {"name": name, "repo": pin.repo, "tag": pin.tag, "revision": pin.revision, "digest": pin.digest}
        try:
            check_pin(pin)
        except (ArtifactError, HubError) as error:
            reports.append({**entry, "ok": False, "error": str(error)})
        else:
            reports.append({**entry, "ok": True})
    return reports


def published() -> list[dict[str, Any]]:
    """Data sets with the tag `ddhub` in DDHUB_NAMESPACE, and those of the catalog: name, commit, date, pinned commit.

    Raises:
        HubError: the Hub refuses or cannot be reached.
    """
    owner = namespace()
    datasets = patiently(lambda: list(api().list_datasets(author=owner, filter="ddhub", full=True)), owner)
    rows = {x.id: (x.sha, x.last_modified and f"{x.last_modified:%Y-%m-%d}") for x in datasets}
    pinned = {pin.repo: pin.revision for pin in pins().values()}
    return [
        {"name": name, "commit": commit, "modified": modified, "pinned": pinned.get(name)}
        for name in sorted(rows.keys() | pinned.keys())
        for commit, modified in [rows.get(name, (None, None))]
    ]
