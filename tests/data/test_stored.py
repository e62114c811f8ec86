"""Labels stored per view: values by hand, the views they belong to, and what is written and read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_results import result, tiny
from torch import Tensor
from torch.nn import functional as F

import ddhub
from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.artifact.results import Entry
from ddhub.cards.card import render
from ddhub.cli.app import cli
from ddhub.convert import export
from ddhub.data import labels, view_labels
from ddhub.data.about import About
from ddhub.data.decode import Identity
from ddhub.data.losses import distances, spread
from ddhub.data.view_labels import Spec
from ddhub.data.views import Views, epoch_views
from ddhub.errors import ArtifactError, UsageError
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.training import loop
from ddhub.training.batches import DistilledData
from ddhub.training.relabel import relabel, stored_bytes

NAMES = ("a", "b", "c")
ABOUT = About(
    name="test", digest="0", dataset="none", classes=NAMES, image_size=(3, 8, 8), mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
)  # fmt: skip
EPOCHS, COUNT = 6, 23
CUTMIX = Augment(shuffle=2, crop_scale=0.5, flip=0.5, mix="cutmix", mix_per="item")
PLAN = Protocol(name="plan", epochs=EPOCHS, batch_size=8, temperature=20.0, augment=CUTMIX)
DBR: dict[str, Any] = {"kind": "dbr", "seed": 5, "temperature": 2.0, "weight": 0.5, "distance": "l1", "reading": "mix"}
SPECS: dict[str, dict[str, Any]] = {
    "mix": DBR,
    "view": {**DBR, "reading": "view"},
    "label": {**DBR, "reading": "label"},
    "kd": {**DBR, "loss": "kd"},
    "once": {**DBR, "once": True},
    "soft": {"kind": "soft", "seed": 5, "temperature": 2.0},
    "top1": {"kind": "top1", "seed": 5, "temperature": 2.0},
}
CLASSES = torch.arange(COUNT) % 3


def images() -> Tensor:
    """Noise; the channel of an image's class is brighter by a quarter."""
    noise = torch.randint(192, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    noise[torch.arange(COUNT), CLASSES] += 64
    return noise


def hard(plan: Protocol = PLAN) -> DistilledData:
    """23 random images of 8 x 8 pixels, three classes in turn."""
    return DistilledData(Identity(images(), [(0, 1)] * 3), labels.Hard(CLASSES, 3), plan, ABOUT)


@cache
def teacher() -> torch.nn.Module:
    """Trained for a second, so that it is sure of some views and not of others."""
    net, _, _ = loop.fit(hard(replace(PLAN, epochs=12, lr=0.01)), "convnet3-bn-w8", 2, "fp32", progress=False)
    return net


def stored(spec: dict[str, Any], plan: Protocol = PLAN) -> DistilledData:
    """The data with the labels of the teacher, stored as `spec` says."""
    data = hard(plan)
    tensors = relabel(data, [teacher()], spec, epochs=plan.epochs)
    return data.using(labels=labels.build(spec, CLASSES, 3, tensors, epochs=plan.epochs))


def view(epoch: int, items: list[int], partner: list[int], weight: list[float]) -> Views:
    return replace(
        Views.plain(torch.tensor(items)), epoch=epoch, partner=torch.tensor(partner), weight=torch.tensor(weight)
    )


# p = (1, 2, 5) / 8 at temperature 1
LOGITS = torch.tensor([[0.0, math.log(2), math.log(5)]])
Y, PARTNER, LAM = torch.tensor([2]), torch.tensor([0]), torch.tensor([0.75])


def test_distances_are_those_worked_out_by_hand() -> None:
    org, aug = math.log(8 / 5), math.log(8)
    assert distances(LOGITS, Y, PARTNER, LAM, "mix", 1.0).tolist() == [pytest.approx([org, aug])]
    assert distances(LOGITS, Y, PARTNER, LAM, "label", 1.0).tolist() == [pytest.approx([org, 0.75 * org + 0.25 * aug])]
    both = torch.cat([LOGITS, torch.tensor([[0.0, 0.0, 0.0]])])  # mixed, then unmixed
    assert distances(both, Y, PARTNER, LAM, "view", 1.0).tolist() == [pytest.approx([math.log(3), aug])]
    halved = [1, math.sqrt(2), math.sqrt(5)]  # at temperature 2
    assert distances(LOGITS, Y, PARTNER, LAM, "mix", 2.0).tolist() == [
        pytest.approx([math.log(sum(halved) / math.sqrt(5)), math.log(sum(halved))])
    ]


def test_the_divergence_from_a_one_hot_is_the_cross_entropy_and_the_distance() -> None:
    logits, own = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).mul(4), torch.arange(50) % 7
    one_hot = F.one_hot(own, 7).double()
    kl = F.kl_div(F.log_softmax(logits.double(), 1), one_hot, reduction="none").sum(1)
    torch.testing.assert_close(F.cross_entropy(logits.double(), one_hot, reduction="none"), kl)
    found = distances(logits, own, own, torch.ones(50), "mix", 1.0)
    torch.testing.assert_close(found[:, 0].double(), kl, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[:, 0], found[:, 1])  # a partner of the same class


