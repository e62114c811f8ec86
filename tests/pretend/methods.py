"""Recipes on the pretend GPU: their smoke presets and variants to the artifact, which is compared with that of a CPU.

A variant is run once more for each setting that makes its stages longer; stages whose work is the same come out of the
work folder that the runs share, and those that are computed again must wait as often as before.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import Manifest
from pretend.counting import Found, More, Waits, joined, set_small
from pretend.device import DEVICE, waits
from recipes import edf, udd
from recipes.patches import discovery
from recipes.run.options import discover
from recipes.run.run import Run

RECIPES = discover()
# One stage for all iterations, so that a longer run has more of them in a stage, and not more stages.
set_small(edf, "_CHUNKS", 1)
set_small(udd, "_CHUNKS", 1)
set_small(discovery, "PIXELS", 2**14)

EDF = {"iterations": 2, "syn_steps": 2, "cam_every": 1}
EDF_MORE = [{"iterations": 4, "syn_steps": 4}]
# name: (recipe, changes to its smoke preset, changes that make steps or iterations more, those that make epochs more)
VARIANTS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = {
    "infer": ("infer", {}, [{"steps": 6}], []),
    "infer, crops": ("infer", {"crop_scale": 0.3, "flip": True, "labels": "teacher"}, [{"steps": 6}], []),
    "infer, hard": ("infer", {"compensate": False, "labels": "hard"}, [], []),
    "sre2l": ("sre2l", {}, [{"steps": 6}], []),
    "sre2l, static": (
        "sre2l", {"labels": "static", "crop_scale": 0.3, "flip": True, "shift_back": 2, "batch": 5}, [{"steps": 6}], []
    ),
    "nrr-dd": ("nrr-dd", {}, [{"steps": 6}, {"mipc": 24}], [{"student_epochs": 4}]),
    "nrr-dd, masks": (
        "nrr-dd", {"refresh_every": 1, "refine": "inverted", "optimizer": "sgd", "labels": "soft", "guard": "median",
                   "mipc": 24},
        [{"steps": 6}], [{"student_epochs": 4}],
    ),
    "nrr-dd, all": (
        "nrr-dd", {"refine": "all", "labels": "top1", "cam_ratio": "mass", "confidence": "random"}, [{"steps": 6}], []
    ),
    "nrr-dd, rded": (
        "nrr-dd", {"cam_filter": False, "confidence": "highest", "refine": "none", "labels": "teacher"},
        [{"mipc": 24}], [],
    ),
    "nrr-dd, once": ("nrr-dd", {"refine": "none", "labels": "dbr-once", "dbr_reading": "view"}, [], []),
    "nrr-dd, static": ("nrr-dd", {"refine": "none", "labels": "static", "cam_ratio": "share"}, [], []),
    "udd": ("udd", {"n_outer": 1}, [{"inner": 4}], [{"n_outer": 2}]),
    "udd, jbp": (
        "udd", {"n_outer": 1, "inner": 1, "policy": "jbp", "jitters": 1, "regions": 1, "contrast": "dot", "freeze": 1.0,
                "refresh_every": 1, "contrast_weight": "literal", "bank_size": 4},
        [{"jitters": 2}, {"inner": 2}], [{"n_outer": 2}],
    ),
    "udd, idc": ("udd", {"n_outer": 1, "inner": 1, "regions": 0, "contrast": "none", "distance": "l1"},
                 [{"inner": 2}], []),
    "udd, idc-i": ("udd", {"n_outer": 1, "inner": 1, "regions": 0, "contrast": "none", "factor": 1}, [], []),
    "edf": ("edf", {}, [{"iterations": 6, "syn_steps": 6}], [{"train_epochs": 3}]),
    "edf, smooth": ("edf", {**EDF, "cam": "smooth-grad-cam++", "way": "reverse", "init": "real"}, EDF_MORE, []),
    "edf, datm": ("edf", {**EDF, "cam": "none", "drop": 0.0, "way": "unroll"}, EDF_MORE, []),
    "edf, mtt": ("edf", {**EDF, "cam": "none", "drop": 0.0, "labels": "hard", "segment": 2}, EDF_MORE, []),
    **{
        f"{name}, codec": (name, {**changes, "codec_every": 2}, [{"steps": 6}] * (name == "sre2l"), [])
        for name, changes in {
            "sre2l": {}, "udd": {"n_outer": 1, "regions": 0, "contrast": "none"}, "edf": EDF
        }.items()
    },
    "random-real": ("random-real", {}, [], []),
    "coreset": ("coreset", {}, [], []),
}  # fmt: skip
ALONE = {"udd": {"together": 1}, "edf": {"together": 1}}  # there is no vmap on the device

# Of all runs of the process, one a device, so that a teacher is trained once.
WORK = Path(tempfile.mkdtemp(prefix="ddhub-pretend-"))
atexit.register(shutil.rmtree, WORK, ignore_errors=True)


class _Stages(logging.Handler):
    """The waits of each stage that is computed, and of what is between them, under ''."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Waits] = {"": Waits()}

    def emit(self, record: logging.LogRecord) -> None:
        words = str(record.msg)
        if words.endswith(": starting"):
            self.close_stage("")
        elif words.startswith("experts %s: epoch"):  # they are trained before the stage of their name
            self.close_stage("epochs of experts")
        elif words.startswith("stage") and words.endswith(": %s s"):
            assert isinstance(record.args, tuple)
            self.close_stage(str(record.args[0]))

    def close_stage(self, name: str) -> None:
        self.found[name] = self.found.get(name, Waits()).joined(waits)
        waits.clear()


