"""Where the artifact of a name is, near or far.

| name                       | is                                                                                     |
|----------------------------|----------------------------------------------------------------------------------------|
| a path                     | that folder, if there is one                                                           |
| cifar10-infer-ipc10        | bundled in the package; else what `catalog.json` pins, to the commit and the byte;     |
|                            | else NAMESPACE/cifar10-infer-ipc10, where DDHUB_NAMESPACE (`ddhub`) is the namespace    |
| lab/cifar10-infer-ipc10    | a data set repository on the Hub, as it is now                                         |
| lab/cifar10-infer-ipc10@v1 | the same at a tag, a branch or (40 hex digits) a commit                                |

What comes from the Hub goes through `ddhub.remote.snapshot`, what comes from another `source` through
`ddhub.remote.static`. Apart from `ddhub.hub`, as a list of what is bundled must not wait for the import of what asks a
network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ddhub.artifact import bundled
from ddhub.artifact.manifest import MANIFEST, README
from ddhub.errors import ArtifactError, UsageError, unknown
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
    """As `resolve`, with the namespace of what comes from the Hub: that of its teachers, too. `card`: README.md."""
    folder, (base, _, tail) = Path(name), str(name).partition("@")
    if source is not None or folder.is_dir():
        if revision is not None:
            raise UsageError(f"{name}: only what is on the Hub has revisions; leave {revision!r} out")
        return (folder if source is None else static.fetch(str(name), source, access)), None
    if tail and revision not in (None, tail):
        raise UsageError(f"{name}: another revision, {revision!r}, is asked for too; leave one out")
    revision = revision or tail or None
    kept = bundled.BUNDLED / base
    if is_name(base) and revision is None and (kept / MANIFEST).exists():
        if bundled.has_data(kept) or not whole:
            return kept, None
        if base not in pins():
            cause = "its data are not kept here, only its results"
            raise ArtifactError(f"{base}: {cause}; make it again by the command on its card, {kept / README}")
    if folder.exists():
        raise ArtifactError(f"{folder} is a file, not an artifact's folder; name the folder that holds {MANIFEST}")
    pin = pins().get(base)
    repo = pin.repo if pin else base if "/" in base else f"{namespace()}/{base}"
    known = (*bundled.names(), *pins())
    if not REPO.fullmatch(repo):
        raise unknown("artifact", str(name), known, "ddhub list")
    try:
        if pin and revision is None:
            anyones = replace(access, token=access.token or False)
            fetched = fetch(repo, revision=pin.revision, digest=pin.digest, access=anyones, whole=whole, card=card)
        else:
            fetched = fetch(repo, revision=revision, access=access, whole=whole, card=card)
    except (Missing, Unreachable) as error:
        if pin or revision or "/" in base:
            raise
        raise unknown("artifact", str(name), known, f"ddhub list; {error}") from None
    return fetched, repo.split("/")[0]


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
    """The folder of an artifact; one that comes from elsewhere is downloaded where it is not yet, and checked.

    Args:
        name: a folder; else a bundled artifact's name, one of the catalog, or any in DDHUB_NAMESPACE on the Hub, or
            `namespace/name`; the last two may end in `@revision`.
        source: where else than on the Hub it is looked for: a folder, or the https address of one, that `ddhub push
            --to` has made.
        revision: a commit of 40 hex digits, which once downloaded is never asked for again; or a branch or tag.
        token: the Hub's, False for none; None is the user's own, but none for what the catalog pins.
        cache_dir: instead of the user's cache of the Hub.
        local_files_only: ask nobody.
        force_download: do not trust the cache.
        whole: False for the manifest and the results alone.

    Raises:
        ArtifactError: a folder that holds no artifact; files that are not what manifest, catalog or Hub say.
        UsageError: neither a folder nor a known name; the message offers the nearest name.
        HubError: the Hub cannot be asked and the cache has no copy, or it refuses.
    """
    return find(name, source, revision, Access(token, cache_dir, local_files_only, force_download), whole=whole)[0]
