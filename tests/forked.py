"""Programs of the project in processes of their own, forked from one that has torch: 0.1 s of CPU in place of 3.

    done = forked.run("-m", "recipes", "infer", out, "--preset", "smoke")
    done.returncode, done.stdout, done.stderr
    child = forked.start("-c", "input()")
    child.kill()

As `subprocess.run([sys.executable, ...])` and `subprocess.Popen`: the words are those behind `python`, `-m MODULE` or
`-c CODE` and arguments. The process has its own environment, folder, streams and exit code, one thread, and modules
that were imported but not used. Where importing is the thing tested (an entry point, what is not imported, another copy
of the project), start a real one.

Run as a program, this file is the process that forks: it has no threads, and a child for each line that it is sent.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Of the program of each kind what it imports first, or when it is under way.
MODULES = (
    "ddhub.cli.app", "ddhub.cards.rendering", "ddhub.convert.importing", "ddhub.hub", "ddhub.measures.complexity",
    "ddhub.training.loop", "ddhub.training.open", "pyarrow.parquet", "safetensors.torch", "tqdm.auto", "pandas",
    "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.WebPImagePlugin", "PIL.AvifImagePlugin",
    *(f"recipes.{path.stem}" for path in sorted((ROOT / "recipes").glob("[a-z]*.py"))),
    "recipes.run.plan", "recipes.run.run", "recipes.stock.command",
)  # fmt: skip
_codes: list[int] = []  # the exit code of this process, once it is known


class Child:
    """A forked process; its output lies in files, so that nobody has to read it while it runs."""

    def __init__(self, words: tuple[str, ...], cwd: Path, env: Mapping[str, str]) -> None:
        self.words = words
        self.returncode: int | None = None
        self._output, self._ended = [_scratch(), _scratch()], ["", ""]
        ahead, self._input = os.pipe()
        self._status, behind = os.pipe()
        handles = [ahead, *self._output, behind]
        job = {"words": words, "cwd": str(cwd), "env": dict(env)}
        socket.send_fds(_nursery(), [json.dumps(job).encode() + b"\n"], handles)
        os.close(ahead)
        os.close(behind)
        self._said = b""
        while b"\n" not in self._said:
            self._read()
        self.pid = int(self._said.split(b"\n")[0])

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._ended[0] if self.returncode is not None else _content(self._output[0])

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return self._ended[1] if self.returncode is not None else _content(self._output[1])

    def tell(self, text: str) -> None:
        """Write to its stdin."""
        os.write(self._input, text.encode())

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, at once."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Its exit code, or None; that of a signal is negative."""
        if self.returncode is not None:
            return self.returncode
        os.set_blocking(self._status, False)
        with contextlib.suppress(BlockingIOError):
            self._read()
        return self.returncode

    def wait(self, timeout: float = 240) -> int:
        """Its exit code, once it has ended; after so many seconds it is killed, and this is an error."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired(self.words, timeout, self.stdout, self.stderr)
            time.sleep(0.005)
        return code

    def _read(self) -> None:
        """Take in what is known of it: its number, then its exit code."""
        part = os.read(self._status, 100)
        assert part, "the process that forks is gone"
        self._said += part
        lines = self._said.split(b"\n")
        if len(lines) == 3:
            self._ended = [_content(handle) for handle in self._output]
            self.returncode = int(lines[1])
            for handle in (self._status, self._input, *self._output):
                os.close(handle)


def _scratch() -> int:
    """A file that is gone when nobody has it open."""
    handle, path = tempfile.mkstemp()
    os.unlink(path)
    return handle


def _content(handle: int) -> str:
    return os.pread(handle, os.fstat(handle).st_size, 0).decode()


def start(*words: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Child:
    """A process that runs `python WORDS` in a folder and an environment, which is this one if not given."""
    return Child(tuple(map(str, words)), cwd, os.environ if env is None else env)


def run(
    *words: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """What `python WORDS` comes to."""
    child = start(*words, cwd=cwd, env=env)
    code = child.wait(timeout)
    return subprocess.CompletedProcess(child.words, code, child.stdout, child.stderr)


def ranks(count: int, *words: object, timeout: float = 240) -> list[Child]:
    """So many ranks of `python WORDS`, ended, in the environment that torchrun gives them; none ends the others."""
    from torch.distributed import TCPStore

    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port)}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    numbers = [{"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
    children = [start(*words, env={**os.environ, **common, **own}) for own in numbers]
    for child in children:
        child.wait(timeout)
    return children


def together(children: list[Child]) -> subprocess.CompletedProcess[str]:
    """What ranks came to as one program: the first exit code that is not 0, and their output in their order."""
    code = next((child.returncode for child in children if child.returncode), 0)
    out, log = ("".join(getattr(child, name) for child in children) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(children[0].words, code, out, log)


@cache
def _nursery() -> socket.socket:
    """The socket of the process that forks, which ends when this one does."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, str(theirs.fileno())]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        start_new_session=True,  # what is typed at a terminal is for this process alone
    )  # fmt: skip
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def serve(link: socket.socket) -> dict[str, Any]:
    """Fork for every job; returns the job, in the process that is to do it."""
    while True:
        message, handles = b"", []
        while not message.endswith(b"\n"):
            part, more, *_ = socket.recv_fds(link, 2**20, 4)
            if not part:
                os._exit(0)
            message, handles = message + part, [*handles, *more]
        # Two processes a job: one that works, and its parent, which waits for it.
        if os.fork() == 0:
            link.close()
            *streams, status = handles
            child = os.fork()
            if child == 0:
                os.close(status)
                for number, handle in enumerate(streams):
                    os.dup2(handle, number)
                    os.close(handle)
                return dict(json.loads(message))
            os.write(status, b"%d\n" % child)
            for handle in streams:
                os.close(handle)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.write(status, b"%d\n" % code)
            os._exit(0)
        for handle in handles:
            os.close(handle)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def execute(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Be `python WORDS`, but for the end of the interpreter: taking its modules down costs more than most programs."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, what, *rest = words
    sys.path[0] = cwd if kind == "-m" else ""
    sys.argv = [what if kind == "-m" else "-c", *rest]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            assert kind == "-c", kind
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        _codes.append(0)
    except SystemExit as stop:
        if isinstance(stop.code, int):
            _codes.append(stop.code)
        raise


def _leave() -> None:
    """The last of what is done at exit, as it was registered first: end at once where the exit code is known."""
    if _codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_codes[0])


def main() -> None:
    atexit.register(_leave)
    sys.path[0] = str(ROOT)
    import torch

    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)
    from ddhub.artifact.origin import provenance

    provenance(ROOT / "recipes" / "infer.py")  # reads what every module imports, which is kept
    gc.collect()
    gc.freeze()
    execute(**serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
