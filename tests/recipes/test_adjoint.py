"""Flat nets, CPD, and the adjoint against a whole unrolled run of the ordinary net in float64."""

from __future__ import annotations

import copy
from itertools import accumulate
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from ddhub import models
from ddhub.data.dsa import COLUMNS, dsa
from ddhub.errors import UsageError
from ddhub.training.devices import seeded
from recipes.run.draws import generator
from recipes.trajectories.adjoint import WAYS, Matched, cpd, match
from recipes.trajectories.flat import Flat, pooled

CLASSES, STEPS, BATCH = 4, 5, 6
OPS = ("color", "crop", "cutout", "scale", "rotate")  # one a step


class Run(NamedTuple):
    """A run of a student: the net, its ends, and what it is shown."""

    flat: Flat
    start: Tensor
    target: Tensor
    images: Tensor  # [n, C, H, W]
    labels: Tensor  # logits [n, K]
    eta: Tensor
    rows: Tensor  # [N, B]
    u: Tensor  # [N, B, COLUMNS]

    def shown(self, images: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return dsa(images[self.rows[k]], self.u[k], OPS[k % len(OPS) :][:1]), labels[self.rows[k]]


def run(size: int = 12, steps: int = STEPS, name: str = "convnet3-w8") -> Run:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=random)

    flat = Flat(name, CLASSES, size, 3)
    start = flat.initial("start").double()
    rows = torch.stack([torch.randperm(8, generator=random)[:BATCH] for _ in range(steps)])
    u = torch.rand(steps, BATCH, COLUMNS, generator=random, dtype=torch.float64)
    return Run(
        flat, start, start + 0.02 * normal(flat.count), normal(8, 3, size, size), normal(8, CLASSES),
        torch.tensor(0.07, dtype=torch.float64), rows, u,
    )  # fmt: skip


def unrolled(one: Run, drop: float) -> tuple[Tensor, ...]:
    """The loss, and its gradients by images, labels and step size: one graph over all steps of ddhub's own net."""
    net = one.flat.load(one.start)
    names = [name for name, _ in net.named_parameters()]
    images, labels, eta = (value.clone().requires_grad_() for value in (one.images, one.labels, one.eta))
    weights = [value.detach().clone().requires_grad_() for value in net.parameters()]
    begin = list(weights)
    for k in range(len(one.rows)):
        x, y = one.shown(images, labels, k)
        logits = functional_call(net, dict(zip(names, weights, strict=True)), (x,))
        loss = sum(F.cross_entropy(z[None], t.softmax(0)[None]) for z, t in zip(logits, y, strict=True)) / len(y)
        each = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [w - eta * g for w, g in zip(weights, each, strict=True)]
    end, first = (torch.cat([w.flatten() for w in parts]) for parts in (weights, begin))
    gaps = (end - one.target) ** 2
    order = sorted(range(len(gaps)), key=lambda j: (float(gaps[j].detach()), j))
    kept = order[int(drop * len(gaps)) :]
    loss = gaps[kept].sum() / ((first.detach() - one.target) ** 2)[kept].sum()
    return (loss.detach(), *torch.autograd.grad(loss, (images, labels, eta)))


