"""Run tests/hub with several versions of huggingface_hub, each in a folder of its own.

    python tools/hub_versions.py                    # the oldest that ddhub allows, the last 1.x, the newest 2.x
    python tools/hub_versions.py 1.32.0 2.3.0

A version is installed once, into build/huggingface_hub-VERSION, and put before the installed one on PYTHONPATH.
The exit code is the number of versions with a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("1.31.0", "1.33.0", "2.4.0")


def installed(version: str) -> Path:
    """The folder that holds this version and what it needs."""
    folder = ROOT / "build" / f"huggingface_hub-{version}"
    if not (folder / "ready").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(folder)]
        subprocess.run([*command, f"huggingface_hub=={version}"], check=True)
        (folder / "ready").touch()
    return folder


def passes(version: str) -> bool:
    """Whether the hub tests pass with this version; pytest's last line is printed."""
    folder = installed(version)
    path = os.pathsep.join([str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {**os.environ, "PYTHONPATH": path, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    code = "import huggingface_hub as h; print(h.__version__)"
    check = subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT, capture_output=True, text=True)
    if check.stdout.strip() != version:
        print(f"huggingface_hub {version}: {check.stdout.strip() or check.stderr.strip()} was imported in its place")
        return False
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/hub"], env=environ, cwd=ROOT, capture_output=True, text=True
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print("\n".join([f"huggingface_hub {version}: {done.stdout.strip().splitlines()[-1].strip('= ')}", *failed]))
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(sum(not passes(version) for version in sys.argv[1:] or VERSIONS))
