"""Publishing: one commit and a tag, and nothing lost when it fails on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import ddhub.cli.app
from ddhub import teachers
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import COMPENSATORS, MANIFEST, README, RESULTS, TENSORS, check_text_seal
from ddhub.errors import HubError
from ddhub.publish import to_hub
from ddhub.publish.push import push
from ddhub.remote import client
from hub import shelf
from hub.made import contents
from hub.server import DummyHub
from hub.shelf import INFER, RANDOM

REPO = f"lab/{INFER}"

pytestmark = pytest.mark.usefixtures("hasty")


def writes(hub: DummyHub) -> list[str]:
    """The requests that may change something."""
    return [one.route for one in hub.log if one.method not in ("GET", "HEAD") and one.route != "paths_info"]


def test_a_push_is_one_commit_on_the_head_and_a_tag(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    done = push(folder, REPO, catalog=tmp_path / "catalog.json")
    there, digest = hub.files(REPO), Artifact.open(folder).manifest.digest
    assert there.keys() == {*contents(folder), README, COMPENSATORS}
    assert all(there[name] == data for name, data in contents(folder).items())
    check_text_seal(there[README].decode(), README)
    first, initial = hub.commits(REPO)
    header = json.loads(hub.requests("commit")[0].body.splitlines()[0])["value"]
    assert header["parentCommit"] == initial and header["summary"] == f"{INFER} {digest[:12]}"
    assert hub.tags(REPO) == {"v1": first} and len(hub.requests("commit")) == 1
    assert done.url == f"{hub.endpoint}/datasets/{REPO}" and done.changed
    assert done.files == {name: len(data) for name, data in there.items()}
    pin = {"repo": REPO, "revision": first, "digest": digest, "tag": "v1"}
    assert (done.commit, done.tag, asdict(done.pin or client.Pin("a/b", "", "", ""))) == (first, "v1", pin)
    assert client.pins(tmp_path / "catalog.json") == {INFER: client.Pin(**pin)}
    data = ddhub.load(f"{REPO}@v1")
    assert data.about.digest == digest and len(data) == 24
    assert contents(folder).keys() == Artifact.open(folder).file_bytes().keys()  # nothing was put into the folder


def test_the_same_again_writes_nothing_and_more_results_are_a_new_version(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    first = push(folder, REPO)
    hub.log.clear()
    assert push(folder, REPO) == first.__class__(**{**vars(first), "changed": False})
    assert not writes(hub) and len(hub.log) < 5
    shelf.record(Artifact.open(folder), 50.0, model="resnet18")
    shelf.record(Artifact.open(folder.parent / RANDOM), 20.0, model="resnet18")
    second = push(folder, REPO, commit_message="More results")
    assert (second.tag, second.changed) == ("v2", True)
    assert hub.commits(REPO)[:2] == [second.commit, first.commit]
    assert hub.tags(REPO) == {"v1": first.commit, "v2": second.commit}
    sent = [json.loads(line) for line in hub.requests("commit")[-1].body.splitlines()]
    assert sent[0]["value"]["summary"] == "More results"
    assert {line["value"]["path"] for line in sent[1:]} == {README, RESULTS}


def test_what_is_no_longer_published_is_deleted_and_what_is_the_owners_stays(
    signed_in: DummyHub, tmp_path: Path
) -> None:
    hub = signed_in
    push(shelf.pair(tmp_path), REPO)
    hub.put(REPO, {"data/train-00001-of-00002.parquet": b"PAR1", "LICENSE": b"mit", "paper/figure.png": b"x"})
    other = shelf.random(tmp_path / "other" / INFER, 30.0)
    assert push(other, REPO).tag == "v2"
    assert hub.files(REPO).keys() == {*contents(other), README, "LICENSE", "paper/figure.png"}


@pytest.mark.parametrize("there", [False, True])
def test_a_dry_run_says_all_and_writes_nothing(signed_in: DummyHub, tmp_path: Path, there: bool) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    if there:
        push(folder, REPO)
        shelf.record(Artifact.open(folder), 42.0, 40.0, 41.0)
    hub.log.clear()
    plan = push(folder, REPO, dry_run=True, catalog=tmp_path / "catalog.json")
    assert not writes(hub) and not (tmp_path / "catalog.json").exists() and (there or not hub.repos)
    assert (plan.tag, plan.commit, plan.changed) == ("v2" if there else "v1", "", True)
    assert plan.files.keys() == {*contents(folder), README, COMPENSATORS}
    assert plan.checks[0] == "the artifact loads" and f"{RANDOM} 30.50 %" in plan.checks[1]
    done = push(folder, REPO)
    assert (done.files, done.tag) == (plan.files, plan.tag)


def test_a_push_that_died_before_its_tag_is_only_tagged(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    hub.fault("status", route="tag", times=None, status=500)
    with pytest.raises(HubError, match="tag v1.*500"):
        push(folder, REPO)
    (commit, _), tags = hub.commits(REPO), hub.tags(REPO)
    assert not tags
    hub.clear_faults()
    hub.log.clear()
    done = push(folder, REPO)
    assert (done.commit, done.tag, done.changed) == (commit, "v1", False)
    assert writes(hub) == ["tag"] and hub.tags(REPO) == {"v1": commit} and len(hub.commits(REPO)) == 2


def test_a_commit_whose_answer_is_lost_is_found(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    hub.fault("cut", route="commit", bytes=0)
    done = push(folder, REPO)
    assert hub.commits(REPO)[0] == done.commit and len(hub.commits(REPO)) == 2 and hub.tags(REPO) == {"v1": done.commit}


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("route", ["validate_yaml", "preupload", "lfs_batch", "lfs_put", "lfs_verify", "commit"])
def test_a_failed_push_leaves_the_repository_as_it_was_and_is_repeated(
    signed_in: DummyHub, tmp_path: Path, route: str, status: int
) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    before = push(folder, REPO)
    shelf.infer(folder, 42.0, seed=1)
    files = hub.files(REPO)
    hub.fault("status", route=route, times=None, status=status)
    with pytest.raises(HubError, match=rf"^{REPO}.*{status}"):
        push(folder, REPO)
    assert (hub.commits(REPO)[0], hub.files(REPO), hub.tags(REPO)) == (before.commit, files, {"v1": before.commit})
    hub.clear_faults()
    after = push(folder, REPO)
    assert after.tag == "v2" and hub.commits(REPO) == [after.commit, before.commit, hub.commits(REPO)[-1]]
    assert hub.files(REPO)[TENSORS] == (folder / TENSORS).read_bytes()


def interrupt(monkeypatch: pytest.MonkeyPatch, act: Callable[[list[Any]], None]) -> None:
    """Do something with the operations of a commit just before it is made."""
    from huggingface_hub import HfApi

    make = HfApi.create_commit

    def create_commit(self: HfApi, repo: str, operations: list[Any], **options: Any) -> Any:
        act(operations)
        return make(self, repo, operations, **options)

    monkeypatch.setattr(HfApi, "create_commit", create_commit)


def test_nobody_elses_commit_is_overwritten(
    signed_in: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, lambda _: hub.put(REPO, {"theirs.txt": b"x"}) and None)
        with pytest.raises(HubError, match="someone else has committed in the meantime; push again"):
            push(folder, REPO)
    assert hub.files(REPO) == {"theirs.txt": b"x"} and not hub.tags(REPO)
    assert push(folder, REPO).tag == "v1" and "theirs.txt" in hub.files(REPO)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_what_arrives_other_than_it_was_sent_is_not_tagged(
    signed_in: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from huggingface_hub import CommitOperationAdd

    def spoil(operations: list[Any]) -> None:
        place = next(i for i, x in enumerate(operations) if x.path_in_repo == name)
        data = bytearray(operations[place].path_or_fileobj)
        data[-1] ^= 1
        operations[place] = CommitOperationAdd(name, bytes(data))

    hub, folder = signed_in, shelf.pair(tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, spoil)
        with pytest.raises(HubError, match=rf"{name} differs from the file that was sent \(commit [0-9a-f]+\); push"):
            push(folder, REPO)
    assert not hub.tags(REPO)
    done = push(folder, REPO)
    assert hub.tags(REPO) == {"v1": done.commit} and hub.files(REPO)[name] == (folder / name).read_bytes()


def test_a_teacher_goes_to_a_model_repository(signed_in: DummyHub, tmp_path: Path) -> None:
    from test_teachers import FACTS, net

    hub, folder = signed_in, tmp_path / "test-net"
    digest = teachers.write(folder, net(), **FACTS)
    done = push(folder, "lab/test-net")
    there = hub.files("lab/test-net", repo_type="model")
    assert there.keys() == {*contents(folder), README} and done.url == f"{hub.endpoint}/lab/test-net"
    assert hub.tags("lab/test-net", repo_type="model") == {"v1": done.commit} and done.pin is None
    assert f'open_teacher("test-net@{digest[:12]}")' in there[README].decode()
    assert push(folder, "lab/test-net").changed is False
    assert push(folder, tmp_path / "tree").changed and teachers.verify(tmp_path / "tree" / "test-net")


def test_hashes_are_those_of_the_hub() -> None:
    data = b"Hello, World!"  # its blob's id is in huggingface_hub's documentation
    assert to_hub._same(data, "b45ef6fec89518d314f546fd6c3025367b721684")
    assert to_hub._same(data, hashlib.sha256(data).hexdigest())
    assert not to_hub._same(data, "") and not to_hub._same(data + b"!", hashlib.sha256(data).hexdigest())
