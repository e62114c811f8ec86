"""A dummy of the Hub: two listeners of this process, the hub on 127.0.0.1 and its CDN on localhost.

It speaks as much of the REST, LFS and resolve protocol as the unmodified client needs, keeps everything in memory,
logs every request and makes go wrong what a test asks for. Xet, discussions and the viewer are not played.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from hub import reading, writing
from hub.isolation import new_home
from hub.listening import Server
from hub.store import Blob, Repo, new_repo
from hub.wire import KINDS, Fault, Refusal, Reply, Request

REPO = r"(datasets|models|spaces)/([^/]+/[^/]+)"
PAGE = r"(datasets/|spaces/|)([^/]+/[^/]+)"  # of a model the kind is left out
ROUTES: list[tuple[str, str, str, Callable[..., Reply]]] = [
    ("whoami", "GET", "/api/whoami-v2", writing.whoami),
    ("create_repo", "POST", "/api/repos/create", writing.create_repo),
    ("delete", "DELETE", "/api/repos/delete", writing.delete),
    ("validate_yaml", "POST", "/api/validate-yaml", writing.validate_yaml),
    ("list", "GET", "/api/(datasets|models|spaces)", reading.listing),
    ("settings", "PUT", f"/api/{REPO}/settings", writing.settings),
    ("preupload", "POST", f"/api/{REPO}/preupload/([^/]+)", writing.preupload),
    ("commit", "POST", f"/api/{REPO}/commit/([^/]+)", writing.commit),
    ("info", "GET", f"/api/{REPO}", reading.info),
    ("info", "GET", f"/api/{REPO}/revision/([^/]+)", reading.info),
    ("tree", "GET", f"/api/{REPO}/tree/([^/]+)/?", reading.tree),
    ("tree", "GET", f"/api/{REPO}/tree/([^/]+)/(.+)", reading.tree),
    ("paths_info", "POST", f"/api/{REPO}/paths-info/([^/]+)", reading.paths_info),
    ("refs", "GET", f"/api/{REPO}/refs", reading.refs),
    ("commits", "GET", f"/api/{REPO}/commits/([^/]+)", reading.commits),
    ("branch", "POST|DELETE", f"/api/{REPO}/branch/([^/]+)", writing.branch),
    ("tag", "POST|DELETE", f"/api/{REPO}/tag/([^/]+)", writing.tag),
    ("misc", "GET", f"/api/{REPO}/auth-check(/write)?", reading.auth_check),
    ("misc", "GET|HEAD", "/api/(?:agent-harnesses|telemetry/.+)", reading.nothing),
    ("lfs_batch", "POST", rf"/{PAGE}\.git/info/lfs/objects/batch", writing.lfs_batch),
    ("lfs_verify", "POST", rf"/{PAGE}\.git/info/lfs/objects/verify", writing.lfs_verify),
    ("resolve", "GET|HEAD", f"/{PAGE}/resolve/([^/]+)/(.+)", reading.resolve),
]
CDN_ROUTES: list[tuple[str, str, str, Callable[..., Reply]]] = [
    ("lfs_put", "PUT", f"/lfs/{REPO}/([0-9a-f]+)", writing.lfs_put),
    ("cdn", "GET|HEAD", f"/cdn/{REPO}/([0-9a-f]+)/(.+)", reading.cdn),
]


@dataclass(frozen=True)
class Account:
    name: str
    orgs: tuple[str, ...]
    role: str

    def owns(self, repo: str) -> bool:
        return repo.split("/")[0] in (self.name, *self.orgs)

    def must_write(self, repo: str | None = None) -> None:
        if self.role != "write" or (repo is not None and not self.owns(repo)):
            raise Refusal(403, f"You don't have the rights to write to {repo or 'any repository'}")


class DummyHub:
    """The hub, and a test's hands in it. Repository ids are `namespace/name`; revisions are what the Hub takes.

    `token` may write as user ddhub, member of lab; `read_token` is ddhub's and may only read; `stranger_token` is of a
    user who owns nothing here. What no test should cause is in `troubles`: unknown routes, crashes of this server, and
    tokens sent to the CDN.
    """

    token, read_token, stranger_token = "hf_ddhub_may_write", "hf_ddhub_may_read", "hf_stranger_may_write"

    def __init__(self) -> None:
        self.accounts = {
            self.token: Account("ddhub", ("lab",), "write"),
            self.read_token: Account("ddhub", ("lab",), "read"),
            self.stranger_token: Account("stranger", (), "write"),
        }
        self.patch: pytest.MonkeyPatch  # of the test that runs
        self._lock = threading.RLock()
        self._ports = [0, 0]
        self._servers: list[Server] = []
        self.clear()
        self.start()

    def clear(self) -> None:
        """Forget repositories, faults, log and troubles."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.troubles: list[str] = []
        self.page_size = 1000

    def start(self) -> None:
        """Answer, on the ports of before."""
        self._servers = [
            Server(self.answer, port, on_cdn) for port, on_cdn in zip(self._ports, (False, True), strict=True)
        ]
        self._ports = [server.server_port for server in self._servers]
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self.cdn = f"http://localhost:{self._ports[1]}"

    @property
    def running(self) -> bool:
        return bool(self._servers)

    def stop(self) -> None:
        """Refuse connections, and close those that are open."""
        for server in self._servers:
            server.stop()
        self._servers = []

    def put(
        self,
        repo_id: str,
        files: Mapping[str, bytes | None],
        *,
        repo_type: str = "dataset",
        message: str = "put",
        revision: str = "main",
    ) -> str:
        """Commit files (None: deleted) on a branch of a repository, made if it is not there; the commit's id."""
        with self._lock:
            repo = self.repos.setdefault((repo_type, repo_id), new_repo(repo_type, repo_id))
            ref = repo.writable(revision)
            changes = {
                path: data if data is None else Blob(data, repo.is_lfs(path, len(data))) for path, data in files.items()
            }
            return repo.commit(ref, repo.resolve(ref), changes, message).oid

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "dataset") -> dict[str, bytes]:
        """What a revision holds, but for .gitattributes, which the Hub itself puts there."""
        files = self.repos[repo_type, repo_id].resolve(revision).files
        return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}

    def head(self, repo_id: str, revision: str = "main", repo_type: str = "dataset") -> str:
        return self.repos[repo_type, repo_id].resolve(revision).oid

    def tags(self, repo_id: str, repo_type: str = "dataset") -> dict[str, str]:
        """Commit ids by tag."""
        refs = self.repos[repo_type, repo_id].refs
        return {ref.removeprefix("refs/tags/"): oid for ref, oid in refs.items() if ref.startswith("refs/tags/")}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "dataset") -> list[str]:
        """Commit ids, newest first; the last one is the Hub's own, which made the repository."""
        return [commit.oid for commit in self.repos[repo_type, repo_id].history(revision)]

    def move(self, repo_id: str, ref: str, commit: str, repo_type: str = "dataset") -> None:
        """Point a branch, or a tag that exists, at another commit."""
        repo = self.repos[repo_type, repo_id]
        tag = f"refs/tags/{ref}"
        repo.refs[tag if tag in repo.refs else f"refs/heads/{ref}"] = repo.resolve(commit).oid

    def delete(self, repo_id: str, repo_type: str = "dataset") -> None:
        del self.repos[repo_type, repo_id]

    def gate(self, repo_id: str, how: str = "auto", repo_type: str = "dataset") -> None:
        """Let only members of the namespace read the files."""
        self.repos[repo_type, repo_id].gated = how

    def hide(self, repo_id: str, repo_type: str = "dataset") -> None:
        """Make it private."""
        self.repos[repo_type, repo_id].private = True

    def requests(self, route: str = "*", method: str = "*") -> list[Request]:
        """Of the log, the requests for one route."""
        return [one for one in self.log if route in ("*", one.route) and method in ("*", one.method)]

    def fault(
        self,
        kind: str,
        *,
        route: str = "*",
        method: str = "*",
        path: str = "*",
        times: int | None = 1,
        after: int = 0,
        **options: Any,
    ) -> None:
        """Let something go wrong with the next `times` (None: all) requests that match, but for the first `after`.

        route: a name in ROUTES; path: of a file in its repository, or of the URL; all three may have wildcards. kinds:
        status (status=500, code=X-Error-Code, headers={}), delay (seconds), cut (bytes=0: the connection is closed
        after so many of the body; -1: before anything is done), ignore_range, flip (bit=0 of the body), size (delta=
        on the size or length announced, or on every "size" of a JSON answer), etag (value), commit (value:
        X-Repo-Commit, and an info's sha), rate (429, retry_after=0), call (function: what happens before the answer).
        """
        assert kind in KINDS, kind
        assert route == "*" or route in {name for name, *_ in ROUTES + CDN_ROUTES}, route
        self.faults.append(Fault(kind, route, method, path, times, after, options))

    def clear_faults(self) -> None:
        self.faults.clear()

    def environment(self, folder: Path) -> dict[str, str]:
        """For a subprocess that is to see this hub, with a cache in `folder` and nobody signed in."""
        hidden = ("HF_TOKEN", "HF_HUB_OFFLINE")
        return {**{key: value for key, value in os.environ.items() if key not in hidden}, "HF_HOME": str(folder / "hf")}

    def new_home(self, folder: Path) -> None:
        """From here to the end of the test, the client's cache is in `folder`."""
        new_home(folder / "hf", self.patch)

    def page(self, kind: str, name: str) -> str:
        """A repository's address."""
        return f"{self.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{name}"

    def account(self, request: Request) -> Account | None:
        """Who asks; None is anonymous."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.accounts.get(token)

    def signed_in(self, request: Request) -> Account:
        user = self.account(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return user

    def open(
        self, request: Request, kind: str, name: str, *, write: bool = False, propose: bool = False, files: bool = False
    ) -> Repo:
        """The repository, if who asks may see it, and write to it, propose changes to it or read its files."""
        user, repo = self.account(request), self.repos.get((kind, name))
        member = user is not None and user.owns(name)
        if repo is None or (repo.private and not member):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write or propose:
            self.signed_in(request).must_write(name if write else None)
        if files and repo.gated and not member:
            raise Refusal(403 if user else 401, f"Access to {kind} {name} is restricted", "GatedRepo")
        return repo

    def answer(self, request: Request, on_cdn: bool) -> Reply:
        """Log a request and answer it, with the faults that are due."""
        route: Callable[[], Reply] = functools.partial(reading.nothing, self, request)
        for name, methods, pattern, function in CDN_ROUTES if on_cdn else ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and request.method in methods.split("|"):
                request.route, parts = name, [unquote(part) for part in found.groups(default="")]
                if parts:
                    parts[0] = parts[0].rstrip("/").removesuffix("s") or "model"
                request.file = parts[-1] if name in ("resolve", "cdn") else ""
                route = functools.partial(function, self, request, *parts)
                break
        with self._lock:
            self.log.append(request)
            if request.route == "unknown":
                self.troubles.append(f"no such route: {request.method} {request.host}{request.path}")
            if on_cdn and "authorization" in request.headers:
                self.troubles.append(f"a token went to the CDN: {request.method} {request.path}")
            matching = [fault for fault in self.faults if fault.matches(request)]
            early = [fault for fault in matching if fault.early(request) and fault.due()]
        for fault in early:
            if reply := fault.before(request):
                return reply
        with self._lock:
            try:
                reply = route()
            except Refusal as error:
                reply = error.reply()
            except Exception as error:
                self.troubles.append(f"the dummy hub failed: {request.method} {request.path}: {error!r}")
                reply = Refusal(500, repr(error)).reply()
            for fault in matching:
                if fault not in early and (spoilt := fault.spoilt(request, reply)) and fault.due():
                    reply = spoilt
        return reply