def test_distances_to_the_mixed_label_are_a_linear_map_of_those_to_the_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, own, partner = torch.randn(60, 5, generator=draw) * 3, torch.arange(60) % 5, torch.arange(60) % 4
    lam = torch.rand(60, generator=draw)
    a, b = (distances(logits, own, partner, lam, reading, 1.0).double() for reading in ("mix", "label"))
    for row in range(60):
        w = float(lam[row])
        wanted = torch.tensor([[1.0, 0.0], [w, 1 - w]], dtype=torch.float64) @ a[row]
        torch.testing.assert_close(b[row], wanted, rtol=1e-6, atol=1e-6)


def test_half_precision_costs_less_than_two_thousandths_of_a_nat() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 10, generator=draw) * 3
    own, partner = torch.randint(10, (2, 20000), generator=draw)
    exact = distances(logits, own, partner, torch.ones(20000), "mix", 1.0)
    kept = view_labels.encode(Spec(kind="dbr"), logits, own, partner, torch.ones(20000))["labels.distances"].half()
    error = (kept.float() - exact).abs()
    assert float(error.mean()) < 1e-3 and float(error[exact < 8].max()) < 2e-3
    assert bool((error <= exact * 2.0**-11 + 1e-7).all())  # half a unit in the last of 11 bits
    far = torch.tensor([[0.0, 90.0]])
    one, zero = torch.tensor([1]), torch.tensor([0])
    kept = view_labels.encode(Spec(kind="dbr"), far, zero, one, torch.ones(1))["labels.distances"]
    assert kept.tolist() == [[20.0, 0.0]]


def by_hand(spec: dict[str, Any], row: list[float], y: int, q: int, lam: float, kept: list[float]) -> float:
    """The loss of one mixed image, digit by digit; the student's logits are those of `row`."""

    def minus_log(k: int, heat: float) -> float:
        return math.log(sum(math.exp((x - row[k]) / heat) for x in row))

    heat = spec["temperature"]
    org, aug = minus_log(y, heat), minus_log(q, heat)
    if spec["reading"] == "label":
        aug = lam * org + (1 - lam) * aug
    gaps = [abs(org - kept[0]), abs(aug - kept[1])]
    if spec["distance"] == "squared":
        gaps = [gap**2 for gap in gaps]
    if spec["distance"] == "smooth_l1":
        gaps = [gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps]
    return lam * minus_log(y, 1.0) + (1 - lam) * minus_log(q, 1.0) + spec["weight"] * sum(gaps)


