"""The threats to whoever loads an artifact: each hostile folder is refused, by file and rule, in little memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_artifact import content, forge, full, refused, tiny

import ddhub
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import (
    COMPENSATORS,
    MANIFEST,
    PARQUET,
    RESULTS,
    TENSORS,
    canonical,
    read_manifest,
    seal,
)
from ddhub.cli.app import main
from ddhub.errors import ArtifactError
from ddhub.protocols.protocol import Protocol
from tests.hostile import THREATS
from tests.hostile.files import PICKLE

ROOT = Path(__file__).parents[2]
LARGEST = 300  # MB above a process that has imported the same and idles

LOAD = """
import json, sys, time
from contextlib import suppress
from pathlib import Path
import torch
import ddhub
from ddhub.errors import ArtifactError
from ddhub.teachers import open_teacher

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(field))

torch.set_num_threads(1)
ddhub.load(sys.argv[1])
idle = resident("VmRSS")
for folder in sys.argv[2:]:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; where it cannot, it only grows
    begin = time.process_time()
    try:
        load = open_teacher if (Path(folder) / "teacher.json").exists() else ddhub.load
        load(folder)
        said = "loaded"
    except ArtifactError as error:
        said = str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    row = {"said": said, "MB": resident("VmHWM") - idle, "seconds": time.process_time() - begin}
    print(json.dumps(row), flush=True)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each threat came to: what was `said`, peak `MB` above idle, CPU `seconds`; all in one process."""
    top = tmp_path_factory.mktemp("threats")
    full(top / "sound")
    folders = {name: top / f"t{number}" for number, name in enumerate(THREATS)}
    for name, folder in folders.items():
        shutil.copytree(top / "sound", folder)
        THREATS[name].make(folder)
    command = [sys.executable, "-c", LOAD, str(top / "sound"), *map(str, folders.values())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{[*folders][len(rows)]}: {done.returncode} {done.stderr}"
    return {name: {**row, "folder": folders[name]} for name, row in zip(folders, rows, strict=True)}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", THREATS)
def test_a_hostile_artifact_is_refused(found: dict[str, dict[str, Any]], name: str) -> None:
    row, threat = found[name], THREATS[name]
    said, folder = row["said"], row["folder"]
    print(f"{name:32} {row['MB']:5.0f} MB {row['seconds']:6.3f} s  {said.removeprefix(str(folder))[:150]}")
    assert str(folder / threat.file) in said, said
    for word in threat.words:
        assert word in said, said
    assert said.isprintable() and len(said) < 1000
    assert row["MB"] < LARGEST


def in_a_cache(folder: Path, repository: Path) -> Path:
    """The artifact as the Hub's client stores it: each file a link from a snapshot to a blob."""
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / f"{number:064x}"
        shutil.copy(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_links_of_the_hub_cache_are_followed_and_no_others(tmp_path: Path) -> None:
    full(tmp_path / "a")
    snapshot = in_a_cache(tmp_path / "a", tmp_path / "hub" / "datasets--lab--a")
    assert Artifact.open(snapshot).manifest == Artifact.open(tmp_path / "a").manifest
    (tmp_path / "linked").symlink_to(snapshot)  # of the folder itself the user knows
    Artifact.open(tmp_path / "linked")
    (tmp_path / "moved").symlink_to(tmp_path / "hub")  # a cache on another disk
    Artifact.open(tmp_path / "moved" / "datasets--lab--a" / "snapshots" / ("0" * 40))

    other = in_a_cache(tmp_path / "a", tmp_path / "hub" / "datasets--lab--b")
    blob = (snapshot / RESULTS).resolve()
    blob.unlink()
    blob.symlink_to(tmp_path / "a" / RESULTS)  # through a blob to elsewhere
    refused(snapshot, RESULTS, "a link to a place outside")
    (other / RESULTS).unlink()
    (other / RESULTS).symlink_to(snapshot.parents[1] / "blobs" / f"{0:064x}")  # to another repository
    refused(other, RESULTS, "a link to a place outside")


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that would leave a trace in every text, and every way to unpickle failing loudly."""
    trace = tmp_path / "trace"
    text = f"open({str(trace)!r}, 'w')\n"
    manifest = tiny(citation=text, deviations=[text], recipe={**tiny().recipe, "path": text, "config": {"x": text}})
    Artifact.write(tmp_path / "a", manifest=manifest, **content())

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"), (np, "load")):
        monkeypatch.setattr(module, name, fail)
    with pytest.raises(AssertionError, match="unpickled"):
        pickle.loads(PICKLE)
    ddhub.load(tmp_path / "a")
    assert not trace.exists() and sys.modules.get("recipe") is None
    for name in ("a pickle for tensors", "a pickle for images", "a type that is unpickled"):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        full(tmp_path / "b")
        THREATS[name].make(tmp_path / "b")
        with pytest.raises(ArtifactError):
            ddhub.load(tmp_path / "b")


def test_a_copy_for_viewers_belongs_and_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    full(folder)
    (folder / COMPENSATORS).parent.mkdir()
    (folder / COMPENSATORS).write_bytes(b"whatever")
    Artifact.open(folder)
    Artifact.write(folder, manifest=tiny(), **content())  # and goes with the artifact
    assert not (folder / COMPENSATORS).exists()
    (folder / COMPENSATORS).parent.mkdir()
    (folder / "compensators" / "more.parquet").write_bytes(b"")
    refused(folder, "compensators/more.parquet", "not part of the artifact")


def test_the_limit_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(tmp_path / "a")
    size = sum(entry["bytes"] for entry in read_manifest(tmp_path / "a").files.values())
    monkeypatch.setenv("DDHUB_MAX_BYTES", str(size))
    Artifact.open(tmp_path / "a")
    monkeypatch.setenv("DDHUB_MAX_BYTES", str(size - 1))
    refused(tmp_path / "a", MANIFEST, f"DDHUB_MAX_BYTES allows {size - 1:,}; set it higher if you trust the artifact")
    Artifact.write(tmp_path / "b", manifest=tiny(), **content())  # what one makes oneself may have any size


def test_each_file_is_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    full(folder)
    opened: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]).startswith(str(folder)):
            opened.append(str(args[0]))

    sys.addaudithook(hook)
    artifact = Artifact.open(folder)
    assert sorted(opened) == sorted(str(path) for path in folder.rglob("*") if path.is_file())
    images, labels, tensors = artifact.images(), artifact.image_labels(), artifact.tensors()
    assert images is artifact.images() and labels is artifact.image_labels()
    assert all(tensor is artifact.tensors()[name] for name, tensor in tensors.items())
    assert len(opened) == 6
    opened.clear()
    artifact.verify()  # which does not trust what was read before
    assert len(opened) == 5
    data = bytearray((folder / PARQUET).read_bytes())
    data[100] ^= 1
    (folder / PARQUET).write_bytes(data)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        artifact.verify()
    (folder / TENSORS).unlink()
    with pytest.raises(ArtifactError, match=r"tensors\.safetensors: missing"):
        Artifact.open(folder, verify=False).tensors()


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202eevil\u2066\u2028"


def test_no_command_prints_what_steers_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text of a manifest and of a result, through every command that shows some of them."""
    folder = tmp_path / "a"
    full(folder)
    record = read_manifest(folder)
    texts = {key: getattr(record, key) + EVIL for key in ("method", "dataset", "license", "citation")}

    def change(manifest: dict[str, Any]) -> None:
        manifest.update(texts, deviations=[EVIL], teachers=[{EVIL: EVIL}], paper=[])
        manifest["classes"] = [name + EVIL for name in manifest["classes"]]
        manifest["source"] = {key: value + EVIL for key, value in manifest["source"].items()}
        manifest["protocol"] = Protocol(epochs=3).to_json()
        manifest["recipe"].update(repository=EVIL, path=EVIL, commit=EVIL, preset=EVIL, run=seal({"device": EVIL}))

    forge(folder, change)
    said = {"artifact": "tiny-random-ipc2", "digest": read_manifest(folder).digest, "seed": 0, "accuracy": 1.0}
    facts = ("protocol", "model", "test_name", "test", "test_fingerprint")
    said |= {key: EVIL for key in (*facts, "device", "precision", "versions")}
    said |= {"settings": Protocol(epochs=3).to_json(), "protocol_digest": Protocol(epochs=3).digest}
    said |= {"test_images": 1, "epochs": 3, "steps": 1, "seconds": 1.0}
    (folder / RESULTS).write_text(canonical(seal(said)) + "\n")
    (folder / "README.md").unlink()
    monkeypatch.chdir(tmp_path)
    for command in (["info"], ["info", "--json"], ["verify"], ["preview"], ["cite"], ["card"], ["compare"]):
        monkeypatch.setattr(sys, "argv", ["ddhub", command[0], str(folder), *command[1:]])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = "".join(capsys.readouterr())
        assert ended.value.code == 0 and shown, (command, shown)
        assert command != ["info"] or shown.count("evil") > 9
        unseen = {char for char in shown if not (char.isprintable() or char == "\n")}
        assert not unseen, (command, unseen)
