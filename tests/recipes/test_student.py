"""Outer iterations and experts as captured steps: to the bit what they are without recordings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import Played
from safetensors.torch import load_file
from test_edf import HOW, learner
from test_experts import HOW as EXPERTS
from test_experts import trained
from torch import Tensor

from ddhub.training.capture import Captured
from ddhub.training.devices import computing
from recipes import edf
from recipes.run.run import Run
from recipes.trajectories.dae import Enhancing, PixelWeights
from recipes.trajectories.flat import Flat
from recipes.trajectories.trajectory import LEARNED, Outer, State, advance, outer_iteration, student_of

CPU = torch.device("cpu")
FLAT = Flat("convnet3-w4", 3, 8, 3)
SMALL = replace(HOW, rates=(1.0, 1.0, 1e-4), drop=0.0)
LOOK = PixelWeights(
    net=FLAT.load(FLAT.initial("look")).eval().requires_grad_(False),
    settings=Enhancing(seed=0, cam="smooth-grad-cam++", every=3, beta=1.0, threshold=0.0),
)


class Several(Played):
    """A recording of a step that may return several tensors, all of which are overwritten."""

    def __init__(self, work: Callable[..., Any], tensors: tuple[Tensor, ...]) -> None:
        self.kept: tuple[Tensor, ...] = ()

        def alone(*held: Tensor) -> Tensor | None:
            result = work(*held)
            if not isinstance(result, tuple):
                return result
            self.kept = self.kept or result
            for kept, one in zip(self.kept, result, strict=True):
                kept.copy_(one)
            return None

        super().__init__(alone, tensors)

    def __call__(self, *tensors: Tensor) -> Any:
        result = super().__call__(*tensors)
        return self.kept or result


@pytest.fixture
def several(recorded: list[Played], monkeypatch: pytest.MonkeyPatch) -> list[Played]:
    monkeypatch.setattr(Captured, "_record", lambda self, work, tensors: Several(work, tensors))
    return recorded


def paths() -> Tensor:
    """Two experts of four checkpoints; each is near the one before it."""
    steps = torch.randn(2, 4, FLAT.count, generator=torch.Generator().manual_seed(5))
    return FLAT.initial("paths") + 0.02 * steps.cumsum(1)


def matched(how: Outer, look: PixelWeights | None = None, state: State | None = None) -> tuple[State, list[Tensor]]:
    """The state after eight iterations in two stages with one student, and the images after each stage."""
    state = dict(state or learner())
    student, images = student_of(FLAT, state, how, CPU), []
    for stage in (range(4), range(4, 8)):
        state = advance(stage, state, paths(), student, how, look)
        images.append(state["images"].clone())
    return state, images


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("how", "look"),
    [
        (SMALL, None),
        (replace(SMALL, drop=0.25), LOOK),
        (replace(SMALL, way="reverse", ops=()), None),
        (replace(SMALL, batch=100, rates=(1.0, 0.0, 1e-4)), None),
    ],
    ids=["datm", "edf", "reverse, no dsa", "mtt, all in a batch"],
)
def test_recorded_iterations_are_the_eager_ones(how: Outer, look: PixelWeights | None, several: list[Played]) -> None:
    eager, before = matched(how, look)
    assert not several and not torch.equal(*before)
    with computing(CPU, "fp32"):
        found, images = matched(how, look)
    assert equal(found, eager) and all(map(torch.equal, images, before))
    # The net's steps, forth and back, are recorded once for each size: batches of 2 and 4 images of 6, or one of all.
    sizes = {6} if how.batch == 100 else {2, 4}
    net = sorted((len(x.held), len(x.held[2])) for x in several if len(x.held[0]) == FLAT.count)
    assert net == sorted((count, size) for count in (4, 6) for size in sizes)
    # Each of them runs three times, then the recording of the first stage serves the second one.
    assert sum(x.played for x in several if len(x.held) == 6) == 8 * 5 - 3 * len(sizes)
    if len(how.ops) > 1:
        assert len(several) > len(net) + 6  # augmentations, an operation at a time


def test_a_skipped_iteration_leaves_every_bit_under_recordings_too(several: list[Played]) -> None:
    state, paths_ = learner(), paths()
    losses = []
    student = student_of(FLAT, state, SMALL, CPU)
    for iteration in range(8):
        state, loss = outer_iteration(iteration, state, paths_, student, SMALL)
        losses.append(float(loss))
    how = replace(SMALL, skip=sorted(losses)[4])
    eager, _ = matched(how)
    with computing(CPU, "fp32"):
        found, _ = matched(how)
        student, state = student_of(FLAT, found, how, CPU), found
        for iteration, bound in enumerate([math.inf] * 3 + [0.0] * 3 + [math.inf]):
            before = {key: value.clone() for key, value in state.items()}
            state, _ = outer_iteration(iteration, state, paths_, student, replace(how, skip=bound))
            assert equal(state, before) == (bound == 0.0)
    assert equal(found, eager) and 0 < int(found["learned"]) < 8 and several


def test_a_state_that_is_no_number_does_not_stay_in_the_sums_of_the_gradients(several: list[Played]) -> None:
    with computing(CPU, "fp32"):
        state = learner()
        student = student_of(FLAT, state, SMALL, CPU)
        wanted, _ = outer_iteration(0, state, paths(), student, SMALL)
        bad = {**state, "images": torch.full_like(state["images"], torch.nan)}
        for iteration in range(4):
            _, loss = outer_iteration(iteration, bad, paths(), student, SMALL)
            assert bool(loss.isnan())
        found, _ = outer_iteration(0, state, paths(), student, SMALL)
    assert equal(found, wanted) and several


@pytest.mark.parametrize("change", [{"way": "unroll"}, {"segment": 2}])
def test_graphs_of_several_steps_are_not_recorded(change: dict[str, Any], several: list[Played]) -> None:
    how = replace(SMALL, **change)
    eager, _ = matched(how)
    with computing(CPU, "fp32"):
        found, _ = matched(how)
    assert equal(found, eager) and not several


def test_what_captured_steps_change_stays_where_it_is() -> None:
    state = learner()
    student = student_of(FLAT, state, SMALL, CPU)

    def places() -> list[int]:
        return [x.data_ptr() for x in (student.images, student.labels, student.pixels, student.logits)]

    before = places()
    for iteration in range(2):
        state, _ = outer_iteration(iteration, state, paths(), student, SMALL)
        assert places() == before
        assert not {state[name].data_ptr() for name in LEARNED} & set(before)


@pytest.mark.parametrize("change", [{}, {"together": 2}, {"optimizer": "sgd"}], ids=["alone", "two at once", "sgd"])
def test_recorded_experts_are_the_eager_ones(change: dict[str, Any], tmp_path: Path, several: list[Played]) -> None:
    how = replace(EXPERTS, epochs=3, **change)
    eager = trained(tmp_path / "eager", how)
    assert not several
    with computing(CPU, "fp32"):
        found = trained(tmp_path / "recorded", how)
    assert torch.equal(found, eager)
    # 21 images are two batches of 8 and one of 5; recordings serve all experts that follow, of which two were one call.
    played = {tuple(x.held[1].shape[:2]): x.played for x in several}
    if "together" in change:
        assert played == {(2, 8): 6 - 3, (1, 8): 6 - 3}
    else:
        assert played == {(1, 8): 18 - 3, (1, 5): 9 - 3}


def test_recordings_serve_the_experts_and_all_stages_of_a_run(tmp_path: Path, several: list[Played]) -> None:
    cfg = replace(edf.SMOKE, n_experts=1, init="real", cam_every=1)

    def done(precision: str) -> tuple[dict[str, Tensor], bytes]:
        out = tmp_path / precision
        edf.distill(cfg, Run(edf, cfg, out, precision=precision))
        (last,), (file,) = (list(out.with_name(f"{precision}.work").glob(x)) for x in ("match-3-*", "experts-*.npy"))
        return load_file(last), file.read_bytes()

    eager, experts = done("exact")
    assert not several
    found, others = done("fp32")
    assert equal(found, eager) and others == experts
    # Four stages of an iteration of four steps each: the first three steps run, all others are the recording's.
    back = [x for x in several if len(x.held) == 6]
    assert sum(x.played for x in back) == 4 * 4 - 3 * len(back)
    (expert,) = (x for x in several if x.held[0].dim() == 2)
    assert expert.played == 2 * 7 - 3  # 2,000 images are 7 whole batches; of the other one there are too few
