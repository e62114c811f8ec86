"""Where the artifact of a name is, near or far.

| name                       | is                                                                                     |
|----------------------------|----------------------------------------------------------------------------------------|
| a path                     | that folder, if there is one                                                           |
| cifar10-infer-ipc10        | bundled in the package; else what `catalog.json` pins, to the commit and the byte;     |
|                            | else NAMESPACE/cifar10-infer-ipc10, where DDHUB_NAMESPACE (`ddhub`) is the namespace    |
| lab/cifar10-infer-ipc10    | a data set repository on the Hub, as it is now                                         |
| lab/cifar10-infer-ipc10@v1 | the same at a tag, a branch or (40 hex digits) a commit                                |

What comes from the Hub goes through `ddhub._snapshot`, what comes from another `source` through `ddhub._static`. Apart
from `ddhub.hub`, as a list of what is bundled must not wait for the import of what asks a network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ddhub import _static, hub
from ddhub._fields import is_name
from ddhub._remote import REPO, Access, Missing, Unreachable, namespace, pins
from ddhub._snapshot import fetch
from ddhub.errors import ArtifactError, UsageError, unknown
from ddhub.manifest import MANIFEST


def find(
    name: str | Path,
    source: str | Path | None,
    revision: str | None,
    access: Access,
    *,
    whole: bool = True,
    card: bool = False,
) -> tuple[Path, str | None]:
    """As `hub.resolve`, with the namespace of what comes from the Hub: that of its teachers, too. `card`: README.md."""
    folder, (base, _, tail) = Path(name), str(name).partition("@")
    if source is not None or folder.is_dir():
        if revision is not None:
            raise UsageError(f"{name}: only what is on the Hub has revisions; leave {revision!r} out")
        return (folder if source is None else _static.fetch(str(name), source, access)), None
    if tail and revision not in (None, tail):
        raise UsageError(f"{name}: another revision, {revision!r}, is asked for too; leave one out")
    revision = revision or tail or None
    if is_name(base) and revision is None and (hub.BUNDLED / base / MANIFEST).exists():
        return hub.BUNDLED / base, None
    if folder.exists():
        raise ArtifactError(f"{folder} is a file, not an artifact's folder; name the folder that holds {MANIFEST}")
    pin = pins().get(base)
    repo = pin.repo if pin else base if "/" in base else f"{namespace()}/{base}"
    known = (*(path.parent.name for path in hub.BUNDLED.glob(f"*/{MANIFEST}")), *pins())
    if not REPO.fullmatch(repo):
        raise unknown("artifact", str(name), known, "ddhub list")
    try:
        if pin and revision is None:
            anyones = replace(access, token=access.token or False)
            found = fetch(repo, revision=pin.revision, digest=pin.digest, access=anyones, whole=whole, card=card)
        else:
            found = fetch(repo, revision=revision, access=access, whole=whole, card=card)
    except (Missing, Unreachable) as error:
        if pin or revision or "/" in base:
            raise
        raise unknown("artifact", str(name), known, f"ddhub list; {error}") from None
    return found, repo.split("/")[0]
