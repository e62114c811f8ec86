"""The Hub as all of ddhub asks it: what is pinned, how long one waits, and what its refusals mean.

    catalog.json   {"format": 1, "artifacts": {NAME: {"repo": "ddhub/NAME", "revision": …, "digest": …, "tag": "v1"}}}

    pin = pins()["cifar10-infer-ipc10"]
    info = patiently(lambda: api(False).repo_info(pin.repo, repo_type="dataset", timeout=TIMEOUT), pin.repo)

Only functions that talk to the Hub import huggingface_hub; any version from 1.31 on is as good.
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
TIMEOUT = 10.0  # seconds for one answer
WAITS = (1.0, 2.0, 4.0)  # seconds before a second, third and fourth try
PATIENCE = 60.0  # seconds that a server may ask one to wait
COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
REPO = re.compile(rf"(?!.*(?:--|\.\.)){_PART}/{_PART}(?<!\.git)", re.ASCII)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")
_log = logging.getLogger("ddhub")


class Unreachable(HubError):
    """The Hub did not answer, or only with failures of its own: a cached copy may stand in for it."""


class Missing(HubError):
    """The Hub knows no such repository, revision or file, or does not tell this user of it."""


@dataclass(frozen=True)
class Access:
    """How the Hub is asked: with whose token, into which cache (the user's if None), and whether at all."""

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    @property
    def offline(self) -> bool:
        """Whether only the cache may answer: `local_files_only`, or HF_HUB_OFFLINE."""
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE


@dataclass(frozen=True)
class Pin:
    """What a name of the catalog stands for, to the byte: commit and digest of the manifest; the tag is for people."""

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
    """The catalog: what each published name is pinned to, sorted; {} where there is no such file.

    Raises:
        ArtifactError: a catalog that is damaged.
    """
    if not path.exists():
        return {}
    record = parse(read_bytes(path), str(path))
    if record.keys() != {"format", "artifacts"} or record["format"] != 1 or not isinstance(record["artifacts"], dict):
        raise ArtifactError(f"{path}: no catalog of format 1; {REPAIR}")
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
    """Add a pin to the catalog at `path`, or replace it. Raises OSError for a file that cannot be written."""
    from ddhub.io.files import replace_file

    entries = {key: asdict(value) for key, value in {**pins(path), name: pin}.items()}
    text = json.dumps({"format": 1, "artifacts": entries}, sort_keys=True, indent=1) + "\n"
    replace_file(path, text.encode())


def namespace() -> str:
    """Where names without a namespace are looked for: DDHUB_NAMESPACE, else `ddhub`."""
    name = os.environ.get("DDHUB_NAMESPACE") or "ddhub"
    if not REPO.fullmatch(f"{name}/x"):
        raise UsageError(f"DDHUB_NAMESPACE is {name!r}, not the name of a user or organization; correct it")
    return name


def check_bytes(total: int, subject: str) -> None:
    """UsageError for a download that is larger than `max_bytes`."""
    if total > max_bytes():
        cause = f"{total:,} bytes, and DDHUB_MAX_BYTES allows {max_bytes():,}"
        raise UsageError(f"{subject}: {cause}; set it higher if you trust the source")


def api(token: str | bool | None = None) -> HfApi:
    """The Hub's client; `token` is one, None for the user's own where there is one, or False for none."""
    from huggingface_hub import HfApi

    from ddhub import __version__

    return HfApi(library_name="ddhub", library_version=__version__, token=token)


def patiently(call: Callable[[], _T], subject: str, whom: str = "") -> _T:
    """What `call` returns, which asks the Hub (or `whom`) about `subject`; tried again, after a wait, if that may help.

    Tried again are failures of the server (5xx), too many requests (429, after `Retry-After`), timeouts and broken
    connections; not a refusal, nor a server that is not there.

    Raises:
        Unreachable: no answer, or the server's failure.
        Missing: an unknown repository, revision or file.
        HubError: any other refusal, or an answer that is not the Hub's.
        DDHubError: the disk's own failure.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            named, pause = _named(error, subject, whom)
            if wait is None or pause is None:
                if named is error:
                    raise
                raise named from error
            wait = max(wait, pause)
            _log.info("%s; asked again in %g s", named, wait)
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def _named(error: Exception, subject: str, whom: str) -> tuple[Exception, float | None]:
    """The error as ddhub names it, and the least seconds to wait before another try; None where none may help."""
    from huggingface_hub import constants, errors

    # httpx, or httpx2 from huggingface_hub 2.0 on: whichever made the base class of the client's errors
    http: Any = sys.modules[errors.HfHubHTTPError.__bases__[0].__module__]
    where = whom or f"the Hub ({constants.ENDPOINT})"
    cause: BaseException = error
    again = True
    while cause.__cause__ is not None and isinstance(cause, (errors.LocalEntryNotFoundError, RuntimeError, ValueError)):
        cause, again = cause.__cause__, False  # the client has asked several times by itself
    if isinstance(cause, Unreachable):
        return cause, 0.0
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return Unreachable(f"{subject}: HF_HUB_OFFLINE is set, so that {where} is not asked; unset it"), None
    if isinstance(cause, (http.HTTPStatusError, errors.HfHubHTTPError)):
        named, pause = _refused(cause, subject, where)
        return named, pause if again else None
    if isinstance(cause, http.ConnectError):
        return Unreachable(f"{subject}: {where} cannot be reached ({_text(cause)}); check the connection"), None
    if isinstance(cause, http.HTTPError):
        broken = f"{subject}: {where} did not answer in full ({_text(cause)}); try again later"
        return Unreachable(broken), 0.0 if again else None
    if isinstance(cause, errors.FileMetadataError):
        return HubError(f"{subject}: {where} does not answer as a Hub does; check HF_ENDPOINT"), None
    if isinstance(cause, OSError) and not isinstance(cause, DDHubError):
        if cause.errno is None:  # "Consistency check failed": not as many bytes as announced
            return Unreachable(f"{subject}: {where} sent another size than announced; try again later"), 0.0
        return DDHubError(f"{subject}: cannot be stored ({cause.strerror}); free space or set HF_HOME elsewhere"), None
    return error, None


def _refused(error: Any, subject: str, where: str) -> tuple[HubError, float | None]:
    """The same for an answer with a status of 400 or more."""
    from huggingface_hub import errors

    status = error.response.status_code
    answer = f"{status} {error.response.reason_phrase}"
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{subject}: access must be asked for on its page of {where}; then sign in (hf auth login)"
        ), None
    if isinstance(error, errors.RepositoryNotFoundError):
        return Missing(f"{subject}: no such repository on {where}, or one that needs a token (hf auth login)"), None
    if isinstance(error, errors.RevisionNotFoundError):
        return Missing(f"{subject}: {where} has no such revision of it; choose another"), None
    if isinstance(error, errors.EntryNotFoundError):
        return Missing(f"{subject}: {where} has no such file; the repository may have changed, try again"), None
    if status in (401, 403):
        return HubError(f"{subject}: {where} refuses it ({answer}); check the token (hf auth whoami)"), None
    if status in (408, 429) or status >= 500:
        wait = error.response.headers.get("Retry-After", "0")
        pause = float(wait) if wait.isdecimal() else 0.0
        return Unreachable(
            f"{subject}: {where} answers {answer}; try again later"
        ), pause if pause <= PATIENCE else None
    return HubError(f"{subject}: {where} refuses it ({answer}: {_text(error)}); update huggingface_hub"), None


def _text(error: BaseException) -> str:
    """The first words of what a server, or else the error, says, without control characters."""
    message = getattr(error, "server_message", None) or first_line(error)
    return "".join(filter(str.isprintable, str(message)))[:200]
