"""What all tests share: real data where there is some, and a cache that is not the user's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests run side by side, and threads that wait for one another make all of them slow


@pytest.fixture(autouse=True, scope="session")
def shared_cache() -> Iterator[Path]:
    """One cache for the whole session: decoding CIFAR-10 takes seconds, so it happens once."""
    with (
        tempfile.TemporaryDirectory(prefix="ddhub-tests-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DDHUB_CACHE", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """A data root with CIFAR-10: DDHUB_DATA, else shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("DDHUB_DATA") or beside)
    if not (root / "uoft-cs" / "cifar10" / "plain_text").is_dir():
        pytest.skip(f"no CIFAR-10 in {root}: set DDHUB_DATA to a data root to run this test")
    return root
