"""Artifacts from a directory tree, local or served by any web server, as an alternative to the Hub.

    SOURCE/catalog.json   {"format": 1, "artifacts": {NAME: {"digest": …, "files": [paths in SOURCE/NAME]}}}
    SOURCE/NAME/          an artifact's folder

    ddhub.load("cifar10-infer-ipc10", source="/mnt/artifacts")
    ddhub.load("cifar10-infer-ipc10", source="https://example.org/artifacts")

From a server, an artifact is copied to CACHE/artifacts/DIGEST/NAME, completely or not at all; later calls request only
the catalog. CACHE is `ddhub.io.files.cache_home()`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
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
    """The folder of an artifact of a source: inside a local source, or a checked copy in the cache.

    Raises:
        UsageError: the source has no such name, or is neither a folder nor a safe address.
        HubError: the server cannot be reached, and there is no cached copy.
        ArtifactError: the catalog or the artifact is damaged, or its digest is not the catalog's.
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", str(source), re.IGNORECASE):
        return _from_server(name, str(source).rstrip("/"), access)
    path = Path(source) / CATALOG
    if not os.path.isfile(path):
        state = "has no" if os.path.isdir(source) else "is no folder, and so has no"
        raise UsageError(
            f"source {source} {state} {CATALOG}; give a folder or an address that ddhub push --to has written"
        )
    entry = _entry(name, read_bytes(path), str(path))
    _check(read_manifest(path.parent / name), name, entry, str(path))
    return path.parent / name


def _entry(name: str, data: bytes, origin: str) -> dict[str, Any]:
    """The entry of a name in the catalog of a source. Raises UsageError if missing, ArtifactError if damaged."""
    catalog = parse(data, origin)
    artifacts = catalog.get("artifacts")
    if catalog.keys() != {"format", "artifacts"} or catalog["format"] != 1 or not isinstance(artifacts, dict):
        raise ArtifactError(f"{origin}: not a catalog of format 1; {REPAIR}")
    if not is_name(name) or name not in artifacts:
        raise unknown("artifact", name, artifacts, origin)
    entry = artifacts[name]
    if (
        not isinstance(entry, dict)
        or entry.keys() != {"digest", "files"}
        or not re.fullmatch(r"[0-9a-f]{64}", str(entry["digest"]))
        or not isinstance(entry["files"], list)
    ):
        raise ArtifactError(f"{origin}: the entry {name!r} is not an object of digest and files; {REPAIR}")
    return entry


def _check(manifest: Manifest, name: str, entry: dict[str, Any], origin: str) -> Manifest:
    """The manifest. Raises ArtifactError unless it has the name and digest in the catalog."""
    if (manifest.name, manifest.digest) != (name, entry["digest"]):
        cause = f"{name!r} has digest {entry['digest'][:12]}, its manifest is {manifest.name!r}, {manifest.digest[:12]}"
        raise ArtifactError(f"{origin}: {cause}; publish it there again (ddhub push --to)")
    return manifest


def _from_server(name: str, source: str, access: Access) -> Path:
    url, cache = _safe(source), cache_home() / "artifacts"
    seen = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"  # the last copy of the server's catalog
    try:
        data = _get(f"{url}/{CATALOG}", TEXT_BYTES, access)
    except Unreachable as error:
        if not seen.exists():
            raise
        _log.warning("%s; using the last copy of its catalog", error)
        data = read_bytes(seen)
    entry = _entry(name, data, f"{url}/{CATALOG}")
    folder: Path = cache / entry["digest"] / name

    def sound(made: Path) -> None:
        check_files(made, _check(read_manifest(made), name, entry, str(made)).files)

    try:
        if access.force_download:
            raise ArtifactError(f"{folder}: to be downloaded again")
        sound(folder)
    except ArtifactError:
        files = _files(f"{url}/{name}", name, entry, access)
        _stored(lambda: replace_folder(folder, files, sound), folder)
    if not seen.exists() or read_bytes(seen) != data:
        _stored(lambda: replace_file(seen, data), seen)
    return folder


def _files(url: str, name: str, entry: dict[str, Any], access: Access) -> dict[str, bytes]:
    """All files of an artifact on a server: manifest, files that it lists, results, card. Raises as `fetch` does."""
    data = _get(f"{url}/{MANIFEST}", TEXT_BYTES, access)
    manifest = _check(parse_manifest(data, f"{url}/{MANIFEST}"), name, entry, url)
    check_bytes(sum(item["bytes"] for item in manifest.files.values()), url)
    growing = [x for x in (RESULTS, README) if x in entry["files"]]
    files = {x: _get(f"{url}/{x}", TEXT_BYTES, access) for x in growing}
    files |= {x: _get(f"{url}/{x}", item["bytes"], access) for x, item in manifest.files.items()}
    return files | {MANIFEST: data}


def _safe(url: str) -> str:
    """The address, if nobody can change data in transit: https, or this machine. Raises UsageError."""
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
    """The contents of a file on a server. Raises HubError, also for a redirect; ArtifactError above `limit` bytes."""
    from huggingface_hub import get_session

    if access.offline:
        raise Unreachable(f"{url}: not requested, as the network is off; load it once with the network on")

    def request() -> bytes:
        headers = {"Accept-Encoding": "identity"}  # compressed data may expand to any size
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=False) as answer:
            if answer.status_code == 404:
                raise Missing(f"{url}: the server has no such file; check the address")
            if answer.is_redirect:
                raise HubError(
                    f"{url}: redirects to {answer.headers.get('Location')!r}; give that address as the source"
                )
            answer.raise_for_status()
            data = bytearray()
            for block in answer.iter_raw():
                data += block
                if len(data) > limit:
                    raise ArtifactError(f"{url}: more than {limit:,} bytes; {REPAIR}")
            return bytes(data)

    return patiently(request, url, "the server")


def _stored(write: Callable[[], None], path: Path) -> None:
    try:
        write()
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise DDHubError(f"{path}: {cause}; free space or set DDHUB_CACHE elsewhere") from None
