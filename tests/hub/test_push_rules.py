"""What may be published, and by whom: tokens, results, baselines, drafts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_results import result, tiny

from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import README, TENSORS
from ddhub.cli.app import cli
from ddhub.errors import DDHubError, HubError, UsageError
from ddhub.protocols.named import protocol
from ddhub.publish.push import push
from hub import shelf
from hub.server import DummyHub
from hub.shelf import INFER, RANDOM

REPO = f"lab/{INFER}"

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "a push needs a token, and there is none"),
        ("hf_of_nobody", "does not know the token"),
        (DummyHub.read_token, "the token may read but not write"),
    ],
)
def test_without_a_token_that_may_write_nothing_is_tried(
    hub: DummyHub, tmp_path: Path, token: str | None, said: str
) -> None:
    with pytest.raises(HubError, match=rf"{said}; make one of role 'write' \(.*\), then: hf auth login$") as caught:
        push(shelf.pair(tmp_path), REPO, token=token)
    assert {one.route for one in hub.log} <= {"whoami"} and not hub.repos
    assert not token or token not in str(caught.value)


def test_a_token_given_is_the_one_that_is_used(hub: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.stranger_token)
    folder = shelf.pair(tmp_path)
    with pytest.raises(HubError, match="403"):
        push(folder, REPO)
    assert not hub.repos and push(folder, REPO, token=hub.token).tag == "v1"


def test_what_has_no_results_or_is_below_its_baseline_is_not_published(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, folder = signed_in, shelf.infer(tmp_path / INFER)
    with pytest.raises(UsageError, match=rf"{INFER} has no results; record some: ddhub train {folder} --seeds 3"):
        push(folder, REPO)
    shelf.record(Artifact.open(folder), 29.0, 30.0)
    with pytest.raises(UsageError, match="make it: python -m recipes random-real .*tiny-random-ipc2 --dataset tiny"):
        push(folder, REPO)
    random = shelf.random(tmp_path / RANDOM)
    with pytest.raises(UsageError, match=r"no result of convnet3 .*--baseline --protocol infer-dynamic --model conv"):
        push(folder, REPO)
    shelf.record(Artifact.open(random), 30.0, 31.0)
    with pytest.raises(UsageError, match=r"29\.50 %, tiny-random-ipc2 30\.50 %; .* --accept-below-baseline"):
        push(folder, REPO)
    assert not hub.log
    push(folder, REPO, accept_below_baseline=True)
    text = hub.files(REPO)[README].decode()
    assert "**Below random selection** of as many images: convnet3 under infer-dynamic; see the results." in text
    assert "scores below random selection (30.50 %)" in text
    push(random, f"lab/{RANDOM}")  # the baseline itself needs none


def test_what_was_made_from_a_changed_working_tree_is_not_published(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, commit = signed_in, "29132ea9950348b6509b2e0b33a63208f0931095"
    dirty = shelf.random(tmp_path / RANDOM, 30.0, recipe={**tiny().recipe, "commit": f"{commit}+"})
    for target in (f"lab/{RANDOM}", tmp_path / "tree"):
        with pytest.raises(UsageError, match=f"{RANDOM} was made from a working tree .*, or .* --accept-uncommitted"):
            push(dirty, target)
        with pytest.raises(UsageError, match="differs from its commit, so its code cannot be looked up; commit and"):
            push(dirty, target, dry_run=True, accept_below_baseline=True)
    assert not hub.log and not (tmp_path / "tree").exists()
    words = ["push", str(dirty), "--to", f"lab/{RANDOM}"]
    assert CliRunner().invoke(cli, words).exit_code != 0 and not hub.repos
    done = CliRunner().invoke(cli, [*words, "--accept-uncommitted"], catch_exceptions=False)
    assert done.exit_code == 0 and "published" in done.stdout
    assert f"| commit | {commit}+ |" in hub.files(f"lab/{RANDOM}")[README].decode()
    push(dirty, tmp_path / "tree", accept_uncommitted=True)
    assert (tmp_path / "tree" / RANDOM / README).exists()
    clean = shelf.random(tmp_path / "clean" / RANDOM, 30.0, recipe={**tiny().recipe, "commit": commit})
    assert push(clean, tmp_path / "other").changed  # it takes no option


def test_of_several_baselines_the_one_with_the_same_students_counts(signed_in: DummyHub, tmp_path: Path) -> None:
    folder = shelf.pair(tmp_path)
    other = Artifact.open(shelf.random(tmp_path / "a-random", license="other"))
    other.add_result(asdict(result(other.manifest, 0, 99.0, plan=protocol("infer-static"))))
    assert "30.50 %" in push(folder, REPO).checks[1]


def test_private_means_private(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    push(folder, f"ddhub/{INFER}")
    with pytest.raises(UsageError, match=f"ddhub/{INFER} is public; make it private in its settings first"):
        push(folder, f"ddhub/{INFER}", private=True)
    push(folder, REPO, private=True)
    assert hub.repos["dataset", REPO].private and not hub.repos["dataset", f"ddhub/{INFER}"].private
    assert push(folder, REPO, private=True).changed is False


def test_a_pull_request_and_a_branch_are_drafts(signed_in: DummyHub, tmp_path: Path) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    with pytest.raises(HubError, match="no such repository to open a pull request for"):
        push(folder, REPO, create_pr=True)
    first = push(folder, REPO)
    shelf.record(Artifact.open(folder), 42.0, 40.0, 41.0)
    draft = push(folder, REPO, create_pr=True, catalog=tmp_path / "catalog.json")
    assert draft.url.endswith("/discussions/1") and (draft.tag, draft.pin) == ("", None)
    assert hub.commits(REPO)[0] == first.commit and hub.head(REPO, "refs/pr/1") == draft.commit
    branch = push(folder, REPO, revision="next")
    assert (branch.tag, branch.pin) == ("", None) and hub.head(REPO, "next") == branch.commit != first.commit
    assert push(folder, REPO, revision="next").changed is False
    assert hub.commits(REPO)[0] == first.commit and hub.tags(REPO) == {"v1": first.commit}
    assert not (tmp_path / "catalog.json").exists()
    with pytest.raises(UsageError, match="a pull request goes to main; leave out the revision 'next'"):
        push(folder, REPO, revision="next", create_pr=True)


def test_a_damaged_artifact_is_not_published(signed_in: DummyHub, tmp_path: Path) -> None:
    folder = shelf.pair(tmp_path)
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-1] + b"x")
    with pytest.raises(DDHubError, match=TENSORS):
        push(folder, REPO)
    assert not signed_in.log
