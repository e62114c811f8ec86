"""Train a student and score it: the only training loop in the repository (teachers are students of real data).

    model, result = train(data, "resnet18", seed=0)      # result.accuracy: last epoch, all test images

A run is a function of (data, protocol, model, seed, precision): weights and dropout come from generators seeded per
epoch, views from the epoch's table. A checkpoint per epoch lets an interrupted run go on as if it had not been.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddhub import models
from ddhub.artifact.results import Result
from ddhub.errors import DDHubError, TrainingError, UsageError, first_line
from ddhub.io.rules import require, whole_within
from ddhub.protocols.named import protocol as named
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from ddhub.training.batches import DistilledData
from ddhub.training.capture import Captured
from ddhub.training.compiled import compiled
from ddhub.training.devices import (
    captures,
    computing,
    describe,
    layout,
    placed,
    resolve_device,
    resolve_precision,
    seeded,
    versions,
)
from ddhub.training.open import loaded, test_images
from ddhub.training.optimizer import Optimizer, build_optimizer, learning_rate, restart, set_rate
from ddhub.training.scoring import checked, evaluate, require_net

log = logging.getLogger(__name__)

_READ = 200  # steps, at least, after which the loss is read, as reading waits for a GPU
SAVE = 10.0  # seconds, at least, between two checkpoints


def _side(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _save(path: Path, state: dict[str, object]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch has one of its own for a full disk
        with suppress(OSError):
            part.unlink()
        cause = error.strerror if isinstance(error, OSError) else first_line(error)
        raise DDHubError(f"{path}: cannot be written ({cause}); free space or check its rights") from None


def _saved(path: Path, run: list[object], device: torch.device) -> dict[str, Any] | None:
    """The state that `_save` wrote of this run; None if there is none, it is damaged or of another run."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["run"] == run:
            return dict(state)
        cause = "it is of another run"
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, UnpicklingError) as error:
        cause = f"it cannot be read: {first_line(error)}"
    log.warning("%s is not used (%s); training begins anew", path, cause)
    return None


