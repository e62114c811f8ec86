"""views: the table against its specification in plain Python, pixels against a loop over images."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddhub.data.dsa import dsa
from ddhub.data.views import (
    Augment,
    Views,
    crop,
    cutmix,
    epoch_views,
    flip,
    mixup,
    render,
    resized_crop,
    shuffle_patches,
    uniforms,
    windows,
)
from ddhub.errors import UsageError

N, SIZE = 300, (12, 8)
MIXES = [(mix, per) for mix in ("mixup", "cutmix") for per in ("batch", "item")]
ALL_COLUMNS = 8 + 1 + 22 + 16 + 12
DSA = "color_crop_cutout_flip_scale_rotate"
YOUNGER = [
    {"crop_scale": 0.3},
    {"shuffle": 4},
    {"dsa": DSA},
    {"dsa": "color_flip_scale_crop", "dsa_form": "idc", "dsa_per": "item", "dsa_crop": 0.25},
    {"mix_probability": 0.5},
    {"crop_scale": 0.3, "shuffle": 2, "dsa": DSA, "dsa_per": "item", "mix_probability": 0.5},
]


def transforms() -> Any:
    """torchvision's, imported when asked for: a machine with a GPU may be without them."""
    from tools.torchvision_stub import torchvision

    return torchvision.transforms


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(N, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def augment(mix: str = "none", per: str = "batch", alpha: float = 1.0) -> Augment:
    return Augment(crop_padding=3, flip=0.5, mix=mix, mix_per=per, mix_alpha=alpha)


def same(a: Views, b: Views) -> bool:
    """Equal in everything but the epoch."""
    names = [item.name for item in fields(Views) if item.name != "epoch"]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


# The table.


def philox(key: tuple[int, int], counter: int) -> list[int]:
    """Philox4x64-10 (Salmon et al., 2011): four 64-bit numbers."""
    low = 2**64 - 1
    x = [counter >> (64 * word) & low for word in range(4)]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(p1 >> 64) ^ x[1] ^ k0, p1 & low, (p0 >> 64) ^ x[3] ^ k1, p0 & low]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & low, (k1 + 0xBB67AE8584CAA73B) & low
    return x


@pytest.mark.parametrize(("seed", "epoch", "n"), [(0, 0, 4), (7, 3, 5), (2**64 - 1, 2**40, 1)])
def test_table_is_philox(seed: int, epoch: int, n: int) -> None:
    # numpy steps the counter before a block, so the first block is that of counter 1.
    raw = [number for block in range(2 * n) for number in philox((seed, epoch), block + 1)]
    assert uniforms(seed, epoch, n).ravel().tolist() == [(number >> 11) / 2**53 for number in raw]
    more = uniforms(seed, epoch, n, ALL_COLUMNS)
    assert more.shape == (ALL_COLUMNS, n) and np.array_equal(more[:8], uniforms(seed, epoch, n))


def test_table_is_pinned() -> None:
    """The format: published labels stand and fall with these numbers."""
    table = uniforms(0, 0, 4)
    assert (table * 2**53).astype(int).tolist() == [
        [104003916602523, 2175681743263000, 1003634882753029, 5083794959104694],
        [4525033197209392, 2500448745226494, 8525713048590348, 8881695158498442],
        [2286231998099506, 1756859399458067, 6410512950514745, 1182326995830533],
        [5156214704363726, 2296847535224492, 7791576665898567, 6848449423992984],
        [2516875470010965, 1532810550835658, 8555506128746173, 3868714492266608],
        [1485023685992784, 456301569564206, 4243385440333529, 8828551757487804],
        [6086789542523755, 2188899044173981, 5990049809348834, 9001076506654881],
        [3846521082996940, 8805489011446259, 4009242363659612, 4328914138031394],
    ]


