"""Students on the pretend GPU: what their epochs give and wait for, by decoder, label scheme and protocol."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ddhub import models
from ddhub.data.about import About
from ddhub.data.decode import Decoder, build
from ddhub.data.labels import Labels, Teacher
from ddhub.data.labels import build as build_labels
from ddhub.measures import utilisation
from ddhub.measures.cam import grad_cam
from ddhub.measures.complexity import net_complexity
from ddhub.measures.utilisation import Proxy, maps
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.sources.source import Source
from ddhub.training import batches
from ddhub.training import relabel as relabelling
from ddhub.training.batches import DistilledData
from ddhub.training.loop import fit
from ddhub.training.relabel import relabel
from ddhub.training.scoring import evaluate
from pretend.counting import Found, counted, set_small
from pretend.device import DEVICE

set_small(batches, "_TOGETHER", 1)
set_small(relabelling, "_IMAGES", 10)
set_small(utilisation, "_BATCH", 10)

SIDE, CLASSES, BATCH = 16, 5, 10
ABOUT = About(
    name="made", digest="0" * 64, dataset="cifar10-mini", classes=tuple("abcde"), image_size=(3, SIDE, SIDE),
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3),
)  # fmt: skip
DSA = "color_crop_cutout_flip_scale_rotate"
AUGMENTS = {
    "plain": Augment(),
    "crop-flip": Augment(crop_padding=2, flip=0.5),
    "mixup-batch": Augment(mix="mixup", mix_alpha=0.8),
    "mixup-item": Augment(mix="mixup", mix_per="item", mix_probability=0.5),
    "cutmix-batch": Augment(crop_padding=2, flip=0.5, mix="cutmix"),
    "cutmix-item": Augment(mix="cutmix", mix_per="item"),
    "dsa": Augment(dsa=DSA),
    "dsa-item": Augment(dsa=DSA, dsa_per="item"),
    "idc": Augment(dsa=DSA, dsa_form="idc", mix="cutmix", mix_probability=0.5),
    "idc-item": Augment(dsa=DSA, dsa_form="idc", dsa_per="item"),
    "resized-shuffled": Augment(crop_scale=0.4, shuffle=2, flip=0.5),
}
# Settings of the optimizer beside them, so that each occurs.
TRAINING: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": "sgd", "nesterov": True, "label_smoothing": 0.1},
    "dsa": {"optimizer": "sgd", "schedule": "steps", "milestones": (1,), "restart": True, "learned_lr": True},
    "mixup-batch": {"schedule": "one-cycle", "decay_biases": False},
}
DECODERS = ("identity", "crops", "compensate")
DBR = {"kind": "dbr", "seed": 3, "temperature": 2.0}
SCHEMES: dict[str, dict[str, Any]] = {
    "hard": {"kind": "hard"},
    "soft": {"kind": "soft", "temperature": 4.0},
    "teacher": {"kind": "teacher", "temperature": 4.0},
    "dbr-mix": {**DBR, "reading": "mix"},
    "dbr-view": {**DBR, "reading": "view"},
    "dbr-label": {**DBR, "reading": "label", "distance": "smooth_l1"},
    "dbr-kd": {**DBR, "loss": "kd"},
    "dbr-once": {**DBR, "once": True},
    "top1": {"kind": "top1", "seed": 3, "temperature": 2.0},
    "soft-per-view": {"kind": "soft", "seed": 3, "temperature": 4.0},
}
OF_VIEWS = [name for name, spec in SCHEMES.items() if "seed" in spec]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def net(kind: str = "convnet3-bn-w8") -> nn.Module:
    torch.manual_seed(1)
    return models.build(kind, classes=CLASSES, size=SIDE, channels=3)


def decoder(kind: str, items: int) -> Decoder:
    """A decoder of so many items, a multiple of 20."""
    stored = {"identity": items, "crops": items // 5, "compensate": items // 2}[kind]
    images = (numbers(stored, 3, SIDE, SIDE) * 255).to(torch.uint8)
    sets = stored // CLASSES
    tensors = {
        "crops": {"decoder.boxes": torch.ones(stored, 1, 2, dtype=torch.uint8) * 3},
        "compensate": {
            "decoder.compensators": (numbers(1, sets, 3, SIDE, SIDE, seed=1) * 200 - 100).to(torch.int8),
            "decoder.scale": numbers(1, sets, seed=2) / 127,
        },
    }
    spec = {"kind": kind, **({"factor": 2, "side": SIDE // 2} if kind == "crops" else {})}
    bounds = [(-0.1, 1.2)] * 3 if kind == "crops" else [(0, 1)] * 3
    return build(spec, images, tensors.get(kind, {}), bounds)


def labels(scheme: str, classes: Tensor, epochs: int) -> Labels:
    """Labels of a scheme for items of `classes`, stored ones with made-up numbers."""
    spec, items = SCHEMES[scheme], len(classes)
    of_views = (epochs, items)
    tensors = {
        "soft": {"labels.logits": numbers(items, CLASSES).half()},
        "soft-per-view": {"labels.logits": numbers(*of_views, CLASSES).half()},
        "top1": {
            "labels.top1": (numbers(*of_views) * CLASSES).to(torch.uint8),
            "labels.probability": numbers(*of_views, seed=1).half(),
        },
    }
    distances = {"labels.distances": numbers(1 if scheme == "dbr-once" else epochs, items, 2).half()}
    nets = [net(), net("convnet3-w8")] if scheme == "teacher" else None
    return build_labels(spec, classes, CLASSES, tensors.get(scheme, distances), nets, epochs)


def made(kind: str, scheme: str, augment: str, items: int, epochs: int) -> DistilledData:
    """Data on the CPU."""
    decoded = decoder(kind, items)
    classes = torch.arange(len(decoded)) % CLASSES
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": BATCH, "lr": 0.01, **TRAINING.get(augment, {})}
    plan = Protocol(augment=AUGMENTS[augment], teacher_batch_stats=scheme == "teacher", **settings)
    return DistilledData(decoded, labels(scheme, classes, epochs), plan, ABOUT)


def trained(kind: str, scheme: str, augment: str, items: int, epochs: int, device: torch.device) -> Tensor:
    """The parameters of a student after its epochs."""
    data = made(kind, scheme, augment, items, epochs).to(device)
    student, _, _ = fit(data, "convnet3-bn-w8", 0, "fp32", progress=False)
    return torch.cat([value.detach().flatten() for value in student.cpu().parameters()])


def student(kind: str, scheme: str, augment: str) -> Found:
    """A student of 2 steps an epoch, with as many again, with an epoch more, and on the CPU."""
    work = partial(trained, kind, scheme, augment)
    return compared(lambda size, epochs, device: work(10 * size, epochs, device))


def compared(work: Callable[[int, int, torch.device], Tensor]) -> Found:
    """What `work(size, epochs, device)` waits for by step and by epoch, and how far it is from the CPU's."""
    result, once = counted(lambda: work(2, 1, DEVICE))
    _, twice = counted(lambda: work(4, 1, DEVICE))
    _, longer = counted(lambda: work(2, 2, DEVICE))
    apart = float((result - work(2, 1, torch.device("cpu"))).abs().max())
    return Found(by_step=twice - once, by_epoch=longer - once, apart=apart)


