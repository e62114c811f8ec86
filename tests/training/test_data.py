"""Batches: equal items whatever the batch size, rank or start, and pixels equal to a naive reconstruction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddhub.data.about import About
from ddhub.data.decode import Compensate
from ddhub.data.dsa import dsa
from ddhub.data.labels import Soft
from ddhub.data.views import epoch_views
from ddhub.errors import UsageError
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.training.batches import DistilledData

ABOUT = About(
    name="test", digest="0", dataset="cifar10-mini", classes=("a", "b", "c"), image_size=(3, 8, 8),
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3),
)  # fmt: skip
ITEM = Augment(crop_padding=2, flip=0.5, mix="mixup", mix_alpha=0.8, mix_per="item")
BATCH = replace(ITEM, mix_per="batch")
CUTMIX = replace(ITEM, mix="cutmix", mix_alpha=1.0)
DSA = replace(
    ITEM, dsa="color_crop_cutout_flip_scale_rotate", dsa_per="item", crop_scale=0.3, shuffle=2, mix_probability=0.6
)
IDC = replace(BATCH, mix="cutmix", dsa="flip_color_crop_scale_rotate", dsa_form="idc", mix_probability=0.6)


def make(augment: Augment, batch_size: int = 16, epochs: int = 2) -> DistilledData:
    """3 classes, 5 natural sets, 3 nets: 60 items."""
    random = torch.Generator().manual_seed(3)
    images = torch.randint(256, (15, 3, 8, 8), dtype=torch.uint8, generator=random)
    stored = torch.randint(-127, 128, (3, 5, 3, 8, 8), generator=random).to(torch.int8)
    decoder = Compensate(images, stored, torch.rand(3, 5, generator=random) / 127)
    logits = torch.randn(60, 3, generator=random).half()
    return DistilledData(
        decoder, Soft(logits, 30.0), Protocol(epochs=epochs, batch_size=batch_size, augment=augment), ABOUT
    )


def by_item(data: DistilledData, **how: int) -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """(epoch, item) -> its pixels and target."""
    plan = replace(data.protocol, batch_size=how.pop("batch_size", data.protocol.batch_size))
    return {
        (view.epoch, int(item)): (x[row], y[row])
        for view, x, y in data.steps(plan, **how)
        for row, item in enumerate(view.items)
    }


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k][0], b[k][0]) and torch.equal(a[k][1], b[k][1]) for k in a)


@pytest.mark.parametrize("augment", [ITEM, CUTMIX, DSA], ids=["mixup", "cutmix", "dsa"])
def test_items_are_bitwise_equal_for_every_batch_size_and_two_ranks(augment: Augment) -> None:
    whole = by_item(make(augment), batch_size=256)
    assert len(whole) == 120
    assert same(whole, by_item(make(augment), batch_size=64))
    assert same(whole, by_item(make(augment), batch_size=7))
    ranks = [by_item(make(augment), rank=rank, world=2) for rank in range(2)]
    assert not ranks[0].keys() & ranks[1].keys()
    assert same(whole, {**ranks[0], **ranks[1]})


@pytest.mark.parametrize("augment", [BATCH, IDC], ids=["mixup", "idc"])
def test_two_ranks_share_the_batches_of_the_papers_form(augment: Augment) -> None:
    ranks = [by_item(make(augment), rank=rank, world=2) for rank in range(2)]
    assert same(by_item(make(augment)), {**ranks[0], **ranks[1]})


@pytest.mark.parametrize("augment", [ITEM, BATCH, DSA, IDC], ids=["item", "batch", "dsa", "idc"])
def test_start_equals_skipping(augment: Augment) -> None:
    everything = list(make(augment).batches(5))
    assert len(everything) == 8
    for start in (0, 1, 3, 4, 6, 8):
        rest = list(make(augment).batches(5, start=start))
        assert len(rest) == 8 - start
        for (x, y), (wanted_x, wanted_y) in zip(rest, everything[start:], strict=True):
            assert torch.equal(x, wanted_x) and torch.equal(y, wanted_y)


@pytest.mark.parametrize("augment", [ITEM, BATCH, CUTMIX, DSA, IDC], ids=["item", "batch", "cutmix", "dsa", "idc"])
@pytest.mark.parametrize("values", [1, 16 * 192, 3 * 16 * 192])
def test_rendering_batches_together_changes_nothing(
    augment: Augment, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [list(make(augment).batches(2, start=start)) for start in (0, 1, 5)]
    monkeypatch.setattr("ddhub.training.batches._TOGETHER", values)
    for start, wanted in zip((0, 1, 5), whole, strict=True):
        found = list(make(augment).batches(2, start=start))
        assert len(found) == len(wanted)
        assert all(torch.equal(a, b) for x, y in zip(found, wanted, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_equal_a_naive_reconstruction() -> None:
    data = make(BATCH, epochs=1)
    order, views = epoch_views(4, 0, 60, BATCH, size=(8, 8), batch_size=16)
    raw = data.decoder(torch.arange(60)).numpy()

    def augmented(item: int) -> np.ndarray:
        padded = np.pad(raw[item], ((0, 0), (2, 2), (2, 2)))
        top, left = views.offset[item].tolist()
        x = padded[:, top : top + 8, left : left + 8]
        return x[:, :, ::-1] if views.flip[item] else x

    row = 0
    mean, std = (np.array(v, dtype=np.float64)[:, None, None] for v in (ABOUT.mean, ABOUT.std))
    for x, y in data.batches(4):
        for got, target in zip(x, y, strict=True):
            item = int(order[row])
            partner, w = int(views.partner[item]), views.weight[item].numpy()
            mixed = w * augmented(item) + (1 - w) * augmented(partner)
            np.testing.assert_allclose(got.numpy(), (mixed - mean) / std, rtol=1e-5, atol=2e-6)
            logits = data.labels.logits.float().numpy()
            np.testing.assert_array_equal(target.numpy(), w * logits[item] + (1 - w) * logits[partner])
            row += 1
    assert row == 60


def test_dsa_sees_normalised_images() -> None:
    """Zeros that come in are the mean colour: in steps, after mean and std; without DSA, before them."""
    plain = Augment(crop_padding=3)
    data, later = make(plain, 7, 1), make(replace(plain, dsa="crop_cutout"), 7, 1)
    order, views = epoch_views(4, 0, 60, later.protocol.augment, size=(8, 8), batch_size=7)
    x, found = (torch.cat([images for images, _ in kind.batches(4)]) for kind in (data, later))
    black = -torch.tensor(ABOUT.mean) / torch.tensor(ABOUT.std)
    raw = data.normalize(data.decoder(order))
    for row, item in enumerate(order.tolist()):
        top, left = views.offset[item].tolist()
        padded = torch.nn.functional.pad(raw[row], (3, 3, 3, 3))[:, top : top + 8, left : left + 8]
        wanted = dsa(padded[None], views.dsa[item : item + 1], ("crop", "cutout"))[0]
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-6)
        if top < 3 and left < 3:
            torch.testing.assert_close(x[row, :, 0, 0], black)
            assert padded[:, 0, 0].tolist() == [0, 0, 0]


def test_seed_and_epoch_change_the_views() -> None:
    data = make(BATCH)
    first = next(iter(data.batches(0)))[0]
    assert torch.equal(first, next(iter(data.batches(0)))[0])
    assert not torch.equal(first, next(iter(data.batches(1)))[0])
    assert not torch.equal(first, next(iter(data.batches(0, start=data.steps_per_epoch)))[0])


def test_as_dataset_gives_plain_items_to_a_dataloader() -> None:
    data = make(BATCH)
    rows = torch.utils.data.DataLoader(data.as_dataset(), batch_size=25)
    x, y = (torch.cat(parts) for parts in zip(*rows, strict=True))
    assert torch.equal(x, data.normalize(data.decoder(torch.arange(60))))
    assert torch.equal(y, data.labels.logits.float())
    item = data.as_dataset()[7]
    assert torch.equal(item[0], x[7]) and torch.equal(item[1], y[7])
    with pytest.raises(IndexError, match="item 60 of 60"):
        data.as_dataset()[60]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rank": 2, "world": 2}, "rank 2, world 2"),
        ({"start": -1}, "start -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"world": 20}, "20 ranks cannot share the last batch of 12"),
    ],
)
def test_impossible_batches_are_refused(how: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next(make(BATCH).batches(0, **how))


def test_moving_leaves_what_shares_the_images_where_it_is() -> None:
    data = make(BATCH)
    wanted = next(data.batches(0))
    moved = data.using().to("meta")
    assert (moved.device.type, moved.decoder.images.device.type) == ("meta", "meta")
    assert data.device.type == "cpu" and torch.equal(next(data.batches(0))[0], wanted[0])
    assert data.to("cpu") is data


def test_unknown_device_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="device 'cuda:99' cannot be used|device 'tpu' cannot be used"):
        make(BATCH).to("tpu")
    with pytest.raises(UsageError, match="cannot be used"):
        make(BATCH).to("cuda:99")
