"""From the name of an artifact to its folder, downloaded where necessary.

| name                       | is                                                                                     |
|----------------------------|----------------------------------------------------------------------------------------|
| a path                     | that folder, if it exists                                                              |
| cifar10-infer-ipc10        | bundled in the package; else the commit and digest that `catalog.json` pins;           |
|                            | else NAMESPACE/cifar10-infer-ipc10, where DDHUB_NAMESPACE (`ddhub`) is the namespace    |
| lab/cifar10-infer-ipc10    | a data set repository on the Hub, at its latest commit                                 |
| lab/cifar10-infer-ipc10@v1 | the same at a tag, a branch or (40 hex digits) a commit                                |

`ddhub.remote.snapshot` downloads from the Hub, `ddhub.remote.static` from another `source`. This module is separate
from `ddhub.hub` so that a list of bundled artifacts does not import network code.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from ddhub.artifact import bundled
from ddhub.artifact.manifest import MANIFEST
from ddhub.errors import ArtifactError, UsageError, shown, unknown
from ddhub.io.rules import is_name
from ddhub.remote import static
from ddhub.remote.client import REPO, Access, Missing, Unreachable, namespace, pins
from ddhub.remote.snapshot import fetch


def find(
    name: str | Path,
    source: str | Path | None,
    revision: str | None,
    access: Access,
    *,
    whole: bool = True,
    card: bool = False,
) -> tuple[Path, str | None]:
    """As `resolve`, and the namespace on the Hub, None for other sources; its teachers are in it too.

    With `card`, README.md is downloaded too.
    """
    if not isinstance(name, (str, Path)):
        raise UsageError(f"artifact {shown(name)} is no name; give that of an artifact (ddhub list) or its folder")
    folder, (base, _, tail) = Path(name), str(name).partition("@")
    known = (*bundled.names(), *pins())
    # os.path says of what no path can be, such as 5,000 characters, that it is not there; Path raises
    if source is not None or os.path.isdir(folder):
        if revision is not None:
            raise UsageError(f"{name}: only artifacts on the Hub have revisions; leave {revision!r} out")
        if source is None and whole:
            bundled.require_data(folder)
        return (folder if source is None else static.fetch(str(name), source, access)), None
    if tail and revision not in (None, tail):
        raise UsageError(f"{name}: revision {revision!r} is given too; leave one out")
    revision = revision or tail or None
    kept = bundled.BUNDLED / base
    if is_name(base) and revision is None and (kept / MANIFEST).exists():
        if bundled.has_data(kept) or not whole:
            return kept, None
        if base not in pins():
            bundled.require_data(kept)
    if os.path.exists(folder):
        raise ArtifactError(f"{folder} is a file, not an artifact's folder; name the folder that holds {MANIFEST}")
    pin = pins().get(base)
    repo = pin.repo if pin else base if "/" in base else f"{namespace()}/{base}"
    if not pin and revision is None and _is_path(str(name)):
        elsewhere = f"; a repository of the Hub is named {name}@main" if REPO.fullmatch(repo) else ""
        near = "no such folder; give an artifact's folder, or a name of ddhub list"
        raise UsageError(f"unknown artifact {shown(str(name))}: {near}{elsewhere}")
    if not REPO.fullmatch(repo):
        raise unknown("artifact", str(name), known, "ddhub list")
    try:
        if pin and revision is None:
            public = replace(access, token=access.token or False)
            folder = fetch(repo, revision=pin.revision, digest=pin.digest, access=public, whole=whole, card=card)
        else:
            folder = fetch(repo, revision=revision, access=access, whole=whole, card=card)
    except (Missing, Unreachable) as error:
        if pin or revision or "/" in base:
            raise
        raise unknown("artifact", str(name), known, f"ddhub list; {error}") from None
    return folder, repo.split("/")[0]


def _is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: it looks like one, or lies in a folder that is here."""
    if re.match(r"[./~\\]|[A-Za-z]:\\", name) or name.count("/") > 1:
        return True
    return "/" in name and os.path.isdir(name.rpartition("/")[0])


def resolve(
    name: str | Path,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    whole: bool = True,
) -> Path:
    """The folder of an artifact, downloaded if no copy exists yet; downloads and copies in the cache are checked.

    Args:
        name: a folder; else the name of an artifact that is bundled, in the catalog or in DDHUB_NAMESPACE on the Hub;
            or `namespace/name`. The last two may end in `@revision`.
        source: used instead of the Hub: a folder, or its https address, that `ddhub push --to` has written.
        revision: a commit of 40 hex digits, which is requested only once; or a branch or tag.
        token: a token of the Hub, False for none; by default the user's, and none for artifacts of the catalog.
        cache_dir: a cache to use instead of the user's cache of the Hub.
        local_files_only: send no request.
        force_download: download again although the cache holds a copy.
        whole: False for the manifest and the results only.

    Raises:
        ArtifactError: a folder is not an artifact, or files differ from the manifest, the catalog or the Hub's listing.
        UsageError: the name is neither a folder nor known; the message offers the nearest name.
        HubError: the Hub refuses, or cannot be reached and the cache has no copy.
    """
    return find(name, source, revision, Access(token, cache_dir, local_files_only, force_download), whole=whole)[0]
