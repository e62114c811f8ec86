"""A codec in the loop: residuals by hand, the gradients of plain loops, and four recipes with it on and off."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from repeated import Repeated
from safetensors.torch import load_file
from test_edf import CPU, learner
from test_inversion import teacher
from test_matcher import UDD, equal
from test_matching import HOW as MATCHING
from test_matching import plain_iteration, real, start
from test_student import FLAT, LOOK, SMALL, paths
from test_udd import advanced
from torch import Tensor

from ddhub import models
from ddhub.artifact.encoding import parse
from ddhub.artifact.folder import Artifact
from ddhub.errors import UsageError
from ddhub.training.devices import computing
from recipes import __main__, udd
from recipes.gradients.outer import Matcher
from recipes.inversion.inversion import Inversion, augment, draws, objective, optimise
from recipes.run import straight_through, units
from recipes.run.options import discover
from recipes.run.run import Finished, Run
from recipes.run.straight_through import OFF, InLoop, in_loop
from recipes.trajectories.trajectory import State, advance, student_of

RECIPES = discover()
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SCALE = tuple(torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
UNIT = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def loop(every: int = 2, sheet: int = 2, **more: Any) -> InLoop:
    encoding = {**parse("avif:30"), "sheet": sheet}
    return InLoop(**{"every": every, "encoding": encoding, "mean": MEAN, "std": STD, **more})


def by_hand(stored: Tensor) -> Tensor:
    """Images u8 `[K, n, 3, H, W]` coded as AVIF of quality 30, a sheet a class, and decoded: with Pillow alone."""
    seen, (n, _, high, wide) = torch.empty_like(stored), stored.shape[1:]
    columns = math.ceil(math.sqrt(n))
    for images, after in zip(stored, seen, strict=True):
        boxes = [(k % columns * wide, k // columns * high) for k in range(n)]
        sheet = Image.new("RGB", (columns * wide, -(-n // columns) * high), (128, 128, 128))
        for image, box in zip(images, boxes, strict=True):
            sheet.paste(Image.fromarray(image.permute(1, 2, 0).numpy()), box)
        file = io.BytesIO()
        sheet.save(file, "AVIF", quality=30, subsampling="4:4:4", speed=6, max_threads=1)
        back = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8)
        back = back.view(sheet.height, sheet.width, 3).permute(2, 0, 1)
        for k, (left, top) in enumerate(boxes):
            after[k] = back[:, top : top + high, left : left + wide]
    return seen


# The residual


def pixels(low: float, high: float, wide: float) -> tuple[Tensor, Tensor]:
    """Bytes `[2, 3, 3, 16, 16]` which have 0 and 255, and values in unit scale that become them, all but those two
    beside a byte's own by up to `wide` of a step."""
    random = torch.Generator().manual_seed(0)
    stored = torch.randint(256, (2, 3, 3, 16, 16), generator=random)
    stored[0, 0, :, 0, 0], stored[0, 0, :, 0, 1] = 0, 255
    beside = wide * (2 * torch.rand(stored.shape, generator=random) - 1) * ((stored > 0) & (stored < 255))
    return stored.to(torch.uint8), low + (stored + beside).float() / 255 * (high - low)


