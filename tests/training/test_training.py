"""Students: determinism, resuming, and the errors of a run that cannot go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddhub.errors import TrainingError, UsageError
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.sources import source as sources
from ddhub.training import loop, scoring
from ddhub.training.batches import DistilledData
from recipes.run.teachers import real_data

TINY = Protocol(epochs=3, batch_size=16, augment=Augment(crop_padding=4, flip=0.5, mix="mixup", mix_alpha=0.8))


@pytest.fixture(scope="module")
def test_images() -> sources.Source:
    """The first 100 embedded test images."""
    source = sources.open_source("cifar10-mini", "test")
    return replace(source, images=source.images[:100], labels=source.labels[:100])


@pytest.fixture
def data() -> DistilledData:
    """40 real images with hard labels."""
    source = sources.open_source("cifar10-mini")
    return real_data(replace(source, images=source.images[:40], labels=source.labels[:40]), TINY)


def weights(net: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in net.state_dict().values()]


def test_same_seed_same_student_and_the_callers_generator_is_left_alone(
    data: DistilledData, test_images: sources.Source
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, a = loop.train(data, "convnet3-bn-w8", seed=1, test=test_images, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())
    second, b = loop.train(data, "convnet3-bn-w8", seed=1, test=test_images, progress=False)
    third, _ = loop.train(data, "convnet3-bn-w8", seed=2, test=test_images, progress=False)
    assert all(torch.equal(x, y) for x, y in zip(weights(first), weights(second), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(weights(first), weights(third), strict=True))
    assert replace(a, seconds=0) == replace(b, seconds=0)
    assert (a.steps, a.epochs, a.test_images, a.seed, a.model) == (9, 3, 100, 1, "convnet3-bn-w8")
    assert a.protocol_digest == TINY.digest


def test_resumed_run_equals_an_uninterrupted_one(data: DistilledData, tmp_path: Path) -> None:
    whole, steps, _ = loop.fit(data, "efficientnetb0", 3, "fp32", progress=False)
    checkpoint, save = tmp_path / "state", loop._save

    class Stop(Exception):
        pass

    def stop_after_the_second(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if state["epochs"] == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", stop_after_the_second)
        patch.setattr(loop, "SAVE", 0)
        with pytest.raises(Stop):
            loop.fit(data, "efficientnetb0", 3, "fp32", checkpoint, progress=False)
    resumed, again, _ = loop.fit(data, "efficientnetb0", 3, "fp32", checkpoint, progress=False)
    assert steps == again == 9
    assert all(torch.equal(x, y) for x, y in zip(weights(whole), weights(resumed), strict=True))


def test_accuracy_is_that_of_a_naive_loop(data: DistilledData, test_images: sources.Source) -> None:
    net, result = loop.train(data, "convnet3-bn-w8", test=test_images, progress=False, precision="fp32")
    right = 0
    for image, label in zip(test_images.images, test_images.labels, strict=True):
        x = [(image[c].double() / 255 - test_images.mean[c]) / test_images.std[c] for c in range(3)]
        right += int(net(torch.stack(x).float()[None]).argmax()) == int(label)
    assert result.accuracy == pytest.approx(right)
    assert scoring.evaluate(net, test_images, precision="fp32") == result.accuracy


def test_a_net_of_ones_own_is_trained_in_place(data: DistilledData, test_images: sources.Source) -> None:
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    before = own[1].weight.detach().clone()
    net, result = loop.train(data, own, test=test_images, progress=False)
    assert net is own and result.model == "Sequential" and not torch.equal(before, own[1].weight)


def test_loss_that_is_not_a_number_names_the_epoch_and_the_next_step(data: DistilledData) -> None:
    hot = data.using(protocol=replace(TINY, optimizer="sgd", lr=1000.0))
    with pytest.raises(TrainingError, match=r"loss of 'cifar10-mini' is nan in epoch \d.*lower lr"):
        loop.fit(hot, "convnet3-bn-w8", 0, "fp32", progress=False)


def test_other_classes_and_unknown_settings_are_refused(data: DistilledData, test_images: sources.Source) -> None:
    strange = replace(test_images, classes=tuple("abcdefghij"))
    with pytest.raises(UsageError, match="different classes"):
        loop.train(data, test=strange)
    with pytest.raises(UsageError, match="unknown model 'resnet81'; did you mean 'resnet18'"):
        loop.train(data, "resnet81", test=test_images)
    with pytest.raises(UsageError, match="precision is 'fp8'"):
        loop.train(data, precision="fp8", test=test_images)


def test_test_images_have_the_size_of_the_data(data: DistilledData, test_images: sources.Source) -> None:
    small = replace(test_images, images=test_images.images[:, :, ::2, ::2])
    with pytest.raises(UsageError, match=r"has images of 3 x 32 x 32, test data 'cifar10-mini' of 3 x 16 x 16"):
        loop.train(data, test=small)


def test_named_test_data_are_opened_at_the_size_of_the_data(data: DistilledData) -> None:
    source = sources.open_source("cifar10-mini", size=16)
    few = real_data(replace(source, images=source.images[:40], labels=source.labels[:40]), replace(TINY, epochs=1))
    _, result = loop.train(few, "convnet3-bn-w8", progress=False)
    assert result.test_images == 1000 and "16 px" in result.test
    _, result = loop.train(data, "convnet3-bn-w8", protocol=replace(TINY, epochs=1), progress=False)
    assert result.test_images == 1000 and "px" not in result.test


def test_grey_images_train_and_are_scored(test_images: sources.Source) -> None:
    grey = replace(test_images, images=test_images.images[:, :1].contiguous(), mean=(0.5,), std=(0.25,))
    net, result = loop.train(
        real_data(grey, replace(TINY, epochs=1)), "resnet18-w8", test=grey, progress=False, precision="fp32"
    )
    x = (grey.images.float() / 255 - 0.5) / 0.25
    right = (net(x).argmax(1) == grey.labels).sum()
    assert result.accuracy == pytest.approx(float(right)) == scoring.evaluate(net, grey, precision="fp32")


def test_a_last_batch_of_few_items_is_warned_of(
    data: DistilledData, test_images: sources.Source, caplog: pytest.LogCaptureFixture
) -> None:
    for size, told in ((39, "1 items of 39, and such steps can cost points; batches of 20 are even"), (9, ""), (8, "")):
        caplog.clear()
        protocol = replace(data.protocol, epochs=1, batch_size=size)
        loop.train(data, "convnet3-w4", protocol=protocol, test=test_images, device="cpu", progress=False)
        assert told in caplog.text and bool(caplog.text) == bool(told), size
