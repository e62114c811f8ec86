"""Label schemes: what a student should predict for an item in a view, and the loss that asks for it.

    hard      classes i64 [N]              target = one-hot, mixed linearly           cross-entropy
    soft      logits f16 [N, C], tau       target = logits, mixed linearly            KL at temperature tau
    teacher   nets, tau                    target = mean logits of the nets on x      KL at temperature tau
    stored    for every view of every epoch: `soft` with logits [E, N, C], `dbr`, `top1`; see `ddhub.data.view_labels`

What is stored of labels may have 8 or 4 bits a number (`ddhub.data.label_bits`).

Stored labels are looked up and then mixed; a teacher is asked after mixing. So the interface is
`labels(view, x) -> target [B, C]` followed by `labels.loss(output, target)`, where `view` says which items, which
partners and which weights, and `x` is the normalised batch that the student sees. A protocol may set another tau for
the loss, and ask for the factor tau² (Hinton et al., 2015).

Mixing logits is INFER's label interpolation (arXiv 2408.06927): `z = w·z_i + (1 - w)·z_j`, `q = softmax(z / tau)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub.data import label_bits, view_labels
from ddhub.data.losses import distillation_loss
from ddhub.data.view_labels import Stored
from ddhub.data.views import Views
from ddhub.errors import ArtifactError
from ddhub.io.rules import is_number

_LARGEST = 65504  # of logits: what f16 holds, far from where a softmax in f32 is not a number


def _mix(first: Tensor, partner: Tensor, view: Views) -> Tensor:
    """The rows `[B, C]` of the items and of their partners, weighted by the view: `[B, C]` float32."""
    weight = view.weight[:, None]
    return weight * first.float() + (1 - weight) * partner.float()


@contextmanager
def _batch_statistics(nets: nn.Module) -> Iterator[None]:
    """BatchNorm layers normalise by the statistics of their batch; their running ones are neither used nor moved."""
    layers = [layer for layer in nets.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        yield
    finally:
        for layer, (training, tracks) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracks


class Hard(nn.Module):
    """One-hot classes `[N]`; the loss is cross-entropy, with both classes weighted when images are mixed."""

    kind = "hard"
    classes: Tensor

    def __init__(self, classes: Tensor, count: int) -> None:
        super().__init__()
        self.register_buffer("classes", classes.long())
        self.count = count

    def forward(self, view: Views, x: Tensor) -> Tensor:
        first, partner = self.classes[view.items], self.classes[view.partner]
        return _mix(F.one_hot(first, self.count), F.one_hot(partner, self.count), view)

    def loss(self, output: Tensor, target: Tensor, temperature: float | None = None, times_t2: bool = False) -> Tensor:
        """The cross-entropy; a temperature is for logits, which these labels are not."""
        return F.cross_entropy(output.float(), target)


class Soft(nn.Module):
    """One logit vector an item, `[N, C]` f16, the same in every epoch: INFER's static labels (section "static")."""

    kind = "soft"
    logits: Tensor

    def __init__(self, logits: Tensor, temperature: float) -> None:
        super().__init__()
        self.register_buffer("logits", logits)
        self.temperature = temperature

    def forward(self, view: Views, x: Tensor) -> Tensor:
        return _mix(self.logits.index_select(0, view.items), self.logits.index_select(0, view.partner), view)

    def loss(self, output: Tensor, target: Tensor, temperature: float | None = None, times_t2: bool = False) -> Tensor:
        return distillation_loss(output, target, temperature or self.temperature, times_t2)


class Teacher(nn.Module):
    """Logits averaged over teachers that see what the student sees: INFER+Dyn, and SRe2L's online labels.

    With `batch_stats` the teachers' BatchNorm layers use the statistics of the batch (`Protocol.teacher_batch_stats`).
    """

    kind = "teacher"

    def __init__(self, teachers: Iterable[nn.Module], temperature: float, batch_stats: bool = False) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers).requires_grad_(False).eval()
        self.temperature, self.batch_stats = temperature, batch_stats

    @torch.no_grad()
    def forward(self, view: Views, x: Tensor) -> Tensor:
        with _batch_statistics(self.teachers) if self.batch_stats else nullcontext():
            return torch.stack([teacher(x).float() for teacher in self.teachers]).mean(0)

    def loss(self, output: Tensor, target: Tensor, temperature: float | None = None, times_t2: bool = False) -> Tensor:
        return distillation_loss(output, target, temperature or self.temperature, times_t2)


Labels = Hard | Soft | Teacher | Stored


def build(
    spec: Mapping[str, Any],
    classes: Tensor,
    count: int,
    tensors: Mapping[str, Tensor],
    teachers: Sequence[nn.Module] | None = None,
    epochs: int | None = None,
) -> Labels:
    """The label scheme that a manifest names.

    Args:
        spec: the manifest's `labels`: kind, and the temperature of `soft` and `teacher`; for labels that are stored
            per view, the fields of `ddhub.data.view_labels.Spec`; `bits` where they are packed.
        classes: the class `[N]` of every item (of every reconstructed image, not only of the stored ones).
        count: number of classes.
        tensors: the artifact's tensors; `labels.logits` f16 `[N, C]` for `soft`, or `[E, N, C]`, which is per view.
        teachers: the nets of `teacher`.
        epochs: that labels stored per view must have, those of the artifact's protocol; any if not given.

    Raises:
        ArtifactError: an unknown kind, or tensors or teachers that are missing or do not fit.
    """
    spec, tensors = label_bits.unpack(spec, tensors, count)
    kind = spec["kind"]
    if kind == "hard":
        return Hard(classes, count)
    if kind == "teacher":
        if not teachers:
            raise ArtifactError("labels 'teacher' need their nets: ddhub.load(name, teachers=[net, ...])")
        return Teacher(teachers, temperature(spec))
    logits = tensors.get("labels.logits")
    if kind in ("dbr", "top1") or (kind == "soft" and logits is not None and logits.dim() == 3):
        return view_labels.build(spec, classes, count, tensors, epochs)
    if kind != "soft":
        raise ArtifactError(f"labels {kind!r} are not known to this ddhub: pip install -U ddhub")
    if logits is None or tuple(logits.shape) != (len(classes), count):
        shape = "missing" if logits is None else f"{tuple(logits.shape)}"
        raise ArtifactError(
            f"labels 'soft': tensor labels.logits is {shape}, needed [{len(classes)}, {count}]; regenerate the artifact"
        )
    if not logits.is_floating_point() or logits.abs().max() > _LARGEST:
        raise ArtifactError(
            f"labels 'soft': tensor labels.logits is {logits.dtype}, or not within ±{_LARGEST}; regenerate the artifact"
        )
    return Soft(logits, temperature(spec))


def temperature(spec: Mapping[str, Any]) -> float:
    """The temperature that a manifest's `labels` ask for. ArtifactError for none, or one outside 0.01 to 10,000."""
    value: Any = spec.get("temperature")
    if not (is_number(value) and 0.01 <= value <= 10_000):
        raise ArtifactError(
            f"labels {spec['kind']!r}: temperature is {value!r}, not 0.01 to 10,000; regenerate the artifact"
        )
    return float(value)
