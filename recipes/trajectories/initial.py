"""What trajectory matching starts from: real images that an expert gets right, and the experts' mean logits on them.

    images   of each class in a random order those that the first expert classifies correctly; where they do not
             suffice, those that the next one does, and so on; at last any, with the first expert's logits
    labels   Y_i = Σ_e 1[expert e is right on i] z_e,i / Σ_e 1[expert e is right on i]; where none is, those of the
             expert that chose the image (DATM, section 3.3)

With `real` it is any images, and the logits of the first expert. An expert is the last checkpoint of a trajectory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub.errors import UsageError
from ddhub.sources.source import Source
from recipes.run.draws import generator, normalised, scale, select
from recipes.trajectories.flat import Flat

log = logging.getLogger(__name__)

INITS = ("correct", "real")
Answers = Callable[[Tensor], Tensor]  # rows [B] of the source -> an expert's logits [B, K] on the CPU
_TOGETHER = 256  # images
_SURE = 1000.0  # logit of the class of a hard label: softmax gives it all there is


def initial(
    source: Source,
    trajectories: Tensor,
    flat: Flat,
    device: torch.device,
    *,
    ipc: int,
    seed: int,
    init: str,
    soft: bool,
) -> dict[str, Tensor]:
    """Normalised images `[K · ipc, C, H, W]`, class by class, and logits `[K · ipc, K]`.

    Args:
        source: the training images.
        trajectories: of the experts, `[experts, epochs + 1, P]`.
        flat: the experts' net.
        device: where it computes.
        ipc: images a class.
        seed: of the choice.
        init: of `INITS`.
        soft: labels are the experts' logits; else of a hard label.

    Raises:
        UsageError: a class with too few images.
    """
    mean, std = scale(source, device)

    def asked(number: int) -> Answers:
        theta = trajectories[number, -1].to(device)

        @torch.no_grad()
        def answer(rows: Tensor) -> Tensor:
            parts = [normalised(source.images[part].to(device), mean, std) for part in rows.split(_TOGETHER)]
            return torch.cat([flat(theta, x).cpu() for x in parts])

        return answer

    count = len(source.classes)
    labels = torch.arange(count).repeat_interleave(ipc)
    if init == "correct":
        rows, logits = correct(source, [asked(k) for k in range(len(trajectories))], ipc, seed)
        if soft:
            logits = averaged((asked(k)(rows) for k in range(len(trajectories))), labels, logits)
    else:
        rows = select(source, ipc, generator(seed, "start"))
        logits = asked(0)(rows)
    if not soft:
        logits = _SURE * F.one_hot(labels, count).float()
    return {"images": normalised(source.images[rows].to(device), mean, std), "labels": logits}


def correct(source: Source, experts: Sequence[Answers], ipc: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows `[K · ipc]` of images that an expert gets right, class by class, and its logits `[K · ipc, K]` on them.

    Where experts get too few right, others of the class join them, and the log says so.

    Raises:
        UsageError: a class with too few images.
    """
    rows, logits = [], []
    for label, name in enumerate(source.classes):
        members = (source.labels == label).nonzero().flatten()
        left, needed = members[torch.randperm(len(members), generator=generator(seed, "start", label))], ipc
        for ask in experts:
            missed = []
            for part in left.split(_TOGETHER):
                if needed == 0:
                    break
                answer = ask(part)
                right = answer.argmax(1) == label
                rows.append(part[right][:needed])
                logits.append(answer[right][:needed])
                missed.append(part[~right])
                needed -= len(rows[-1])
            if needed == 0:
                break
            left = torch.cat(missed)
        if needed:
            log.warning("of class %r %d images are right by an expert, %d others join", name, ipc - needed, needed)
            if needed > len(left):
                cause = f"class {name!r} of {source.name!r} has {len(members)} images"
                raise UsageError(f"ipc is {ipc}, but {cause}; lower --ipc")
            rows.append(left[:needed])
            logits.append(experts[0](left[:needed]))
    return torch.cat(rows), torch.cat(logits)


def averaged(answers: Iterable[Tensor], labels: Tensor, otherwise: Tensor) -> Tensor:
    """Logits `[n, K]`, the mean over the experts that are right.

    Args:
        answers: logits `[n, K]` of one expert after the other.
        labels: classes `[n]` of the images.
        otherwise: what the logits are where no expert is right, `[n, K]`.
    """
    total, count = torch.zeros_like(otherwise), torch.zeros(len(labels), 1, dtype=otherwise.dtype)
    for answer in answers:
        right = (answer.argmax(1) == labels)[:, None]
        total += torch.where(right, answer, 0.0)
        count += right
    return torch.where(count > 0, total / count.clamp(min=1), otherwise)
