"""What a text tells of the machine it was written on: where its folders lie, who its user is, how it is called.

without_folders("folder:/home/me/flowers")      # 'folder:flowers'
told("made in /home/me/flowers")                # 'the path /home/me/flowers'
"""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = "folder:"  # begins the name of a user's own images
_PATHS = re.compile(
    r"folder:[^\s\"']*[/\\~][^\s\"']*"  # images of one's own, with a place
    r"|(?<![\w/.*<)\]}-])(?<!https:)(?<!http:)(?:file://)?(?:/[\w.@+-]+){2,}"
    r"|(?<![\w/])~/[\w.@+-]+"
    r"|(?<!\w)[A-Za-z]:\\+[\w.@+-]+"
    r"|(?<![\w\\])\\\\+[\w.@+-]+\\+[\w.@+-]+"
)
# Names that machines have by themselves say nothing of anybody.
_ANYBODY = {
    "admin",
    "build",
    "daemon",
    "docker",
    "home",
    "jovyan",
    "localhost",
    "nobody",
    "root",
    "runner",
    "ubuntu",
    "user",
}
_SHORTEST = 4  # characters of a name that is looked for: shorter ones are parts of many texts


def without_folders(value: Any) -> Any:
    """A value of JSON in which no text says in which folder something lies: of paths the last part stays."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    prefix, path = (FOLDER, value[len(FOLDER) :]) if value.startswith(FOLDER) else ("", value)
    if prefix or _is_path(path):
        return prefix + (Path(os.path.expanduser(path)).resolve().name or "folder")
    return value


def _is_path(text: str) -> bool:
    """Whether a text is a path: one that begins as such, or leads through a folder to something that is there."""
    if re.match(r"/|~|\.{1,2}/|[A-Za-z]:\\|\\\\", text):
        return True
    return "/" in text and not re.fullmatch(r"[\w.-]+/\d+", text) and os.path.exists(text)


def told(text: str, but: Iterable[str] = ()) -> str:
    """The first path, user name or host name of this machine in a text, in words; empty where there is none.

    Args:
        text: what is to be published.
        but: names that may stand there, such as the namespace it goes to.
    """
    if path := _PATHS.search(text):
        return f"the path {path[0]}"
    for kind, name in _names():
        if name.lower() not in {x.lower() for x in but} and re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w)", text):
            return f"the {kind} {name}"
    return ""


def told_by_bytes(data: bytes) -> str:
    """The same of a file that is no text, where only the user's folder can be looked for."""
    for folder in (Path.home(), Path.cwd()):
        if len(folder.parts) > 2 and str(folder).encode() in data:
            return f"the path {folder}"
    return ""


def _names() -> list[tuple[str, str]]:
    """The user's names and the host's, those apart that tell nothing."""
    found = [("host name", platform.node().partition(".")[0])]
    with suppress(KeyError, OSError, ImportError):  # a user without an entry
        found.append(("user name", getpass.getuser()))
    with suppress(RuntimeError):
        found.append(("user name", Path.home().name))
    return [(kind, name) for kind, name in found if len(name) >= _SHORTEST and name.lower() not in _ANYBODY]
