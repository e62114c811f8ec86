"""Change a file or a folder whole or not at all, even when the process is killed.

New content goes to a hidden sibling, `.<name>.tmp-<pid>`, and is renamed into place. A folder that
is replaced is first renamed to `.<name>.tmp-<pid>-old`; if the process dies between the two
renames, the next write puts it back. That write also removes what other dead processes left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in place of the file at `path`. Raises OSError."""
    temp = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temp.write_bytes(data)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def replace_folder(folder: Path, files: dict[str, bytes], check: Callable[[Path], object]) -> None:
    """Put a folder of `files` (relative path to content) in place of `folder`.

    They are written in their order; then `check` gets the finished sibling and may raise. Whether
    `folder` may be replaced at all is the caller's question. Raises OSError.
    """
    folder = folder.resolve()  # of a symbolic link the target is replaced, not the link
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temp = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        for name, data in files.items():
            (temp / name).parent.mkdir(parents=True, exist_ok=True)
            (temp / name).write_bytes(data)
        check(temp)
        if folder.exists():
            os.rename(folder, temp.with_name(f"{temp.name}-old"))
        os.rename(temp, folder)
    finally:
        _sweep(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time hold `folder` (on Windows: all of them). Raises OSError."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_alive(process: int) -> bool:
    """Whether there is, or may be, a process of this number."""
    if sys.platform == "win32":
        return True  # os.kill would end it
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _sweep(folder: Path) -> None:
    """Remove siblings of this and of dead processes; put back an old folder if none is there."""
    pattern = re.escape(f".{folder.name}.tmp-") + r"(\d+)(-old)?"
    for sibling in [*folder.parent.iterdir()]:
        match = re.fullmatch(pattern, sibling.name)
        if not match or (int(match[1]) != os.getpid() and is_alive(int(match[1]))):
            continue
        if match[2] and not folder.exists():
            os.rename(sibling, folder)
        else:
            shutil.rmtree(sibling, ignore_errors=True)
