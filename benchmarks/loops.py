"""The hot loops of recipes and students, each as rounds that can be run any number of times: for `hot_loops.py`.

    made = loops(FULL, device, folder)["teacher"]()     # what it needs is made now
    for loop in made:
        loop.run(10)

On random images and untrained nets, which cost the same as real ones. Operations are those of convolutions and linear
layers (`recipes.run.operations`): of training three forward passes an image; of images that are optimised under a
frozen net two; of matching and trajectories those that the recipes' plans count.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import edf
import infer
import nrr_dd
import torch
import udd

from ddhub import hub
from ddhub.protocols.named import protocol
from ddhub.sources.source import Source
from ddhub.training.loop import fit
from recipes import sre2l
from recipes.nrr_dd import look
from recipes.patches.discovery import Scoring, search
from recipes.run.draws import generator
from recipes.run.operations import cost
from recipes.run.teachers import real_data
from recipes.trajectories import experts
from recipes.trajectories.flat import Flat
from recipes.udd import Config

CLASSES, SIDE = 10, 32


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the loops are.

    Attributes:
        teacher, student: nets; `batch` images of real data a step, `images` an epoch.
        nets: of INFER, each with so many `sets` of 10 images; `sets` of SRe2L and NRR-DD too, under the teacher.
        net: of matching; `inner` iterations of it, `real` images a class, `data` images of the net's training.
        steps, shown: N and the images of a step of trajectory matching.
        experts, expert_batch: trained together, and images of a step.
        looked: images that patches are looked for in.
    """

    teacher: str
    student: str
    batch: int
    images: int
    nets: tuple[str, ...]
    sets: int
    net: str
    inner: int
    real: int
    data: int
    steps: int
    shown: int
    experts: int
    expert_batch: int
    looked: int