def test_views_are_pinned() -> None:
    plan = Augment(crop_padding=4, flip=0.5, mix="cutmix", mix_per="item")
    order, views = epoch_views(0, 0, 4, plan, size=(32, 32), batch_size=3)
    assert order.tolist() == [0, 2, 1, 3]
    assert views.offset.tolist() == [[4, 2], [2, 1], [8, 6], [8, 1]]
    assert views.flip.tolist() == [False, True, False, False]
    assert views.partner.tolist() == [1, 0, 3, 2]
    assert views.box.tolist() == [
        [7, 0, 32, 27],
        [0, 16, 22, 32],
        [10, 3, 32, 25],
        [29, 13, 32, 17],
    ]
    assert (views.weight * 1024).tolist() == [349, 672, 540, 1012]

    plan = Augment(mix="mixup", mix_per="batch")
    _, views = epoch_views(0, 0, 4, plan, size=(32, 32), batch_size=3)
    assert views.partner.tolist() == [1, 2, 0, 3]
    first, second = 1485023685992784 / 2**53, 456301569564206 / 2**53
    assert views.weight.tolist() == torch.tensor([first, first, first, second]).tolist()


def test_younger_columns_are_pinned() -> None:
    plan = Augment(crop_scale=0.08, shuffle=3, dsa="crop", mix="cutmix", mix_probability=0.5)
    order, views = epoch_views(0, 8, 4, plan, size=(32, 24), batch_size=3)
    assert order.tolist() == [3, 2, 1, 0]
    assert views.window is not None and views.strips is not None and views.dsa is not None
    assert views.window.tolist() == [[5, 0, 21, 22], [3, 0, 24, 24], [1, 0, 17, 20], [13, 4, 13, 12]]
    assert views.partner.tolist() == [0, 2, 1, 3]
    assert (views.weight * 1024).int().tolist() == [1024, 330, 330, 330]
    whole = [(numbers * 2**24).int().tolist() for numbers in (views.strips[0], views.dsa[:, 0], views.dsa[2, 1:])]
    assert whole == [
        [15762869, 1999984, 512347, 10500486, 14735388, 13280982],
        [16269306, 4084667, 4084667, 4084667],
        [7686264, 16730822, 14337642, 2663509, 1619994, 13563191, 9664030, 15997943, 11246831, 2549923, 16418570],
    ]


def test_beta_has_numbers_of_its_own() -> None:
    """The documented stream: its counter starts 2**192 blocks behind the table's."""
    own = np.random.Generator(np.random.Philox(key=[2, 3], counter=[0, 0, 0, 1]))
    want = own.beta(0.8, 0.8, 5).astype(np.float32).tolist()
    plan = Augment(mix="mixup", mix_alpha=0.8, mix_per="item")
    _, views = epoch_views(2, 3, 5, plan, size=SIZE, batch_size=2)
    assert views.weight.tolist() == want
    order, views = epoch_views(2, 3, 5, replace(plan, mix_per="batch"), size=SIZE, batch_size=2)
    assert views.weight[order].tolist() == [want[row] for row in (0, 0, 1, 1, 2)]


