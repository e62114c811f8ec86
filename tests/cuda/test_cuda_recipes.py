"""Recipes on a GPU, whole: captured as eager and as `--exact`, near a CPU, from the same stages; no step waits."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu import DEVICE, Said, apart, steady, waits
from torch import Tensor

from ddhub.artifact.folder import Artifact
from ddhub.training import loop
from ddhub.training.capture import eager
from recipes import edf, udd
from recipes.run import run as runs
from recipes.run.options import discover
from recipes.run.run import Run

pytestmark = pytest.mark.cuda

RECIPES = discover()
# Changes to the smoke presets: steps enough to be recorded, and then that many more.
LONG: dict[str, dict[str, Any]] = {
    "infer": {"steps": 8}, "sre2l": {"steps": 8}, "nrr-dd": {"steps": 8}, "udd": {"n_outer": 2, "inner": 6},
    "edf": {"iterations": 8, "train_epochs": 2},
}  # fmt: skip
LONGER: dict[str, dict[str, Any]] = {
    "infer": {"steps": 24}, "sre2l": {"steps": 24}, "nrr-dd": {"steps": 24}, "udd": {"inner": 12},
    "edf": {"iterations": 16},
}  # fmt: skip
# What has to be recorded, beside the steps of teachers.
PARTS = {"infer": "inversion", "sre2l": "inversion", "nrr-dd": "inversion", "udd": "matching", "edf": "augmentation"}
# Shares of the norm, with the same teachers and experts: rounding in the epoch of their training comes to 0.1 to 0.4
# of what is made with them. Captured steps launch the kernels of eager ones. Other kernels round otherwise, which the
# first steps of Adam turn into steps of another sign where a gradient is almost zero: 9e-4 for SRe2L on a CPU.
CAPTURED, EXACT, HOST = 5e-3, 1e-2, 5e-2
NETS = ("teacher-", "experts-", "select-", "start-")  # stages that runs share


@pytest.fixture(autouse=True)
def one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """All iterations in one stage, so that longer runs have no more of them."""
    for method in (edf, udd):
        monkeypatch.setattr(method, "_CHUNKS", 1)


def made(name: str, out: Path, device: str, precision: str, like: Run | None = None, **changes: Any) -> Run:
    """A finished run of a recipe's smoke preset with changes, with the nets of another run, if one is given."""
    cfg = replace(RECIPES[name].SMOKE, **{**LONG[name], **changes})
    run = Run(RECIPES[name], cfg, out / "smoke", device=device, precision=precision)
    run.work.mkdir(parents=True)
    for file in like.work.iterdir() if like else ():
        if file.name.startswith(NETS):
            shutil.copy(file, run.work)
    RECIPES[name].distill(cfg, run)
    return run


def content(run: Run) -> dict[str, Tensor]:
    """Images and tensors of a run's artifact."""
    artifact = Artifact.open(run.out)
    return {"images": artifact.images(), **artifact.tensors()}


def compare(what: str, one: Run, other: Run, within: Said, bound: float) -> None:
    found, wanted = content(one), content(other)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        within(f"{what}, {key}", apart(value, wanted[key]), bound)


@pytest.mark.parametrize("name", LONG)
def test_captured_is_eager(
    name: str, tmp_path: Path, recordings: list[str], within: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (loop, runs):
        monkeypatch.setattr(module, "computing", steady)
    captured = made(name, tmp_path / "captured", str(DEVICE), "fp32")
    assert any(PARTS[name] in step for step in recordings), sorted(set(recordings))
    count = len(recordings)
    with eager():
        step_by_step = made(name, tmp_path / "eager", str(DEVICE), "fp32", captured)
    assert len(recordings) == count
    compare("captured and eager", captured, step_by_step, within, CAPTURED)


@pytest.mark.parametrize("name", LONG)
def test_captured_is_exact_and_near_a_cpu(name: str, tmp_path: Path, recordings: list[str], within: Said) -> None:
    captured = made(name, tmp_path / "captured", str(DEVICE), "fp32")
    count = len(recordings)
    exact = made(name, tmp_path / "exact", str(DEVICE), "exact", captured)
    assert count and len(recordings) == count
    host = made(name, tmp_path / "host", "cpu", "fp32", captured)
    compare("captured and exact", captured, exact, within, EXACT)
    compare("exact and the CPU", exact, host, within, HOST)


@pytest.mark.parametrize("name", LONG)
def test_exact_gives_the_same_bits_again(name: str, tmp_path: Path) -> None:
    one, other = (content(made(name, tmp_path / word, str(DEVICE), "exact")) for word in ("one", "other"))
    assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_stage_is_found_whichever_device_computed_it(
    first: str, then: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    devices = {"cpu": "cpu", "cuda": str(DEVICE)}
    one = made("sre2l", tmp_path / "one", devices[first], "fp32")
    run = Run(RECIPES["sre2l"], one.cfg, tmp_path / "other" / "smoke", device=devices[then], work=one.work)
    caplog.set_level(logging.INFO)
    RECIPES["sre2l"].distill(one.cfg, run)
    assert [line for line in caplog.messages if line.endswith(": starting")] == [] and run.computed == one.computed
    assert torch.equal(content(run)["images"], content(one)["images"])


@pytest.mark.parametrize("name", LONG)
def test_more_steps_wait_no_more_often(name: str, tmp_path: Path, recordings: list[str]) -> None:
    nets = made(name, tmp_path / "nets", str(DEVICE), "bf16")

    def counted(out: str, **changes: Any) -> Counter[str]:
        return waits(lambda: made(name, tmp_path / out, str(DEVICE), "bf16", nets, **changes))

    few, more = counted("few"), counted("more", **LONGER[name])
    assert {place: more[place] - few[place] for place in few | more if more[place] != few[place]} == {}
    assert recordings
