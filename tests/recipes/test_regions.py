"""Regions of stored images against loops written out: candidates, responses, both policies, choice and evenness."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub import models
from ddhub.data.decode import grid
from ddhub.errors import UsageError
from ddhub.measures.utilisation import Proxy, maps
from recipes.gradients.regions import (
    Search,
    Searching,
    candidates,
    choose,
    evenness,
    jitter_use,
    overlaps,
    response_use,
)

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
TILES = grid(16, 16, 2)


def proxy(size: int = 16, channels: int = 3) -> Proxy:
    torch.manual_seed(0)
    net = models.build("convnet3-w8", classes=4, size=size, channels=channels)
    for parameter in net.parameters():  # as after some training: norms that are not 1 and 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Proxy(net.eval().requires_grad_(False), MEAN[:channels], STD[:channels])


def stored(count: int = 3) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 16, 16, generator=random), torch.arange(count) % 4


def enlarged(image: Tensor, top: int, left: int, side: int = 8) -> Tensor:
    square = image[None, :, top : top + side, left : left + side]
    return F.interpolate(square, (16, 16), mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("side", "factor", "step", "count"),
    [(16, 2, 4, 21), (14, 2, 2, 60), (8, 2, 2, 21), (3, 2, 1, 12), (11, 3, 1, 520)],
)
def test_candidates_lie_on_the_grid_inside_the_canvas_and_not_on_tiles(
    side: int, factor: int, step: int, count: int
) -> None:
    found = candidates(side, factor)
    wanted = [
        [y, x]
        for y in range(0, (factor - 1) * side + 1, step)
        for x in range(0, (factor - 1) * side + 1, step)
        if y % side or x % side
    ]
    assert found.tolist() == wanted and len(found) == count
    assert bool((found >= 0).all() and (found <= factor * side - side).all())


def test_no_candidates_without_tiles() -> None:
    assert candidates(32, 1).shape == (0, 2)


@pytest.mark.parametrize(("size", "channels"), [(16, 3), (32, 3), (28, 1)])
def test_responses_sum_to_the_logit_without_its_bias(size: int, channels: int) -> None:
    judge, labels = proxy(size, channels), torch.tensor([0, 1, 2, 3, 1])
    x = torch.rand(5, channels, size, size)
    found = judge.responses(x, labels)
    logits = judge.net((x - judge.mean) / judge.std)
    wanted = logits.gather(1, labels[:, None])[:, 0] - judge.net.head.bias[labels]
    torch.testing.assert_close(found.sum((1, 2)), wanted, rtol=1e-5, atol=1e-5)
    assert found.shape == ((5, 4, 4) if size == 16 else (5, 8, 8))


def test_maps_are_the_responses_of_the_formations_at_their_places() -> None:
    judge, (images, labels) = proxy(), stored()
    corners = torch.cat([TILES.expand(3, 4, 2), torch.tensor([[[2, 4]], [[6, 0]], [[4, 4]]])], dim=1)
    wanted = torch.zeros(3, 16, 16)
    for n in range(3):
        for top, left in corners[n].tolist():
            r = F.relu(judge.responses(enlarged(images[n], top, left), labels[n : n + 1]))
            part = F.interpolate(r[None], (8, 8), mode="bilinear", align_corners=False)[0, 0]
            here = wanted[n, top : top + 8, left : left + 8]
            wanted[n, top : top + 8, left : left + 8] = torch.maximum(here, part)
        wanted[n] /= wanted[n].max()
    torch.testing.assert_close(maps(judge, images, labels, corners, 8), wanted)


def test_a_map_without_response_is_zero_and_all_candidates_tie() -> None:
    judge, (images, labels) = proxy(), stored()
    judge.net.head.weight.data.zero_()
    found = maps(judge, images, labels, TILES.expand(3, 4, 2), 8)
    assert not found.any()
    places = candidates(8, 2)
    picked = choose(response_use(found, places, 8), places, 8, 2, 0.5)
    assert picked.tolist() == [[0, 2]] * 3  # by rows: (0, 2), then (0, 6), as (0, 4) overlaps it by 3 / 5


def test_response_use_is_the_mean_over_the_square() -> None:
    found, places = torch.rand(2, 16, 16), candidates(8, 2)
    use = response_use(found, places, 8)
    for n in range(2):
        for w, (top, left) in enumerate(places.tolist()):
            torch.testing.assert_close(use[n, w], found[n, top : top + 8, left : left + 8].mean())


def test_jitter_use_is_the_divergence_over_all_tiles() -> None:
    judge, (images, _) = proxy(), stored(2)
    places, noise = candidates(8, 2), 0.3 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    use = jitter_use(judge, images, TILES, places, 8, noise)
    for n in range(2):
        for w in (0, 4, 9, 20):
            top, left = places[w].tolist()
            total = 0.0
            for one in noise:
                x = images[n].clone()
                x[:, top : top + 8, left : left + 8] = (x[:, top : top + 8, left : left + 8] + one).clamp(0, 1)
                for tile in TILES.tolist():
                    p, q = (judge.log_probabilities(enlarged(image, *tile))[0] for image in (images[n], x))
                    total += float((p.exp() * (p - q)).sum()) / 2
            assert float(use[n, w]) == pytest.approx(total, rel=1e-3, abs=1e-6)
    assert not jitter_use(judge, images, TILES, places, 8, 0 * noise).any()


def iou(a: list[int], b: list[int], side: int) -> float:
    shared = max(0, side - abs(a[0] - b[0])) * max(0, side - abs(a[1] - b[1]))
    return shared / (2 * side * side - shared)


def test_choice_is_greedy_by_use_under_the_cap() -> None:
    places = candidates(16, 2)
    near = overlaps(places, 16)
    use = torch.rand(6, 21, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    found = choose(use, places, 16, 4, 0.5)
    for n in range(6):
        taken: list[int] = []
        for w in sorted(range(21), key=lambda w: (float(use[n, w]), w)):
            apart = all(iou(places[w].tolist(), places[t].tolist(), 16) <= 0.5 for t in taken)
            assert all(
                float(near[w, t]) == pytest.approx(iou(places[w].tolist(), places[t].tolist(), 16)) for t in taken
            )
            taken += [w] if apart and len(taken) < 4 else []
        assert found[n].tolist() == taken


def test_more_regions_than_fit_under_the_cap_are_an_error() -> None:
    with pytest.raises(UsageError, match="do not fit under an IoU of 0.1; lower --regions or raise --iou"):
        choose(torch.rand(2, 21), candidates(16, 2), 16, 5, 0.1)


def test_a_region_gives_way_to_one_of_less_than_nine_tenths_of_its_use_and_keeps_its_place() -> None:
    places, old = candidates(16, 2), torch.tensor([[20, 1]])
    use = torch.ones(1, 21)
    use[0, [20, 1]] = torch.tensor([0.4, 0.5])
    use[0, 17] = 0.37  # above 0.9 * 0.4
    assert choose(use, places, 16, 2, 0.1, old).tolist() == [[20, 1]]
    use[0, 17] = 0.35
    assert choose(use, places, 16, 2, 0.1, old).tolist() == [[17, 1]]
    assert choose(torch.zeros(1, 21), places, 16, 2, 0.1, old).tolist() == [[20, 1]]  # nothing is less than zero
    assert choose(torch.zeros(1, 21), places, 16, 2, 0.1).tolist() != [[20, 1]]


def test_evenness_of_known_maps() -> None:
    even, one, half, none = torch.ones(8, 8), torch.zeros(8, 8), torch.zeros(8, 8), torch.zeros(8, 8)
    one[3, 4], half[:4] = 2.0, 0.7
    for found, wanted in (
        ([even], (1, 1)),
        ([one], (0, 1 / 64)),
        ([half], (math.log(32) / math.log(64), 0.5)),
        ([none], (0, 0)),
        ([even, one], (0.5, 65 / 128)),
    ):
        assert evenness(torch.stack(found)) == pytest.approx(wanted, abs=1e-9)
    half[4:] = 0.13  # below a fifth of 0.7
    assert evenness(half[None])[1] == 0.5


def searching(policy: str) -> Searching:
    how = Search(seed=0, factor=2, policy=policy, count=2, cap=0.5, jitters=2, sigma=0.1, every=4, until=14)
    return Searching(how, proxy(), stored()[1], 16)


@pytest.mark.parametrize("policy", ["rbp", "jbp", "random"])
def test_every_policy_chooses_candidates_that_stay_inside(policy: str) -> None:
    look, (images, _) = searching(policy), stored()
    found = look.chosen(images, 0, None)
    assert found.shape == (3, 2) and torch.equal(found, look.chosen(images, 0, None))
    corners = look.corners(found)
    assert torch.equal(corners[:, :4], TILES.expand(3, 4, 2)) and int(corners.max()) <= 8
    due = [outer for outer in range(20) if look.due(outer)]
    assert due == ([0] if policy == "random" else [0, 4, 8, 12])
