"""Requests to the Hub: the catalog of pinned artifacts, waits and retries, and the errors that answers stand for.

    catalog.json   {"format": 1, "artifacts": {NAME: {"repo": "ddhub/NAME", "revision": …, "digest": …, "tag": "v1"}}}

    pin = pins()["cifar10-infer-ipc10"]
    info = patiently(lambda: api(False).repo_info(pin.repo, repo_type="dataset", timeout=TIMEOUT), pin.repo)

Only functions that talk to the Hub import huggingface_hub; any version from 1.31 on works.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddhub.artifact.manifest import REPAIR, parse, read_bytes
from ddhub.errors import ArtifactError, DDHubError, HubError, UsageError, first_line
from ddhub.io.files import max_bytes
from ddhub.io.rules import is_name

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CATALOG = Path(__file__).parents[1] / "assets" / "catalog.json"
TIMEOUT = 10.0  # seconds to wait for one answer
WAITS = (1.0, 2.0, 4.0)  # seconds before a second, third and fourth try
PATIENCE = 60.0  # longest wait in seconds that a server may ask for
COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
REPO = re.compile(rf"(?!.*(?:--|\.\.)){_PART}/{_PART}(?<!\.git)", re.ASCII)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")
_log = logging.getLogger("ddhub")


class Unreachable(HubError):
    """The Hub did not answer or had a failure of its own; a cached copy may be used instead."""


class Missing(HubError):
    """The Hub has no such repository, revision or file, or hides it from this user."""


@dataclass(frozen=True)
class Access:
    """Settings of requests to the Hub.

    Attributes:
        token: a token, False for none, None for the user's.
        cache_dir: the cache to download into, None for the user's.
        local_files_only: use the cache only and send no request.
        force_download: download again although the cache holds a copy.
    """

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    @property
    def offline(self) -> bool:
        """Whether no request may be sent: `local_files_only`, or HF_HUB_OFFLINE."""
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE


@dataclass(frozen=True)
class Pin:
    """The artifact that a name of the catalog stands for: repository, commit and digest; the tag is for people."""

    repo: str
    revision: str
    digest: str
    tag: str

    def __post_init__(self) -> None:
        rules = {"repo": REPO, "revision": COMMIT, "digest": _DIGEST, "tag": re.compile(r"[\w.-]{1,100}", re.ASCII)}
        for key, rule in rules.items():
            value = getattr(self, key)
            if not isinstance(value, str) or not rule.fullmatch(value):
                raise ArtifactError(f"{key} is {value!r}; publish the artifact again (ddhub push)")


def pins(path: Path = CATALOG) -> dict[str, Pin]:
    """The catalog: the pin of each published name, sorted by name; {} if the file does not exist.

    Raises:
        ArtifactError: the catalog is damaged.
    """
    if not path.exists():
        return {}
    record = parse(read_bytes(path), str(path))
    if record.keys() != {"format", "artifacts"} or record["format"] != 1 or not isinstance(record["artifacts"], dict):
        raise ArtifactError(f"{path}: not a catalog of format 1; {REPAIR}")
    return {name: _pin(name, entry, path) for name, entry in sorted(record["artifacts"].items())}


def _pin(name: str, entry: object, path: Path) -> Pin:
    if not is_name(name) or not isinstance(entry, dict) or entry.keys() != set(Pin.__annotations__):
        raise ArtifactError(
            f"{path}: the entry {name!r} is not an object of {', '.join(Pin.__annotations__)}; {REPAIR}"
        )
    try:
        return Pin(**entry)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {name!r}: {error}") from None


def write_pin(path: Path, name: str, pin: Pin) -> None:
    """Add a pin to the catalog at `path`, or replace it. Raises OSError if it cannot be written."""
    from ddhub.io.files import replace_file

    entries = {key: asdict(value) for key, value in {**pins(path), name: pin}.items()}
    text = json.dumps({"format": 1, "artifacts": entries}, sort_keys=True, indent=1) + "\n"
    replace_file(path, text.encode())


def namespace() -> str:
    """The default namespace on the Hub: DDHUB_NAMESPACE, else `ddhub`. Raises UsageError if it is malformed."""
    owner = os.environ.get("DDHUB_NAMESPACE") or "ddhub"
    if not REPO.fullmatch(f"{owner}/x"):
        raise UsageError(f"DDHUB_NAMESPACE is {owner!r}, not the name of a user or organization; correct it")
    return owner


def check_bytes(total: int, subject: str) -> None:
    """Raise UsageError if a download of `total` bytes is larger than `max_bytes()`; `subject` names it."""
    if total > max_bytes():
        cause = f"{total:,} bytes, and DDHUB_MAX_BYTES allows {max_bytes():,}"
        raise UsageError(f"{subject}: {cause}; set it higher if you trust the source")


def api(token: str | bool | None = None) -> HfApi:
    """A client of the Hub; `token` is a token, None for the user's if there is one, or False for none."""
    from huggingface_hub import HfApi

    from ddhub import __version__

    return HfApi(library_name="ddhub", library_version=__version__, token=token)