FULL = Sizes(
    teacher="resnet18", student="convnet3", batch=128, images=1280,
    nets=("resnet18", "mobilenetv2", "efficientnetb0", "shufflenet"), sets=100,
    net="convnet3", inner=20, real=64, data=2000, steps=80, shown=100, experts=6, expert_batch=256, looked=2048,
)  # fmt: skip
SMALL = Sizes(
    teacher="resnet18-w4", student="convnet3-w4", batch=10, images=50, nets=("convnet3-bn-w4",), sets=2,
    net="convnet3-w4", inner=2, real=4, data=16, steps=2, shown=10, experts=2, expert_batch=10, looked=20,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop that can be run for any number of rounds.

    Attributes:
        name: what it is.
        kind: of its arithmetic on a GPU, bf16, tf32 or fp32, where bf16 is the precision of the run.
        run: so many rounds of it.
        steps, images, operations: of a round.
        least: rounds in which its steps are recorded.
        has_steps: whether there is anything to record.
    """

    name: str
    kind: str
    run: Callable[[int], object]
    steps: int = 1
    images: int = 0
    operations: int = 0
    least: int = 6
    has_steps: bool = True


def random_source(images: int) -> Source:
    """Random images of all classes in turn."""
    pixels = torch.randint(256, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator("hot"))
    return Source(
        name="random", address="random", split="train", images=pixels, labels=torch.arange(images) % CLASSES,
        classes=tuple(map(str, range(CLASSES))), mean=(0.5,) * 3, std=(0.25,) * 3,
        hub_id="", license="", notes="", fingerprint="random",
    )  # fmt: skip


def forward(net: str) -> int:
    """Operations of a forward pass of one image."""
    return cost(net, classes=CLASSES, size=SIDE).operations


def loops(size: Sizes, device: torch.device, folder: Path) -> dict[str, Callable[[], list[Loop]]]:
    """What makes the loops, by name: what they need is made when their turn comes, and let go after it."""
    fast = device.type == "cuda"
    autocast, tf32 = ("bf16", "tf32") if fast else ("fp32", "fp32")

    def teacher(precision: str) -> list[Loop]:
        data = real_data(random_source(size.images), protocol("squeeze", batch_size=size.batch)).to(device)

        def run(epochs: int) -> None:
            fit(data.using(protocol=replace(data.protocol, epochs=epochs)), size.teacher, 0, precision, None, False)

        return [
            Loop(
                name=f"teacher {size.teacher}, batch {size.batch}", kind=precision, run=run, steps=data.steps_per_epoch,
                images=size.images, operations=3 * size.images * forward(size.teacher), least=2,
            )
        ]  # fmt: skip

    def student() -> list[Loop]:
        data = hub.load("cifar10-idc-ipc10").to(device)

        def run(epochs: int) -> None:
            fit(data.using(protocol=protocol("idc", epochs=epochs)), size.student, 0, autocast, None, False)

        least = math.ceil(6 / data.steps_per_epoch)
        return [
            Loop(
                name=f"student {size.student}, IDC", kind=autocast, run=run, steps=data.steps_per_epoch,
                images=len(data), operations=3 * len(data) * forward(size.student), least=least,
            )
        ]  # fmt: skip

    def loader() -> list[Loop]:
        data = hub.load("cifar10-infer-ipc10").to(device)

        def run(epochs: int) -> None:
            for _ in data.batches(0, epochs=epochs):
                pass

        return [
            Loop(
                name="batches of INFER", kind=autocast, run=run, steps=data.steps_per_epoch, images=len(data), least=1,
                has_steps=False,
            )
        ]  # fmt: skip

    def inversion(net: str) -> list[Loop]:
        frozen, natural = infer.teacher(net, device), infer.natural_sets(size.sets, device)
        run = partial(infer.run, "batched", frozen, natural, precision=autocast)
        images = size.sets * CLASSES
        return [
            Loop(name=f"INFER {net}", kind=autocast, run=run, images=images, operations=2 * images * forward(net))
        ]  # fmt: skip

    def recovery() -> list[Loop]:
        frozen, around = infer.teacher(size.teacher, device), nrr_dd.scale(device).values()
        images = size.sets * CLASSES

        def run(steps: int) -> None:
            cfg = replace(sre2l.Config(), steps=steps)
            sre2l.recover(frozen, cfg, range(CLASSES), range(size.sets), *around, size=SIDE, precision=autocast)

        operations = 2 * images * forward(size.teacher)
        return [Loop(name=f"SRe2L {size.teacher}", kind=autocast, run=run, images=images, operations=operations)]

    def patches() -> list[Loop]:
        frozen, real = nrr_dd.teacher(size.teacher, SIDE, device), nrr_dd.pictures(size.looked)
        start, rows = nrr_dd.pictures(size.sets, CLASSES).to(device), torch.arange(size.looked)
        cfg, images, one = nrr_dd.METHODS["nrr-dd"], size.sets * CLASSES, forward(size.teacher)
        scoring = cache(lambda: Scoring(frozen, look(cfg), **nrr_dd.scale(device)))  # not before the first run

        def searched(count: int) -> None:
            for _ in range(count):
                search(scoring(), real, rows, 0, size.looked // 2, 0)

        return [
            Loop(
                name=f"patches {size.teacher}, NRR-DD", kind=tf32, run=searched, images=size.looked,
                operations=2 * size.looked * one, least=3,
            ),
            Loop(
                name=f"refinement {size.teacher}", kind=autocast, images=images, operations=2 * images * one,
                run=lambda steps: nrr_dd.refined("batched", frozen, start, replace(cfg, steps=steps), autocast),
            ),
        ]  # fmt: skip

    def matching(ipc: int, regions: int) -> list[Loop]:
        cfg = Config(net=size.net, ipc=ipc, regions=regions, batch_real=size.real)
        problem = udd.Problem(cfg, CLASSES, device)
        shown = min((cfg.factor**2 + regions) * ipc, cfg.batch_syn)
        passes = CLASSES * (size.real + 3 * shown) + size.data
        return [
            Loop(
                name=f"{'UDD' if regions else 'IDC'} {size.net}, ipc {ipc}", kind=tf32, steps=size.inner,
                run=lambda count: [problem.run("batched", size.inner, size.data) for _ in range(count)],
                images=size.inner * passes, operations=3 * size.inner * passes * forward(size.net), least=2,
            )
        ]  # fmt: skip

    def trajectory() -> list[Loop]:
        problem = edf.Problem(size.net, size.shown, size.steps, device, torch.float32)
        images = 4 * size.steps * size.shown
        return [
            Loop(
                name=f"trajectory {size.net}, N {size.steps}, batch {size.shown}", kind=tf32, images=images,
                run=lambda count: [problem.run(edf.DEFAULT) for _ in range(count)],
                operations=3 * images * forward(size.net), least=2,
            )
        ]  # fmt: skip

    def expert() -> list[Loop]:
        source, flat = random_source(8 * size.expert_batch), Flat(size.net, CLASSES, SIDE, 3)
        shared = experts.Experts(
            net=size.net, count=size.experts, epochs=1, batch=size.expert_batch, together=size.experts
        )

        def run(epochs: int) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                experts.train(source, replace(shared, epochs=epochs), flat, Path(place, "experts.npy"), device)

        images = 2 * len(source.labels) * size.experts  # GSAM looks twice
        return [
            Loop(
                name=f"{size.experts} experts {size.net}, GSAM", kind=tf32, run=run, steps=8, images=images,
                operations=3 * images * forward(size.net), least=1,
            )
        ]  # fmt: skip

    made: dict[str, Callable[[], list[Loop]]] = {"teacher": partial(teacher, autocast), "student": student}
    made |= {"teacher fp32": partial(teacher, "fp32")} if fast else {}
    made |= {"loader": loader, "IDC ipc 1": partial(matching, 1, 0), "IDC ipc 10": partial(matching, 10, 0)}
    made |= {"UDD ipc 1": partial(matching, 1, 4), "trajectory": trajectory, "experts": expert}
    made |= {"SRe2L": recovery, "patches": patches}
    return made | {f"INFER {net}": partial(inversion, net) for net in size.nets}
