"""A machine without `datasets`, timm and torchvision: whoever has the files of real data needs none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from encoded import encode, write_shard

from ddhub.sources.known import KNOWN

ROOT = Path(__file__).parents[1]


def test_recipes_students_and_cards_need_no_optional_library(tmp_path: Path) -> None:
    data, made, random = tmp_path / "data", tmp_path / "bare-smoke", np.random.default_rng(0)
    for split in ("train", "test"):
        images = [encode(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(20)]
        file = data / "uoft-cs" / "cifar10" / "plain_text" / f"{split}-00000-of-00001.parquet"
        write_shard(file, images, [*range(10)] * 2, KNOWN["cifar10"].classes)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "bare.py", made, data],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (made / "README.md").is_file() and (made / "results.jsonl").read_text().count("\n") == 1
