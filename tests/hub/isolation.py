"""What keeps tests to themselves: an environment that knows only the dummy hub, own caches, loopback sockets."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

blocked: list[str] = []  # where tests tried to connect to; whoever provokes it takes it out again

# Read when huggingface_hub and datasets are imported, and by every subprocess.
SETTINGS = {
    "HF_HUB_DISABLE_XET": "1",  # the client alone decides about Xet, and the dummy does not speak it
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # `datasets` counts its loads, even of local files, at a server of its own
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
OURS = ("DDHUB_NAMESPACE", "DDHUB_MAX_BYTES", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK", "DISABLE_TELEMETRY")


def set_environment(endpoint: str, home: Path) -> None:
    """Before any import of huggingface_hub or datasets: nothing of the user's settings, all of the dummy hub's."""
    assert not {"huggingface_hub", "datasets"} & sys.modules.keys()
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING")) or name in OURS]:
        del os.environ[name]
    os.environ.update(SETTINGS, HF_ENDPOINT=endpoint, HF_HOME=str(home))


def new_home(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Move to `home` every path that the client has worked out from HF_HOME, and forget what it keeps in memory."""
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import _cache_assets, _cache_manager

    patch.setenv("HF_HOME", str(home))
    of_client = constants.HF_HOME
    for module in (constants, _cache_manager, _cache_assets, sys.modules.get("datasets.config")):
        old = getattr(module, "HF_CACHE_HOME", of_client)
        for name, value in vars(module).items() if module else ():
            if name.isupper() and isinstance(value, (str, Path)) and str(value).startswith(old):
                patch.setattr(module, name, type(value)(f"{home}{str(value).removeprefix(old)}"))
    if files := sys.modules.get("huggingface_hub.hf_file_system"):
        files.HfFileSystem.clear_instance_cache()


def guard_sockets() -> None:
    """For the rest of the process: no connection and no name but of this machine."""

    def local(host: object) -> bool:
        name = host.decode() if isinstance(host, bytes) else host
        return name is None or name in ("", "localhost", "::1", "0.0.0.0") or str(name).startswith("127.")

    def guarded(function: Callable[..., Any], host: Callable[..., object]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            name = host(*args)
            if local(name):
                return function(*args, **kwargs)
            if not str(name).startswith("datasets-server."):  # `datasets` asks it for what it can do without
                blocked.append(f"{function.__name__} {name}")
            raise socket.gaierror(socket.EAI_NONAME, f"tests connect to loopback only, not to {name}")

        return call

    def peer(_: socket.socket, address: object) -> object:
        return address[0] if isinstance(address, tuple) else None

    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, guarded(getattr(socket.socket, name), peer))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, guarded(getattr(socket, name), lambda host, *_: host))