def source(images: int) -> Source:
    pixels = (numbers(images, 3, SIDE, SIDE) * 255).to(torch.uint8)
    return Source(
        name="made", address="made", split="test", images=pixels, labels=torch.arange(images) % CLASSES,
        classes=ABOUT.classes, mean=ABOUT.mean, std=ABOUT.std, hub_id="", license="", notes="", fingerprint="0",
    )  # fmt: skip


def evaluated(size: int, _: int, device: torch.device) -> Tensor:
    return torch.tensor([evaluate(net(), source(500 * size), device=device, precision="fp32")])


def checkpointed(size: int, epochs: int, device: torch.device) -> Tensor:
    data = made("identity", "hard", "crop-flip", 10 * size, epochs).to(device)
    with tempfile.TemporaryDirectory(prefix="ddhub-pretend-") as folder:
        student, _, _ = fit(data, "convnet3-bn-w8", 0, "fp32", Path(folder) / "state", progress=False)
    return next(student.cpu().parameters()).detach()


def loaded(size: int, epochs: int, device: torch.device) -> Tensor:
    """Batches of a `DataLoader`."""
    data = made("identity", "soft", "plain", 10 * size, 1).to(device)
    batches = [x for _ in range(epochs) for x, _ in DataLoader(data.as_dataset(), batch_size=BATCH)]
    return batches[0].cpu()


def complexity(size: int, _: int, device: torch.device) -> Tensor:
    images = numbers(10 * size, 3, SIDE, SIDE).to(device)
    return net_complexity(net().to(device).eval().requires_grad_(False), images, grad_cam, batch=BATCH)


def utilised(size: int, _: int, device: torch.device) -> Tensor:
    """Utilisation maps, which are made of so many images at a time."""
    images, corners = numbers(10 * size, 3, SIDE, SIDE).to(device), torch.zeros(10 * size, 2, 2, dtype=torch.long)
    proxy = net("convnet3-w8").to(device).eval().requires_grad_(False)
    mean = torch.full((3, 1, 1), 0.5, device=device)
    classes = torch.zeros(10 * size, dtype=torch.long, device=device)
    return maps(Proxy(proxy, mean, mean), images, classes, corners.to(device), SIDE // 2).cpu()


def relabelled(scheme: str, size: int, epochs: int, device: torch.device) -> Tensor:
    data = made("identity", "hard", "cutmix-item", 10 * size, epochs).to(device)
    found = relabel(data, [net()], SCHEMES[scheme], epochs=epochs, progress=False)
    return torch.cat([value.flatten().double() for value in found.values()])


def teacher_on_request(size: int, epochs: int, device: torch.device) -> Tensor:
    """A student of data that are given another label scheme, as `data.using` does."""
    data = made("identity", "hard", "mixup-batch", 10 * size, epochs).to(device)
    data = data.using(labels=Teacher([net()], 2.0))
    x, y = next(data.batches(0))
    return torch.cat([x.flatten().cpu(), y.flatten().cpu()])


CASES: dict[str, Callable[[], Found]] = {
    **{f"decoder {kind}": partial(student, kind, "hard", "crop-flip") for kind in DECODERS},
    **{f"labels {name}": partial(student, "identity", name, "cutmix-item") for name in SCHEMES},
    "labels teacher, cutmix-batch": partial(student, "compensate", "teacher", "cutmix-batch"),
    "labels dbr-view, idc": partial(student, "crops", "dbr-view", "idc"),
    **{f"protocol {name}": partial(student, "identity", "hard", name) for name in AUGMENTS},
    "evaluate": lambda: compared(evaluated),
    "checkpoint": lambda: compared(checkpointed),
    "as_dataset": lambda: compared(loaded),
    "complexity": lambda: compared(complexity),
    "utilisation": lambda: compared(utilised),
    "using": lambda: compared(teacher_on_request),
    **{f"relabel {name}": partial(compared, partial(relabelled, name)) for name in OF_VIEWS},
}
