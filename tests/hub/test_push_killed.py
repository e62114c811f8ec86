"""Killed at twenty points of a push, to the Hub and to a folder: never a part of an artifact, the next push ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest

import ddhub
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import COMPENSATORS, README
from ddhub.errors import DDHubError
from hub import shelf
from hub.running import HUB
from hub.server import DummyHub
from hub.shelf import INFER, RANDOM

REPO = f"lab/{INFER}"
ROOT = Path(__file__).parents[2]
Kill = Callable[[Path, object, int], str]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="os.fork")


@pytest.fixture(scope="module")
def kill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kill]:
    """Push a folder somewhere, killed at a point: "killed", or how many points there were."""
    home = HUB.environment(tmp_path_factory.mktemp("home"))
    env = {**home, "HF_TOKEN": HUB.token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    nursery = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
    with subprocess.Popen(nursery, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def push(folder: Path, to: object, point: int) -> str:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(["push", str(folder), str(to), point]) + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield push
        assert process.stdin
        process.stdin.close()


@pytest.fixture
def versions(tmp_path: Path) -> dict[str, Path]:
    """Two artifacts of one name, each with a baseline beside it."""
    folders = {}
    for number, version in enumerate(("old", "new")):
        shelf.random(tmp_path / version / RANDOM, 30.0)
        folders[version] = shelf.infer(tmp_path / version / INFER, 40.0, seed=number)
    return folders


def points(total: str) -> list[int]:
    """Ten points, from the first event to the last."""
    assert int(total) >= 10
    return [1 + i * (int(total) - 1) // 9 for i in range(10)]


def version_of(load: Callable[[], ddhub.training.batches.DistilledData], digests: dict[str, str]) -> str:
    """Which of the two versions is loaded, "" where none can be."""
    with suppress(DDHubError):
        found = load().about.digest
        return next(version for version, digest in digests.items() if digest == found)
    return ""


@pytest.mark.parametrize("replaces", [False, True])
def test_a_push_to_the_hub(hub: DummyHub, kill: Kill, versions: dict[str, Path], replaces: bool) -> None:
    digests = {version: Artifact.open(folder).manifest.digest for version, folder in versions.items()}

    if replaces:
        kill(versions["old"], REPO, 0)
    before, commits = hub.repos, hub.commits(REPO) if replaces else []

    def start() -> None:
        hub.repos = deepcopy(before)

    def loaded() -> str:
        return version_of(lambda: ddhub.load(REPO, token=hub.token), digests)

    states = []
    start()
    for point in points(kill(versions["new"], REPO, 0)):
        start()
        assert kill(versions["new"], REPO, point) == "killed"
        tags = hub.tags(REPO) if hub.repos else {}
        states.append((loaded(), len(tags)))
        assert states[-1][0] in ("old" if replaces else "", "new")
        assert states[-1][0] == "new" or len(tags) == replaces
        assert kill(versions["new"], REPO, 0).isdigit()
        after = hub.commits(REPO)
        assert len(after) == (3 if replaces else 2) and (not replaces or after[1:] == commits)
        assert hub.tags(REPO)["v2" if replaces else "v1"] == after[0] and loaded() == "new"
        assert hub.files(REPO).keys() == {*Artifact.open(versions["new"]).file_bytes(), README, COMPENSATORS}
    assert len({held for held, _ in states}) == 2
    print(f"push killed at ten points, {'over another' if replaces else 'the first'}: loads, tags: {states}")


@pytest.mark.parametrize("replaces", [False, True])
def test_a_push_to_a_folder(kill: Kill, versions: dict[str, Path], tmp_path: Path, replaces: bool) -> None:
    tree = tmp_path / "tree"
    digests = {version: Artifact.open(folder).manifest.digest for version, folder in versions.items()}

    if replaces:
        kill(versions["old"], tmp_path / "before", 0)

    def start() -> None:
        shutil.rmtree(tree, ignore_errors=True)
        if replaces:
            shutil.copytree(tmp_path / "before", tree)

    def loaded() -> str:
        return version_of(lambda: ddhub.load(INFER, source=tree), digests)

    states = []
    start()
    for point in points(kill(versions["new"], tree, 0)):
        start()
        assert kill(versions["new"], tree, point) == "killed"
        states.append(loaded())  # between the folder and the catalog neither
        assert states[-1] in (("old", "", "new") if replaces else ("", "new"))
        assert kill(versions["new"], tree, 0).isdigit() and loaded() == "new"
        # The lock file stays where the second push had nothing to do, as the first had lost only its last step.
        assert {path.name for path in tree.iterdir()} - {".lock"} == {INFER, "catalog.json"}
    assert {"old" if replaces else "", "new"} <= {*states}
    print(f"push to a folder killed at ten points, {'over another' if replaces else 'the first'}: loads: {states}")
