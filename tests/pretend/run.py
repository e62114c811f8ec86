"""Run cases on the pretend GPU and print what they found, a line of JSON each.

    python tests/pretend/run.py students            # all cases of a table
    python tests/pretend/run.py students "decoder"  # those whose names begin so

A process of its own, since the device is there for the whole process and wraps functions of torch.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    import torch

    torch.set_num_threads(1)
    table, start = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    for name, case in importlib.import_module(f"pretend.{table}").CASES.items():
        if name.startswith(start):
            begin = time.perf_counter()
            record = {"case": name, **case().record()}
            print(json.dumps({**record, "seconds": round(time.perf_counter() - begin, 2)}), flush=True)


if __name__ == "__main__":
    main()
