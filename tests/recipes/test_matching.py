"""Gradient matching against a plain loop in float64, and the contrastive loss against sums written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub import models
from ddhub.data.dsa import COLUMNS, dsa
from ddhub.sources.source import Source
from ddhub.training.devices import seeded
from ddhub.training.optimizer import build_optimizer
from recipes import udd
from recipes.gradients.contrast import Contrast, Contrasting
from recipes.gradients.matching import (
    Matching,
    distance,
    first_images,
    formations,
    image_gradients,
    mixed,
    stepped,
    turns,
    weight_gradients,
)
from recipes.gradients.outer import Matcher, Real, picks
from recipes.run.draws import generator

CPU = torch.device("cpu")
HOW = Matching(
    seed=0,
    net="convnet3-w4",
    inner=3,
    n_data=10,
    batch_real=5,
    batch_syn=128,
    rate=0.05,
    momentum=0.5,
    distance="mse",
    augment=("color", "crop", "cutout"),
    together=1,
)


def source(each: int = 17) -> Source:
    """Random images of 3 classes and 8 px, not in the order of the classes."""
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(3).repeat(each)
    return Source(
        name="random", address="random", split="train",
        images=torch.randint(256, (3 * each, 3, 8, 8), dtype=torch.uint8, generator=random), labels=labels,
        classes=("a", "b", "c"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25),
        hub_id="", license="", notes="", fingerprint="0",
    )  # fmt: skip


def real(how: Matching = HOW) -> Real:
    plan = replace(udd.training(udd.Config(net="convnet3")), batch_size=4)
    return Real(source(), plan, how.seed, how.batch_real, CPU)


def net(seed: int = 0) -> models.Net:
    torch.manual_seed(seed)
    found = models.build("convnet3-w4", classes=3, size=8).double()
    assert isinstance(found, models.Net)
    return found


def start(n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """S and v `[3, n, 3, 8, 8]` in float64, and the corners of 4 tiles and a region of each, `[3, 5n, 2]`."""
    random = torch.Generator().manual_seed(1)
    images = 1.2 * torch.rand(3, n, 3, 8, 8, dtype=torch.float64, generator=random) - 0.1
    velocity = torch.randn(images.shape, dtype=torch.float64, generator=random)
    tiles = torch.tensor([[0, 0], [0, 4], [4, 0], [4, 4]]).expand(3, n, 4, 2)
    regions = torch.randint(5, (3, n, 1, 2), generator=random)
    return images, velocity, torch.cat([tiles, regions], dim=2).transpose(1, 2).flatten(1, 2)


def squares(images: Tensor, corners: Tensor, pick: Tensor, side: int = 4) -> Tensor:
    """The formations of one class `[P, C, H, W]`, cut one after the other; `corners` `[F, 2]`, slot after slot."""
    found = []
    for number in pick.tolist():
        top, left = corners[number].tolist()
        square = images[number % len(images)][:, top : top + side, left : left + side]
        found.append(F.interpolate(square[None], images.shape[2:], mode="bilinear", align_corners=False))
    return torch.cat(found)


def gradient(net: models.Net, x: Tensor, label: int, graph: bool = False) -> list[Tensor]:
    weights = [p for p in net.parameters() if p.ndim == 4]
    loss = F.cross_entropy(net(x), torch.full((len(x),), label))
    return list(torch.autograd.grad(loss, weights, create_graph=graph))


def plain_iteration(
    number: int,
    images: Tensor,
    velocity: Tensor,
    corners: Tensor,
    how: Matching,
    decoded: Callable[[int, Tensor], Tensor | None] = lambda *_: None,
) -> list[Tensor]:
    """IDC's loop as the paper's code has it: torch's SGD over all of S, a step after every class.

    `decoded` says of an inner iteration and S what the net sees in its place, if that is news.
    """
    loader, given = real(how), images.clamp(0, 1).requires_grad_()
    sgd = torch.optim.SGD([given], lr=how.rate, momentum=how.momentum)
    sgd.state[given]["momentum_buffer"] = velocity.clone()
    u = torch.rand(how.inner, 3, COLUMNS, generator=generator(how.seed, "siamese", number))
    rows = loader.of_classes(number * how.inner, how.inner)
    pick = picks(corners, how.batch_syn, how.inner, how.seed, "formations", number)
    steps = math.ceil(how.n_data / 4)
    batches = loader.data.batches(how.seed, epochs=100, start=number * how.inner * steps)
    with seeded(CPU, generator(how.seed, "net", number).initial_seed()):
        theta = models.build(how.net, classes=3, size=8).double()
    assert isinstance(theta, models.Net)
    optimizer = build_optimizer(theta, loader.data.protocol)
    residual = torch.zeros_like(images)
    for i in range(how.inner):
        if (seen := decoded(number * how.inner + i, given.detach())) is not None:
            residual = seen - given.detach()
        for c in range(3):
            own = loader.data.normalize(squares(given[c] + residual[c], corners[c], pick[i, c]))
            both = torch.cat([loader.images(rows[i, c][None])[0].double(), own])
            both = dsa(both, u[i, c].expand(len(both), -1), how.augment, form="idc")
            wanted = gradient(theta, both[: how.batch_real].detach(), c)
            found = gradient(theta, both[how.batch_real :], c, graph=True)
            gaps = [a - b for a, b in zip(wanted, found, strict=True)]
            loss = sum((gap**2).sum() if how.distance == "mse" else gap.abs().sum() for gap in gaps)
            sgd.zero_grad()
            given.grad = torch.autograd.grad(loss, given)[0]  # zeros for the other classes, which move on all the same
            sgd.step()
        for x, y in islice(batches, steps):
            optimizer.zero_grad()
            F.cross_entropy(theta(x.double()), y).backward()
            optimizer.step()
    return [given.detach(), sgd.state[given]["momentum_buffer"]]


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("more", [{}, {"distance": "l1", "batch_syn": 7}])
def test_an_outer_iteration_equals_the_plain_sequential_loop(together: int, more: dict[str, object]) -> None:
    how = replace(HOW, **more)
    images, velocity, corners = start()
    wanted = plain_iteration(2, images, velocity, corners, how)
    matcher = Matcher(images, 4, real(how), replace(how, together=together))
    matcher.start(images, velocity, torch.zeros(2))
    matcher.iterate(2, corners)
    assert float((wanted[0] - images.clamp(0, 1)).abs().max()) > 0.01
    for a, b in zip((matcher.images, matcher.velocity), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_batched_gradients_of_classes_equal_those_of_one_after_the_other() -> None:
    theta, labels = net(), torch.arange(3)
    x = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    batched, features = weight_gradients(theta, x, labels, graph=True)
    assert [g.shape[1:] for g in batched] == [(4, 3, 3, 3), (4, 4, 3, 3), (4, 4, 3, 3)]  # no bias, norm and head
    plain = [gradient(theta, x[c], c, graph=True) for c in range(3)]
    for number, each in enumerate(batched):
        torch.testing.assert_close(each, torch.stack([own[number] for own in plain]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(features, torch.stack([theta.features(own) for own in x]))
    again = [torch.autograd.grad(sum(g.square().sum() for g in one), x, retain_graph=True)[0]
             for one in (batched, [g for own in plain for g in own])]  # fmt: skip
    torch.testing.assert_close(again[0], again[1], rtol=1e-9, atol=1e-12)
    alone, _ = weight_gradients(theta, x[1:2].detach(), labels[1:2], graph=False)
    torch.testing.assert_close([g[1] for g in batched], [g[0] for g in alone], rtol=1e-9, atol=1e-12)
    assert not any(g.requires_grad for g in alone)
    assert not any(g.requires_grad for g in weight_gradients(theta, x.detach(), labels, graph=False)[0])


@pytest.mark.parametrize("count", [1, 4, 30])
def test_momentum_of_all_classes_is_that_of_one_step_after_every_class(count: int) -> None:
    random = torch.Generator().manual_seed(0)
    given = torch.rand(count, 2, 3, dtype=torch.float64, generator=random).requires_grad_()
    sgd = torch.optim.SGD([given], lr=0.3, momentum=0.5)
    images, velocity = given.detach().clone(), torch.zeros_like(given)
    how = replace(HOW, rate=0.3)
    for _ in range(3):
        at, seen = turns(images, velocity, how), []
        gradients = torch.randn(given.shape, dtype=torch.float64, generator=random)
        for c in range(count):
            seen.append(given[c].detach().clone())
            given.grad = torch.zeros_like(given)
            given.grad[c] = gradients[c]
            sgd.step()
        torch.testing.assert_close(at, torch.stack(seen), rtol=1e-12, atol=1e-13)
        images, velocity = stepped(at, velocity, gradients, how)
        torch.testing.assert_close(images, given.detach(), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(velocity, sgd.state[given]["momentum_buffer"], rtol=1e-12, atol=1e-13)


def test_distances_by_hand() -> None:
    a, b = [torch.tensor([[3.0, 0.0]]), torch.tensor([1.0])], [torch.tensor([[1.0, 1.0]]), torch.tensor([4.0])]
    assert float(distance("mse", a, b)) == 4 + 1 + 9 and float(distance("l1", a, b)) == 2 + 1 + 3


def test_formations_are_the_squares_slot_after_slot_and_their_gradient_reaches_the_images() -> None:
    images, _, corners = start()
    images.requires_grad_()
    pick = torch.tensor([[0, 3, 9], [8, 1, 2], [4, 4, 7]])
    found = formations(images, corners, pick, 4)
    wanted = torch.stack([squares(images[c], corners[c], pick[c]) for c in range(3)])
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(x.square().sum(), images, retain_graph=True)[0] for x in (found, wanted)]
    torch.testing.assert_close(grads[0], grads[1])


def test_batches_of_a_class_do_not_repeat_an_image_until_it_is_used_up_and_depend_on_their_number_alone() -> None:
    data = real()
    rows = data.of_classes(0, 7)  # 17 images a class: 3 batches of 5, then shuffled again
    assert rows.shape == (7, 3, 5) and torch.equal(data.of_classes(2, 5), rows[2:])
    for label in range(3):
        assert bool((source().labels[rows[:, label]] == label).all())
        for first in (0, 3):
            assert len(rows[first : first + 3, label].unique()) == 15
    assert not torch.equal(rows[0].sort().values, rows[3].sort().values)
    assert Real(source(2), data.data.protocol, 0, 5, CPU).of_classes(0, 1).shape == (1, 3, 2)  # smaller classes


def test_picked_formations_are_all_of_them_or_different_random_ones() -> None:
    corners = torch.zeros(3, 10, 2)
    assert torch.equal(picks(corners, 10, 2, "a")[1, 2], torch.arange(10))
    some = picks(corners, 4, 2, "a")
    assert some.shape == (2, 3, 4) and torch.equal(some, picks(corners, 4, 2, "a"))
    assert all(len(row.unique()) == 4 for row in some.flatten(0, 1)) and len(some.flatten(0, 1).unique(dim=0)) > 3


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_first_images_shrunk_to_tiles_start_the_stored_ones(factor: int) -> None:
    data, n = source(20), 2
    rows = first_images(data, factor**2 * n)
    assert rows[1].tolist() == [1 + 3 * i for i in range(factor**2 * n)]
    found = mixed(data.images[rows], factor)
    lengths = [8 // factor + (i < 8 % factor) for i in range(factor)]  # 3, 3, 2
    for c in range(3):
        for j in range(n):
            for k in range(factor**2):
                high, wide = lengths[k // factor], lengths[k % factor]
                top, left = sum(lengths[: k // factor]), sum(lengths[: k % factor])
                image = data.images[rows[c, k * n + j]].float() / 255
                for y in range(high):
                    for x in range(wide):
                        at = image[:, y * 8 // high, x * 8 // wide]
                        assert torch.equal(found[c, j, :, top + y, left + x], at)


def features(bank: bool = True) -> tuple[Contrast, Tensor, Tensor]:
    """A bank of 4 out of 5 formations of 3 classes, features `[3, 2, 6]` of two of them, and which these are."""
    random = torch.Generator().manual_seed(0)
    how = Contrasting(kind="cosine", weight="balanced", tau=0.1, rho=0.1, every=1, most=4)
    contrast = Contrast(how, torch.zeros(2, dtype=torch.float64))
    x = torch.randn(3, 4, 6, 1, 1, dtype=torch.float64, generator=random)
    contrast.remember(torch.nn.Flatten(), x, torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1], [0, 2, 4, 1]]), 5)
    return contrast, torch.randn(3, 2, 6, dtype=torch.float64, generator=random), torch.tensor([[1, 4], [0, 3], [2, 4]])


def test_the_contrastive_loss_equals_the_written_out_sum() -> None:
    contrast, given, pick = features()
    random = torch.Generator().manual_seed(0)
    bank = torch.randn(3, 4, 6, 1, 1, dtype=torch.float64, generator=random).flatten(2)
    members = [[0, 1, 2, 3], [4, 3, 2, 1], [0, 2, 4, 1]]
    mu = [sum(bank[c, i] for i in range(4)) / 4 for c in range(3)]
    centre = sum(mu) / 3

    def unit(v: Tensor) -> Tensor:
        return v / v.square().sum().sqrt()

    for kind, tau in (("cosine", 0.1), ("dot", 1.0)):
        place = (lambda v: unit(v - centre)) if kind == "cosine" else (lambda v: v)
        total = 0.0
        for c in range(3):
            losses = []
            for i, number in enumerate(pick[c].tolist()):
                rest = [bank[c, j] for j, member in enumerate(members[c]) if member != number]
                keys = [sum(rest) / len(rest) if other == c else mu[other] for other in range(3)]
                near = [float(place(given[c, i]) @ place(key)) / tau for key in keys]
                losses.append(math.log(sum(math.exp(v) for v in near)) - near[c])
            total += sum(losses) / len(losses)
        contrast.settings = replace(contrast.settings, kind=kind)
        parts = [slice(0, 1), slice(1, 3)]
        found = sum(float(contrast.loss(given[part], part, pick[part])) for part in parts)
        assert found == pytest.approx(total, rel=1e-9)


def test_the_weight_balances_running_norms_of_both_gradients() -> None:
    contrast, _, _ = features()
    a = torch.full((3, 1, 4), 3.0, dtype=torch.float64)  # norm 6 of every class
    torch.testing.assert_close(contrast.joined(a, a / 12), a + 0.1 * 6 / 0.5 * a / 12)
    contrast.joined(2 * a, a / 12)
    assert float(contrast.weight) == pytest.approx(0.1 * (0.99 * 6 + 0.01 * 12) / 0.5)
    assert [contrast.measures(i) for i in (0, 5, 10)] == [True, False, True]
    literal = Contrast(replace(contrast.settings, weight="literal"), torch.zeros(2))
    assert float(literal.weight) == 1 and not literal.measures(0)


@pytest.mark.parametrize("together", [1, 3])
def test_both_losses_are_added_with_the_weight(together: int) -> None:
    images, _, corners = start()
    theta, pick = net(), picks(corners, 128, 1, "x")[0]
    data, how = real(), replace(HOW, together=together)
    shown = lambda leaf, part: data.data.normalize(formations(leaf, corners[part], pick[part], 4))  # noqa: E731
    wanted = lambda part: data.images(data.of_classes(0, 1)[0, part]).double()  # noqa: E731
    contrast, _, _ = features()
    contrast.remember(theta.features, data.data.normalize(formations(images, corners, pick, 4)), pick, 10)
    found = partial(image_gradients, theta, images, shown, wanted, how)
    leaf = images.clone().requires_grad_()
    own = contrast.loss(theta.features(shown(leaf, slice(0, 3)).flatten(0, 1)).unflatten(0, (3, 10)), slice(0, 3), pick)
    second, first = torch.autograd.grad(own, leaf)[0], found()[0]
    contrast.norms = torch.tensor([3.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(found(pick=pick, contrast=contrast)[0], first + 0.15 * second)
    apart = found(pick=pick, contrast=contrast, apart=True)[0]
    assert not torch.equal(contrast.norms, torch.tensor([3.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(apart, first + contrast.weight * second)
