"""The dummy hub, asked by the real client, the real `datasets` and the real `hf`."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub as hf
import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import CommitOperationDelete as Delete
from huggingface_hub import errors
from PIL import Image

from hub.server import DummyHub
from hub.store import Blob, tree_id

TENSORS = np.random.default_rng(0).bytes(3_000_000)
README = b"""---
license: mit
tags: [ddhub, ipc10]
size_categories: [n<1K]
configs:
- {config_name: default, data_files: [{split: train, path: data/train-*.parquet}]}
---
# Some data
"""


@pytest.fixture
def api(hub: DummyHub) -> hf.HfApi:
    return hf.HfApi(token=hub.token)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def parquet(pixels: np.ndarray) -> bytes:
    """Six images of two classes."""
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    rows = {"image": [Image.fromarray(one) for one in pixels], "label": [0, 0, 0, 1, 1, 1]}
    datasets.Dataset.from_dict(rows, features).to_parquet(target := io.BytesIO())
    return target.getvalue()


@pytest.fixture
def filled(hub: DummyHub, parquet: bytes) -> str:
    files = {"README.md": README, "data/train-0.parquet": parquet, "d.safetensors": TENSORS, "a/b/c.json": b"{}"}
    return hub.put("lab/data", files)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_ids_are_those_of_git(hub: DummyHub, tmp_path: Path) -> None:
    files = {"a.txt": b"hello\n", "a/deep/er.txt": b"1", "a-b": b"2", "a0": b"", "z.parquet": TENSORS[:100]}
    oid = hub.put("lab/data", files)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(TENSORS[:100]).hexdigest()}\n"
    files |= {"z.parquet": f"{pointer}size 100\n".encode(), ".gitattributes": b"*.parquet -text\n"}

    # Neither the user's settings nor the repository of a hook that runs the tests.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], cwd=tmp_path, env=env, capture_output=True, check=True, text=True
        ).stdout.strip()

    git("init", "-q")
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    git("add", ".")
    blobs = hub.repos["dataset", "lab/data"].commits[oid].files
    assert tree_id({**blobs, ".gitattributes": Blob(files[".gitattributes"], False)}) == git("write-tree")


def test_whoami_knows_its_tokens(hub: DummyHub, api: hf.HfApi) -> None:
    assert api.whoami()["name"] == "ddhub" and api.whoami()["orgs"][0]["name"] == "lab"
    assert hf.HfApi(token=hub.read_token).whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(errors.HfHubHTTPError, match="Invalid user token"):
        hf.HfApi(token="hf_of_nobody").whoami()


def test_repositories_are_created_hidden_and_deleted(hub: DummyHub, api: hf.HfApi) -> None:
    url = api.create_repo("lab/new", repo_type="dataset", private=True)
    assert (url.repo_id, url.repo_type, str(url)) == ("lab/new", "dataset", f"{hub.endpoint}/datasets/lab/new")
    assert hub.files("lab/new") == {} and len(hub.commits("lab/new")) == 1
    assert api.create_repo("lab/new", repo_type="dataset", exist_ok=True).repo_id == "lab/new"
    assert api.create_repo("ddhub/teacher").repo_type == "model"
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_repo("lab/new", repo_type="dataset")
    for token, name in ((hub.token, "others/new"), (hub.read_token, "lab/other"), (hub.stranger_token, "lab/other")):
        with pytest.raises(errors.HfHubHTTPError, match="403"):
            api.create_repo(name, repo_type="dataset", token=token)
    with pytest.raises(errors.RepositoryNotFoundError):
        hf.HfApi(token=False).dataset_info("lab/new")
    assert api.dataset_info("lab/new").private
    api.update_repo_settings("lab/new", repo_type="dataset", private=False, gated="auto")
    assert hf.HfApi(token=False).dataset_info("lab/new").gated == "auto"
    api.delete_repo("lab/new", repo_type="dataset")
    assert not api.repo_exists("lab/new", repo_type="dataset")


def test_a_folder_is_uploaded_once(hub: DummyHub, api: hf.HfApi, tmp_path: Path, parquet: bytes) -> None:
    files = {"README.md": README, "data/train-0.parquet": parquet, "d.safetensors": TENSORS, "empty.json": b""}
    for name, data in files.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(data)
    api.create_repo("lab/up", repo_type="dataset")
    done = api.upload_folder(repo_id="lab/up", repo_type="dataset", folder_path=tmp_path / "up")
    assert hub.files("lab/up") == files and hub.head("lab/up") == done.oid
    assert [one.host.split(":")[0] for one in hub.requests("lfs_put")] == ["localhost", "localhost"]
    again = api.upload_folder(repo_id="lab/up", repo_type="dataset", folder_path=tmp_path / "up")
    assert again.oid == done.oid and len(hub.commits("lab/up")) == 2 and len(hub.requests("lfs_put")) == 2
    found = hf.snapshot_download("lab/up", repo_type="dataset", local_dir=tmp_path / "down")
    assert {name: (Path(found) / name).read_bytes() for name in files} == files
    checked = api.verify_repo_checksums("lab/up", repo_type="dataset", local_dir=tmp_path / "down")
    assert (checked.checked_count, checked.mismatches) == (5, [])


def test_the_same_pushes_make_the_same_ids(hub: DummyHub, filled: str) -> None:
    files = hub.files("lab/data")
    hub.clear()
    assert hub.put("lab/data", files) == filled != hub.put("lab/data", files)


def test_commits_add_delete_and_heed_their_parent(hub: DummyHub, api: hf.HfApi, filled: str) -> None:
    def commit(*operations: Add | Delete, **kwargs: object) -> hf.CommitInfo:
        return api.create_commit("lab/data", operations, commit_message="change", repo_type="dataset", **kwargs)

    done = commit(Add("n.txt", b"new"), Delete("README.md"), Delete("a/", is_folder=True), parent_commit=filled)
    assert set(hub.files("lab/data")) == {"data/train-0.parquet", "d.safetensors", "n.txt"}
    assert [one.title for one in api.list_repo_commits("lab/data", repo_type="dataset")][:2] == ["change", "put"]
    with pytest.raises(errors.HfHubHTTPError, match="412"):
        commit(Add("m.txt", b"new"), parent_commit=filled)
    with pytest.raises(ValueError, match="YAML"):
        commit(Add("README.md", b"---\na: [\n---\n"))
    with pytest.raises(errors.EntryNotFoundError):
        commit(Delete("nowhere"))
    assert hub.head("lab/data") == done.oid
    proposed = commit(Add("m.txt", b"new"), create_pr=True, token=hub.stranger_token)
    assert (proposed.pr_revision, proposed.pr_num) == ("refs/pr/1", 1)
    assert hub.head("lab/data") == done.oid and "m.txt" in hub.files("lab/data", "refs/pr/1")
    assert api.list_repo_refs("lab/data", repo_type="dataset", include_pull_requests=True).pull_requests


def test_tags_and_branches(hub: DummyHub, api: hf.HfApi, filled: str) -> None:
    api.create_branch("lab/data", branch="exp/a", repo_type="dataset")
    api.create_branch("lab/data", branch="exp/a", repo_type="dataset", exist_ok=True)
    done = api.upload_file(
        path_or_fileobj=b"1", path_in_repo="x", repo_id="lab/data", repo_type="dataset", revision="exp/a"
    )
    assert hub.head("lab/data") == filled and hub.head("lab/data", "exp/a") == done.oid
    assert Path(hf.hf_hub_download("lab/data", "x", repo_type="dataset", revision="exp/a")).read_bytes() == b"1"
    api.create_tag("lab/data", tag="v1", repo_type="dataset")
    api.create_tag("lab/data", tag="v2", repo_type="dataset", revision=done.oid, tag_message="second")
    assert hub.tags("lab/data") == {"v1": filled, "v2": done.oid}
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_tag("lab/data", tag="v1", repo_type="dataset")
    refs = api.list_repo_refs("lab/data", repo_type="dataset")
    assert [ref.name for ref in refs.branches + refs.tags] == ["exp/a", "main", "v1", "v2"]
    api.delete_tag("lab/data", tag="v1", repo_type="dataset")
    api.delete_branch("lab/data", branch="exp/a", repo_type="dataset")
    with pytest.raises(errors.RevisionNotFoundError):
        api.delete_tag("lab/data", tag="v1", repo_type="dataset")
    assert api.dataset_info("lab/data", revision="v2").sha == done.oid
    hub.move("lab/data", "main", done.oid)
    assert api.dataset_info("lab/data").sha == done.oid


def test_listings_come_in_pages(hub: DummyHub, api: hf.HfApi, filled: str) -> None:
    hub.page_size = 3
    names = [".gitattributes", "README.md", "a/b/c.json", "d.safetensors", "data/train-0.parquet"]
    assert sorted(api.list_repo_files("lab/data", repo_type="dataset")) == names
    assert len(hub.requests("tree")) == 3
    top = {one.path: one for one in api.list_repo_tree("lab/data", repo_type="dataset", expand=True)}
    assert set(top) == {".gitattributes", "README.md", "a", "d.safetensors", "data"}
    assert top["d.safetensors"].lfs.sha256 == hashlib.sha256(TENSORS).hexdigest()
    assert top["README.md"].last_commit.oid == filled
    assert [one.path for one in api.list_repo_tree("lab/data", "a/b", repo_type="dataset")] == ["a/b/c.json"]
    found = api.get_paths_info("lab/data", ["a", "README.md", "nowhere"], repo_type="dataset")
    assert [one.path for one in found] == ["a", "README.md"]
    with pytest.raises(errors.EntryNotFoundError):
        list(api.list_repo_tree("lab/data", "nowhere", repo_type="dataset"))


def test_info_and_search(hub: DummyHub, api: hf.HfApi, filled: str) -> None:
    hub.put("ddhub/other", {"README.md": b"no card"})
    hub.put("ddhub/teacher", {"model.safetensors": b"1"}, repo_type="model")
    about = api.dataset_info("lab/data", files_metadata=True)
    assert (about.sha, about.card_data["license"], about.author) == (filled, "mit", "lab")
    assert {"ddhub", "license:mit", "size_categories:n<1K"} <= set(about.tags)
    sizes = {one.rfilename: (one.size, one.lfs and one.lfs.sha256) for one in about.siblings}
    assert sizes["d.safetensors"] == (3_000_000, hashlib.sha256(TENSORS).hexdigest())
    assert api.dataset_info("lab/data", expand=["sha"]).siblings is None
    assert [one.id for one in api.list_datasets(filter="ddhub")] == ["lab/data"]
    assert [one.id for one in api.list_datasets(author="ddhub")] == ["ddhub/other"]
    assert [one.id for one in api.list_models()] == ["ddhub/teacher"]


def test_downloads_and_what_is_not_there(hub: DummyHub, filled: str) -> None:
    assert Path(hf.hf_hub_download("lab/data", "a/b/c.json", repo_type="dataset")).read_bytes() == b"{}"
    assert Path(hf.hf_hub_download("lab/data", "d.safetensors", repo_type="dataset")).read_bytes() == TENSORS
    assert [(one.route, one.method) for one in hub.log][2:] == [("resolve", "HEAD"), ("cdn", "GET")]
    with pytest.raises(errors.EntryNotFoundError):
        hf.hf_hub_download("lab/data", "nothing", repo_type="dataset")
    with pytest.raises(errors.RevisionNotFoundError):
        hf.hf_hub_download("lab/data", "d.safetensors", repo_type="dataset", revision="v9")
    with pytest.raises(errors.RepositoryNotFoundError):
        hf.hf_hub_download("lab/nothing", "d.safetensors", repo_type="dataset")
    with pytest.raises(errors.RepositoryNotFoundError):
        hf.hf_hub_download("lab/data", "d.safetensors")  # a model


def test_a_pinned_snapshot_asks_once(hub: DummyHub, filled: str) -> None:
    hub.put("lab/data", {"README.md": b"later"})
    folder = Path(
        hf.snapshot_download("lab/data", repo_type="dataset", revision=filled, allow_patterns=["*.md", "a/*"])
    )
    assert folder.name == filled and (folder / "README.md").read_bytes() == README
    assert {one.route for one in hub.log} == {"tree", "resolve"}
    hub.log.clear()
    assert hf.snapshot_download("lab/data", repo_type="dataset", revision=filled, allow_patterns=["*.md", "a/*"])
    assert [one.route for one in hub.log if one.method != "HEAD"] == []


def test_private_and_gated(hub: DummyHub, filled: str, tmp_path: Path) -> None:
    def get(token: str | bool) -> bytes:
        hub.new_home(tmp_path / str(len(hub.log)))
        return Path(hf.hf_hub_download("lab/data", "README.md", repo_type="dataset", token=token)).read_bytes()

    hub.gate("lab/data")
    for token in (False, hub.stranger_token):
        with pytest.raises(errors.GatedRepoError):
            get(token)
    assert get(hub.read_token) == README
    hub.hide("lab/data")
    for token in (False, hub.stranger_token):
        with pytest.raises(errors.RepositoryNotFoundError) as caught:
            get(token)
        assert not isinstance(caught.value, errors.GatedRepoError)
    assert get(hub.read_token) == README


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_pixels_and_classes(hub: DummyHub, filled: str, pixels: np.ndarray, streaming: bool) -> None:
    import datasets

    found = datasets.load_dataset("lab/data", split="train", streaming=streaming)
    assert found.features["label"].names == ["cat", "dog"]
    rows = list(found)
    assert [row["label"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(np.stack([np.asarray(row["image"]) for row in rows]), pixels)


def test_hffilesystem_lists_and_reads_ranges(hub: DummyHub, filled: str) -> None:
    fs = hf.HfFileSystem()
    names = {name.removeprefix("datasets/lab/data/") for name in fs.glob("datasets/lab/data/**")}
    assert {"README.md", "a/b/c.json", "d.safetensors"} <= names
    with fs.open(f"datasets/lab/data@{filled}/d.safetensors", "rb", block_size=1000) as file:
        file.seek(2_000_000)
        assert file.read(10) == TENSORS[2_000_000:2_000_010]
    assert hub.requests("cdn")[-1].status == 206
    hub.put("lab/data", {"README.md": b"changed"})
    assert hf.HfFileSystem(skip_instance_cache=True).cat("datasets/lab/data/README.md") == b"changed"


def test_the_command_line_of_the_hub(hub: DummyHub, filled: str, tmp_path: Path) -> None:
    env = hub.environment(tmp_path) | {"HF_TOKEN": hub.token}

    def run(*command: str) -> None:
        program = Path(sys.executable).with_name("hf")
        done = subprocess.run([program, *command], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr

    (tmp_path / "x.npz").write_bytes(TENSORS)
    run("upload", "lab/cli", "x.npz", "data/x.npz", "--repo-type", "dataset")
    assert hub.files("lab/cli") == {"data/x.npz": TENSORS}
    run("download", "lab/data", "--repo-type", "dataset", "--revision", filled, "--local-dir", "down")
    assert (tmp_path / "down" / "d.safetensors").read_bytes() == TENSORS
    run("cache", "verify", "lab/data", "--repo-type", "dataset", "--revision", filled, "--local-dir", "down")