def matched(one: Run, drop: float = 0.0, **how: Any) -> tuple[Tensor, ...]:
    """The same by `match`, pulled back through the augmentation and the choice of rows."""
    by_images, by_labels, order = torch.zeros_like(one.images), torch.zeros_like(one.labels), []

    def shown(k: int) -> tuple[Tensor, Tensor]:
        return one.shown(one.images, one.labels, k)

    def give(k: int, dx: Tensor, dy: Tensor) -> None:
        images, labels = one.images.clone().requires_grad_(), one.labels.clone().requires_grad_()
        found = torch.autograd.grad(one.shown(images, labels, k), (images, labels), (dx, dy))
        by_images.add_(found[0])
        by_labels.add_(found[1])
        order.append(k)

    loss, by_eta = match(one.flat, one.start, one.target, one.eta, shown, len(one.rows), give, drop=drop, **how)
    assert order == list(reversed(range(len(one.rows))))
    assert not any(value.requires_grad for value in (loss, by_eta, by_images, by_labels))
    return loss, by_images, by_labels, by_eta


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("drop", [0.0, 0.25])
def test_the_adjoint_is_the_gradient_of_the_whole_run(drop: float) -> None:
    one = run()
    wanted = unrolled(one, drop)
    for how in ({}, *({"way": way, "segment": s} for way in WAYS for s in (1, 2, STEPS, 99))):
        found = matched(one, drop, **how)  # type: ignore[arg-type]
        assert max(gap(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-10, how


@pytest.mark.parametrize(("size", "name"), [(9, "convnet3-w4"), (33, "convnet5-w3")])
def test_other_depths_and_odd_sides(size: int, name: str) -> None:
    one = run(size, 2, name)
    wanted = unrolled(one, 0.0)
    for way in WAYS:
        assert max(gap(a, b) for a, b in zip(matched(one, way=way), wanted, strict=True)) < 1e-10


def test_the_step_size_by_finite_differences() -> None:
    one, h = run(), 1e-6
    above, below = (matched(one._replace(eta=one.eta + by), 0.25)[0] for by in (h, -h))
    assert float((above - below) / (2 * h)) == pytest.approx(float(matched(one, 0.25)[3]), rel=1e-6)


def loss_alone(one: Run, **how: Any) -> Matched:
    def shown(k: int) -> tuple[Tensor, Tensor]:
        return one.shown(one.images, one.labels, k)

    return match(one.flat, one.start, one.target, one.eta, shown, len(one.rows), lambda *_: None, **how)


def test_float32_inside_no_grad() -> None:
    one = run()
    single = Run(one.flat, *(value.float() for value in one[1:6]), one.rows, one.u.float())  # type: ignore[arg-type]
    with torch.no_grad():
        found = loss_alone(single)
    wanted = matched(one)
    assert found.loss.dtype == found.eta.dtype == torch.float32
    assert float(found.loss) == pytest.approx(float(wanted[0]), rel=1e-5)
    assert float(found.eta) == pytest.approx(float(wanted[3]), rel=1e-3)


class Held:
    """A tensor that a graph keeps, counted as long as it lives."""

    now = most = 0

    def __init__(self, value: Tensor) -> None:
        self.value, self.size = value, value.numel()
        Held.now += self.size
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.size


def held(steps: int, **how: Any) -> int:
    """The most numbers that graphs keep at once."""
    one = run(steps=steps)
    Held.now = Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda one: one.value):
        loss_alone(one, **how)
    return Held.most


def test_graphs_of_one_step_are_held_whatever_the_number_of_steps() -> None:
    four = {way: held(4, way=way) for way in WAYS}
    for way in ("reverse", "forward"):
        assert held(8, way=way) < 1.05 * four[way]
        assert four[way] < held(4, way=way, segment=3) < held(4, way=way, segment=4) == four["unroll"]
    assert 2 * four["forward"] < 1.05 * four["reverse"] < 1.05 * four["unroll"] / 3
    assert held(8, way="unroll") > 1.9 * four["unroll"]


def peak_bytes(steps: int) -> int:
    """Memory at the peak of a match, of all that torch allocates."""
    one = run(steps=steps)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        loss_alone(one, drop=0.25)
    assert found.profiler is not None and found.profiler.kineto_results is not None
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes))


def test_memory_grows_by_the_parameter_vectors_alone_with_the_steps() -> None:
    once, twice, vector = peak_bytes(8), peak_bytes(16), 8 * run().flat.count
    assert 0.9 * 8 * vector <= twice - once <= 8 * vector


