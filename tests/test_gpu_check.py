"""What `tools/gpu_check.sh` does on a GPU, small and on a CPU: every loop runs, and one that fails ends no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture
def hot_loops(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import hot_loops

    return hot_loops


def test_every_loop_runs(hot_loops: ModuleType, tmp_path: Path) -> None:
    words = ["--device", "cpu", "--seconds", "0", "--budget", "500", "--out", str(tmp_path)]
    done = CliRunner().invoke(hot_loops.main, words)
    record = json.loads((tmp_path / "hot_loops.json").read_text())
    assert [row for row in record["rows"] if "error" in row or "skipped" in row] == [], done.output
    assert all(row["eager"] > 0 and row["images_per_second"] > 0 for row in record["rows"])
    names = " ".join(row["loop"] for row in record["rows"])
    for name in (
        "teacher",
        "student",
        "INFER",
        "SRe2L",
        "refinement",
        "IDC",
        "UDD",
        "trajectory",
        "experts",
        "patches",
    ):
        assert name in names
    assert (tmp_path / "hot_loops.txt").read_text() == done.output


def test_a_loop_that_fails_and_loops_without_time_are_lines(hot_loops: ModuleType) -> None:
    def broken(rounds: int) -> None:
        raise RuntimeError("no kernel for this\nmore")

    def quiet(rounds: int) -> None:
        seen.append(rounds)

    seen: list[int] = []
    loops = {
        "broken": lambda: [hot_loops.Loop(name="broken", kind="fp32", run=broken)],
        "quiet": lambda: [hot_loops.Loop(name="quiet", kind="fp32", run=quiet, images=2, operations=10)],
    }
    rows = list(hot_loops.table(loops, 0.0, float("inf"), CPU))
    assert rows[0] == {"loop": "broken", "error": "RuntimeError: no kernel for this"}
    assert hot_loops.line(rows[0]).split() == ["broken", "RuntimeError:", "no", "kernel", "for", "this"]
    assert rows[1]["loop"] == "quiet" and seen[:3] == [6, 6, 12]
    assert rows[1]["operations_per_second"] == 5 * rows[1]["images_per_second"]
    (row, other) = hot_loops.table(loops, 0.0, 0.0, CPU)
    assert row["skipped"] == other["skipped"] == "the budget is used up"


def test_the_program_writes_its_results_and_skips_what_needs_a_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", ROOT / "tools" / "gpu_check.sh", "--only", "loader", "--seconds", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "WORKERS": "0", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"tests.txt", "tests.xml", "hot_loops.txt", "hot_loops.json"}
    assert " skipped" in (tmp_path / "tests.txt").read_text() and "batches of INFER" in done.stdout