def window_by_hand(u: list[float], size: tuple[int, int], scale: float) -> list[int]:
    """torchvision's RandomResizedCrop, attempt by attempt, with these numbers."""
    (high, wide), low, top = size, math.log(3 / 4), math.log(4 / 3)
    for attempt in range(10):
        area = high * wide * (scale + (1 - scale) * u[2 * attempt])
        ratio = math.exp(low + (top - low) * u[2 * attempt + 1])
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= high and 0 < w <= wide:
            return [int(u[20] * (high - h + 1)), int(u[21] * (wide - w + 1)), h, w]
    h, w = high, wide
    if wide / high < 3 / 4:
        h = round(wide / (3 / 4))
    elif wide / high > 4 / 3:
        w = round(high * (4 / 3))
    return [(high - h) // 2, (wide - w) // 2, h, w]


def views_by_hand(
    seed: int, epoch: int, n: int, plan: Augment, size: tuple[int, int], batch_size: int
) -> tuple[list[int], list[dict[str, Any]]]:
    """The docstring's table, row by row; alpha 1."""
    table = uniforms(seed, epoch, n, ALL_COLUMNS).tolist()
    order_u, top, left, flips, partner_u, weight_u, box_y, box_x, mixed_u = table[:9]
    order = sorted(range(n), key=lambda i: order_u[i])
    places = 2 * plan.crop_padding + 1
    views = [
        {
            "items": i,
            "offset": [math.floor(top[i] * places), math.floor(left[i] * places)],
            "flip": flips[i] < plan.flip,
            "partner": i,
            "weight": 1.0,
            "box": [0, 0, 0, 0],
            "window": window_by_hand([column[i] for column in table[9:31]], size, plan.crop_scale),
            "strips": [column[i] for column in table[31 : 31 + 2 * plan.shuffle]],
            "dsa": [column[i] for column in table[47:]],
        }
        for i in range(n)
    ]
    if plan.dsa_per == "batch":
        for i in range(n):
            views[i]["dsa"][0] = table[47][order.index(i) // batch_size]
    if plan.mix == "none":
        return order, views
    if plan.mix_per == "item":
        rows = list(range(n))
        for i, partner in enumerate(sorted(range(n), key=lambda i: partner_u[i])):
            views[i]["partner"] = partner
    else:
        rows = [order.index(i) // batch_size for i in range(n)]
        for start in range(0, n, batch_size):
            batch = order[start : start + batch_size]
            for i, partner in zip(batch, sorted(batch, key=lambda i: partner_u[i]), strict=True):
                views[i]["partner"] = partner
    for i, row in enumerate(rows):
        if mixed_u[row] >= plan.mix_probability:
            views[i]["partner"] = i
            continue
        views[i]["weight"] = weight_u[row]
        if plan.mix == "cutmix":
            ratio = math.sqrt(1 - weight_u[row])
            (t, b), (lt, r) = (
                (max(int(u * length) - half, 0), min(int(u * length) + half, length))
                for u, length in ((box_y[row], size[0]), (box_x[row], size[1]))
                for half in [int(ratio * length) // 2]
            )
            views[i]["box"] = [t, lt, b, r]
            area = size[0] * size[1]
            views[i]["weight"] = (area - (b - t) * (r - lt)) / area
    return order, views


@pytest.mark.parametrize(("mix", "per"), [("none", "batch"), *MIXES])
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (1, 8), (5, 1), (5, 8), (37, 8)])
def test_views_follow_the_docstring(mix: str, per: str, n: int, batch_size: int) -> None:
    plan = augment(mix, per)
    order, views = epoch_views(3, 2, n, plan, size=SIZE, batch_size=batch_size)
    want_order, want = views_by_hand(3, 2, n, plan, SIZE, batch_size)
    assert order.tolist() == want_order and views.epoch == 2
    for name in ("items", "offset", "flip", "partner", "box"):
        assert getattr(views, name).tolist() == [row[name] for row in want], name
    assert torch.equal(views.weight, torch.tensor([row["weight"] for row in want]))
    assert views.flip.dtype == torch.bool and views.weight.dtype == torch.float32
    assert {views.items.dtype, views.offset.dtype, views.partner.dtype, views.box.dtype} == {torch.int64}


@pytest.mark.parametrize("younger", YOUNGER, ids=lambda fields: "-".join(fields))
@pytest.mark.parametrize(("mix", "per"), MIXES)
def test_younger_fields_follow_the_docstring(mix: str, per: str, younger: dict[str, Any]) -> None:
    plan = replace(augment(mix, per), **younger)
    order, views = epoch_views(3, 2, 37, plan, size=SIZE, batch_size=8)
    want_order, want = views_by_hand(3, 2, 37, plan, SIZE, 8)
    assert order.tolist() == want_order
    for name in ("items", "offset", "flip", "partner", "box"):
        assert getattr(views, name).tolist() == [row[name] for row in want], name
    assert torch.equal(views.weight, torch.tensor([row["weight"] for row in want]))
    for name, there in (("window", plan.crop_scale), ("strips", plan.shuffle > 1), ("dsa", plan.dsa)):
        found = getattr(views, name)
        assert found is None if not there else torch.equal(found, torch.tensor([row[name] for row in want])), name


def test_a_younger_field_leaves_the_others_alone() -> None:
    plan = augment("mixup", "batch", 0.8)
    order, views = epoch_views(1, 1, N, plan, size=SIZE, batch_size=64)
    for younger in YOUNGER:
        again, more = epoch_views(1, 1, N, replace(plan, **younger), size=SIZE, batch_size=64)
        assert torch.equal(order, again)
        plain = {"window": None, "strips": None, "dsa": None}
        if "mix_probability" in younger:
            plain |= {"partner": views.partner, "weight": views.weight}
        assert same(views, replace(more, **plain))


@pytest.mark.parametrize(("per", "share"), [("batch", 0.5), ("item", 0.3), ("batch", 0.0)])
def test_a_share_is_mixed(per: str, share: float) -> None:
    n, size = 20_000, 10
    plan = replace(augment("mixup", per), mix_probability=share)
    order, views = epoch_views(0, 0, n, plan, size=SIZE, batch_size=size)
    whole = views.weight[order] == 1
    assert torch.equal(views.partner[order][whole], order[whole])
    drawn = n // size if per == "batch" else n
    assert abs(whole.float().mean() - (1 - share)) <= 5 * math.sqrt(share * (1 - share) / drawn)
    if per == "batch":
        assert (whole.view(-1, size).all(1) == whole.view(-1, size).any(1)).all()


@pytest.mark.parametrize(
    ("size", "scale"),
    [((32, 32), 0.08), ((12, 8), 0.5), ((40, 10), 0.08), ((10, 40), 0.5), ((9, 9), 1.0), ((1, 1), 0.5)],
)
def test_windows_follow_torchvision(size: tuple[int, int], scale: float) -> None:
    n = 1000
    u = torch.from_numpy(uniforms(1, 2, n, 22).T)
    found = windows(u, size, scale)
    assert found.dtype == torch.int64
    assert found.tolist() == [window_by_hand(row, size, scale) for row in u.tolist()]
    image = torch.empty(1, *size)
    draw = transforms().RandomResizedCrop.get_params
    theirs = torch.tensor([draw(image, (scale, 1.0), (3 / 4, 4 / 3)) for _ in range(n)]).double()
    # 6 sigma of the difference of two means, on each number and on the share of each corner and side that is common.
    ours = found.double()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 6 * ((ours.var(0) + theirs.var(0)) / n).sqrt() + 1e-9).all()
    for column in range(4):
        for value in theirs[:, column].unique():
            p, q = (float((x[:, column] == value).double().mean()) for x in (ours, theirs))
            assert abs(p - q) <= 6 * math.sqrt((p + q) / n)


def test_a_rounded_one_stays_in_the_image() -> None:
    top, left, height, width = windows(torch.ones(1, 22), (9, 7), 0.2)[0].tolist()
    assert 0 <= top <= 9 - height and 0 <= left <= 7 - width
    low = windows(torch.cat([torch.zeros(1, 20), torch.ones(1, 2)], 1), (9, 7), 0.2)[0].tolist()
    assert low[0] + low[2] == 9 and low[1] + low[3] == 7


@pytest.mark.parametrize("alpha", [0.8, 1.0])
@pytest.mark.parametrize(("mix", "per"), MIXES)
def test_views_repeat_and_differ(mix: str, per: str, alpha: float) -> None:
    plan = augment(mix, per, alpha)
    (order, views), (again, twin), (other, later), (third, reseeded) = (
        epoch_views(seed, epoch, N, plan, size=SIZE, batch_size=32) for seed, epoch in [(5, 1), (5, 1), (5, 2), (6, 1)]
    )
    assert torch.equal(order, again) and same(views, twin)
    for strange, rows in ((other, later), (third, reseeded)):
        assert not torch.equal(order, strange)
        for name in ("offset", "flip", "partner", "weight"):
            assert not torch.equal(getattr(views, name), getattr(rows, name)), name


@pytest.mark.parametrize(("mix", "per"), [("none", "batch"), *MIXES])
def test_partners_are_permutations(mix: str, per: str) -> None:
    order, views = epoch_views(0, 0, N, augment(mix, per), size=SIZE, batch_size=64)
    assert order.sort().values.tolist() == views.partner.sort().values.tolist() == list(range(N))
    if mix == "none":
        assert torch.equal(views.partner, views.items)
    elif per == "batch":
        for batch in order.split(64):
            view = views[batch]
            assert set(view.partner.tolist()) == set(batch.tolist())
            assert len(view.weight.unique()) == 1 and len(view.box.unique(dim=0)) == 1
    else:
        batch = order[:64]
        assert set(views[batch].partner.tolist()) != set(batch.tolist())
        assert len(views.weight.unique()) > math.ceil(N / 64)  # more than one a batch


def test_moments() -> None:
    n = 50_000
    table = uniforms(0, 0, n)
    assert table.min() >= 0 and table.max() < 1
    # 5 sigma of the mean and variance of n uniforms.
    assert abs(table.mean(axis=1) - 1 / 2).max() < 5 / math.sqrt(12 * n)
    assert abs(table.var(axis=1) - 1 / 12).max() < 5 / math.sqrt(180 * n)

    plan = augment("mixup", "item", 0.8)
    _, views = epoch_views(0, 0, n, plan, size=SIZE, batch_size=1)
    assert abs(views.flip.float().mean() - 0.5) < 5 * 0.5 / math.sqrt(n)
    counts = views.offset.flatten().bincount()
    assert len(counts) == 7 and abs(counts - 2 * n / 7).max() < 5 * math.sqrt(2 * n / 7)
    weight = views.weight.double()
    variance = 1 / (4 * (2 * 0.8 + 1))  # of Beta(0.8, 0.8)
    assert abs(weight.mean() - 0.5) < 5 * math.sqrt(variance / n)
    assert abs(weight.var() - variance) < 0.01 * variance


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("size", [(32, 32), (12, 8), (1, 5)])
def test_weight_is_the_kept_area(size: tuple[int, int], alpha: float) -> None:
    plan = augment("cutmix", "item", alpha)
    _, views = epoch_views(0, 0, N, plan, size=size, batch_size=1)
    mixed = cutmix(torch.ones(N, 1, *size), torch.zeros(N, 1, *size), views.box)
    assert torch.equal(views.weight, mixed.double().mean((1, 2, 3)).float())
    top, left, bottom, right = views.box.unbind(1)
    assert (top >= 0).all() and (top <= bottom).all() and (bottom <= size[0]).all()
    assert (left >= 0).all() and (left <= right).all() and (right <= size[1]).all()
    assert (views.weight < 1).any() or size[0] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 0}, "n is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": 2**64}, "epoch is 18446744073709551616"),
    ],
)
def test_numbers_out_of_range(change: dict[str, int], words: str) -> None:
    given: dict[str, Any] = {"seed": 0, "epoch": 0, "n": 4, "batch_size": 2, **change}
    with pytest.raises(UsageError, match=words):
        epoch_views(**given, augment=Augment(), size=SIZE)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("crop_padding", -1, "from 0 to 256"),
        ("crop_padding", 10**9, "from 0 to 256"),
        ("flip", 1.5, r"\[0, 1\]"),
        ("flip", float("nan"), r"\[0, 1\]"),
        ("mix", "mix-up", "none, mixup, cutmix"),
        ("mix_alpha", 0.0, "0.001 to 1,000"),
        ("mix_alpha", 1e300, "0.001 to 1,000"),
        ("mix_per", "epoch", "batch, item"),
        ("dsa_per", "epoch", "batch, item"),
        ("dsa", ["crop"], "a text"),
    ],
)
def test_augment_out_of_range(field: str, value: object, allowed: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is .*{allowed}"):
        Augment(**{field: value})  # type: ignore[arg-type]


# Pixels.


def image_by_hand(images: Tensor, views: Views, i: int, plan: Augment) -> Tensor:
    """Strips, window, crop, flip and DSA of one image, pixel rows copied one by one."""
    image, p = images[i], plan.crop_padding
    c, h, w = image.shape
    if views.strips is not None:
        image = shuffled_by_hand(image, views.strips[i].tolist(), plan.shuffle)
    if views.window is not None:
        image = transforms().functional.resized_crop(image, *views.window[i].tolist(), [h, w])
    padded = torch.zeros(c, h + 2 * p, w + 2 * p)
    padded[:, p : p + h, p : p + w] = image
    top, left = views.offset[i].tolist()
    out = padded[:, top : top + h, left : left + w]
    out = torch.stack([out[:, :, w - 1 - x] for x in range(w)], 2) if views.flip[i] else out
    if views.dsa is not None:
        out = dsa(out[None], views.dsa[i : i + 1], plan.dsa_ops, form=plan.dsa_form, crop=plan.dsa_crop)[0]
    return out


def shuffled_by_hand(image: Tensor, keys: list[float], f: int) -> Tensor:
    for dim, key in ((2, keys[:f]), (1, keys[f:])):
        strips = image.chunk(f, dim)
        image = torch.cat([strips[k] for k in sorted(range(f), key=lambda k: key[k])], dim)
    return image


def mixed_by_hand(images: Tensor, views: Views, items: Tensor, plan: Augment) -> Tensor:
    out = []
    for i in items.tolist():
        own = image_by_hand(images, views, i, plan)
        other = image_by_hand(images, views, int(views.partner[i]), plan)
        if plan.mix == "mixup":
            own = views.weight[i] * own + (1 - views.weight[i]) * other
        elif plan.mix == "cutmix":
            top, left, bottom, right = views.box[i].tolist()
            own = own.clone()
            own[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        out.append(own)
    return torch.stack(out)


@pytest.mark.parametrize("alpha", [0.8, 1.0])
@pytest.mark.parametrize(("mix", "per"), [("none", "batch"), *MIXES])
def test_render_is_the_loop(images: Tensor, mix: str, per: str, alpha: float) -> None:
    plan = augment(mix, per, alpha)
    order, views = epoch_views(0, 1, N, plan, size=SIZE, batch_size=128)
    for items in order.split(128):
        x = render(images.__getitem__, views, items, plan)
        assert x.shape == (len(items), 3, *SIZE) and x.dtype == torch.float32
        assert torch.equal(x, mixed_by_hand(images, views, items, plan))


@pytest.mark.parametrize("younger", YOUNGER, ids=lambda fields: "-".join(fields))
@pytest.mark.parametrize(("mix", "per"), [("none", "batch"), ("mixup", "item"), ("cutmix", "batch")])
def test_younger_steps_are_the_loop(images: Tensor, mix: str, per: str, younger: dict[str, Any]) -> None:
    plan = replace(augment(mix, per), **younger)
    order, views = epoch_views(0, 1, N, plan, size=SIZE, batch_size=128)
    items = order[:128]
    x = render(images.__getitem__, views, items, plan)
    assert x.shape == (128, 3, *SIZE) and x.dtype == torch.float32
    torch.testing.assert_close(x, mixed_by_hand(images, views, items, plan), rtol=0, atol=2e-6)
    double = render(images.double().__getitem__, views, items, plan)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("younger", YOUNGER, ids=lambda fields: "-".join(fields))
def test_younger_steps_do_not_depend_on_rank_or_batch(images: Tensor, younger: dict[str, Any]) -> None:
    plan = replace(augment("mixup", "item"), **younger)
    order, views = epoch_views(0, 0, N, plan, size=SIZE, batch_size=64)
    whole = render(images.__getitem__, views, order, plan)
    for start, batch in enumerate(order.split(64)):
        for rank in range(2):
            share = render(images.__getitem__, views, batch[rank::2], plan)
            torch.testing.assert_close(share, whole[64 * start :][:64][rank::2], rtol=0, atol=1e-6)
    if plan.dsa_per == "item" or not plan.dsa:
        again, other = epoch_views(0, 0, N, plan, size=SIZE, batch_size=7)
        assert torch.equal(order, again) and same(views, other)


@pytest.mark.parametrize(("padding", "probability"), [(0, 0.0), (0, 0.5), (3, 0.0), (3, 1.0)])
def test_render_without_some_steps(images: Tensor, padding: int, probability: float) -> None:
    plan = Augment(crop_padding=padding, flip=probability)
    order, views = epoch_views(0, 0, N, plan, size=SIZE, batch_size=64)
    items = order[:64]
    x = render(images.__getitem__, views, items, plan)
    assert torch.equal(x, mixed_by_hand(images, views, items, plan))


@pytest.mark.parametrize(("mix", "per"), [("none", "batch"), *MIXES])
def test_ranks_see_their_share(images: Tensor, mix: str, per: str) -> None:
    plan = augment(mix, per)
    order, views = epoch_views(0, 0, N, plan, size=SIZE, batch_size=64)
    for batch in order.split(64):
        whole = render(images.__getitem__, views, batch, plan)
        for rank in range(2):
            share = render(images.__getitem__, views, batch[rank::2], plan)
            assert torch.equal(share, whole[rank::2])


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_items_do_not_depend_on_the_batch_size(images: Tensor, mix: str) -> None:
    plan = augment(mix, "item", 0.8)
    (order, small), (again, large) = (
        epoch_views(0, 0, N, plan, size=SIZE, batch_size=batch_size) for batch_size in (64, 256)
    )
    assert torch.equal(order, again) and same(small, large)
    by_64, by_256 = (
        torch.cat([render(images.__getitem__, small, items, plan) for items in order.split(size)]) for size in (64, 256)
    )
    assert torch.equal(by_64, by_256)


def test_nothing_is_decoded_twice(images: Tensor) -> None:
    asked: list[Tensor] = []

    def decode(items: Tensor) -> Tensor:
        asked.append(items)
        return images[items]

    plan = augment("cutmix", "batch")
    order, views = epoch_views(0, 0, N, plan, size=SIZE, batch_size=64)
    for items in order.split(64):
        asked.clear()
        render(decode, views, items, plan)
        assert len(asked) == 1 and asked[0].tolist() == sorted(items.tolist())
    asked.clear()
    render(decode, views, order[:1], augment("mixup", "item"))
    assert len(asked) == 1 and len(asked[0]) <= 2


def test_flip_and_cutmix_are_exact() -> None:
    # Far apart and of no short binary form: anything but a copy would show.
    a, b = torch.full((2, 1, 2, 3), 1e-30), torch.full((2, 1, 2, 3), 1e8) / 3
    a[:, :, :, 0], b[:, :, :, 0] = -1e8 / 3, 1e-30
    assert torch.equal(flip(a, torch.tensor([True, False])), torch.stack([a[0].flip(2), a[1]]))
    mixed = cutmix(a, b, torch.tensor([[0, 0, 2, 3], [0, 0, 0, 0]]))
    assert torch.equal(mixed, torch.stack([b[0], a[1]]))


def test_small_values_by_hand() -> None:
    x = torch.arange(1.0, 5).view(1, 1, 2, 2)
    assert crop(x, torch.tensor([[0, 1]]), 1).tolist() == [[[[0, 0], [1, 2]]]]
    assert crop(x, torch.tensor([[2, 2]]), 1).tolist() == [[[[4, 0], [0, 0]]]]
    assert flip(x, torch.tensor([True])).tolist() == [[[[2, 1], [4, 3]]]]
    assert mixup(x, -x, torch.tensor([0.75])).tolist() == [[[[0.5, 1], [1.5, 2]]]]
    assert cutmix(x, -x, torch.tensor([[1, 0, 2, 1]])).tolist() == [[[[1, 2], [-3, 4]]]]


@pytest.mark.parametrize(("channels", "size"), [(3, (12, 8)), (1, (7, 10)), (3, (33, 33))])
def test_resized_crop_is_torchvisions(channels: int, size: tuple[int, int]) -> None:
    x = torch.rand(50, channels, *size, generator=torch.Generator().manual_seed(0))
    window = windows(torch.from_numpy(uniforms(0, 0, 50, 22).T), size, 0.08)
    window[:3] = torch.tensor([[0, 0, *size], [2, 3, 1, 1], [size[0] - 1, 0, 1, size[1]]])
    want = torch.stack(
        [transforms().functional.resized_crop(image, *row, size) for image, row in zip(x, window.tolist(), strict=True)]
    )
    found = resized_crop(x, window)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0], x[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], x[1, :, 2:3, 3:4].expand_as(x[1]), rtol=0, atol=1e-5)


