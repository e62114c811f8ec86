"""Killed at twenty points of a download: the next one completes, and no part of an artifact is ever loadable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ddhub.artifact.folder import Artifact
from ddhub.errors import DDHubError
from ddhub.remote.find import resolve
from hub.made import REPO, is_exactly, version
from hub.server import DummyHub

ROOT = Path(__file__).parents[2]
POINTS = 22  # of which a few may never be reached: how many pieces a socket receives varies
Kill = Callable[[Path, int], str]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="os.fork")


@pytest.fixture
def kill(hub: DummyHub, tmp_path: Path) -> Iterator[Kill]:
    """Download into a cache, killed at a point: "killed", or how many points there were."""
    env = {**hub.environment(tmp_path), "PYTHONPATH": str(ROOT)}
    nursery = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
    with subprocess.Popen(nursery, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def fetch(cache: Path, point: int) -> str:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(["fetch", REPO, str(cache), point]) + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield fetch
        assert process.stdin
        process.stdin.close()


def test_a_killed_download_leaves_all_or_nothing(hub: DummyHub, kill: Kill, tmp_path: Path) -> None:
    """Every other time an older version is in the cache, and what is loaded is one or the other."""
    old, new = hub.put(REPO, version(1)), hub.put(REPO, version(2))

    def sound(folder: Path) -> bool:
        return is_exactly(folder, version(2)) or (folder.name == old and is_exactly(folder, version(1)))

    total, killed = int(kill(tmp_path / "clean", 0)), 0
    for i in range(POINTS):
        cache = tmp_path / str(i)
        if i % 2:
            hub.move(REPO, "main", old)
            resolve(REPO, cache_dir=cache)
            hub.move(REPO, "main", new)
        killed += kill(cache, 1 + i * (total - 1) // (POINTS - 1)) == "killed"
        for folder in cache.glob("*/snapshots/*"):
            with suppress(DDHubError):
                Artifact.open(folder)
                assert sound(folder)
        with suppress(DDHubError):
            assert sound(resolve(REPO, cache_dir=cache, local_files_only=True))
        assert is_exactly(resolve(REPO, cache_dir=cache), version(2))
    assert killed >= 20
