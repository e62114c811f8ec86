"""Students: schedule by hand, determinism, resuming, and the errors of a run that cannot go on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddhub import sources, training
from ddhub.data import DistilledData
from ddhub.errors import TrainingError, UsageError
from ddhub.protocols import Augment, Protocol, protocol
from recipes._teachers import real_data

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


def test_learning_rate_is_a_cosine_stepped_once_an_epoch() -> None:
    plan = Protocol(epochs=4, lr=0.2)
    wanted = [0.2, 0.2 * (1 + math.sqrt(0.5)) / 2, 0.1, 0.2 * (1 - math.sqrt(0.5)) / 2]
    assert [training.learning_rate(plan, epoch) for epoch in range(4)] == pytest.approx(wanted)


def test_infer_protocol_is_the_specifications() -> None:
    plan = protocol("infer-static")
    assert (plan.epochs, plan.batch_size, plan.optimizer, plan.lr, plan.weight_decay) == (
        400,
        64,
        "adamw",
        1e-3,
        0.01,
    )
    assert plan.augment == Augment(crop_padding=4, flip=0.5, mix="mixup", mix_alpha=0.8, mix_per="batch")


def test_digest_covers_all_but_the_name() -> None:
    plan = protocol("infer-static")
    assert plan.digest == replace(plan, name="other").digest
    others = [protocol("infer-static", epochs=399), replace(plan, augment=replace(plan.augment, flip=0.4))]
    assert len({plan.digest, *(other.digest for other in others)}) == 3
    assert others[0].name == "infer-static+epochs=399"
    assert protocol("infer-static", epochs=400) == plan


def test_same_seed_same_student_and_the_callers_generator_is_left_alone(
    data: DistilledData, test_images: sources.Source
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, a = training.train(data, "convnet3-bn-w8", seed=1, test=test_images, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())
    second, b = training.train(data, "convnet3-bn-w8", seed=1, test=test_images, progress=False)
    third, _ = training.train(data, "convnet3-bn-w8", seed=2, test=test_images, progress=False)
    assert all(torch.equal(x, y) for x, y in zip(weights(first), weights(second), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(weights(first), weights(third), strict=True))
    assert replace(a, seconds=0) == replace(b, seconds=0)
    assert (a.steps, a.epochs, a.test_images, a.seed, a.model) == (9, 3, 100, 1, "convnet3-bn-w8")
    assert a.protocol_digest == TINY.digest


def test_resumed_run_equals_an_uninterrupted_one(data: DistilledData, tmp_path: Path) -> None:
    whole, steps, _ = training.fit(data, "efficientnetb0", 3, "fp32", progress=False)
    checkpoint, save = tmp_path / "state", training._save

    class Stop(Exception):
        pass

    def stop_after_the_second(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if state["epochs"] == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_save", stop_after_the_second)
        with pytest.raises(Stop):
            training.fit(data, "efficientnetb0", 3, "fp32", checkpoint, progress=False)
    resumed, again, _ = training.fit(data, "efficientnetb0", 3, "fp32", checkpoint, progress=False)
    assert steps == again == 9
    assert all(torch.equal(x, y) for x, y in zip(weights(whole), weights(resumed), strict=True))


def test_accuracy_is_that_of_a_naive_loop(data: DistilledData, test_images: sources.Source) -> None:
    net, result = training.train(data, "convnet3-bn-w8", test=test_images, progress=False, precision="fp32")
    right = 0
    for image, label in zip(test_images.images, test_images.labels, strict=True):
        x = [(image[c].double() / 255 - test_images.mean[c]) / test_images.std[c] for c in range(3)]
        right += int(net(torch.stack(x).float()[None]).argmax()) == int(label)
    assert result.accuracy == pytest.approx(right)
    assert training.evaluate(net, test_images, precision="fp32") == result.accuracy


def test_a_net_of_ones_own_is_trained_in_place(data: DistilledData, test_images: sources.Source) -> None:
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    before = own[1].weight.detach().clone()
    net, result = training.train(data, own, test=test_images, progress=False)
    assert net is own and result.model == "Sequential" and not torch.equal(before, own[1].weight)


def test_loss_that_is_not_a_number_names_the_epoch_and_the_next_step(data: DistilledData) -> None:
    hot = data.using(protocol=replace(TINY, optimizer="sgd", lr=1e30))
    with pytest.raises(TrainingError, match=r"loss of 'cifar10-mini' is nan in epoch \d.*lower lr"):
        training.fit(hot, "convnet3-bn-w8", 0, "fp32", progress=False)


def test_other_classes_and_unknown_settings_are_refused(data: DistilledData, test_images: sources.Source) -> None:
    strange = replace(test_images, classes=tuple("abcdefghij"))
    with pytest.raises(UsageError, match="different classes"):
        training.train(data, test=strange)
    with pytest.raises(UsageError, match="unknown model 'resnet81'; did you mean 'resnet18'"):
        training.train(data, "resnet81", test=test_images)
    with pytest.raises(UsageError, match="precision is 'fp8'"):
        training.train(data, precision="fp8", test=test_images)
    with pytest.raises(UsageError, match="unknown protocol 'infer-statik'; did you mean 'infer-static'"):
        protocol("infer-statik")
    with pytest.raises(UsageError, match="epochs is 0; it must be 1 or more"):
        protocol("infer-static", epochs=0)