@pytest.mark.parametrize("distance", ["l1", "smooth_l1", "squared"])
@pytest.mark.parametrize("reading", ["mix", "label"])
def test_the_loss_equals_its_terms_by_hand(distance: str, reading: str) -> None:
    spec = {**DBR, "distance": distance, "reading": reading}
    kept = torch.tensor([[[0.25, 3.5], [1.5, 0.125], [0.5, 0.5]]]).half()
    scheme = labels.build(spec, torch.tensor([2, 0, 2]), 3, {"labels.distances": kept})
    target = scheme(view(0, [0, 1, 2], [1, 2, 0], [0.75, 0.25, 0.5]), torch.zeros(3, 3, 2, 2))
    # own class, partner's class, weight, d_org, d_aug; the third has a partner of its own class
    assert target.tolist() == [[2, 0, 0.75, 0.25, 3.5], [0, 2, 0.25, 1.5, 0.125], [2, 2, 0.5, 0.5, 0.5]]
    rows = [[0.5, -1.0, 2.0], [1.0, 1.0, -2.0], [0.0, 0.5, 0.25]]
    wanted = sum(
        by_hand(spec, row, *known)
        for row, known in zip(
            rows, [(2, 0, 0.75, [0.25, 3.5]), (0, 2, 0.25, [1.5, 0.125]), (2, 2, 0.5, [0.5, 0.5])], strict=True
        )
    )
    found = scheme.loss(torch.tensor(rows), target)
    assert float(found) == pytest.approx(wanted / 3, rel=1e-6)
    assert torch.equal(found, scheme.loss(torch.tensor(rows), target, 20.0, True))  # a protocol's are for logits


def test_the_reading_of_the_view_splits_the_output_by_hand() -> None:
    spec = {**SPECS["view"], "temperature": 1.0, "weight": 2.0}
    scheme = labels.build(spec, torch.tensor([2, 0]), 3, {"labels.distances": torch.tensor([[[1.0, 0.5]] * 2]).half()})
    target = scheme(view(0, [0], [1], [0.75]), torch.zeros(2, 3, 2, 2))
    output = torch.cat([LOGITS, torch.zeros(1, 3)])
    ce = 0.75 * math.log(8 / 5) + 0.25 * math.log(8)
    wanted = ce + 2 * (abs(math.log(3) - 1.0) + abs(math.log(8) - 0.5))
    assert float(scheme.loss(output, target)) == pytest.approx(wanted)


def test_labels_rebuilt_of_a_few_numbers_are_those_by_hand() -> None:
    q = spread(torch.tensor([[2, 0], [1, 1]]), torch.tensor([[0.5, 0.25], [0.4, 0.4]]), 4).exp()
    torch.testing.assert_close(q, torch.tensor([[0.25, 0.125, 0.5, 0.125], [0.2, 0.4, 0.2, 0.2]]))
    sure = spread(torch.tensor([[0]]), torch.tensor([[1.0]]), 3)
    assert bool(sure.isfinite().all()) and float(sure.exp()[0, 1]) < 1e-9


