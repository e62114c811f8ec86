"""Publish or download in a forked process that is killed at a point of its way, again and again, for one start.

    python nursery.py < jobs        a job: ["push", folder, to, point] or ["fetch", repo, cache, point], a line of JSON;
                                    the answer: how many events there were, or "killed"

An event is a piece sent or the first one received in answer to it, and, where the third word is a folder, a file in
there opened to write, renamed or removed, or a folder made or removed. Before event number `point` the process kills
itself with SIGKILL; 0 is never.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
import threading
from typing import Any

import huggingface_hub.hf_api  # noqa: F401  what all processes need is imported once
import torch

from ddhub.publish.push import push
from ddhub.remote.find import resolve

CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename"}


def kill_at(point: int, tree: str) -> Any:
    """Count events, and be gone at one of them; the counter's next value is one more than there were."""
    events, state = itertools.count(1), threading.local()

    def count() -> None:
        if next(events) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        is_write = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_write or event in CHANGES) and str(args[0]).startswith(tree):
            count()

    def counted(method: Any, sends: bool) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            # in how many pieces an answer arrives is chance
            if sends or getattr(state, "sent", False):
                count()
            state.sent = sends
            return method(*args, **options)

        return call

    if tree:
        sys.addaudithook(audit)
    for name in ("send", "sendall", "recv"):
        setattr(socket.socket, name, counted(getattr(socket.socket, name), name != "recv"))
    return events


def main() -> None:
    torch.set_num_threads(1)
    warm = False
    for line in sys.stdin:
        work, what, where, point = json.loads(line)
        if work == "push" and not warm:  # what a process works out once is worked out here, for all
            push(what, f"{what}-warm", dry_run=True)
            warm = True
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            events = kill_at(point, where if where.startswith("/") else "")
            if work == "push":
                push(what, where)
            else:
                resolve(what, cache_dir=where)
            os.write(writing, str(next(events) - 1).encode())
            os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            events_seen = pipe.read()
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if killed else events_seen or f"failed: {status}", flush=True)


if __name__ == "__main__":
    main()
