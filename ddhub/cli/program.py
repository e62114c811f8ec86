"""How every program of the project starts and ends: settings of threads and memory, one-line errors, exit codes.

2    the request cannot be met (a usage error)
1    something is wrong with a file, a data set or a run
130  interrupted by the user

Where nobody reads the output any more (`ddhub list | head -1`), a program ends quietly, with 0.
"""

from __future__ import annotations

import io
import os
import sys

import click

from ddhub.cli.memory import keep_freed_memory
from ddhub.cli.printing import printable
from ddhub.errors import DDHubError, UsageError

# Read when torch is loaded, which a program does after it has imported this. Threads that wait for one another sleep:
# by default they spin, and beside other busy processes those that spin keep those from running that are waited for
# (ConvNet-3 of width 32, two threads on two busy cores: 15 ms of CPU an image, 5.4 with this, 3 and 2 runs in turn).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def guarded(command: click.Command, name: str, interrupted: str = "interrupted") -> int:
    """Run a click command as a program of this name and return its exit code; errors are one line on stderr."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal that does not know ±
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as end:
        if type(sys.stdout).__name__.endswith(
            "PacifyFlushWrapper"
        ):  # click's answer where nobody reads on, as with `| head -1`
            return 0
        raise end
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the end of Python flushes once more
        return 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else name
        return _failed(f"{error.format_message()} ({path} --help)", error.exit_code)
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except DDHubError as error:
        return _failed(str(error), 2 if isinstance(error, UsageError) else 1)
    except (KeyboardInterrupt, click.Abort):
        _say(interrupted)
        return 130
    except OSError as error:  # of a path that no command looked at before
        return _failed(f"{error.filename or name}: {error.strerror or error}; check the path and its rights", 1)
    return code if isinstance(code, int) else 0


def _failed(message: str, code: int) -> int:
    line = " ".join(message.split())
    _say(printable(f"error: {line}"))
    return code


def _say(line: str) -> None:
    """Write a line to stderr in one call: ranks share it, and lines that `print` writes in two calls can be mixed."""
    sys.stderr.write(f"{line}\n")
