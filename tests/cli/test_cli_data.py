"""`ddhub data`: what it prints, and that the list needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from encoded import encode

from ddhub.cli.data import data
from ddhub.errors import SourceError, UsageError
from ddhub.sources.known import KNOWN


def run(*args: str) -> str:
    result = CliRunner().invoke(data, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list() -> None:
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(KNOWN)
    assert lines[1].split() == ["cifar10", "10", "RGB", "32x32", "uoft-cs/cifar10"]
    assert "many sizes" in lines[-1]
    found = json.loads(run("list", "--json"))
    assert [x["name"] for x in found] == list(KNOWN)
    assert len(found[-1]["classes"]) == 1000 and found[-1]["size"] is None and found[-1]["gated"]


def test_list_does_not_import_torch() -> None:
    code = "from ddhub.cli.data import data; data(['list'], standalone_mode=False)"
    code += "; import sys; assert not {'torch', 'pyarrow'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_info() -> None:
    text = run("info", "mnist")
    for part in ("ylecun/mnist", "MNIST", "0.1307", "MIT", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "train train, test test"):
        assert part in text
    assert json.loads(run("info", "svhn", "--json"))["columns"] == ["image", "label"]
    with pytest.raises(UsageError, match="did you mean 'mnist'"):
        run("info", "mnsit")


def test_prepare() -> None:
    text = run("prepare", "cifar10-mini", "--size", "16")
    assert "train: 2,000 images of 3 x 16 x 16" in text and "test: 1,000 images of 3 x 16 x 16" in text
    reports = json.loads(run("prepare", "cifar10-mini", "--json"))
    assert [(x["split"], x["images"], x["image_size"]) for x in reports] == [
        ("train", 2000, [3, 32, 32]),
        ("test", 1000, [3, 32, 32]),
    ]
    with pytest.raises(SourceError, match="nowhere"):
        run("prepare", "cifar10", "--data", "/nowhere")


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDHUB_CACHE", str(tmp_path / "cache"))
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.png").write_bytes(encode(np.zeros((8, 8, 3), np.uint8)))
    name = f"folder:{tmp_path / 'pets'}"
    record = json.loads(run("info", name, "--json"))
    assert record["name"] == "folder:pets" and record["splits"] == {"train": "2 images"}
    assert record["classes"] == ["cat", "dog"] and record["images"] == {"train": {"cat": 1, "dog": 1}}
    assert record["sizes"] == "8 x 8 px" and record["resized"] == "stay as they are"
    assert run("prepare", name).startswith("folder:pets, train: 2 images of 3 x 8 x 8")
