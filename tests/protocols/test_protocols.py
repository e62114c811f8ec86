"""Every named protocol against numbers worked out by hand, and what its fields do in training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddhub.data import labels
from ddhub.data.about import About
from ddhub.data.decode import Identity
from ddhub.errors import ArtifactError, UsageError
from ddhub.protocols.named import changed, protocol, protocols
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.training import loop
from ddhub.training.batches import DistilledData
from ddhub.training.optimizer import Optimizer, build_optimizer, learning_rate

# Two logits, target (0, 0), output (60, 0): KL(1/2, 1/2 ‖ softmax(output / T)) = ln cosh(30 / T).
OWN = 0.43378083  # the labels' own T = 30: ln cosh 1
T20 = 0.85544017  # ln cosh 1.5
T20_T2 = 342.17607  # 400 ln cosh 1.5
T1 = 29.306853  # 30 - ln 2
# name: rates of epochs 0, 1 and the last, steps an epoch of 1,000 items, loss of soft labels
BY_HAND: dict[str, tuple[tuple[float, float, float], int, float]] = {
    "infer-static": ((1e-3, 9.99984579e-4, 1.54211776e-8), 16, OWN),
    "infer-dynamic": ((1e-3, 9.99614518e-4, 3.8548188e-7), 16, OWN),
    "infer-static-50": ((1e-3, 9.99013364e-4, 9.86635786e-7), 16, OWN),
    "infer-dynamic-10": ((1e-3, 9.75528258e-4, 2.44717419e-5), 16, OWN),
    "infer-tiny-static": ((0.002, 0.0416, 1.29775029e-5), 16, T20_T2),
    "infer-tiny-static-50": ((0.002, 0.0416, 2.43594974e-4), 16, T20_T2),
    "infer-tiny-dynamic": ((0.002, 0.0416, 4.025706e-4), 16, T20_T2),
    "infer-imagenet-static": ((1e-3, 9.99972585e-4, 2.74153172e-8), 8, T20),
    "infer-imagenet-dynamic": ((1e-3, 9.99561415e-4, 4.38584951e-7), 8, T20),
    "sre2l-cifar": ((1e-3, 9.99984579e-4, 1.54211776e-8), 8, OWN),
    "sre2l-cifar-batch-stats": ((1e-3, 9.99984579e-4, 1.54211776e-8), 8, OWN),
    "sre2l-tiny": ((0.002, 0.0416, 5.46742659e-5), 4, T20_T2),
    "sre2l-imagenet": ((1e-3, 9.99972585e-4, 2.74153172e-8), 1, T20),
    "rded": ((1e-3, 9.99993146e-4, 5.02617982e-4), 20, T20),
    "rded-f2": ((1e-3, 9.99993146e-4, 5.02617982e-4), 20, T20),
    "nrr-dd": ((1e-3, 9.99993146e-4, 5.02617982e-4), 20, T20),
    "nrr-dd-f2": ((1e-3, 9.99993146e-4, 5.02617982e-4), 20, T20),
    "nrr-dd-100": ((1e-3, 9.9993832e-4, 5.07853659e-4), 20, T20),
    "nrr-dd-f2-100": ((1e-3, 9.9993832e-4, 5.07853659e-4), 20, T20),
    # KL of (1/2, 1/2) to softmax((30, 0)), times 4
    "coreset": ((0.0, 3e-4, 3e-3 / 90), 8, 4 * (15 - math.log(2))),
    "idc": ((0.01, 0.01, 0.0004), 16, OWN),
    "idc-svhn": ((0.01, 0.01, 0.0004), 16, OWN),
    "idc-mnist": ((0.01, 0.01, 0.0004), 16, OWN),
    "idc-i-svhn-ipc1": ((0.01, 0.01, 0.0004), 16, OWN),
    "udd-proxy": ((0.01, 0.01, 0.0004), 16, OWN),
    "udd-proxy-svhn": ((0.01, 0.01, 0.0004), 16, OWN),
    "udd-proxy-mnist": ((0.01, 0.01, 0.0004), 16, OWN),
    "datm": ((0.01, 0.01, 0.001), 4, T1),
    "edf": ((0.01, 0.01, 0.001), 8, T1),
    "edf-kd": ((1e-3, 9.99993146e-4, 5.02617982e-4), 20, T20),
    "teacher": ((0.0, 0.2 / 3, 0.2 / 13), 8, OWN),
    "squeeze": ((0.1, 0.0999938316, 6.16837592e-6), 8, OWN),
    "squeeze-tiny": ((0.002, 0.0416, 2.43594974e-4), 4, OWN),
}


def make(plan: Protocol, count: int = 1000, hard: bool = False, lr: float | None = None) -> DistilledData:
    """Random grey images of 8 x 8 pixels, of two classes in turn."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=random)
    classes = torch.arange(count) % 2
    about = About(
        name="test", digest="0", dataset="none", classes=("a", "b"), image_size=(1, 8, 8), mean=(0.5,), std=(0.25,),
        lr=lr,
    )  # fmt: skip
    scheme = labels.Hard(classes, 2) if hard else labels.Soft(torch.randn(count, 2, generator=random).half(), 30.0)
    return DistilledData(Identity(images, [(0, 1)]), scheme, plan, about)


