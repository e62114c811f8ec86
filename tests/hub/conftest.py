"""For tests of the hub: a client that does not sleep between its tries."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from hub import store


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ddhub nor the client waits before it asks again."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    from ddhub.remote import client

    awake = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in (_http, file_download, client):
        monkeypatch.setattr(module, "time", awake)


@pytest.fixture
def pictures_in_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repositories keep pictures beside texts, not as large files: the Hub says no sha256 of them."""
    monkeypatch.setattr(store, "LFS_PATTERNS", tuple(kind for kind in store.LFS_PATTERNS if kind != "png"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take half a second: where it is late on purpose, since on a busy machine any may be."""
    from huggingface_hub import constants, file_download

    from ddhub.remote import snapshot, static

    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    for module in (snapshot, static):
        monkeypatch.setattr(module, "TIMEOUT", 0.5)
