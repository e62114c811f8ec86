"""Trajectory matching: one outer iteration, shared by MTT (arXiv 2203.11932), DATM (2310.05773) and EDF (2410.17193).

    window   t ~ U{T⁻, ..., U - 1};  U = min(T₀ + floor((T⁺ - T₀) · it / E), T⁺) if sequential, else T⁺
    student  from θ*_t, N steps of gradient descent with step size η on augmented batches of X with soft labels Y
    match    L of the student and θ*_{t+M}, and its gradients for X, Y and η (`recipes.trajectories.adjoint`)
    step     SGD with momentum on each of the three; on X the gradient times DAE's weights (`recipes.trajectories.dae`)
    skip     none of it where L is above the threshold, or not a number: X, Y, η and the momenta stay as they are

Batches are pieces of a permutation of all images, the last one first, a new permutation when they are used up; every
iteration begins with a new one. All draws of an iteration come from (seed, its number) on the CPU, experts take turns
in an order shuffled each time round, and whether to skip is decided on the device, which nothing here waits for: draws
and checkpoints of the next iteration are read while it still computes this one. Its steps are captured ones, recorded
once for all iterations (`recipes.trajectories.student`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ddhub.data.dsa import COLUMNS
from ddhub.data.transfer import sent
from ddhub.errors import TrainingError
from ddhub.training.capture import Captured
from ddhub.training.devices import computing
from recipes.run.draws import generator
from recipes.run.straight_through import OFF, InLoop
from recipes.trajectories.adjoint import match
from recipes.trajectories.dae import PixelWeights
from recipes.trajectories.flat import Flat
from recipes.trajectories.student import Student

log = logging.getLogger(__name__)
State = dict[str, Tensor]  # see `started`
LEARNED = ("images", "labels", "step")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which epochs of an expert an iteration may start from."""

    least: int
    first: int
    last: int
    expansion: int
    sequential: bool

    def end(self, iteration: int) -> int:
        """U, the first epoch that is not among them.

        >>> [Window(least=0, first=10, last=20, expansion=1000, sequential=True).end(i) for i in (0, 550, 1000, 9999)]
        [10, 15, 20, 20]
        """
        if not self.sequential:
            return self.last
        return min(self.first + (self.last - self.first) * iteration // self.expansion, self.last)


@dataclass(frozen=True, kw_only=True)
class Outer:
    """How images, labels and the step size are learned.

    Attributes:
        seed: of all draws.
        window: of the epochs t.
        span: M, epochs of the expert that the student's steps stand for.
        steps, batch: N and B of the student.
        ops, crop: of DSA; the operation is one a batch, its parameters are each image's own.
        drop: α of CPD.
        skip: largest L that is learned from.
        rates, momenta: of images, labels and step size; a rate of 0 leaves them as they are.
        way, segment: of `recipes.trajectories.adjoint.match`.
    """

    seed: int
    window: Window
    span: int
    steps: int
    batch: int
    ops: tuple[str, ...]
    crop: float
    drop: float
    skip: float
    rates: tuple[float, float, float]
    momenta: tuple[float, float, float]
    way: str
    segment: int


class Draw(NamedTuple):
    """What an iteration draws: the expert, the epoch, and of every inner step its images, DSA's operation and table."""

    expert: int
    epoch: int
    rows: list[Tensor]
    ops: list[str]
    u: Tensor  # [N, B, COLUMNS]


def chunks(count: int, size: int, steps: int, draw: torch.Generator) -> list[Tensor]:
    """Numbers of the images of each inner step: pieces of at most `size` of permutations of `count`."""
    pieces: list[Tensor] = []
    while len(pieces) < steps:
        pieces += reversed(torch.randperm(count, generator=draw).split(size))
    return pieces[:steps]


def drawn(iteration: int, count: int, experts: int, settings: Outer) -> Draw:
    """The draws of an iteration for `count` images."""
    order = torch.randperm(experts, generator=generator(settings.seed, "experts", iteration // experts))
    draw = generator(settings.seed, "iteration", iteration)
    epoch = int(torch.randint(settings.window.least, settings.window.end(iteration), (), generator=draw))
    rows = chunks(count, settings.batch, settings.steps, draw)
    picks = torch.randint(max(1, len(settings.ops)), (settings.steps,), generator=draw).tolist()
    u = torch.rand(settings.steps, min(settings.batch, count), COLUMNS, generator=draw)
    return Draw(
        int(order[iteration % experts]), epoch, rows, [settings.ops[k] for k in picks] if settings.ops else [], u
    )


def started(images: Tensor, labels: Tensor, step: float) -> State:
    """The state before the first iteration.

    It is X `images` `[n, C, H, W]`, normalised, logits Y `labels` `[n, K]`, η `step` `[]`, `velocity.` of each, F
    `weights` `[n, 1, H, W]`, and of all iterations so far how many `learned` `[]` and the least loss `least` `[]`.
    A codec in the loop adds its `residual` `[n, C, H, W]` before the first one.
    """
    state = {"images": images, "labels": labels, "step": images.new_tensor(step)}
    state |= {f"velocity.{name}": torch.zeros_like(value) for name, value in state.items()}
    weights = images.new_ones(len(images), 1, *images.shape[2:])
    return {**state, "weights": weights, "learned": torch.tensor(0), "least": images.new_tensor(torch.inf)}


def shown(state: State) -> Tensor:
    """The images of a state as its student sees them: X, and the residual of a codec in the loop."""
    return state["images"] + state["residual"] if "residual" in state else state["images"]


def student_of(flat: Flat, state: State, settings: Outer, device: torch.device) -> Student:
    """The student of outer iterations from a state on; graphs of several steps are no captured steps."""
    active = settings.way != "unroll" and settings.segment == 1
    return Student(flat, state["images"], state["labels"], device, crop=settings.crop, active=active)


def advance(
    iterations: range,
    state: State,
    trajectories: Tensor,
    student: Student,
    settings: Outer,
    look: PixelWeights | None,
    loop: InLoop = OFF,
) -> State:
    """The state after some iterations.

    Args:
        iterations: their numbers.
        state, trajectories, student, settings: as of `outer_iteration`.
        look: what says where pixels matter, if anything does.
        loop: a codec in the loop, whose steps are iterations; the images lie class by class.

    Raises:
        TrainingError: images, labels or a step size that are not numbers, or a step size that is not above 0.
    """
    state, losses = {key: sent(value, student.device) for key, value in state.items()}, []
    for iteration in iterations:
        if loop.due(iteration):
            images = state["images"].unflatten(0, (state["labels"].shape[1], -1))
            state = {**state, "residual": loop.residual(images).flatten(0, 1)}
        if look and look.settings.due(iteration):
            weights = look.weights(shown(state), state["labels"].argmax(1), iteration)
            state = {**state, "weights": weights}
        state, loss = outer_iteration(iteration, state, trajectories, student, settings)
        losses.append(loss)
    values = torch.stack(losses)
    learned, least = int((values <= settings.skip).sum()), values.nan_to_num(torch.inf).min()
    state |= {"learned": state["learned"] + learned, "least": torch.minimum(state["least"], least)}
    step, last = float(state["step"]), iterations.stop - 1
    log.info(
        "iterations %d to %d: mean loss %.4g, %d of %d learned from, step size %.4g",
        iterations.start, last, values.nanmean(), learned, len(values), step,
    )  # fmt: skip
    if not all(bool(state[name].isfinite().all()) for name in LEARNED):
        raise TrainingError(f"an image or a label is not a number after iteration {last}; lower --lr-img or --lr-y")
    if step <= 0:
        raise TrainingError(f"the learned step size is {step:.3g} after iteration {last}; lower --lr-lr")
    if bool(values.isnan().all()):
        cause = f"every loss of the iterations {iterations.start} to {last} is not a number"
        raise TrainingError(f"{cause}; lower --lr-teacher or --lr-lr")
    return state


def outer_iteration(
    iteration: int, state: State, trajectories: Tensor, student: Student, settings: Outer
) -> tuple[State, Tensor]:
    """The state after an iteration, and its loss `[]`.

    Args:
        iteration: its number, from 0.
        state: before it, on the device.
        trajectories: of the experts, `[experts, epochs + 1, P]`; two rows are read.
        student: the student, kept from one iteration to the next.
        settings: the settings.
    """
    images = shown(state)
    draw = drawn(iteration, len(images), len(trajectories), settings)
    path = trajectories[draw.expert]
    start, target = (
        sent(path[epoch], student.device).to(images.dtype) for epoch in (draw.epoch, draw.epoch + settings.span)
    )
    student.begin(images, state["labels"], draw.rows, draw.ops, draw.u)
    matched = match(
        student.flat,
        start,
        target,
        state["step"],
        student.shown,
        settings.steps,
        student.give,
        drop=settings.drop,
        way=settings.way,
        segment=settings.segment,
        moves=student.moves,
    )
    gradients = (student.pixels * state["weights"], student.logits, matched.eta)
    return stepped(state, gradients, matched.loss <= settings.skip, settings), matched.loss


def stepped(state: State, gradients: Sequence[Tensor], learns: Tensor, settings: Outer) -> State:
    """The state after the steps of SGD with momentum, or the same bits where `learns` `[]` is false."""
    after = dict(state)
    for name, gradient, rate, momentum in zip(LEARNED, gradients, settings.rates, settings.momenta, strict=True):
        value, velocity = state[name], momentum * state[f"velocity.{name}"] + gradient
        after[f"velocity.{name}"] = torch.where(learns, velocity, state[f"velocity.{name}"])
        after[name] = torch.where(learns, value - rate * velocity, value)
    return after


def passes_per_second(flat: Flat, batch: int, device: torch.device, precision: str, seconds: float = 0.5) -> float:
    """Images per second through forward and backward of the net, measured for `seconds`: for a plan."""

    def passed(theta: Tensor, x: Tensor) -> Tensor:
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad(flat(leaf, x).square().mean(), leaf)[0]

    theta = flat.initial(0).to(device)
    x = torch.zeros(batch, flat.channels, flat.size, flat.size, device=device)
    with computing(device, precision):
        step = Captured(passed, device, "a pass of the plan")
        done = -5 if step.active else -1  # the first ones warm up and are not counted; one of them is recorded
        begin = time.perf_counter()
        while done < 1 or time.perf_counter() - begin < seconds:
            float(step(theta, x)[0])  # waits for the device
            done += 1
            if done == 0:
                begin = time.perf_counter()
    return done * batch / (time.perf_counter() - begin)