def test_gradient_of_a_resized_crop() -> None:
    window = torch.tensor([[0, 0, 5, 4], [1, 2, 3, 2], [4, 0, 1, 3]])
    x = torch.rand(3, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: resized_crop(y, window), x)


@pytest.mark.parametrize("f", [1, 2, 4])
def test_patches_change_places(images: Tensor, f: int) -> None:
    keys = torch.rand(N, 2 * f, generator=torch.Generator().manual_seed(0))
    found = shuffle_patches(images, keys, f)
    for image, row, out in zip(images, keys.tolist(), found, strict=True):
        assert torch.equal(out, shuffled_by_hand(image, row, f))
    part = images[:2, :1, :4, :4].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: shuffle_patches(y, keys[:2], f), part)


def test_patches_need_a_side_that_divides(images: Tensor) -> None:
    with pytest.raises(UsageError, match="shuffle is 3, which does not divide a side of 8 pixels"):
        shuffle_patches(images, torch.rand(N, 6), 3)


def test_steps_leave_their_input(images: Tensor) -> None:
    before = images.clone()
    plan = augment("mixup", "item")
    order, views = epoch_views(0, 0, N, plan, size=SIZE, batch_size=64)
    render(lambda items: images, views, order.sort().values, plan)
    assert torch.equal(images, before)


