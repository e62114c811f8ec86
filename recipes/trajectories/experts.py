"""Expert trajectories: nets trained on the real images, and all their parameters after every epoch.

Experts of one rank are trained side by side, `together` of them: their parameters are one tensor [k, P], and a step is
one call under `torch.func.vmap`. An expert depends on its number, the settings and the data alone, so that neither this
nor the number of ranks changes it, but for rounding. They are kept as they are made
(`recipes.trajectories.checkpoints`): after an interrupt each goes on from its last epoch, to the same numbers.

    sgd     w ← w - lr · g                                   g = ∇L(w)
    gsam    e = rho · w² ⊙ g / ‖|w| ⊙ g‖                     adaptive; else e = rho · g / ‖g‖
            h = ∇L(w + e)                                    on the same batch, augmented the same
            w ← w - lr · (h - alpha · (g - cos(g, h) · ‖g‖ · h / ‖h‖))

GSAM is that of Zhuang et al. (2022, arXiv 2203.08065) with the scaling of ASAM (Kwon et al., 2021, arXiv 2102.11600),
as FTD (Du et al., 2023, arXiv 2211.11004) and DATM train experts; norms are over all parameters of an expert. L is the
cross-entropy with the true classes. A batch is augmented by one operation of DSA; the last of an epoch is smaller.
A step is a captured one (`ddhub.training.capture`); the device is waited for once an epoch, for the checkpoints.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from ddhub.errors import TrainingError, UsageError, unknown
from ddhub.protocols.protocol import DSA_OPS, Augment, Protocol
from ddhub.sources.source import Source
from ddhub.training import ranks
from ddhub.training.batches import DistilledData
from ddhub.training.capture import Captured
from recipes.run.draws import generator
from recipes.run.teachers import real_data
from recipes.trajectories.checkpoints import Checkpoints
from recipes.trajectories.flat import Flat

log = logging.getLogger(__name__)

OPTIMIZERS = ("gsam", "sgd")
Stepped = Callable[[Tensor, Tensor, Tensor], Tensor]  # w, x, labels -> w
_TINY = 1e-12  # beside a norm that divides
_TOGETHER = {"cpu": 1, "cuda": 4}  # what is faster; benchmarks/edf.py prints both


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Which experts are trained, and how.

    Attributes:
        net: architecture, a ConvNet with InstanceNorm.
        count: how many.
        epochs: of each, on all real images.
        optimizer: gsam or sgd; neither has momentum or decay, and the rate stays.
        lr, batch: rate, and images of a batch.
        rho, alpha, adaptive: of gsam.
        seed: of initial parameters, orders and augmentation.
        together: experts trained at once; 0 is what is faster on the device.
    """

    net: str
    count: int
    epochs: int
    optimizer: str = "gsam"
    lr: float = 0.01
    batch: int = 256
    rho: float = 0.01
    alpha: float = 0.3
    adaptive: bool = True
    seed: int = 0
    together: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer of experts", self.optimizer, OPTIMIZERS)
        for name, least in {"count": 1, "epochs": 1, "batch": 1, "together": 0}.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} of the experts is {getattr(self, name)}; it must be {least} or more")
        for name in ("lr", "rho"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} of the experts is {getattr(self, name)}; it must be a finite number above 0")


def settings(experts: Experts) -> dict[str, Any]:
    """What the trajectories depend on, beside the data: the key of their file."""
    unused = {"together"} | (set() if experts.optimizer == "gsam" else {"rho", "alpha", "adaptive"})
    return {key: value for key, value in asdict(experts).items() if key not in unused}


def train(source: Source, rule: Experts, flat: Flat, path: Path, device: torch.device) -> Path:
    """Make the file of the trajectories at `path`, or what of it is missing; every rank calls it and does its share.

    Raises:
        UsageError: no room for the file, or no place to write it.
        ArtifactError: what is at `path` is damaged or of other experts.
        TrainingError: parameters that are not numbers, or another rank that is gone.
    """
    file = _file(path, rule, flat, source)
    if ranks.rank() == 0:
        file.prepare()
    ranks.barrier()
    if file.complete():
        return path
    groups = _groups(file.epochs(), rule.epochs, rule.together or _TOGETHER.get(device.type, 1))
    data = real_data(source, batches(rule)).to(device)
    ranks.barrier()  # after every rank has seen how far the experts are
    step = Captured(partial(stepped, flat, rule), data.device, "a step of the experts")
    for experts in ranks.share(groups):
        _trajectories(data, experts, rule, flat, step, file)
    ranks.barrier()
    digests = ranks.gather([file.digest(k) for k in ranks.share(range(rule.count))])
    if ranks.rank() == 0:
        file.finish(digests)
    ranks.barrier()
    return path


def opened(path: Path, experts: Experts, flat: Flat, source: Source) -> Tensor:
    """The trajectories, float32 `[experts, epochs + 1, P]` on the CPU: a memory map of the file, read once to the end.

    Raises:
        ArtifactError: a file that is missing, unfinished, cut short, of other experts or data, or not as it was made.
    """
    return _file(path, experts, flat, source).opened()


