"""Teachers that are nowhere here come from the Hub by their id, checked to the byte, and are asked for once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_teachers import FACTS, artifact, net, with_ids

import ddhub
from ddhub import hub as names
from ddhub import teachers
from ddhub.errors import ArtifactError, UsageError
from ddhub.protocols.protocol import Protocol
from hub.made import contents
from hub.server import DummyHub

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture
def known(hub: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a teacher, the model repository lab/net, which the artifact lab/taught names."""
    monkeypatch.setattr(teachers, "_identified", {})
    digest = teachers.write(tmp_path / "made" / "net", net(), **FACTS)
    folder = artifact(tmp_path / "made" / "taught", with_ids([{"name": "net", "digest": digest}]), Protocol())
    hub.put("lab/net", {**contents(tmp_path / "made" / "net"), "README.md": b"# net\n"}, repo_type="model")
    hub.put("lab/taught", contents(folder))
    shutil.rmtree(tmp_path / "made")
    return f"net@{digest[:12]}"


def test_an_artifact_of_the_hub_finds_its_teachers_there(hub: DummyHub, known: str) -> None:
    data = ddhub.load("lab/taught")
    x, y = next(data.batches(0))
    assert y.shape == (len(x), 3)
    asked = {request.file for request in hub.log if "lab/net" in request.path}
    assert asked == {"", teachers.TEACHER, teachers.WEIGHTS}
    hub.log.clear()
    ddhub.load("lab/taught")
    assert not [request for request in hub.log if "lab/net" in request.path]
    hub.stop()
    again, labels = next(ddhub.load("lab/taught", local_files_only=True).batches(0))
    assert again.equal(x) and labels.equal(y)


def test_an_id_is_found_in_the_namespace(hub: DummyHub, known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown teacher 'net'.*; ddhub/net: no such repository"):
        teachers.resolve(known)
    monkeypatch.setenv("DDHUB_NAMESPACE", "lab")
    folder = teachers.resolve(known)
    assert f"net@{teachers.verify(folder)['digest'][:12]}" == known
    assert teachers.identify(known) == known


def test_a_name_without_a_digest_is_not_asked_for(hub: DummyHub, known: str) -> None:
    for name in ("net", "lab/net", "../net@0123456789ab"):
        with pytest.raises(UsageError, match="unknown teacher"):
            teachers.resolve(name)
    assert not hub.log


def test_another_teacher_of_the_name_is_refused(
    hub: DummyHub, known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers.write(tmp_path / "net", net(1), **FACTS)
    hub.put("lab/net", contents(tmp_path / "net"), repo_type="model")
    shutil.rmtree(tmp_path / "net")
    with pytest.raises(ArtifactError, match=f"lab/net: its digest is .*, not {known[4:]} as expected"):
        ddhub.load("lab/taught")


def test_damaged_weights_are_fetched_once_more_or_refused(hub: DummyHub, known: str) -> None:
    hub.fault("flip", bit=9999, route="cdn", path=teachers.WEIGHTS)
    ddhub.load("lab/taught")
    hub.fault("flip", bit=9999, route="cdn", path=teachers.WEIGHTS, times=None)
    with pytest.raises(ArtifactError, match="weights.safetensors: its sha256 differs"):
        ddhub.load("lab/taught", force_download=True)
    hub.clear_faults()
    ddhub.load("lab/taught")


def test_download_brings_the_teachers_too(hub: DummyHub, known: str, tmp_path: Path) -> None:
    names.download("lab/taught")
    hub.stop()
    ddhub.load("lab/taught", local_files_only=True)