def test_every_named_protocol_is_worked_out() -> None:
    assert set(BY_HAND) == set(protocols())


@pytest.mark.parametrize("name", BY_HAND)
def test_rates_steps_and_loss_equal_numbers_by_hand(name: str) -> None:
    plan, (rates, steps, soft) = protocol(name), BY_HAND[name]
    found = [learning_rate(plan, epoch) for epoch in (0, 1, plan.epochs - 1)]
    assert found == pytest.approx(rates, rel=1e-6)
    data = make(plan)
    assert data.steps_per_epoch == steps
    output, target = torch.tensor([[60.0, 0.0]] * 3), torch.zeros(3, 2)
    assert float(data.loss(output, target)) == pytest.approx(soft, rel=1e-6)
    # class 1 from the same logits: ln(1 + e^60) = 60, at any temperature
    wrong = torch.tensor([[0.0, 1.0]] * 3)
    # and with the label smoothed to (s / 2, 1 - s / 2) as much less
    assert float(make(plan, hard=True).loss(output, wrong)) == pytest.approx(60.0 * (1 - plan.label_smoothing / 2))


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("idc", {665: 0.01, 666: 0.002, 832: 0.002, 833: 0.0004}),
        ("datm", {501: 0.01, 502: 0.001, 1000: 0.001}),
        ("squeeze-tiny", {2: 0.0812, 4: 0.1604, 5: 0.2, 20: 0.15}),  # (1 + cos(pi 15 / 45)) / 2 = 3 / 4
        ("rded", {150: 1e-3 * (1 + math.sqrt(0.5)) / 2, 200: 7.5e-4}),  # a quarter of the circle, a third of pi
        # every step of one cycle has its own: up in 3 epochs, down in 13
        ("teacher", {0.5: 0.2 / 6, 2.25: 0.15, 3: 0.2, 9.5: 0.1, 15.5: 0.2 / 26}),
        ("infer-static", {100: 1e-3 * (1 + math.sqrt(0.5)) / 2, 200: 5e-4}),
    ],
)
def test_rates_inside_the_schedules(name: str, rates: dict[float, float]) -> None:
    found = {epoch: learning_rate(protocol(name), epoch) for epoch in rates}
    assert found == pytest.approx(rates)


def test_rates_without_warmup_are_bitwise_those_of_the_first_protocols() -> None:
    plan = protocol("infer-static-50")
    assert [learning_rate(plan, e) for e in range(50)] == [
        1e-3 * (1 + math.cos(math.pi * e / 50)) / 2 for e in range(50)
    ]


def test_a_learned_rate_is_used_where_the_protocol_asks_and_the_artifact_has_one() -> None:
    learning, fixed = protocol("datm"), protocol("squeeze")
    assert [learning_rate(learning, e, 0.03) for e in (0, 502)] == pytest.approx([0.03, 0.003])
    assert learning_rate(learning, 0, None) == 0.01
    assert learning_rate(fixed, 0, 0.03) == 0.1