def test_knowledge_distillation_from_two_numbers_is_the_divergence_by_hand() -> None:
    spec = {**SPECS["kd"], "temperature": 2.0}
    kept = torch.tensor([[[math.log(2), math.log(4)], [math.log(4), math.log(4)]]]).half()
    scheme = labels.build(spec, torch.tensor([1, 3]), 4, {"labels.distances": kept})
    target = scheme(view(0, [0, 1], [1, 1], [0.5, 1.0]), torch.zeros(2, 3, 2, 2))
    d = kept.double()[0]
    first = [(1 - math.exp(-d[0, 0]) - math.exp(-d[0, 1])) / 2] * 4
    first[1], first[3] = math.exp(-d[0, 0]), math.exp(-d[0, 1])
    second = [(1 - math.exp(-d[1, 0])) / 3] * 3 + [math.exp(-d[1, 0])]
    output = torch.tensor([[0.3, -1.0, 0.2, 2.0], [1.0, 0.0, -1.0, 0.5]])
    p = torch.softmax(output.double() / 2, 1)
    wanted = sum(q * math.log(q / p[n, c]) for n, label in enumerate((first, second)) for c, q in enumerate(label)) / 2
    assert float(scheme.loss(output, target)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(scheme.loss(output, target, 20.0, True)) == pytest.approx(4 * float(wanted), rel=1e-5)


@pytest.mark.parametrize("count", [3, 300])
def test_top_1_is_the_label_and_the_divergence_by_hand(count: int) -> None:
    kind, top = (torch.uint8, 2) if count == 3 else (torch.uint16, 299)
    tensors = {
        "labels.top1": torch.tensor([[0, top]]).to(kind),
        "labels.probability": torch.tensor([[0.5, 0.75]]).half(),
    }
    scheme = labels.build(SPECS["top1"], torch.tensor([0, 1]), count, tensors)
    target = scheme(view(0, [1], [0], [0.5]), torch.zeros(1, 3, 2, 2))
    q = torch.softmax(target.double() / 2, 1)[0]
    assert float(q[top]) == pytest.approx(0.75) and float(q[1]) == pytest.approx(0.25 / (count - 1))
    output = torch.randn(1, count, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(output.double() / 2, 1)[0]
    assert float(scheme.loss(output, target, 20.0)) == pytest.approx(float((q * (q / p).log()).sum()), rel=1e-5)


def by_item(data: DistilledData, **how: Any) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """(epoch, item) -> its pixels and its target."""
    plan = replace(data.protocol, batch_size=how.pop("batch_size", data.protocol.batch_size))
    return {
        (part.epoch, int(item)): (x[row], y[row])
        for part, x, y in data.steps(plan, **how)
        for row, item in enumerate(part.items)
    }


def test_views_and_labels_are_bitwise_equal_for_every_batch_size_rank_and_seed() -> None:
    data = stored(DBR)
    whole = by_item(data, batch_size=COUNT)
    ranks = {**by_item(data, rank=0, world=2), **by_item(data, rank=1, world=2)}
    for other in (by_item(data, batch_size=5), by_item(data, seed=99), ranks):
        assert other.keys() == whole.keys() and len(whole) == EPOCHS * COUNT
        assert all(torch.equal(x, y) for key in whole for x, y in zip(whole[key], other[key], strict=True))


def test_batches_are_those_of_the_stored_seed_and_of_the_students_where_nothing_is_pinned() -> None:
    data, free = stored(DBR), hard()
    for seed in (0, 5, 9):
        for (x, _), (wanted, _) in zip(data.batches(seed), free.batches(5), strict=True):
            assert torch.equal(x, wanted)
    once = stored(SPECS["once"])
    for (x, _), (wanted, _) in zip(once.batches(9, epochs=20), free.batches(9, epochs=20), strict=True):
        assert torch.equal(x, wanted)


def write(folder: Path, spec: dict[str, Any], tensors: dict[str, Tensor], **changes: Any) -> Path:
    fields = {"image_size": (3, 8, 8), "mean": ABOUT.mean, "std": ABOUT.std, "protocol": PLAN.to_json()}
    fields |= {"name": folder.name, "decoder": {"kind": "identity"}, "labels": spec, "tensors": {}}
    Artifact.write(
        folder,
        manifest=tiny(**{**fields, **changes}),
        images=images(),
        image_labels=CLASSES,
        tensors=tensors,
    )
    return folder


def asked(net: torch.nn.Module, x: Tensor, heat: float) -> np.ndarray[Any, Any]:
    """log softmax of the net's logits at a temperature, in double precision."""
    with torch.no_grad():
        z = net(x).double().numpy() / heat
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def unmixed(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[: len(x) // 2], x[len(x) // 2 :]


@pytest.mark.parametrize("name", ["mix", "view", "label", "soft", "top1"])
def test_what_is_written_and_loaded_is_what_the_teacher_says_of_every_item(name: str, tmp_path: Path) -> None:
    spec, net = SPECS[name], teacher()
    folder = write(tmp_path / "made", spec, relabel(hard(), [net], spec, epochs=EPOCHS))
    data, seen = ddhub.load(folder), set()
    epochs = np.random.default_rng(0).choice(EPOCHS, 3, replace=False).tolist()
    for epoch in epochs:
        count = data.steps_per_epoch
        for part, x, y in data.steps(replace(PLAN, epochs=epoch + 1), seed=77, start=epoch * count):
            seen |= {(epoch, int(item)) for item in part.items}
            mixed, alone = unmixed(x) if name == "view" else (x, x)
            log_p, rows = asked(net, mixed, 2.0), np.arange(len(part.items))
            own, partner, lam = CLASSES[part.items].numpy(), CLASSES[part.partner].numpy(), part.weight.numpy()
            if name == "soft":
                z = y.double().numpy() / 2
                np.testing.assert_allclose(
                    z - np.log(np.exp(z).sum(1, keepdims=True)), log_p, rtol=2e-3, atol=2e-3
                )  # logits, to a constant
                continue
            if name == "top1":
                q = np.exp(y.double().numpy() / 2)
                assert (q.argmax(1) == log_p.argmax(1)).all()
                np.testing.assert_allclose(q.max(1), np.exp(log_p.max(1)), rtol=0, atol=3e-4)
                continue
            org = -(asked(net, alone, 2.0) if name == "view" else log_p)[rows, own]
            aug = -log_p[rows, partner]
            if name == "label":
                aug = lam * org + (1 - lam) * aug
            wanted = np.stack([own, partner, lam, np.minimum(org, 20), np.minimum(aug, 20)], 1)
            np.testing.assert_allclose(y.numpy(), wanted, rtol=6e-4, atol=1e-5)
    assert seen == {(epoch, item) for epoch in epochs for item in range(COUNT)}


def test_what_is_stored_once_is_the_mean_over_the_epochs() -> None:
    every = relabel(hard(), [teacher()], DBR, epochs=EPOCHS)["labels.distances"]
    (once,) = relabel(hard(), [teacher()], SPECS["once"], epochs=EPOCHS).values()
    np.testing.assert_allclose(once.double().numpy()[0], every.double().numpy().mean(0), rtol=1e-3)
    first = next(iter(stored(SPECS["once"]).steps(PLAN)))
    torch.testing.assert_close(first[2][:, 3:], once[0][first[0].items].float())


@pytest.mark.parametrize("name", ["mix", "view", "top1"])
def test_relabelling_in_parts_or_under_another_batch_size_gives_the_same_bits(name: str) -> None:
    spec, nets = SPECS[name], [teacher()]
    whole = relabel(hard(), nets, spec, epochs=EPOCHS)
    parts = [relabel(hard(), nets, spec, epochs=part) for part in (range(0, 2), range(2, EPOCHS))]
    other = relabel(hard(replace(PLAN, batch_size=3)), nets, spec, epochs=EPOCHS)
    for key, value in whole.items():
        assert torch.equal(value, torch.cat([part[key] for part in parts])) and torch.equal(value, other[key])


@pytest.mark.parametrize("epochs_kept", [1, 2])
def test_answers_that_are_fetched_by_and_by_are_those_that_are_fetched_at_the_end(
    epochs_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = relabel(hard(), [teacher()], SPECS["top1"], epochs=3)
    one = sum(value[0].numel() * size for value, size in zip(whole.values(), (8, 4), strict=True))  # i64 and f32
    monkeypatch.setattr("ddhub.training.relabel._KEPT", epochs_kept * one)
    parts = relabel(hard(), [teacher()], SPECS["top1"], epochs=3)
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_several_teachers_are_averaged_as_logits_and_the_papers_form_keeps_its_batches() -> None:
    plan = replace(PLAN, augment=replace(CUTMIX, mix_per="batch"))
    nets = [teacher(), models.build("convnet3-bn-w8", classes=3, size=8).eval()]
    data = hard(plan)
    (logits,) = relabel(data, nets, SPECS["soft"], epochs=2).values()
    for part, x, _ in data.steps(replace(plan, epochs=2), seed=5):
        with torch.no_grad():
            wanted = (nets[0](x) + nets[1](x)) / 2
        torch.testing.assert_close(logits[part.epoch][part.items].float(), wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["mix", "view", "soft", "top1"])
def test_start_needs_no_state(name: str) -> None:
    data = stored(SPECS[name])
    everything = list(data.batches(1))
    count = data.steps_per_epoch
    assert len(everything) == EPOCHS * count
    for start in (1, count, 4 * count + 2):
        rest = list(data.batches(2, start=start))
        assert len(rest) == len(everything) - start
        for got, wanted in zip(rest, everything[start:], strict=True):
            assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


def test_fewer_epochs_other_rates_and_back_again_are_fine() -> None:
    data = stored(DBR)
    shorter = data.using(protocol=replace(PLAN, name="short", epochs=2, lr=0.1, optimizer="sgd", batch_size=4))
    assert len(list(shorter.batches(0))) == 2 * 6
    again = shorter.using(protocol=PLAN)
    assert all(torch.equal(x[1], y[1]) for x, y in zip(again.batches(0), data.batches(0), strict=True))
    with pytest.raises(UsageError, match="augment.flip is 0.0, not 0.5"):
        shorter.using(protocol=replace(PLAN, augment=replace(CUTMIX, flip=0.0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 7}, "epochs is 7: labels 'dbr' are stored for 6; use no more"),
        (
            {"augment": replace(CUTMIX, mix_per="batch")},
            "augment.mix_per is 'batch', not 'item': labels 'dbr' were stored for the views of 'plan', and a label "
            "belongs to its view; change other fields only, or let a teacher label",
        ),
        ({"augment": replace(CUTMIX, crop_scale=0.08)}, "augment.crop_scale is 0.08, not 0.5"),
        ({"augment": Augment()}, "augment.flip is 0.0, not 0.5"),
    ],
)
def test_protocols_with_other_views_are_refused(changes: dict[str, Any], message: str) -> None:
    data = stored(DBR)
    with pytest.raises(UsageError) as caught:
        data.using(protocol=replace(PLAN, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="epochs is 7"):
        next(data.batches(0, epochs=7))
    assert data.using(protocol=replace(PLAN, **changes), labels=labels.Hard(CLASSES, 3)).labels.kind == "hard"
    assert stored(SPECS["once"]).using(protocol=replace(PLAN, **changes)).labels.kind == "dbr"


@pytest.mark.parametrize(
    "augment", [replace(CUTMIX, mix_per="batch"), replace(CUTMIX, mix="none", dsa="color_crop")], ids=["mix", "dsa"]
)
def test_another_batch_size_is_refused_where_a_batch_shares_its_draws(augment: Augment) -> None:
    plan = replace(PLAN, augment=augment)
    data = stored(DBR, plan)
    next(data.batches(0))
    with pytest.raises(UsageError, match=r"batch_size is 4, not 8: the items of a batch share their draws"):
        next(data.batches(0, batch_size=4))
    with pytest.raises(UsageError, match="batch_size is 16, not 8"):
        data.using(protocol=replace(plan, batch_size=16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "labels 'dbr': seed is -1; it must be a whole number in 0"),
        ({"temperature": 0}, "temperature is 0; it must be 0.01 to 10,000"),
        ({"weight": -1.0}, "weight is -1.0; it must be"),
        ({"distance": "l2"}, "distance is 'l2'; it must be one of l1, smooth_l1, squared"),
        ({"reading": ["mix"]}, "it must be one of mix, view, label"),
        ({"loss": "kd", "reading": "view"}, "loss 'kd' rebuilds one label, 'view' has two; use reading 'mix'"),
        ({"once": 1}, "once is 1; it must be true or false"),
        ({"colour": 1}, "unknown field 'colour'; correct it, or pip install -U ddhub"),
    ],
)
def test_impossible_specs_say_what_they_must_be(changes: dict[str, Any], message: str) -> None:
    spec = {**DBR, **changes}
    with pytest.raises(UsageError) as caught:
        relabel(hard(), [teacher()], spec, epochs=1)
    assert message in str(caught.value)
    with pytest.raises(ArtifactError) as broken:
        labels.build(spec, CLASSES, 3, {})
    assert message in str(broken.value)


def test_relabelling_needs_classes_and_a_teacher() -> None:
    with pytest.raises(UsageError, match="relabelling 'test' needs its classes, not 'dbr'; use labels.Hard"):
        relabel(stored(DBR), [teacher()], DBR, epochs=1)
    with pytest.raises(UsageError, match="relabelling 'test' needs a teacher, there is none"):
        relabel(hard(), [], DBR, epochs=1)
    with pytest.raises(UsageError, match="unknown field 'weight'"):
        relabel(hard(), [teacher()], {**SPECS["top1"], "weight": 1.0}, epochs=1)


def f16(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("mix", {}, r"labels.distances is missing, needed torch.float16 \[6, 23, 2\] \(6 epochs of 23 items\)"),
        ("mix", {"labels.distances": f16(5, 23, 2)}, r"is torch.float16 \[5, 23, 2\], needed torch.float16 \[6, 23, 2"),
        ("mix", {"labels.distances": f16(6, 23, 2).float()}, "is torch.float32"),
        ("mix", {"labels.distances": f16(6, 23, 2) - 1}, "is below 0"),
        ("once", {"labels.distances": f16(6, 23, 2)}, r"needed torch.float16 \[1, 23, 2\]"),
        ("soft", {"labels.logits": f16(6, 23, 4)}, r"needed torch.float16 \[6, 23, 3\]"),
        ("soft", {"labels.logits": f16(23, 4)}, r"labels.logits is \(23, 4\), needed \[23, 3\]"),
        ("top1", {"labels.top1": f16(6, 23).byte()}, "labels.probability is missing"),
        ("top1", {"labels.top1": f16(6, 23).byte() + 3, "labels.probability": f16(6, 23)}, r"is not in 0\.\.2"),
        ("top1", {"labels.top1": f16(6, 23).byte(), "labels.probability": f16(6, 23) + 2}, r"not in 0\.\.1"),
    ],
)
def test_tensors_that_do_not_fit_say_why(name: str, tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        labels.build(SPECS[name], CLASSES, 3, tensors, epochs=EPOCHS)
    with pytest.raises(ArtifactError, match=message):
        write(tmp_path / "made", SPECS[name], tensors)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("items", "classes", "full", "dbr"),
    [
        (200_000, 1000, 120e9, 240e6),
        (10_000, 1000, 6e9, 12e6),
        (2_000, 200, 0.24e9, 2.4e6),
        (1_000, 100, 60e6, 1.2e6),
        (100, 10, 0.6e6, 0.12e6),
    ],
)
def test_bytes_are_those_of_the_papers_arithmetic(items: int, classes: int, full: float, dbr: float) -> None:
    sizes = {name: stored_bytes(spec, items=items, classes=classes, epochs=300) for name, spec in SPECS.items()}
    assert (sizes["soft"], sizes["mix"], sizes["kd"]) == (full, dbr, dbr)
    assert sizes["soft"] / sizes["mix"] == classes / 2
    assert sizes["once"] == 4 * items and sizes["top1"] == items * 300 * (3 if classes <= 256 else 4)


@pytest.mark.parametrize("name", SPECS)
def test_bytes_of_an_artifact_are_those_foretold(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    folder = write(tmp_path / "made", spec, relabel(hard(), [teacher()], spec, epochs=EPOCHS))
    found = Artifact.open(folder).bytes_by_tensor()
    kept = sum(size for key, size in found.items() if key.startswith("labels."))
    assert kept == stored_bytes(spec, items=COUNT, classes=3, epochs=EPOCHS)
    assert repr(ddhub.load(folder)).count(f"labels {spec['kind']},") == 1


def test_cards_and_info_say_what_is_stored(tmp_path: Path) -> None:
    shown = {}
    for name in ("mix", "once", "soft", "top1"):
        spec = SPECS[name]
        folder = write(tmp_path / name, spec, relabel(hard(), [teacher()], spec, epochs=EPOCHS))
        m = Artifact.open(folder).manifest
        text = render(Entry(m, [result(m, 0, 40.0, PLAN)]))
        assert "the loss of logits (soft, teacher) at temperature 20 in place of their own" in text
        shown[name] = text
        info = CliRunner().invoke(cli, ["info", str(folder), "--json"])
        assert info.exit_code == 0 and json.loads(info.output)["labels"] == spec
    options = "seed 5; reading mix; distance l1; weight 0.5), label temperature 2.0"
    assert f"Labels: dbr (two distances an item, stored for the views of 6 epochs; {options}" in shown["mix"]
    assert f"Labels: dbr (two distances an item, their mean over the views; {options}" in shown["once"]
    assert "Labels: soft (the logits of an item, stored for the views of 6 epochs; seed 5), label" in shown["soft"]
    assert "Labels: top1 (the likeliest class of an item and its probability, stored for the" in shown["top1"]
    assert "| `labels.distances` | F16 | 6 x 23 x 2 | 552 |" in shown["mix"]


@pytest.mark.parametrize("name", ["mix", "soft", "top1"])
def test_labels_of_views_are_not_those_of_plain_items(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    folder = write(tmp_path / "made", spec, relabel(hard(), [teacher()], spec, epochs=EPOCHS))
    data = ddhub.load(folder)
    with pytest.raises(UsageError, match=f"labels '{spec['kind']}' are stored for augmented views, items without"):
        data.as_dataset()
    assert len(data.using(labels=labels.Hard(CLASSES, 3)).as_dataset()) == COUNT
    done = export.export(folder, "npz", tmp_path / "out.npz")
    with np.load(done.path) as found:
        assert not done.logits and "logits" not in found and found["labels"].tolist() == sorted(CLASSES.tolist())


def loss_of(data: DistilledData, net: torch.nn.Module) -> float:
    """The mean loss of all epochs, without training."""
    with torch.no_grad():
        return float(torch.stack([data.loss(net(x), y) for x, y in data.batches(0)]).mean())


@pytest.mark.parametrize("name", SPECS)
def test_a_student_learns_what_is_stored(name: str) -> None:
    data = stored(SPECS[name], replace(PLAN, epochs=12, lr=0.01))
    net, steps, _ = loop.fit(data, "convnet3-bn-w8", 3, "fp32", progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        fresh = models.build("convnet3-bn-w8", classes=3, size=8)
    assert steps == 12 * 3
    assert loss_of(data, net) < 0.8 * loss_of(data, fresh.eval())


def test_the_students_seed_decides_its_weights_and_a_teacher_can_label_instead() -> None:
    data = stored(DBR, replace(PLAN, epochs=1))
    nets = [loop.fit(data, "convnet3-bn-w8", seed, "fp32", progress=False)[0] for seed in (0, 0, 1)]
    first = [next(iter(net.parameters())) for net in nets]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    free = data.using(protocol=replace(PLAN, epochs=50, augment=Augment()), labels=labels.Teacher([teacher()], 2.0))
    assert next(free.batches(0))[1].shape == (8, 3)


def test_the_named_protocols_give_every_item_its_own_box() -> None:
    for name, of, epochs in (("nrr-dd", "rded", 300), ("nrr-dd-f2", "rded-f2", 300), ("nrr-dd-100", "rded", 100)):
        plan = protocol(name)
        assert plan == replace(
            protocol(of), name=name, epochs=epochs, augment=replace(protocol(of).augment, mix_per="item")
        )
        order, views = epoch_views(0, 0, 40, plan.augment, size=(32, 32), batch_size=10)
        other, again = epoch_views(0, 0, 40, plan.augment, size=(32, 32), batch_size=7)
        assert torch.equal(order, other) and torch.equal(views.box, again.box) and len(views.weight.unique()) > 20


@pytest.mark.cuda
@pytest.mark.parametrize("name", SPECS)
def test_cuda_equals_cpu_and_waits_for_nothing(name: str) -> None:
    data = stored(SPECS[name])
    moved = stored(SPECS[name]).to("cuda")
    output = torch.randn(16, 3)
    for (x, y), (_, far_y) in zip(data.batches(0), moved.batches(0), strict=True):
        torch.testing.assert_close(far_y.cpu(), y, rtol=1e-5, atol=1e-5)
        logits = output[: len(x)]
        away = logits.cuda()
        torch.cuda.set_sync_debug_mode("error")
        far = moved.loss(away, far_y)
        torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(far.cpu(), data.loss(logits, y), rtol=1e-5, atol=1e-5)
