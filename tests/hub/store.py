"""What the dummy hub keeps: repositories as git has them, in memory, every id worked out from the content."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import yaml

from hub.wire import Refusal

LFS_FROM = 10 * 2**20  # larger files go to LFS, whatever their name
LFS_PATTERNS = ("bin", "gz", "jpeg", "jpg", "npy", "npz", "parquet", "pkl", "png", "pt", "safetensors", "tar", "zip")
GITATTRIBUTES = "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in LFS_PATTERNS).encode()
NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[A-Za-z0-9_][\w.-]{0,95}")
TAGS = ("annotations_creators", "language", "license", "size_categories", "source_datasets", "task_categories")


def git_id(kind: str, content: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(content)) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file's content; an LFS file has the git id of its pointer."""

    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def oid(self) -> str:
        return git_id("blob", self.pointer if self.lfs else self.content)


Files = Mapping[str, Blob]


def children(files: Files, folder: str) -> tuple[Files, dict[str, Files]]:
    """The files right below `folder` (a prefix: empty, or with a slash at its end), and its folders by prefix."""
    here: dict[str, Blob] = {}
    folders: dict[str, dict[str, Blob]] = {}
    for path, blob in files.items():
        first, slash, _ = path.removeprefix(folder).partition("/")
        if slash:
            folders.setdefault(f"{folder}{first}/", {})[path] = blob
        else:
            here[path] = blob
    return here, dict(folders)


def tree_id(files: Files, folder: str = "") -> str:
    here, folders = children(files, folder)
    entries = [(path, b"100644", blob.oid) for path, blob in here.items()]
    entries += [(path, b"40000", tree_id(inside, path)) for path, inside in folders.items()]
    lines = ((path.removeprefix(folder).strip("/"), mode, oid) for path, mode, oid in sorted(entries))
    return git_id(
        "tree", b"".join(b"%s %s\0" % (mode, name.encode()) + bytes.fromhex(oid) for name, mode, oid in lines)
    )


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    body: str
    number: int
    files: Files

    @property
    def date(self) -> str:
        return f"2026-01-{1 + self.number // 1440:02}T{self.number // 60 % 24:02}:{self.number % 60:02}:00.000Z"


@dataclass
class Repo:
    kind: str  # dataset, model or space
    id: str
    private: bool = False
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # refs/heads/main and its like: commit id
    lfs: dict[str, bytes] = field(default_factory=dict)  # sha256: what was uploaded, committed or not

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, tag, full ref name or commit id means."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        found = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        if len(found) != 1:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found[0]]

    def writable(self, revision: str) -> str:
        """The full name of a branch that is there."""
        for ref in (revision, f"refs/heads/{revision}"):
            if ref in self.refs and not ref.startswith("refs/tags/"):
                return ref
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        commit: Commit | None = self.resolve(revision)
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return found

    def is_lfs(self, path: str, size: int) -> bool:
        return size >= LFS_FROM or any(fnmatch.fnmatchcase(path, f"*.{kind}") for kind in LFS_PATTERNS)

    def commit(
        self, ref: str, parent: Commit | None, changes: Mapping[str, Blob | None], title: str, body: str = ""
    ) -> Commit:
        """Put `changes` (None: the file goes) on top of `parent` and point `ref` there."""
        merged = {**(parent.files if parent else {}), **changes}
        files = {path: blob for path, blob in sorted(merged.items()) if blob is not None}
        number = parent.number + 1 if parent else 0
        above = f"parent {parent.oid}\n" if parent else ""
        text = f"tree {tree_id(files)}\n{above}author ddhub {60 * number} +0000\n\n{title}\n\n{body}"
        commit = Commit(git_id("commit", text.encode()), parent and parent.oid, title, body, number, files)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        self.lfs |= {blob.sha256: blob.content for blob in files.values() if blob.lfs}
        return commit


def new_repo(kind: str, name: str, *, private: bool = False) -> Repo:
    if not all(NAME.fullmatch(part) for part in name.split("/")):
        raise Refusal(400, f"Invalid repository name {name}")
    repo = Repo(kind, name, private)
    repo.commit("refs/heads/main", None, {".gitattributes": Blob(GITATTRIBUTES, False)}, "initial commit")
    return repo


def card_data(readme: bytes) -> dict[str, object]:
    """The YAML block at the top of a README.md, {} if there is none; refused where the Hub would."""
    block = re.match(r"---[ \t]*\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|$)", readme.decode("utf-8", "replace"), re.DOTALL)
    try:
        data = yaml.safe_load(block[1]) if block else {}
    except yaml.YAMLError as error:
        raise Refusal(400, f"Invalid YAML metadata: {error}".replace("\n", " ")) from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise Refusal(400, "Invalid YAML metadata: it should be a mapping")
    if not isinstance(data.get("tags", []), list) or not isinstance(data.get("license", ""), (str, list)):
        raise Refusal(400, "Invalid YAML metadata: tags should be a list, license a string")
    return data


def card_tags(data: Mapping[str, object]) -> list[str]:
    """The tags that the Hub shows and filters by."""
    tags = [str(tag) for tag in data.get("tags") or []]  # type: ignore[attr-defined]
    for key in TAGS:
        value = data.get(key) or []
        tags += [f"{key}:{one}" for one in (value if isinstance(value, list) else [value])]
    return tags
