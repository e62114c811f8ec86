"""Is what the catalog promises still on the Hub, and what else is there? Answers without downloading images.

What the Hub lists with a sha256 is compared with the manifest by that; only the manifest and the small files, of which
the Hub knows no sha256, are fetched, into a cache that is thrown away.
"""

from __future__ import annotations

import tempfile
from typing import Any

from ddhub.errors import ArtifactError, HubError, unknown
from ddhub.io.files import max_bytes
from ddhub.remote.cache import ARTIFACT, RepoCache
from ddhub.remote.client import Access, Missing, Pin, api, namespace, patiently, pins
from ddhub.remote.snapshot import get, get_growing, look, plan


def check(pin: Pin) -> None:
    """Compare what a pin says with what the Hub has now.

    Raises:
        HubError: the Hub cannot be asked; the commit, or the tag, is gone; the tag is another commit's.
        ArtifactError: another manifest or another file than pinned.
    """
    with tempfile.TemporaryDirectory(prefix="ddhub-links-") as folder:
        access = Access(token=False, cache_dir=folder)
        try:
            listing = look(pin.repo, ARTIFACT, pin.tag, access)
            moved = "" if listing.commit == pin.revision else f"is commit {listing.commit}"
        except Missing:
            moved = "is gone"
        if moved:
            listing = look(pin.repo, ARTIFACT, pin.revision, access)  # says so if that is gone too
        cached = RepoCache(pin.repo, ARTIFACT, pin.digest, access)
        get_growing(cached, listing)
        for name, sha256 in plan(cached, listing).items():
            if len(listing.files[name].hash) < 64:
                get(cached, listing, name, limit=max_bytes(), sha256=sha256)
        if moved:
            raise HubError(f"{pin.repo}: tag {pin.tag} {moved}, the catalog says {pin.revision}; publish it again")


def report(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """For each of these names of the catalog, or all: whether the Hub has what is pinned, and if not, the difference.

    Raises:
        UsageError: a name that the catalog has not.
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
            check(pin)
        except (ArtifactError, HubError) as error:
            reports.append({**entry, "ok": False, "error": str(error)})
        else:
            reports.append({**entry, "ok": True})
    return reports


def published() -> list[dict[str, Any]]:
    """The data sets with the tag `ddhub` in DDHUB_NAMESPACE, and all of the catalog: name, commit, date, pinned commit.

    Raises:
        HubError: the Hub cannot be asked.
    """
    owner = namespace()
    repos = patiently(lambda: list(api().list_datasets(author=owner, filter="ddhub", full=True)), owner)
    rows = {x.id: (x.sha, x.last_modified and f"{x.last_modified:%Y-%m-%d}") for x in repos}
    pinned = {pin.repo: pin.revision for pin in pins().values()}
    return [
        {"name": name, "commit": commit, "modified": modified, "pinned": pinned.get(name)}
        for name in sorted(rows.keys() | pinned.keys())
        for commit, modified in [rows.get(name, (None, None))]
    ]
