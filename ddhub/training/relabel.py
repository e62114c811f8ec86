"""Relabel: ask teachers about every view that a student will see, and keep what a label scheme stores of it.

    data = DistilledData(decoder, labels.Hard(classes, 10), protocol("nrr-dd"), about)
    spec = {"kind": "dbr", "seed": 0, "temperature": 1.0}
    tensors = relabel(data, [net], spec, epochs=300)         # {"labels.distances": f16 [300, N, 2]}
    stored_bytes(spec, items=100, classes=10, epochs=300)    # 120000

The view of item i in epoch e is row i of the table of (seed, e) (`ddhub.data.views`), whatever the ranks and, unless
the items of a batch share their draws, the batch size. Items are asked about in their own order, so that the result of
some epochs is the same to the bit, whoever asks about the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddhub.data.labels import Hard, Teacher
from ddhub.data.view_labels import Spec, encode, shapes
from ddhub.data.views import Views, epoch_views
from ddhub.errors import UsageError
from ddhub.training.batches import DistilledData
from ddhub.training.capture import Captured
from ddhub.training.devices import layout

# Values of the images that teachers are asked about at a time, and most images: the activations of a ResNet-18 at
# 224 px then take about 1 GiB.
_VALUES, _IMAGES = 2**24, 500
_KEPT = 2**26  # bytes of answers that stay on the device before they are fetched, which waits for it


def stored_bytes(spec: Mapping[str, Any], *, items: int, classes: int, epochs: int) -> int:
    """Bytes of the labels that a spec stores: `2 C E N` for soft, `4 E N` for dbr, `4 N` with `once`.

    Raises:
        UsageError: a spec that is not possible.
    """
    made = shapes(Spec.parse(spec), epochs=epochs, items=items, classes=classes)
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in made.values())


@torch.no_grad()
def relabel(
    data: DistilledData,
    nets: Sequence[nn.Module],
    spec: Mapping[str, Any],
    *,
    epochs: int | range,
    precision: str = "fp32",
    progress: bool | None = None,
) -> dict[str, Tensor]:
    """The tensors (on the CPU) that `spec` needs, from the mean logits of the nets on every item's view of every epoch.

    Args:
        data: the finished items, with labels `Hard`; the protocol's augmentation makes the views.
        nets: teachers; they are moved to the data's device, put into eval mode and frozen.
        spec: the manifest's `labels`: dbr, top1, or soft (per view), with the seed of the views.
        epochs: how many, or which, as units of work: `relabel` of 0..E is that of its parts, joined (but for `once`).
        precision: bf16 or fp32, of the nets' forward passes.
        progress: show a bar; on a terminal if not given.

    Raises:
        UsageError: a spec that is not possible, no nets, or data without their classes.
    """
    scheme, hard, plan = Spec.parse(spec), data.labels, data.protocol
    if not isinstance(hard, Hard):
        raise UsageError(f"relabelling {data.about.name!r} needs its classes, not {hard.kind!r}; use labels.Hard")
    if not nets:
        raise UsageError(f"relabelling {data.about.name!r} needs a teacher, there is none; pass nets=[net]")
    if scheme.once:
        per_view = relabel(data, nets, {**spec, "once": False}, epochs=epochs, precision=precision, progress=progress)
        return {name: value.float().mean(0, keepdim=True).half() for name, value in per_view.items()}
    which, device, size = range(epochs) if isinstance(epochs, int) else epochs, data.device, data.about.image_size
    made = shapes(scheme, epochs=len(which), items=len(data), classes=hard.count)
    out = {name: torch.empty(shape, dtype=dtype, device="cpu") for name, (dtype, shape) in made.items()}
    teacher = Teacher(nets, scheme.temperature).to(device)
    form = layout(teacher, device)
    anything = Views.plain(torch.arange(0, device=device))  # teachers look at the images alone

    def work(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits: Tensor = teacher(anything, x)
        return logits

    answer = Captured(work, device, "a batch of teachers' labels")
    parts = torch.arange(len(data), device=device).split(max(1, min(_IMAGES, _VALUES // math.prod(size))))
    kept: dict[str, list[Tensor]] = {name: [] for name in out}
    bar = tqdm(which, desc="relabel", unit="epoch", leave=False, disable=None if progress is None else not progress)
    for row, epoch in enumerate(bar):
        _, views = epoch_views(scheme.seed, epoch, len(data), plan.augment, size=size[1:], batch_size=plan.batch_size)
        views = views.to(device)
        answers: list[dict[str, Tensor]] = []
        for items in parts:
            view, x = views[items], data.render(views, items, plan.augment)
            if scheme.reading == "view":
                x = torch.cat([x, data.render(views, items, plan.augment, mixed=False)])
            logits = answer(x.contiguous(memory_format=form)).clone()  # the next batch overwrites it
            answers.append(encode(scheme, logits, hard.classes[items], hard.classes[view.partner], view.weight))
        for name, values in kept.items():
            values.append(torch.cat([part[name] for part in answers]))
        if row == len(which) - 1 or sum(x.nbytes for values in kept.values() for x in values) >= _KEPT:
            for name, values in kept.items():
                out[name][row + 1 - len(values) : row + 1] = torch.stack(values).cpu()
                values.clear()
    return out
