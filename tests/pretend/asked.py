"""What tests ask the pretend GPU: one process of its own for all cases of a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

RUN = Path(__file__).with_name("run.py")
Table = dict[str, dict[str, Any]]  # of every case what it found


def asked(table: str) -> Table:
    """What the cases of a table found, by name. Warnings are errors there, too."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        pytest.skip(f"torch {torch.__version__} has no backends in Python; the pretend GPU needs torch 2.9 or newer")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(RUN), table],
        capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {record.pop("case"): record for record in records}


def places(found: Table, kind: str) -> dict[str, dict[str, Any]]:
    """The places that wait more where there are more steps (`by_step`) or epochs (`by_epoch`), and in which cases."""
    out: dict[str, dict[str, Any]] = {}
    for case, record in found.items():
        for place, more in record[kind].items():
            out.setdefault(place, {})[case] = more
    return out