def train(
    data: DistilledData | str | Path,
    model: str | nn.Module = "convnet3",
    *,
    protocol: Protocol | str | None = None,
    seed: int = 0,
    test: str | Source | None = None,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> tuple[nn.Module, Result]:
    """Train a student on distilled data by a protocol and score it after the last epoch.

    Args:
        data: what `ddhub.load` returns, or the name that it takes.
        model: a name that `ddhub.models.build` knows, or a net of your own (used as it is, trained in place).
        protocol: the artifact's own if not given; or the name of one.
        seed: decides initial weights, dropout and every view.
        test: name of the test data, or a Source; the artifact's data set if not given, which for images of somebody's
            own folder it has to be.
        root: where real data lies (see `ddhub.sources.source.open_source`).
        device: `auto` is a GPU where there is one.
        precision: `bf16`, `fp32`, `exact`, or `auto` for the faster of the first two on the device
            (`ddhub.training.devices`).
        checkpoint: a file that holds the state after an epoch, to go on from; removed at the end. That of another run
            (data, protocol, model, seed or precision), or a damaged one, is not used.
        progress: show a bar on a terminal.

    Returns:
        The trained net in eval mode, in float32, and its Result.

    Raises:
        UsageError: an unknown artifact, model, device or precision; a net that does not take the images, or gives
            other than a number a class; or test classes other than the data's.
        SourceError: no test data.
        TrainingError: a loss that is not a number.
    """
    data, checkpoint = loaded(data), None if checkpoint is None else Path(checkpoint)
    plan = data.protocol if protocol is None else named(protocol) if isinstance(protocol, str) else protocol
    where = resolve_device(device)
    precision = resolve_precision(precision, where)
    _require_student(model, plan, seed)
    size = data.about.image_size
    scored_on = test_images(test, data.about.dataset, root=root, size=size[1])
    if tuple(scored_on.classes) != tuple(data.about.classes):
        raise UsageError(
            f"{data.about.name!r} and test data {scored_on.name!r} have different classes; choose another --test"
        )
    if tuple(scored_on.images.shape[1:]) != size:
        raise UsageError(
            f"{data.about.name!r} has images of {_side(size)}, test data {scored_on.name!r} of "
            f"{_side(scored_on.images.shape[1:])}; open it with size={size[1]}"
        )
    name = model if isinstance(model, str) else type(model).__name__
    net, steps, seconds = fit(data.using(protocol=plan).to(where), model, seed, precision, checkpoint, progress)
    accuracy = evaluate(net, scored_on, mean=data.about.mean, std=data.about.std, device=where, precision=precision)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    result = Result(
        artifact=data.about.name,
        digest=data.about.digest,
        protocol=plan.name,
        protocol_digest=plan.digest,
        settings=plan.to_json(),
        model=name,
        seed=seed,
        accuracy=accuracy,
        test_name=scored_on.name,
        test=scored_on.label,
        test_images=len(scored_on.labels),
        test_fingerprint=scored_on.fingerprint,
        epochs=plan.epochs,
        steps=steps,
        seconds=round(seconds, 1),
        device=describe(where),
        precision=precision,
        versions=versions(),
    )
    return net, result


def _require_student(model: object, plan: object, seed: object) -> None:
    """UsageError for what no training can begin with."""
    if not isinstance(model, str):
        require_net(model)
        weights = any(weight.requires_grad for weight in model.parameters())  # type: ignore[attr-defined]
        require(weights, "model", type(model).__name__, "a net with weights that are to be learned")
    require(isinstance(plan, Protocol), "protocol", plan, "a Protocol (ddhub.protocol) or the name of one")
    whole_within("seed", seed, 0, 2**32 - 1)


def fit(
    data: DistilledData,
    model: str | nn.Module,
    seed: int,
    precision: str,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> tuple[nn.Module, int, float]:
    """Train on `data` by its protocol and device; returns the net, the steps taken and the seconds."""
    plan, device = data.protocol, data.device
    known = isinstance(model, str)  # a net of the caller's own may do what no recording repeats
    name = model if isinstance(model, str) else type(model).__name__
    with seeded(device, seed):
        if isinstance(model, str):
            channels, size = data.about.image_size[0], data.about.image_size[1]
            # whatever the caller's default device, so that a seed gives the same weights everywhere
            with torch.device("cpu"):
                model = models.build(model, classes=len(data.about.classes), size=size, channels=channels)
    net = placed(model, device)
    count, rest = data.steps_per_epoch, len(data) % plan.batch_size
    if count > 1 and 0 < 8 * rest < plan.batch_size:  # 6 of 128: 46.0 in place of 51.9 % (recipes/presets/coreset.toml)
        log.warning(
            "the last batch of an epoch has %d items of %d, and such steps can cost points; batches of %d are even",
            rest, plan.batch_size, -(-len(data) // count),
        )  # fmt: skip
    with computing(device, precision):
        optimizer = build_optimizer(net, plan, capturable=known and captures(device))
        first, seconds = 0, 0.0
        run: list[object] = [data.about.digest, plan.digest, name, seed, precision]
        if checkpoint is not None and (state := _saved(checkpoint, run, device)):
            net.load_state_dict(state["net"])
            optimizer.load_state_dict(state["optimizer"])
            first, seconds = state["epochs"], state["seconds"]
        step = _Step(data, net, optimizer, precision, active=known)
        bar = tqdm(
            range(first, plan.epochs), initial=first, total=plan.epochs, unit="epoch", leave=False,
            disable=None if progress else True,
        )  # fmt: skip
        begin = saved = time.perf_counter()
        for epoch in bar:
            _epoch(data, net, optimizer, step, seed, epoch)
            is_last = epoch + 1 == plan.epochs
            if step.taken < _READ and not is_last and device.type != "cpu":
                continue
            loss, now = step.mean_loss(), time.perf_counter()
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss of {data.about.name!r} is {loss} in epoch {epoch} "
                    f"(lr {learning_rate(plan, epoch, data.about.lr):.4g}, {precision}); "
                    "lower lr or use precision fp32"
                )
            bar.set_postfix(loss=f"{loss:.4g}")
            if checkpoint is not None and (now - saved >= SAVE or is_last):
                taken = seconds + now - begin
                log.info("epoch %d of %d: loss %.4g, %.0f s", epoch + 1, plan.epochs, loss, taken)
                parts = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
                _save(checkpoint, {**parts, "run": run, "epochs": epoch + 1, "seconds": taken})
                saved = time.perf_counter()
        seconds += time.perf_counter() - begin
    return net.eval(), plan.epochs * data.steps_per_epoch, seconds


class _Step:
    """A step of the student, and the sum of the losses since it was last read."""

    def __init__(
        self, data: DistilledData, net: nn.Module, optimizer: Optimizer, precision: str, *, active: bool
    ) -> None:
        self.data, self.net, self.optimizer, self.precision = data, net, optimizer, precision
        self.form, self.classes = layout(net, data.device), len(data.about.classes)
        self.fast: nn.Module = net  # for batches of this size, all but the last of an epoch:
        self.size = 0 if active and precision == "fp32" else -1
        self.total, self.taken = torch.zeros((), device=data.device), 0
        self.captured = Captured(self._work, data.device, "a student's step", active=active)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        x = x.contiguous(memory_format=self.form)
        if not self.size:
            self.size = len(x)
            self.fast = compiled(self.net, x, len(x) * self.data.steps_per_epoch * self.data.protocol.epochs)
        self.captured(x, y)
        self.taken += 1

    def _work(self, x: Tensor, y: Tensor) -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = checked(self.fast if len(x) == self.size else self.net, x, self.classes)
        loss = self.data.loss(output, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def mean_loss(self) -> float:
        """The mean loss of the steps since this was last called; waits for the device."""
        mean = float(self.total) / max(1, self.taken)
        self.total.zero_()
        self.taken = 0
        return mean


def _epoch(data: DistilledData, net: nn.Module, optimizer: Optimizer, step: _Step, seed: int, epoch: int) -> None:
    """The steps of one epoch, none of which waits for the device."""
    rate, count = learning_rate(data.protocol, epoch, data.about.lr), data.steps_per_epoch
    if data.protocol.restart and epoch in data.protocol.milestones:
        restart(optimizer)
    set_rate(optimizer, rate)
    net.train()
    # Dropout and its like draw from a generator of their own in every epoch, so that resuming changes nothing.
    with seeded(data.device, (seed << 32) + epoch):
        for number, (x, y) in enumerate(data.batches(seed, epochs=epoch + 1, start=epoch * count)):
            if data.protocol.schedule == "one-cycle":
                set_rate(optimizer, learning_rate(data.protocol, epoch + (number + 0.5) / count, data.about.lr))
            step(x, y)
