"""The lock of a folder: held by one process, ended by its death, and gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ddhub.io.files import locked

HOLD = """
import sys, time
from pathlib import Path
from ddhub.io.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    taken = threading.Event()

    def take() -> None:
        with locked(tmp_path):
            taken.set()

    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        waiting = threading.Thread(target=take)
        waiting.start()
        assert not taken.wait(0.3)
        holder.kill()
        assert taken.wait(30)
    waiting.join()
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_locked_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "missing"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locked(tmp_path / "file"):
        pass