@pytest.mark.parametrize("space", ["unit", "normalised", "spread"])
def test_the_residual_is_that_of_the_pictures_which_will_be_stored(space: str) -> None:
    low, high = (-0.3, 1.4) if space == "spread" else (0.0, 1.0)
    stored, x = pixels(low, high, 0.3)
    mean, std = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)) if space == "unit" else SCALE
    how = loop(sheet=3, spread=space == "spread", **(UNIT if space == "unit" else {}))
    given = (x - mean) / std
    decoded = by_hand(stored).float()
    assert float((decoded - stored).abs().mean()) > 2
    wanted = (low + decoded / 255 * (high - low) - mean) / std
    found = how.residual(given)
    torch.testing.assert_close(given + found, wanted, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32 and how.residual(given.double()).dtype == torch.float64


def lossless(images: Tensor, *_: Any) -> SimpleNamespace:
    """In place of `encode`: a codec that loses nothing."""
    return SimpleNamespace(images=images.cpu())


@pytest.mark.parametrize("space", ["unit", "normalised", "spread"])
def test_of_a_codec_that_loses_nothing_only_the_rounding_is_left(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight_through, "encode", lossless)
    low, high = (-0.3, 1.4) if space == "spread" else (0.0, 1.0)
    stored, x = pixels(low, high, 0.49)
    mean, std = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)) if space == "unit" else SCALE
    how = loop(spread=space == "spread", **(UNIT if space == "unit" else {}))
    given = (x - mean) / std
    residual, step = how.residual(given), (high - low) / 255
    assert 0.45 * step < float((residual * std).abs().max()) <= 0.5 * step
    back = ((given + residual) * std + mean - low) / step
    torch.testing.assert_close(back, stored.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("spread", [False, True])
def test_what_is_not_a_number_stays_one(spread: bool) -> None:
    x = torch.rand(2, 2, 3, 8, 8)
    x[1, 0, 2, 3, 3] = torch.nan
    assert bool((x + loop(spread=spread).residual(x))[1, 0, 2, 3, 3].isnan())


def test_when_it_is_due_and_what_it_says() -> None:
    assert [step for step in range(8) if loop(3).due(step)] == [0, 3, 6] and not any(map(OFF.due, range(8)))
    assert (OFF.settings, OFF.deviations) == ({}, [])
    assert loop(3).settings == {"codec_every": 3, "encoding": "avif:30/2"}
    (said,) = loop(3).deviations
    assert "every 3 steps" in said and "avif:30/2" in said and "not the paper's" in said and "straight-through" in said
    assert "every step " in loop(1).deviations[0]


# Gradients, against plain loops


class Through(torch.autograd.Function):
    """Decoded images in place of the pixels, whose gradient they hand on as it is."""

    @staticmethod
    def forward(_: Any, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual

    @staticmethod
    def backward(_: Any, *given: Tensor) -> Any:
        return given[0], None


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("every", [1, 3])
def test_inverted_images_follow_the_gradient_at_what_their_pictures_decode_to(every: int, optimizer: str) -> None:
    net = teacher().double()
    how = Inversion(steps=5, lr=0.2, beta=0.1, first_bn=10.0, ahead=3, back=2, optimizer=optimizer)
    how = replace(how, lr=20.0) if optimizer == "sgd" else how
    view, target = draws(how, [(0, k) for k in range(2)], size=(16, 16), device=CPU), torch.arange(1, 5)
    mean, std = (x.double() for x in SCALE)
    low, high = (0 - mean) / std, (1 - mean) / std
    first = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    found = optimise(net, first, lambda x: x, target, how, view, precision="fp32", bounds=(low, high), loop=loop(every))

    x = first.clone().requires_grad_()
    kinds = {"adam": lambda: torch.optim.Adam([x], betas=(0.5, 0.9)), "sgd": lambda: torch.optim.SGD([x])}
    solver = kinds[optimizer]()
    residual = torch.zeros_like(first)
    for k in range(how.steps):
        if k % every == 0:
            stored = ((x.detach() * std + mean) * 255).round().clamp(0, 255).byte()
            seen = by_hand(stored.transpose(0, 1)).transpose(0, 1).double() / 255  # a class's images in a sheet
            residual = (seen - mean) / std - x.detach()
        solver.param_groups[0]["lr"] = how.lr * (1 + math.cos(math.pi * k / how.steps)) / 2
        solver.zero_grad()
        objective(net, augment(Through.apply(x, residual), view, k), target, how.beta, how.first_bn).sum().backward()
        solver.step()
        x.data.clamp_(low, high)
    torch.testing.assert_close(found, x.detach(), rtol=1e-4, atol=1e-5)  # Identity and the scale are of float32
    plain = optimise(net, first, lambda x: x, target, how, view, precision="fp32", bounds=(low, high))
    assert float((found - plain).abs().max()) > 0.05


@pytest.mark.parametrize("together", [1, 3])
def test_matched_images_follow_the_gradient_at_what_their_pictures_decode_to(together: int) -> None:
    images, velocity, corners = start()

    def decoded(step: int, x: Tensor) -> Tensor | None:
        return by_hand((x.clamp(0, 1) * 255).round().byte()).double() / 255 if step % 2 == 0 else None

    how = replace(MATCHING, inner=5, rate=0.01)
    wanted = plain_iteration(2, images, velocity, corners, how, decoded)
    matcher = Matcher(images, 4, real(how), replace(how, together=together), loop=loop(2, **UNIT))
    matcher.start(images, velocity, torch.zeros(2))
    matcher.iterate(2, corners)
    for a, b in zip((matcher.images, matcher.velocity), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    unlike = plain_iteration(2, images, velocity, corners, how)
    assert float((unlike[0] - wanted[0]).abs().max()) > 1e-3


# Steps that are recorded, and stages


def test_recorded_steps_see_the_residual_that_changes_beside_them(repeated: list[Repeated]) -> None:
    how = Inversion(steps=9, lr=0.3, beta=0.1, first_bn=10.0, ahead=3)
    view = draws(how, [(0, k) for k in range(2)], size=(16, 16), device=CPU)
    first = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(2))

    def inverted(precision: str) -> Tensor:
        with computing(CPU, precision):
            return optimise(
                teacher(), first, lambda x: x, torch.arange(1, 5), how, view, precision=precision, loop=loop()
            )

    found = inverted("fp32")
    assert repeated[0].calls == how.steps - 3
    torch.testing.assert_close(found, inverted("exact"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cfg", [replace(UDD, regions=0, contrast="none"), UDD], ids=["idc", "udd"])
def test_a_recorded_matching_is_the_eager_one_in_any_stages(
    cfg: udd.Config, repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = loop(4, **UNIT)  # three inner iterations to an outer one: the residual outlasts a stage
    eager = advanced(cfg, loop=how)
    assert not repeated and "residual" in eager and not torch.equal(eager["images"], advanced(cfg)["images"])
    with computing(CPU, "fp32"):
        found = advanced(cfg, loop=how)
    assert repeated and equal(found, eager)
    monkeypatch.setattr(udd, "_CHUNKS", 2)
    assert equal(advanced(cfg, loop=how), eager)


def test_trajectories_are_matched_alike_in_any_stages() -> None:
    def matched(how: InLoop, *stages: range) -> State:
        state = learner()
        student = student_of(FLAT, state, SMALL, CPU)
        for stage in stages:
            state = advance(stage, state, paths(), student, SMALL, LOOK, how)
        return state

    how = loop(3, spread=True)
    whole = matched(how, range(5))
    assert equal(matched(how, range(2), range(2, 5)), whole) and float(whole["residual"].abs().max()) > 0.01
    assert "residual" not in matched(OFF, range(1))
    assert not torch.equal(matched(OFF, range(5))["images"], whole["images"])


# Recipes

STATIC = {"labels": "static"}
# method: (settings, steps between codings, a stage in which the residual of the one before it is in use)
CASES: dict[str, tuple[dict[str, Any], int, str]] = {
    "edf": ({}, 2, "match-0"),
    "udd": ({}, 3, "match-0"),
    "sre2l": ({**STATIC, "protocol": "infer-static-50"}, 2, ""),
    "nrr-dd": (STATIC, 2, ""),
}
# Stages of smoke runs without a codec in the loop, by the names that their files had before there was one.
BEFORE = {
    "edf": {f"match-{x}" for x in ("0-14a98b7833df", "1-ed95acb6c388", "2-8179eb21d431", "3-28b0ac169c30")},
    "udd": {f"match-{x}" for x in ("0-cf68ed9e700b", "1-7d6d691b43e3", "2-24e22348bf74")},
    "sre2l": {"recover-3fe9d801d414", "labels-f72c31b274ef"},
    "nrr-dd": {"refine-b6e3d35103c6"},
}
LEARNING = ("match-", "recover", "refine", "labels")


class Kept(Run):
    """A run that keeps the bytes it is given to be coded."""

    given: Tensor

    def coded(self, images: Tensor, labels: Tensor) -> Tensor:
        self.given = images
        return super().coded(images, labels)


class Made:
    """The smoke artifacts of a recipe, in one work folder: as they are and with the codec in the loop."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        changes, self.every, self.until = CASES[name]
        self.off = replace(RECIPES[name].SMOKE, **changes)
        self.on = replace(self.off, codec_every=self.every)
        self.plain = self.run("plain", self.off, "avif:30")
        self.coded = self.run("coded", self.on, "avif:30")
        self.last = self.given

    def run(self, out: str, cfg: Any, encoding: str, folder: Path | None = None, until: str | None = None) -> Artifact:
        folder = folder or self.folder
        how: dict[str, Any] = {"device": "cpu", "precision": "fp32", "work": folder / "work"}
        recipe = RECIPES[self.name]
        run = Kept(recipe, cfg, folder / out, encoding=encoding, until=until, **how)
        artifact: Artifact = recipe.distill(cfg, run)
        self.given = run.given
        return artifact

    def stages(self) -> set[str]:
        """Of what is learned, the files."""
        return {x.stem for x in (self.folder / "work").glob("*.safetensors") if x.name.startswith(LEARNING)}


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp("loop"))


def test_stages_without_a_codec_in_the_loop_are_those_they_were(made: Made) -> None:
    there = made.stages()
    made.run("png", made.off, "png")
    labels = made.stages() - there
    assert labels | there >= BEFORE[made.name] and all(x.startswith("labels") for x in labels)
    kinds = {x.rpartition("-")[0] for x in there}
    count = len([x for x in there if not x.startswith("labels")])
    assert count == 2 * len([x for x in kinds if x != "labels"])  # each with and without the codec


def test_the_card_says_that_the_codec_is_in_the_loop(made: Made) -> None:
    said = [line for line in made.coded.manifest.deviations if "codec" in line]
    assert len(said) == 1 and f"avif:30/{made.on.ipc}" in said[0].replace("avif:30 ", f"avif:30/{made.on.ipc} ")
    assert not any("codec" in line for line in made.plain.manifest.deviations)
    assert made.coded.manifest.recipe["config"]["codec_every"] == made.every
    assert not torch.equal(made.coded.images(), made.plain.images())
    assert made.coded.manifest.encoding["codec"] == "avif"


def test_what_is_stored_is_what_the_loop_would_make_of_the_last_pixels(made: Made) -> None:
    run = Run(RECIPES[made.name], made.on, made.folder / "again", device="cpu", encoding="avif:30")
    space = {"normalised": made.name != "udd", "spread": made.name == "edf"}
    how = in_loop(made.on, run, run.source(made.on.dataset, "train"), **space)
    pair = made.coded.manifest.pixel_range
    low, high, mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in ([x for x, _ in pair], [x for _, x in pair], how.mean, how.std)
    )

    def unit(stored: Tensor) -> Tensor:
        return low + stored.float() / 255 * (high - low)

    x = ((unit(made.last) - mean) / std).unflatten(0, (10, -1))
    seen = (x + how.residual(x)).flatten(0, 1) * std + mean
    torch.testing.assert_close(seen, unit(made.coded.images()), rtol=0, atol=1e-5)
    assert float((unit(made.last) - seen).abs().max()) > 0.05


def test_teachers_label_the_decoded_pixels(made: Made) -> None:
    if made.name not in ("sre2l", "nrr-dd"):
        pytest.skip("no teacher labels its images")
    m, labels = made.coded.manifest, made.coded.tensors()["labels.logits"].float()
    (file,) = (made.folder / "work").glob("teacher-*.safetensors")
    state = load_file(file)
    state.pop("test_accuracy")
    net = models.build(RECIPES[made.name].SMOKE.teacher, classes=10, size=32)
    net.load_state_dict(state)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (m.mean, m.std))
    with torch.no_grad():
        torch.testing.assert_close(
            labels, net.eval()((made.coded.images().float() / 255 - mean) / std), rtol=2e-3, atol=2e-3
        )


class Stopped(Exception):
    """An interrupt."""


def begun(made: Made, folder: Path) -> None:
    """A folder with what the recipe does before it learns pixels."""
    (folder / "work").mkdir()
    for file in (made.folder / "work").iterdir():
        if file.is_file() and not file.name.startswith(LEARNING):
            shutil.copy(file, folder / "work")


def test_interrupted_and_started_again_gives_the_same_digest(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(made, tmp_path)
    whole: Callable[[InLoop, Tensor], Tensor] = InLoop.residual
    calls = 0

    def dying(self: InLoop, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Stopped
        return whole(self, x)

    if made.until:  # between two codings
        with pytest.raises(Finished):
            made.run("coded", made.on, "avif:30", tmp_path, until=made.until)
    monkeypatch.setattr(InLoop, "residual", dying)
    calls = 1 if made.until else 0
    with pytest.raises(Stopped):
        made.run("coded", made.on, "avif:30", tmp_path)
    assert not (tmp_path / "coded").exists()
    again = made.run("coded", made.on, "avif:30", tmp_path)
    assert again.manifest.digest == made.coded.manifest.digest


# What cannot be


@pytest.mark.parametrize("name", CASES)
def test_a_codec_that_loses_nothing_is_none_in_the_loop(name: str, tmp_path: Path) -> None:
    cfg = replace(RECIPES[name].SMOKE, codec_every=5)
    message = "codec_every is 5, and png loses nothing; give --encoding webp:30 or avif:50, or codec_every 0"
    with pytest.raises(UsageError, match=message):
        RECIPES[name].distill(cfg, Run(RECIPES[name], cfg, tmp_path / "x"))
    line = [name, str(tmp_path / "x"), "--preset", "smoke", "--codec-every", "5", "--dry-run"]
    done = CliRunner().invoke(__main__.group(), line)
    assert isinstance(done.exception, UsageError) and message in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sre2l", "nrr-dd"])
def test_a_picture_of_images_that_never_meet_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(RECIPES[name].SMOKE, codec_every=2)
    monkeypatch.setattr(units, "UNIT", 10 * 32 * 32)  # one image of each class
    with pytest.raises(
        UsageError, match="2 images of a class, and 1 are optimised side by side; give --encoding avif:30/1"
    ):
        RECIPES[name].distill(cfg, Run(RECIPES[name], cfg, tmp_path / "x", encoding="avif:30"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "encoding", "changes", "message"),
    [
        ("edf", "avif:30/3", {}, "a picture of 3 images mixes classes, or is not filled; choose a divisor"),
        ("sre2l", "webp:30/4", {}, "a picture of 4 images mixes classes, or is not filled; choose a divisor"),
        ("udd", "avif:30", {"codec_every": -1}, "codec_every is -1; it must be 0 or more"),
        ("udd", "avif:30", {"codec_every": 1.5}, "codec_every is 1.5; it must be a whole number"),
        ("nrr-dd", "avif:30", {"refine": "none"}, "codec_every is 2, and refine none learns no pixels"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_computed(
    name: str, encoding: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        cfg = replace(RECIPES[name].SMOKE, **{"codec_every": 2, **changes})
        RECIPES[name].distill(cfg, Run(RECIPES[name], cfg, tmp_path / "x", encoding=encoding))
    assert not list(tmp_path.iterdir())