def used_rates(data: DistilledData, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rates that the optimizer really had, one a step, every group the same."""
    found, step = [], Optimizer.step

    def noted(self: Optimizer) -> None:
        rates = {group["lr"] for group in self.param_groups}
        assert len(rates) == 1
        found.extend(rates)
        step(self)

    monkeypatch.setattr(Optimizer, "step", noted)
    loop.fit(data, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), 0, "fp32", progress=False)
    return found


STEPPED = Protocol(
    epochs=3, batch_size=8, optimizer="sgd", lr=0.1, learned_lr=True, schedule="steps", milestones=(2,), decay=0.5,
    restart=True,
)  # fmt: skip


def test_training_uses_these_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert used_rates(make(STEPPED, 16, lr=0.02), monkeypatch) == pytest.approx([0.02] * 4 + [0.01] * 2)


def test_a_warm_up_is_trained_epoch_by_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Protocol(epochs=3, batch_size=8, optimizer="sgd", lr=0.1, warmup=2)
    assert used_rates(make(plan, 8), monkeypatch) == pytest.approx([0.001, 0.0505, 0.1])


def test_a_restart_is_sgd_by_hand_that_forgets_its_momentum() -> None:
    data = make(replace(STEPPED, decay_biases=False, weight_decay=0.1), 16)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    weight, bias = (p.detach().clone() for p in net[1].parameters())
    loop.fit(data, net, 7, "fp32", progress=False)
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for number, (x, y) in enumerate(data.batches(7)):
        weight.requires_grad_(), bias.requires_grad_()
        loss = data.loss(x.flatten(1) @ weight.T + bias, y)
        grads = torch.autograd.grad(loss, (weight, bias))
        if number == 4:  # the third epoch
            speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
        rate = 0.1 if number < 4 else 0.05
        speed = [0.9 * speed[0] + grads[0] + 0.1 * weight.detach(), 0.9 * speed[1] + grads[1]]
        weight, bias = weight.detach() - rate * speed[0], bias.detach() - rate * speed[1]
    torch.testing.assert_close(net[1].weight, torch.nn.Parameter(weight), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net[1].bias, torch.nn.Parameter(bias), rtol=1e-4, atol=1e-6)


def test_biases_and_norms_are_decayed_unless_the_protocol_says_no() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    every = build_optimizer(net, protocol("infer-static"))
    assert [(len(group["params"]), group["weight_decay"]) for group in every.param_groups] == [(4, 0.01)]
    some = build_optimizer(net, protocol("rded"))
    assert [(len(group["params"]), group["weight_decay"]) for group in some.param_groups] == [(1, 0.01), (3, 0.0)]
    assert some.param_groups[0]["params"][0] is net[0].weight


@pytest.mark.parametrize("interrupted", [1, 2])
def test_resumed_before_or_after_a_restart_equals_an_uninterrupted_run(
    interrupted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(replace(STEPPED, augment=Augment(flip=0.5)), 16)

    def run(checkpoint: Path | None = None) -> list[torch.Tensor]:
        net, _, _ = loop.fit(data, "convnet3-bn-w8", 1, "fp32", checkpoint, progress=False)
        return [*net.state_dict().values()]

    whole, save = run(), loop._save

    def stopping(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if state["epochs"] == interrupted:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_save", stopping)
        patch.setattr(loop, "SAVE", 0)
        run(tmp_path / "state")
    assert all(torch.equal(x, y) for x, y in zip(whole, run(tmp_path / "state"), strict=True))


def test_grey_images_train_under_the_papers_views() -> None:
    for name in ("infer-static", "idc-mnist", "datm", "rded"):
        data = make(replace(protocol(name), epochs=1, milestones=()), 16)
        net, steps, _ = loop.fit(data, "convnet3-w8", 0, "fp32", progress=False)
        assert steps == data.steps_per_epoch and net(torch.zeros(2, 1, 8, 8)).shape == (2, 2)


def test_infer_protocol_is_the_specifications() -> None:
    plan = protocol("infer-static")
    assert (plan.epochs, plan.batch_size, plan.optimizer, plan.lr, plan.weight_decay) == (400, 64, "adamw", 1e-3, 0.01)
    assert plan.augment == Augment(crop_padding=4, flip=0.5, mix="mixup", mix_alpha=0.8, mix_per="batch")


def test_digest_covers_all_but_the_name() -> None:
    plan = protocol("infer-static")
    assert plan.digest == replace(plan, name="other").digest
    others = [protocol("infer-static", epochs=399), replace(plan, augment=replace(plan.augment, flip=0.4))]
    assert len({plan.digest, *(other.digest for other in others)}) == 3
    assert others[0].name == "infer-static+epochs=399"
    assert protocol("infer-static", epochs=400) == plan
    third = protocol("idc", epochs=300)  # of 1,000, whose milestones are 666 and 833
    assert (third.name, third.milestones) == ("idc+epochs=300", (199, 249))
    assert changed(third, epochs=600) == protocol("idc", epochs=600) and changed(third, epochs=300) == third
    assert protocol("idc", epochs=600).milestones == (399, 499)
    assert changed(third, batch_size=32) == protocol("idc", epochs=300, batch_size=32)
    assert changed(third, epochs=1000) is protocol("idc")
    own = changed(replace(third, lr=0.1), epochs=600)  # no named one
    assert (own.name, own.milestones) == ("idc+epochs=300+epochs=600", (398, 498))
    assert protocol("idc", epochs=300, milestones=(1, 7)).milestones == (1, 7)
    assert protocol("idc", epochs=1).milestones == (1, 1)


def test_younger_fields_enter_the_manifest_only_where_they_are_set() -> None:
    assert protocol("infer-static").digest == Protocol(name="x", augment=protocol("infer-static").augment).digest
    assert "schedule" not in protocol("infer-static").to_json()
    for name in protocols():
        plan = protocol(name)
        assert Protocol.from_json(plan.to_json()) == plan
    assert len({protocol(name).digest for name in protocols()}) == len(protocols())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 400}, "warmup is 400; it must be epochs, fewer than there are"),
        ({"warmup": 5, "schedule": "half-cosine"}, "0 unless the schedule is 'cosine'"),
        ({"schedule": "steps", "milestones": (9, 3)}, "it must be rising epochs"),
        ({"temperature": 0}, "temperature is 0; it must be a number from 0.001"),
        ({"teachers": ("",)}, "teachers is"),
        ({"teachers": ("a@1",) * 101}, "teachers is .*up to 100 names"),
        ({"teachers": "a@1"}, "teachers is 'a@1'"),
        ({"epochs": 10**12}, "epochs is 1000000000000; it must be a whole number from 1 to 1,000,000"),
        ({"epochs": 10**5000}, "epochs is a number of int with too many digits"),
        ({"batch_size": 10**12}, "batch_size is 1000000000000"),
        ({"momentum": 5}, "momentum is 5; it must be a number from 0 to below 1"),
        ({"lr": 1e308}, r"lr is 1e\+308; it must be a number above 0, at most 1,000"),
        ({"weight_decay": 1e9}, "weight_decay is"),
        ({"decay": 1e9}, "decay is"),
        ({"temperature": 1e5}, "temperature is"),
        ({"milestones": 3}, "milestones is 3"),
        ({"milestones": (1,) * 1001, "schedule": "steps"}, "milestones is"),
        ({"milestones": ("1",), "schedule": "steps"}, "milestones is"),
        ({"name": ""}, "name is ''"),
        ({"name": "x" * 10**6}, "name is 'xxx.{70,80}xx'; it must be a text of one line"),
        ({"name": "a\x1b[2J"}, "name is .*one line"),
        ({"name": "a\nb"}, "name is .*one line"),
        ({"name": 3}, "name is 3"),
        ({"times_t2": 1}, "times_t2 is 1; it must be true or false"),
    ],
)
def test_impossible_settings_say_what_they_must_be(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        replace(protocol("infer-static"), **changes)
    assert len(str(caught.value)) < 250
    with pytest.raises(ArtifactError, match="unknown field 'speed'"):
        Protocol.from_json({"speed": 1})


def test_unknown_names_and_values_say_what_is_known() -> None:
    with pytest.raises(UsageError, match="unknown protocol 'infer-statik'; did you mean 'infer-static'"):
        protocol("infer-statik")
    with pytest.raises(UsageError, match="epochs is 0; it must be a whole number from 1 to 1,000,000"):
        protocol("infer-static", epochs=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": "5"}, "epochs is '5'; it must be a whole number"),
        ({"epoch": 5}, "unknown setting of a protocol 'epoch'; did you mean 'epochs'"),
        ({"augment": None}, "augment is None; it must be an Augment"),
    ],
)
def test_changes_that_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        protocol("idc", **changes)


def test_lists_are_taken_for_tuples() -> None:
    assert Protocol(milestones=[1, 2], teachers=["a@1"]) == Protocol(milestones=(1, 2), teachers=("a@1",))  # type: ignore[arg-type]


def test_a_changed_protocol_is_called_after_its_changes() -> None:
    assert protocol("rded", epochs=300) is protocol("rded")
    assert protocol("rded", epochs=5, teachers=("a@1", "b@2")).name == "rded+epochs=5+teachers=a@1,b@2"
    assert protocol("datm", milestones=(1, 2)).name == "datm+milestones=1,2"
