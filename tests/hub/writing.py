"""The routes of the dummy hub that change a repository, and what is asked on the way there.

A route gets the hub, the request and what its pattern in `server.ROUTES` found in the path, decoded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hub.store import Blob, Commit, Repo, card_data, new_repo
from hub.wire import Refusal, Reply, Request

if TYPE_CHECKING:
    from hub.server import DummyHub


def whoami(hub: DummyHub, request: Request) -> Reply:
    user = hub.signed_in(request)
    token = {"role": user.role, "displayName": "tests", "createdAt": "2026-01-01T00:00:00.000Z"}
    orgs = [{"type": "org", "name": name, "fullname": name} for name in user.orgs]
    names = {"type": "user", "id": user.name, "name": user.name, "fullname": user.name}
    return Reply.json({**names, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}})


def create_repo(hub: DummyHub, request: Request) -> Reply:
    asked = request.json()
    user = hub.signed_in(request)
    kind, name = asked.get("type") or "model", f"{asked.get('organization') or user.name}/{asked['name']}"
    user.must_write(name)
    there = (kind, name) in hub.repos
    if not there:
        private = asked.get("visibility") == "private" or asked.get("private") is True
        hub.repos[kind, name] = new_repo(kind, name, private=private)
    answer = {"url": hub.page(kind, name), "name": name}
    return Reply.json(
        {**answer, "error": f"You already created this {kind} repo"} if there else answer, 409 if there else 200
    )


def delete(hub: DummyHub, request: Request) -> Reply:
    asked = request.json()
    name = f"{asked.get('organization') or hub.signed_in(request).name}/{asked['name']}"
    repo = hub.open(request, asked.get("type") or "model", name, write=True)
    del hub.repos[repo.kind, repo.id]
    return Reply.json({})


def settings(hub: DummyHub, request: Request, kind: str, name: str) -> Reply:
    repo, asked = hub.open(request, kind, name, write=True), request.json()
    repo.gated = asked.get("gated", repo.gated)
    repo.private = asked["visibility"] == "private" if "visibility" in asked else asked.get("private", repo.private)
    return Reply.json({})


def validate_yaml(hub: DummyHub, request: Request) -> Reply:
    try:
        card = card_data(request.json()["content"].encode())
    except Refusal as error:
        return Reply.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return Reply.json({"errors": [], "warnings": [] if card else [{"message": "empty or missing yaml metadata"}]})


def preupload(hub: DummyHub, request: Request, kind: str, name: str, revision: str) -> Reply:
    repo = hub.open(request, kind, name, write=not request.flag("create_pr"), propose=True)
    there = repo.resolve(revision).files
    answers = []
    for asked in request.json()["files"]:
        mode = "lfs" if repo.is_lfs(asked["path"], asked["size"]) else "regular"
        blob = there.get(asked["path"])
        oid = {"oid": blob.sha256 if blob.lfs else blob.oid} if blob else {}
        answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
    return Reply.json({"files": answers})


def lfs_batch(hub: DummyHub, request: Request, kind: str, name: str) -> Reply:
    repo = hub.open(request, kind, name, propose=True)
    objects = []
    for asked in request.json()["objects"]:
        if asked["oid"] not in repo.lfs:
            upload = {"href": f"{hub.cdn}/lfs/{kind}s/{name}/{asked['oid']}?signature=upload"}
            verify = {"href": f"{hub.page(kind, name)}.git/info/lfs/objects/verify"}
            asked = {**asked, "actions": {"upload": upload, "verify": verify}}
        objects.append(asked)
    return Reply.json({"transfer": "basic", "objects": objects})


def lfs_put(hub: DummyHub, request: Request, kind: str, name: str, oid: str) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != oid or request.option("signature") != "upload":
        raise Refusal(400, "the content's sha256 is not the one that was announced")
    hub.repos[kind, name].lfs[oid] = request.body
    return Reply()


def lfs_verify(hub: DummyHub, request: Request, kind: str, name: str) -> Reply:
    asked, there = request.json(), hub.open(request, kind, name, propose=True).lfs
    if len(there.get(asked["oid"], b"")) != asked["size"]:
        raise Refusal(404, f"no object {asked['oid']} of {asked['size']} bytes")
    return Reply.json({})


def commit(hub: DummyHub, request: Request, kind: str, name: str, revision: str) -> Reply:
    proposed = request.flag("create_pr")
    repo = hub.open(request, kind, name, write=not proposed, propose=True)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = lines[0]["value"]
    parent = repo.resolve(revision)
    if header.get("parentCommit", parent.oid) != parent.oid:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    changes: dict[str, Blob | None] = {}
    for line in lines[1:]:
        changes |= changed(repo, parent, line["key"], line["value"])
    if blob := changes.get("README.md"):
        card_data(blob.content)
    number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
    ref = f"refs/pr/{number}" if proposed else repo.writable(revision)
    done = repo.commit(ref, parent, changes, header["summary"], header.get("description", ""))
    page = hub.page(kind, name)
    answer = {"success": True, "commitOid": done.oid, "commitUrl": f"{page}/commit/{done.oid}", "hookOutput": ""}
    return Reply.json({**answer, **({"pullRequestUrl": f"{page}/discussions/{number}"} if proposed else {})})


def changed(repo: Repo, parent: Commit, key: str, value: Mapping[str, Any]) -> dict[str, Blob | None]:
    """What one line of a commit's payload does, by path."""
    path = value["path"].removesuffix("/")
    if any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise Refusal(400, f"invalid path {path}")
    if key == "file":
        return {path: Blob(base64.b64decode(value["content"], validate=True), False)}
    if key == "lfsFile":
        content = repo.lfs.get(value["oid"])
        if content is None or value["algo"] != "sha256" or value.get("size", len(content)) != len(content):
            raise Refusal(400, f"the LFS pointer of {path} points to a file that does not exist")
        return {path: Blob(content, True)}
    if key not in ("deletedFile", "deletedFolder"):
        raise Refusal(400, f"unknown operation {key}")
    below = f"{path}/" if key == "deletedFolder" else path
    found = [name for name in parent.files if name == path or (below != path and name.startswith(below))]
    if not found:
        raise Refusal(404, f"{path} does not exist", "EntryNotFound")
    return dict.fromkeys(found)


def branch(hub: DummyHub, request: Request, kind: str, name: str, branch: str) -> Reply:
    return _ref(hub, request, kind, name, f"refs/heads/{branch}", request.body and request.json().get("startingPoint"))


def tag(hub: DummyHub, request: Request, kind: str, name: str, revision: str) -> Reply:
    tag = request.json()["tag"] if request.method == "POST" else revision
    return _ref(hub, request, kind, name, f"refs/tags/{tag}", revision)


def _ref(hub: DummyHub, request: Request, kind: str, name: str, ref: str, start: str | None) -> Reply:
    repo = hub.open(request, kind, name, write=True)
    if request.method == "DELETE":
        if ref not in repo.refs:
            raise Refusal(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        del repo.refs[ref]
    elif ref in repo.refs:
        raise Refusal(409, f"Reference {ref} already exists")
    else:
        repo.refs[ref] = repo.resolve(start or "main").oid
    return Reply.json({})
