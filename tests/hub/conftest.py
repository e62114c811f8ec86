"""For tests of the hub: a client that does not sleep between its tries."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ddhub nor the client waits before it asks again, and an answer may take half a second."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from ddhub import _remote, _snapshot, _static

    awake = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in (_http, file_download, _remote):
        monkeypatch.setattr(module, "time", awake)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    for module in (_snapshot, _static):
        monkeypatch.setattr(module, "TIMEOUT", 0.5)
