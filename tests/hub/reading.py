"""The routes of the dummy hub that only read; a route gets what those of `writing` get."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from hub.store import Blob, Commit, Repo, card_data, card_tags, children, tree_id
from hub.wire import Refusal, Reply, Request

if TYPE_CHECKING:
    from hub.server import DummyHub


def described(repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """What the Hub says about a repository at a commit."""
    card: dict[str, Any] = {}
    if "README.md" in commit.files:
        with contextlib.suppress(Refusal):
            card = card_data(commit.files["README.md"].content)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
    for sibling in siblings if blobs else ():
        blob = commit.files[sibling["rfilename"]]
        sibling |= {"size": len(blob.content), "blobId": blob.oid}
        if blob.lfs:
            sibling["lfs"] = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    names = {"_id": commit.oid[:24], "id": repo.id, "author": repo.namespace, "sha": commit.oid}
    state = {"private": repo.private, "gated": repo.gated, "disabled": False, "downloads": 0, "likes": 0}
    dates = {"createdAt": repo.history(commit.oid)[-1].date, "lastModified": commit.date}
    return {**names, **state, **dates, "tags": card_tags(card), "cardData": card, "siblings": siblings}


def info(hub: DummyHub, request: Request, kind: str, name: str, revision: str = "main") -> Reply:
    repo = hub.open(request, kind, name)
    commit = repo.resolve(revision)
    about = described(repo, commit, blobs=request.flag("blobs"))
    wanted = {"_id", "id", *request.query.get("expand", about)}
    return Reply.json({key: about[key] for key in about if key in wanted}, headers={"X-Repo-Commit": commit.oid})


def listing(hub: DummyHub, request: Request, kind: str) -> Reply:
    user = hub.account(request)
    tags = set(request.query.get("filter", []))
    found = []
    for repo in (repo for _, repo in sorted(hub.repos.items()) if repo.kind == kind):
        about = described(repo, repo.resolve("main"))
        named = request.option("author") in ("", repo.namespace) and request.option("search") in repo.id
        if named and tags <= {*about["tags"]} and (not repo.private or (user and user.owns(repo.id))):
            found.append(about)
    return Reply.json(found[: int(request.option("limit", "1000"))])


def entries(commit: Commit, folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
    files, folders = children({path: blob for path, blob in commit.files.items() if path.startswith(folder)}, folder)
    for path in sorted({**files, **folders}):
        if blob := files.get(path):
            size = len(blob.content)
            lfs = {"lfs": {"oid": blob.sha256, "size": size, "pointerSize": len(blob.pointer)}} if blob.lfs else {}
            yield {"type": "file", "path": path, "size": size, "oid": blob.oid, **lfs}
        else:
            yield {"type": "directory", "path": path.rstrip("/"), "size": 0, "oid": tree_id(folders[path], path)}
            if recursive:
                yield from entries(commit, path, True)


def _listed(commit: Commit, found: list[dict[str, Any]], expand: bool) -> Reply:
    last = {"lastCommit": {"id": commit.oid, "title": commit.title, "date": commit.date}} if expand else {}
    return Reply.json([{**one, **last} for one in found], headers={"X-Repo-Commit": commit.oid})


def tree(hub: DummyHub, request: Request, kind: str, name: str, revision: str, folder: str = "") -> Reply:
    commit = hub.open(request, kind, name).resolve(revision)
    folder = f"{folder}/".lstrip("/")
    found = list(entries(commit, folder, request.flag("recursive")))
    if not found and folder:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    start = int(request.option("cursor", "0"))
    reply = _listed(commit, found[start : start + hub.page_size], request.flag("expand"))
    if (start := start + hub.page_size) < len(found):
        kept = [(key, value) for key, values in request.query.items() for value in values if key != "cursor"]
        query = "&".join(f"{key}={quote(value)}" for key, value in [*kept, ("cursor", str(start))])
        reply.headers["Link"] = f'<{hub.endpoint}{request.path}?{query}>; rel="next"'
    return reply


def paths_info(hub: DummyHub, request: Request, kind: str, name: str, revision: str) -> Reply:
    commit = hub.open(request, kind, name).resolve(revision)
    asked = parse_qs(request.body.decode())
    there = {one["path"]: one for one in entries(commit, "", True)}
    found = [there[path.strip("/")] for path in asked.get("paths", []) if path.strip("/") in there]
    return _listed(commit, found, asked.get("expand", [""])[0].lower() == "true")


def refs(hub: DummyHub, request: Request, kind: str, name: str) -> Reply:
    repo = hub.open(request, kind, name)

    def under(folder: str) -> list[dict[str, str]]:
        named = [(ref.removeprefix(folder), ref) for ref in sorted(repo.refs) if ref.startswith(folder)]
        return [{"name": name, "ref": ref, "targetCommit": repo.refs[ref]} for name, ref in named]

    answer = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": under("refs/convert/")}
    return Reply.json({**answer, **({"pullRequests": under("refs/pr/")} if request.flag("include_prs") else {})})


def commits(hub: DummyHub, request: Request, kind: str, name: str, revision: str) -> Reply:
    history = hub.open(request, kind, name).history(revision)
    by = {"authors": [{"user": "ddhub"}]}
    return Reply.json(
        [{"id": one.oid, "title": one.title, "message": one.body, "date": one.date, **by} for one in history]
    )


def auth_check(hub: DummyHub, request: Request, kind: str, name: str, write: str = "") -> Reply:
    hub.open(request, kind, name, write=bool(write), files=True)
    return Reply.json({})


def nothing(hub: DummyHub, request: Request) -> Reply:
    raise Refusal(404, "not part of this hub")


def resolve(hub: DummyHub, request: Request, kind: str, name: str, revision: str, path: str) -> Reply:
    request.file = path
    commit = hub.open(request, kind, name, files=True).resolve(revision)
    headers = {"X-Repo-Commit": commit.oid}
    blob = commit.files.get(path)
    if blob is None:
        raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound", headers)
    headers |= {"ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    if not blob.lfs:
        return ranged(request, blob, headers)
    headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    headers["Location"] = f"{hub.cdn}/cdn/{kind}s/{name}/{blob.sha256}/{quote(path)}?signature=download"
    return Reply(b"Found. Redirecting to the CDN", 302, {**headers, "Content-Type": "text/plain"})


def cdn(hub: DummyHub, request: Request, kind: str, name: str, oid: str, path: str) -> Reply:
    request.file = path
    content = hub.repos[kind, name].lfs.get(oid) if (kind, name) in hub.repos else None
    if content is None or request.option("signature") != "download":
        raise Refusal(403, "no such object, or the link was not signed")
    return ranged(request, Blob(content, True), {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def ranged(request: Request, blob: Blob, headers: dict[str, str]) -> Reply:
    """The part of a file that the Range header asks for."""
    name = quote(request.file.rsplit("/")[-1])
    headers |= {"Content-Type": "application/octet-stream", "Content-Disposition": f"inline; filename*=UTF-8''{name}"}
    size = len(blob.content)
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not asked or asked[0] == "bytes=-":
        return Reply(blob.content, 200, headers)
    first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    last = min(size, int(asked[2]) + 1) if asked[1] and asked[2] else size
    if first >= size or last <= first:
        raise Refusal(416, "range out of bounds", headers={"Content-Range": f"bytes */{size}"})
    return Reply(blob.content[first:last], 206, {**headers, "Content-Range": f"bytes {first}-{last - 1}/{size}"})