def patiently(call: Callable[[], _T], subject: str, server: str = "") -> _T:
    """The return value of `call`, a request to the Hub; temporary failures are retried after a wait.

    Retried are failures of the server (5xx), too many requests (429, after `Retry-After`), timeouts and broken
    connections; not retried are refusals and unreachable servers.

    Args:
        call: sends the request.
        subject: the thing that is requested, for error messages.
        server: the name of the server for error messages; by default the Hub and its address.

    Raises:
        Unreachable: there was no answer, or the server failed.
        Missing: the repository, revision or file does not exist.
        HubError: the server refused, or its answer is not a Hub's.
        DDHubError: the download cannot be written to disk.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            translated, pause = _translate(error, subject, server)
            if wait is None or pause is None:
                if translated is error:
                    raise
                raise translated from error
            wait = max(wait, pause)
            _log.info("%s; retry in %g s", translated, wait)
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def _translate(error: Exception, subject: str, server: str) -> tuple[Exception, float | None]:
    """The ddhub error for an exception, and the minimum wait in seconds before a retry; None if a retry is useless."""
    from huggingface_hub import constants, errors

    # httpx, or httpx2 from huggingface_hub 2.0 on: the module of the base class of the client's errors
    http: Any = sys.modules[errors.HfHubHTTPError.__bases__[0].__module__]
    where = server or f"the Hub ({constants.ENDPOINT})"
    cause: BaseException = error
    again = True
    while cause.__cause__ is not None and isinstance(cause, (errors.LocalEntryNotFoundError, RuntimeError, ValueError)):
        cause, again = cause.__cause__, False  # the client has retried by itself
    if isinstance(cause, Unreachable):
        return cause, 0.0
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return Unreachable(f"{subject}: HF_HUB_OFFLINE is set, so that {where} receives no requests; unset it"), None
    if isinstance(cause, (http.HTTPStatusError, errors.HfHubHTTPError)):
        translated, pause = _refusal(cause, subject, where)
        return translated, pause if again else None
    if isinstance(cause, http.ConnectError):
        return Unreachable(f"{subject}: {where} cannot be reached ({_text(cause)}); check the connection"), None
    if isinstance(cause, http.HTTPError):
        broken = f"{subject}: {where} did not answer in full ({_text(cause)}); try again later"
        return Unreachable(broken), 0.0 if again else None
    if isinstance(cause, errors.FileMetadataError):
        return HubError(f"{subject}: the answer of {where} is not a Hub's; check HF_ENDPOINT"), None
    if isinstance(cause, OSError) and not isinstance(cause, DDHubError):
        if cause.errno is None:  # "Consistency check failed": another number of bytes than announced
            return Unreachable(f"{subject}: {where} sent another number of bytes than announced; try again later"), 0.0
        return DDHubError(f"{subject}: cannot be stored ({cause.strerror}); free space or set HF_HOME elsewhere"), None
    return error, None


def _refusal(error: Any, subject: str, where: str) -> tuple[HubError, float | None]:
    """As `_translate`, for an answer with a status of 400 or more."""
    from huggingface_hub import errors

    status = error.response.status_code
    reason = f"{status} {error.response.reason_phrase}"
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{subject}: gated; request access on its page of {where}, then sign in (hf auth login)"), None
    if isinstance(error, errors.RepositoryNotFoundError):
        return Missing(f"{subject}: no such repository on {where}, or one that needs a token (hf auth login)"), None
    if isinstance(error, errors.RevisionNotFoundError):
        return Missing(f"{subject}: {where} has no such revision of it; choose another"), None
    if isinstance(error, errors.EntryNotFoundError):
        return Missing(f"{subject}: {where} has no such file; the repository may have changed, try again"), None
    if status in (401, 403):
        return HubError(f"{subject}: {where} refuses it ({reason}); check the token (hf auth whoami)"), None
    if status in (408, 429) or status >= 500:
        wait = error.response.headers.get("Retry-After", "0")
        pause = float(wait) if wait.isdecimal() else 0.0
        message = f"{subject}: {where} answers {reason}; try again later"
        return Unreachable(message), pause if pause <= PATIENCE else None
    return HubError(f"{subject}: {where} refuses it ({reason}: {_text(error)}); update huggingface_hub"), None


def _text(error: BaseException) -> str:
    """The first words of a server's message, or of the error, without control characters."""
    message = getattr(error, "server_message", None) or first_line(error)
    return "".join(filter(str.isprintable, str(message)))[:200]
