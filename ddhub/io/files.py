"""Read a file within bounds; change a file or a folder whole or not at all, even when the process is killed.

New content goes to a hidden sibling, `.<name>.tmp-<pid>`, and is renamed into place. A folder that
is replaced is first renamed to `.<name>.tmp-<pid>-old`; if the process dies between the two
renames, `settle` puts it back, as the next write does. Both also remove what other dead processes left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ddhub.errors import UsageError


def max_bytes() -> int:
    """Bytes that an artifact may have, on disk or once it is decoded: DDHUB_MAX_BYTES, else 2 GiB.

    Raises:
        UsageError: a DDHUB_MAX_BYTES that is not a number of bytes.
    """
    text = os.environ.get("DDHUB_MAX_BYTES") or str(2**31)
    if not re.fullmatch("[0-9]{1,18}", text):
        raise UsageError(f"DDHUB_MAX_BYTES is {text!r}, not a number of bytes; correct it")
    return int(text)


def cache_home() -> Path:
    """ddhub's own cache: DDHUB_CACHE, else `ddhub` in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ddhub"
    return Path(os.environ.get("DDHUB_CACHE") or home).expanduser()


def leads_out(path: Path) -> bool:
    """Whether a file is a link to anywhere but the blobs of the Hub cache in which it lies.

    Such a cache is made of links, `CACHE/REPOSITORY/snapshots/COMMIT/NAME` to `CACHE/REPOSITORY/blobs/HASH`, which may
    be a link itself, to `CACHE/blobs/XX/HASH`.
    """
    if not path.is_symlink():
        return False
    target, inside = Path(os.path.realpath(path)), Path(os.path.realpath(path.parent))
    repositories = [top.parent for top in inside.parents if top.name == "snapshots"]
    return not any(target.parent == x / "blobs" or target.parent.parent == x.parent / "blobs" for x in repositories)


def names_in(folder: Path, parts: Iterable[str]) -> set[str]:
    """What is in `folder` and in its folders `parts`, as relative paths, less the bytecode of Python files.

    Raises OSError.
    """
    names = {path.name for path in folder.iterdir()} - {"__pycache__"}
    for part in names.intersection(parts):
        if (folder / part).is_dir() and not (folder / part).is_symlink():
            names |= {f"{part}/{path.name}" for path in (folder / part).iterdir()}
            names -= {part}
    return names


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file to read and its size in bytes. Raises OSError, also for what is not a file: a pipe would wait for ever."""
    # not blocking, so that a pipe is opened and then refused
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a file")
        yield file, status.st_size


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
    settle(folder)
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
        settle(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time hold `folder`, by the file `.lock` in it. Raises OSError.

    The system ends the lock of a process that dies; the file that it leaves is taken over by the next.
    """
    from filelock import FileLock  # here because it takes a tenth of a second

    folder.stat()  # a missing folder would be made
    with FileLock(folder / ".lock") as lock:
        try:
            yield
        finally:
            # Whoever waits for the removed file sees that it is none any more, and makes another.
            with contextlib.suppress(OSError):  # on Windows, where an open file stays
                os.unlink(lock.lock_file)


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


def settle(folder: Path) -> None:
    """Put `folder` back if a process died while it replaced it, and remove what this and dead processes left beside it.

    Raises OSError.
    """
    pattern = re.escape(f".{folder.name}.tmp-") + r"(\d+)(-old)?"
    for sibling in [*folder.parent.iterdir()] if folder.parent.is_dir() else ():
        match = re.fullmatch(pattern, sibling.name)
        if not match or (int(match[1]) != os.getpid() and is_alive(int(match[1]))):
            continue
        if match[2] and not folder.exists():
            os.rename(sibling, folder)
        else:
            shutil.rmtree(sibling, ignore_errors=True)