def test_rows_and_plain() -> None:
    _, views = epoch_views(0, 4, N, augment("cutmix", "item"), size=SIZE, batch_size=64)
    rows = torch.tensor([7, 7, 0])
    part = views[rows]
    assert part.epoch == 4 and part.items.tolist() == [7, 7, 0]
    assert torch.equal(part.box, views.box[rows]) and torch.equal(part.weight, views.weight[rows])
    plain = Views.plain(rows)
    none = Augment()
    _, untouched = epoch_views(0, 4, N, none, size=SIZE, batch_size=64)
    assert same(plain, untouched[rows])
    assert [getattr(plain, f.name).dtype for f in fields(Views)[1:7]] == [
        getattr(part, f.name).dtype for f in fields(Views)[1:7]
    ]
    _, views = epoch_views(0, 4, N, Augment(**YOUNGER[-1]), size=SIZE, batch_size=64)
    for name in ("window", "strips", "dsa"):
        assert torch.equal(getattr(views[rows], name), getattr(views, name)[rows])


@pytest.mark.cuda
@pytest.mark.parametrize(("mix", "per"), [("none", "batch"), *MIXES])
def test_cuda_equals_cpu(images: Tensor, mix: str, per: str) -> None:
    plan = augment(mix, per, 0.8)
    order, views = epoch_views(0, 0, N, plan, size=SIZE, batch_size=64)
    there = images.cuda()
    for items in order.split(64):
        x = render(images.__getitem__, views, items, plan)
        y = render(there.__getitem__, views.to("cuda"), items.cuda(), plan)
        assert y.is_cuda and torch.equal(x, y.cpu())


@pytest.mark.cuda
@pytest.mark.parametrize("younger", YOUNGER, ids=lambda fields: "-".join(fields))
def test_younger_steps_on_cuda(images: Tensor, younger: dict[str, Any]) -> None:
    plan = replace(augment("cutmix", "item", 0.8), **younger)
    order, views = epoch_views(0, 0, N, plan, size=SIZE, batch_size=64)
    there = images.cuda()
    for items in order.split(64):
        x = render(images.__getitem__, views, items, plan)
        y = render(there.__getitem__, views.to("cuda"), items.cuda(), plan)
        assert y.is_cuda
        torch.testing.assert_close(y.cpu(), x, rtol=0, atol=1e-5)
