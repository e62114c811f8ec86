"""Artifacts in a plain directory tree, or served from one by any web server, in the Hub's place.

    SOURCE/catalog.json   {"format": 1, "artifacts": {NAME: {"digest": …, "files": [paths in SOURCE/NAME]}}}
    SOURCE/NAME/          an artifact's folder

    ddhub.load("cifar10-infer-ipc10", source="/mnt/artifacts")
    ddhub.load("cifar10-infer-ipc10", source="https://example.org/artifacts")

From a server, what the manifest lists is copied to CACHE/artifacts/DIGEST/NAME, whole or not at all, and from then on
only the catalog is asked for; CACHE is that of `ddhub.io.files.cache_home`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ddhub.artifact.manifest import (
    MANIFEST,
    README,
    REPAIR,
    RESULTS,
    TEXT_BYTES,
    Manifest,
    parse,
    parse_manifest,
    read_bytes,
    read_manifest,
)
from ddhub.errors import ArtifactError, DDHubError, HubError, UsageError, unknown
from ddhub.io.files import cache_home, replace_file, replace_folder
from ddhub.io.rules import is_name
from ddhub.remote.cache import check_files
from ddhub.remote.client import TIMEOUT, Access, Missing, Unreachable, check_bytes, patiently

CATALOG = "catalog.json"
_log = logging.getLogger("ddhub")


def fetch(name: str, source: str | Path, access: Access) -> Path:
    """The folder of an artifact of a source: a folder's own, or a cached copy of a server's, every byte checked.

    Raises:
        UsageError: a name that the source has not, or a source that is neither a folder nor a safe address.
        HubError: the server cannot be reached, and there is no cached copy.
        ArtifactError: a damaged catalog or artifact, or another digest than the catalog's.
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", str(source), re.IGNORECASE):
        return _from_server(name, str(source).rstrip("/"), access)
    path = Path(source) / CATALOG
    entry = _entry(name, read_bytes(path), str(path))
    _check(read_manifest(path.parent / name), name, entry, str(path))
    return path.parent / name


def _entry(name: str, data: bytes, subject: str) -> dict[str, Any]:
    """What a source's catalog says of a name. UsageError where it is not there, ArtifactError for a damaged one."""
    catalog = parse(data, subject)
    artifacts = catalog.get("artifacts")
    if catalog.keys() != {"format", "artifacts"} or catalog["format"] != 1 or not isinstance(artifacts, dict):
        raise ArtifactError(f"{subject}: no catalog of format 1; {REPAIR}")
    if not is_name(name) or name not in artifacts:
        raise unknown("artifact", name, artifacts, subject)
    entry = artifacts[name]
    if (
        not isinstance(entry, dict)
        or entry.keys() != {"digest", "files"}
        or not re.fullmatch(r"[0-9a-f]{64}", str(entry["digest"]))
        or not isinstance(entry["files"], list)
    ):
        raise ArtifactError(f"{subject}: the entry {name!r} is not an object of digest and files; {REPAIR}")
    return entry


def _check(manifest: Manifest, name: str, entry: dict[str, Any], subject: str) -> Manifest:
    """The manifest, if it is the one that the catalog names. Raises ArtifactError."""
    if (manifest.name, manifest.digest) != (name, entry["digest"]):
        cause = f"{name!r} has digest {entry['digest'][:12]}, its manifest is {manifest.name!r}, {manifest.digest[:12]}"
        raise ArtifactError(f"{subject}: {cause}; publish it there again (ddhub push --to)")
    return manifest


def _from_server(name: str, source: str, access: Access) -> Path:
    url, cache = _safe(source), cache_home() / "artifacts"
    seen = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"  # the server's catalog, as it was last
    try:
        data = _get(f"{url}/{CATALOG}", TEXT_BYTES, access)
    except Unreachable as error:
        if not seen.exists():
            raise
        _log.warning("%s; using its catalog as it was", error)
        data = read_bytes(seen)
    entry = _entry(name, data, f"{url}/{CATALOG}")
    folder: Path = cache / entry["digest"] / name

    def sound(made: Path) -> None:
        check_files(made, _check(read_manifest(made), name, entry, str(made)).files)

    try:
        if access.force_download:
            raise ArtifactError(f"{folder}: not to be used")
        sound(folder)
    except ArtifactError:
        files = _files(f"{url}/{name}", name, entry, access)
        _stored(lambda: replace_folder(folder, files, sound), folder)
    if not seen.exists() or read_bytes(seen) != data:
        _stored(lambda: replace_file(seen, data), seen)
    return folder


def _files(url: str, name: str, entry: dict[str, Any], access: Access) -> dict[str, bytes]:
    """What a server has of an artifact: what grows, what its manifest lists, and that. Raises as `fetch` does."""
    data = _get(f"{url}/{MANIFEST}", TEXT_BYTES, access)
    manifest = _check(parse_manifest(data, f"{url}/{MANIFEST}"), name, entry, url)
    check_bytes(sum(entry_of_file["bytes"] for entry_of_file in manifest.files.values()), url)
    growing = [x for x in (RESULTS, README) if x in entry["files"]]
    files = {x: _get(f"{url}/{x}", TEXT_BYTES, access) for x in growing}
    files |= {x: _get(f"{url}/{x}", entry_of_file["bytes"], access) for x, entry_of_file in manifest.files.items()}
    return files | {MANIFEST: data}


def _safe(url: str) -> str:
    """The address, if what comes from there cannot be changed on the way: https, or this machine. Raises UsageError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise UsageError(f"source {url!r} is not an https:// address; name one, or a folder")
    return url.rstrip("/")


def _get(url: str, limit: int, access: Access) -> bytes:
    """What a server has at an address, at most `limit` bytes of it; redirects are not followed. Raises HubError."""
    from huggingface_hub import get_session

    if access.offline:
        raise Unreachable(f"{url}: not asked, as the network is not to be used; load it once with it")

    def ask() -> bytes:
        headers = {"Accept-Encoding": "identity"}  # what is compressed may be of any size
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=False) as answer:
            if answer.status_code == 404:
                raise Missing(f"{url}: there is no such file; check the address")
            if answer.is_redirect:
                raise HubError(f"{url}: leads to {answer.headers.get('Location')!r}; give that address as the source")
            answer.raise_for_status()
            data = bytearray()
            for block in answer.iter_raw():
                data += block
                if len(data) > limit:
                    raise ArtifactError(f"{url}: more than {limit:,} bytes; {REPAIR}")
            return bytes(data)

    return patiently(ask, url, "the server")


def _stored(write: Callable[[], None], path: Path) -> None:
    try:
        write()
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise DDHubError(f"{path}: {cause}; free space or set DDHUB_CACHE elsewhere") from None