def batches(experts: Experts) -> Protocol:
    """How batches of real images are made."""
    return Protocol(
        epochs=experts.epochs, batch_size=experts.batch, optimizer="sgd", lr=experts.lr, weight_decay=0.0, momentum=0.0,
        augment=Augment(dsa="_".join(DSA_OPS)),
    )  # fmt: skip


def gradients(flat: Flat, w: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """Gradients [k, P] of the cross-entropy of experts w [k, P], each on its x [k, B, C, H, W] and labels [k, B]."""

    def loss(w: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(flat(w, x), labels)

    if len(w) > 1:
        return vmap(grad(loss))(w, x, labels)
    leaf = w[0].detach().requires_grad_()
    return torch.autograd.grad(loss(leaf, x[0], labels[0]), leaf)[0][None]


def direction(gradient: Callable[[Tensor], Tensor], w: Tensor, rule: Experts) -> Tensor:
    """What a step of experts w [k, P] goes against, [k, P]; `gradient` is that of a batch at other parameters."""
    g = gradient(w)
    if rule.optimizer == "sgd":
        return g
    scale = w.abs() if rule.adaptive else torch.ones_like(w)
    h = gradient(w + rule.rho * scale.square() * g / (_norm(scale * g) + _TINY))
    cosine = (g * h).sum(-1, keepdim=True) / (_norm(g) * _norm(h) + _TINY)
    across = g - cosine * _norm(g) * h / (_norm(h) + _TINY)
    return h - rule.alpha * across


def stepped(flat: Flat, rule: Experts, w: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """Experts w [k, P] after a step, each on its x [k, B, C, H, W] and labels [k, B]."""
    return w - rule.lr * direction(partial(gradients, flat, x=x, labels=labels), w, rule)


def epoch(data: DistilledData, experts: Sequence[int], w: Tensor, number: int, rule: Experts, step: Stepped) -> Tensor:
    """The parameters [k, P] of some experts after an epoch, from those before it.

    Args:
        data: the real images.
        experts: numbers of the experts.
        w: their parameters before it.
        number: of the epoch.
        rule: the settings.
        step: `stepped` of the net and the settings.
    """
    steps = data.steps_per_epoch

    def of(expert: int) -> Iterator[tuple[Tensor, Tensor]]:
        seed = generator(rule.seed, "batches", expert).initial_seed()
        return data.batches(seed, epochs=number + 1, start=number * steps)

    for parts in zip(*map(of, experts), strict=True):
        x, labels = (torch.stack(part) for part in zip(*parts, strict=True))
        w = step(w, x, labels)
    return w


def _file(path: Path, experts: Experts, flat: Flat, source: Source) -> Checkpoints:
    record = {**settings(experts), "data": source.fingerprint, "shapes": [list(shape) for shape in flat.shapes]}
    return Checkpoints(path, (experts.count, experts.epochs + 1, flat.count), record)


def _groups(done: Sequence[int], epochs: int, together: int) -> list[list[int]]:
    """Experts that still have epochs before them, grouped with others that are as far, so many at once.

    >>> _groups([3, 1, 0, 0, 0], epochs=2, together=2)
    [[1], [2, 3], [4]]
    """
    todo = sorted((k for k, count in enumerate(done) if count <= epochs), key=lambda k: -done[k])
    groups = []
    for _, group in groupby(todo, lambda k: done[k]):
        experts = list(group)
        groups += [experts[first : first + together] for first in range(0, len(experts), together)]
    return groups


def _trajectories(
    data: DistilledData, experts: Sequence[int], rule: Experts, flat: Flat, step: Stepped, file: Checkpoints
) -> None:
    """Train some experts, all as far as each other, to the end.

    Raises:
        TrainingError: parameters that are not numbers.
    """
    done = file.epochs()[experts[0]]
    if done:
        w = torch.stack([file.read(k, done - 1) for k in experts]).to(data.device)
    else:
        w = torch.stack([flat.initial(rule.seed, "expert", k) for k in experts]).to(data.device)
        file.write(experts, 0, w)
    for number in range(max(0, done - 1), rule.epochs):
        begin = time.perf_counter()
        w = epoch(data, experts, w, number, rule, step)
        if not bool(w.isfinite().all()):
            raise TrainingError(
                f"expert {experts[int(w.isfinite().all(1).int().argmin())]} is not a number after epoch {number + 1} "
                f"({rule.optimizer}, lr {rule.lr:g}); lower its lr, or its rho"
            )
        seconds = time.perf_counter() - begin
        file.write(experts, number + 1, w, seconds)
        names = ", ".join(map(str, experts))
        log.info("experts %s: epoch %d of %d, %.0f s", names, number + 1, rule.epochs, seconds)


def _norm(values: Tensor) -> Tensor:
    """Of each row [k, P], as [k, 1]."""
    return values.norm(dim=-1, keepdim=True)