class Unasked(TorchDispatchMode):
    """Fails where a value of a tensor is asked for, which waits for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "equal"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", WAYS)
def test_the_device_is_not_waited_for(way: str) -> None:
    one = run(steps=2)
    with Unasked():
        loss_alone(one, way=way, drop=0.25)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Unasked():
        float(one.eta)


def test_what_cannot_be_matched() -> None:
    one = run()
    with pytest.raises(UsageError, match="unknown way 'forwards'; did you mean 'forward'?"):
        loss_alone(one, way="forwards")
    with pytest.raises(UsageError, match="5 steps in segments of 0; both must be 1 or more"):
        loss_alone(one, segment=0)
    with pytest.raises(UsageError, match="0 steps in segments of 1"):
        loss_alone(run(steps=1)._replace(rows=one.rows[:0]))
    with pytest.raises(UsageError, match="drop is 1; it must be in "):
        loss_alone(one, drop=1.0)


def test_a_loss_that_is_no_number_is_the_callers_business() -> None:
    found = loss_alone(run()._replace(eta=torch.tensor(torch.inf, dtype=torch.float64)))
    assert not bool(found.loss.isfinite()) and not bool(found.eta.isfinite())


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_cpd_by_hand() -> None:
    """l = 4 1 9 0 and d = 2 2 3 1."""
    target = vector(1, 1, 1, 1)
    student, start = target + vector(2, -1, 3, 0), target + vector(2, 2, 3, 1).sqrt()
    student.requires_grad_()
    half = cpd(student, target, start, 0.5)
    assert float(half.detach()) == pytest.approx(13 / 5)
    (by,) = torch.autograd.grad(half, student)
    assert torch.allclose(by, vector(4, 0, 6, 0) / 5)
    assert float(cpd(student, target, start, 0.0).detach()) == pytest.approx(14 / 8)
    assert float(cpd(student, target, start, 0.49).detach()) == pytest.approx(14 / 7)  # floor(1.96) = 1 is dropped
    for drop in (1.0, 1.5, -0.1, float("nan")):
        with pytest.raises(UsageError, match="1 leaves no parameter to match"):
            cpd(student, target, start, drop)


def test_of_equal_gaps_cpd_drops_the_first() -> None:
    student, target, start = vector(1, -1, 0, 0, 0, 1), vector(0, 0, 0, 0, 0, 0), vector(1, 2, 3, 4, 5, 6)
    # Three zeros and the first 1 go; -1 is as far away and stays.
    assert float(cpd(student, target, start, 4 / 6)) == pytest.approx(2 / (4 + 36))


def test_a_start_on_the_target_is_no_number() -> None:
    same = vector(1, 2)
    assert bool(cpd(same, same, same, 0.0).isnan())


@pytest.mark.parametrize(
    ("name", "classes", "size", "channels", "count"),
    [
        ("convnet3", 10, 32, 3, 320_010),
        ("convnet3", 100, 32, 3, 504_420),
        ("convnet4", 200, 64, 3, 857_160),
        ("convnet5", 10, 128, 3, 615_690),
        ("convnet5", 100, 128, 3, 800_100),
        ("convnet5", 10, 32, 3, 596_490),
        ("convnet3-w8", 10, 28, 1, None),
        ("convnet3-w4", 3, 13, 2, None),
    ],
)
def test_flat_is_the_net(name: str, classes: int, size: int, channels: int, count: int | None) -> None:
    flat = Flat(name, classes, size, channels)
    assert count is None or flat.count == count
    theta = flat.initial(7, "x")
    with seeded(torch.device("cpu"), generator(7, "x").initial_seed()):
        net = models.build(name, classes=classes, size=size, channels=channels)
    assert torch.equal(theta, flat.vector(net))
    assert not torch.equal(theta, flat.initial(7, "y"))
    x = torch.randn(2, channels, size, size, dtype=torch.float64)
    assert gap(flat(theta.double(), x), copy.deepcopy(net).double()(x)) < 1e-13
    assert gap(flat(theta, x.float()), net(x.float())) < 1e-5
    loaded = flat.load(theta)
    assert torch.equal(flat.vector(loaded), theta)
    with torch.no_grad():
        next(loaded.parameters()).zero_()
    assert torch.equal(flat.load(theta)(x.float()), net(x.float()))  # nothing is shared with theta or among nets


def test_a_bias_before_an_instance_norm_has_no_gradient_at_all() -> None:
    flat = Flat("convnet3-w8", 10, 16, 3)
    theta = flat.initial(0).requires_grad_()
    (by,) = torch.autograd.grad(flat(theta, torch.randn(4, 3, 16, 16)).square().sum(), theta)
    parts = flat.parts(by)
    assert [bool((part == 0).all()) for part in parts] == 3 * [False, True, False, False] + [False, False]


@pytest.mark.parametrize("name", ["resnet18", "convnet3-bn", "convnet7", "timm:resnet18"])
def test_other_nets_are_not_flat(name: str) -> None:
    with pytest.raises(UsageError, match="is not a ConvNet with InstanceNorm; use convnet3, or convnet3-wN"):
        Flat(name, 10, 32, 3)


@pytest.mark.parametrize("size", [4, 7])
def test_pooled_is_the_mean_of_four(size: int) -> None:
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    by = torch.randn(2, 3, size // 2, size // 2, dtype=torch.float64)
    ours, wanted = (torch.autograd.grad(f(x), x, by)[0] for f in (pooled, lambda x: F.avg_pool2d(x, 2)))
    assert gap(pooled(x), F.avg_pool2d(x, 2)) < 1e-15 and gap(ours, wanted) < 1e-15