def run(recipe: str, changes: Mapping[str, Any], out: Path, device: str) -> tuple[Artifact, dict[str, Waits]]:
    """The artifact of a recipe's smoke preset with changes, and the waits of its stages."""
    cfg = replace(RECIPES[recipe].SMOKE, **ALONE.get(recipe, {}), **changes)
    log, handler = logging.getLogger("recipes"), _Stages()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    waits.clear()
    try:
        encoding = "avif:30" if changes.get("codec_every") else "png"
        folder = WORK / device.partition(":")[0]
        work = Run(RECIPES[recipe], cfg, out, device=device, precision="fp32", work=folder, encoding=encoding)
        artifact = RECIPES[recipe].distill(cfg, work)
    finally:
        log.removeHandler(handler)
    handler.close_stage("")
    return artifact, handler.found


def longer(before: dict[str, Waits], after: dict[str, Waits]) -> More:
    """Waits that are more in stages that both runs computed."""
    both = [name for name in after if name in before]
    assert any(both), f"no stage was computed again: {[*before]}, then {[*after]}"
    return joined(*(after[name] - before[name] for name in both))


def variant(recipe: str, changes: dict[str, Any], steps: list[dict[str, Any]], epochs: list[dict[str, Any]]) -> Found:
    def more(settings: dict[str, Any]) -> More:
        return longer(first, run(recipe, {**changes, **settings}, folder("longer"), str(DEVICE))[1])

    def folder(name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=WORK)) / name

    artifact, first = run(recipe, changes, folder("made"), str(DEVICE))
    if recipe == "udd":  # its proxy has GroupNorm, for which a CPU has another layout, and rounding chooses regions
        (WORK / "cpu").mkdir(exist_ok=True)
        for file in (WORK / DEVICE.type).glob("teacher-*.safetensors"):
            shutil.copy(file, WORK / "cpu")
    here, _ = run(recipe, changes, folder("made"), "cpu")
    return Found(by_step=joined(*map(more, steps)), by_epoch=joined(*map(more, epochs)), apart=apart(artifact, here))


def apart(a: Artifact, b: Artifact) -> float:
    """The largest difference of a number of two artifacts, of pixels in levels of 255; infinite for other facts."""
    if _facts(a.manifest) != _facts(b.manifest) or a.tensors().keys() != b.tensors().keys():
        return float("inf")
    pairs = [(a.images(), b.images()), (a.image_labels(), b.image_labels())]
    pairs += [(value, b.tensors()[name]) for name, value in a.tensors().items()]
    return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)


def _facts(manifest: Manifest) -> tuple[Any, ...]:
    labels = {key: value for key, value in manifest.labels.items() if key not in ("lr", "teachers")}
    return manifest.decoder, labels, manifest.protocol, manifest.ipc, manifest.method


CASES: dict[str, Callable[[], Found]] = {name: partial(variant, *rest) for name, rest in VARIANTS.items()}
