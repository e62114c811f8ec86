"""The student recipes of the papers as frozen Protocols, by name.

| name                   | source                                                                                  |
|------------------------|-----------------------------------------------------------------------------------------|
| `infer-static`         | INFER's validation with static labels on CIFAR (arXiv 2408.06927, official code)        |
| `infer-dynamic`        | INFER+Dyn: the epochs divided by M + 1 = 5                                              |
| `infer-static-50`      | `infer-static` with an eighth of its epochs, for students on a CPU                      |
| `infer-dynamic-10`     | `infer-static-50` with its epochs divided by M + 1 = 5                                  |
| `infer-tiny-static`    | INFER on Tiny-ImageNet: the recipe of DWA (same authors) with MixUp; labels static      |
| `infer-tiny-static-50` | `infer-tiny-static` with a quarter of its epochs, for students on a CPU                  |
| `infer-tiny-dynamic`   | the same with CutMix and 200 / 5 epochs                                                 |
| `infer-imagenet-static`| INFER on ImageNet-1k: the recipe of DWA with MixUp; the epochs of static labels unknown |
| `infer-imagenet-dynamic`| the same with CutMix and 300 / 4 epochs                                                |
| `sre2l-cifar`          | SRe2L's `relabel_cifar` (arXiv 2306.13092), teacher in eval mode                        |
| `sre2l-cifar-batch-stats`| the same with the official code's quirk: the teacher is never put into eval mode      |
| `sre2l-tiny`           | SRe2L's Tiny-ImageNet pipeline                                                          |
| `sre2l-imagenet`       | SRe2L on ImageNet-1k (FKD, 300 epochs)                                                  |
| `rded`                 | RDED (arXiv 2312.03526): half a cosine, KD at T = 20. The batch is 10, 50 or 100 for 1, |
|                        | 10 or 50 images a class, twice that for 100 or 1,000 classes, always 100 for Tiny       |
| `rded-f2`              | RDED on mosaics of 2 x 2 patches (ImageNet and its subsets): patch shuffle, half crops  |
| `nrr-dd`               | `rded` with a CutMix box, weight and partner for each item, so that labels stored per   |
|                        | view (NRR-DD, arXiv 2503.18267, whose own protocol is unknown) fit every batch size     |
| `nrr-dd-f2`            | `rded-f2` changed alike                                                                 |
| `nrr-dd-100`           | `nrr-dd` with a third of its epochs, for students on a CPU                              |
| `nrr-dd-f2-100`        | `nrr-dd-f2` with a third of its epochs, for students on a CPU                           |
| `idc`                  | IDC (arXiv 2205.14959) on CIFAR and FashionMNIST: 1,000 epochs, rate times 0.2 at 2/3   |
|                        | and 5/6, DSA and CutMix on half of the batches                                          |
| `idc-svhn`             | IDC on SVHN: no flips                                                                   |
| `idc-mnist`            | IDC on MNIST: neither                                                                   |
| `idc-i-svhn-ipc1`      | IDC-I (one image a formation) on SVHN, one image a class: `idc-mnist` with cutout       |
| `udd-proxy`            | proxies of UDD (arXiv 2408.16268), a reconstruction: IDC's matching nets with flips,    |
|                        | 30 epochs, rate times 0.2 at 20 and 25                                                  |
| `udd-proxy-svhn`       | the same without flips                                                                  |
| `udd-proxy-mnist`      | the same without CutMix too                                                             |
| `datm`                 | DATM (arXiv 2310.05773) and MTT: DSA, soft cross-entropy, learned step size, one drop   |
| `edf`                  | EDF's evaluation: `datm` with batches of 128 and crops of up to a quarter of the side   |
| `edf-kd`               | EDF's evaluation with knowledge distillation: RDED's without the patch shuffle          |
| `teacher`              | teachers on CIFAR, fast: one cycle of 16 epochs with Nesterov momentum and label        |
|                        | smoothing, crops of 2 px and flips (settings of our own, after cifar10-airbench)        |
| `squeeze`              | teachers on CIFAR: DWA's squeeze                                                        |
| `squeeze-tiny`         | teachers on Tiny-ImageNet: SRe2L's pipeline                                             |

Soft cross-entropy with softmax(labels) has the gradient of the KL loss at temperature 1, and that is how `datm` and
`edf` ask for it. Where a paper is silent or its code differs, the cards say so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ddhub.errors import unknown
from ddhub.protocols.protocol import Augment, Protocol

_STUDENT = Augment(crop_padding=4, flip=0.5, mix="mixup", mix_alpha=0.8, mix_per="batch")
_RESIZED = Augment(crop_scale=0.08, flip=0.5)
_MIXUP = replace(_RESIZED, mix="mixup", mix_alpha=0.8)
_CUTMIX = replace(_RESIZED, mix="cutmix", mix_alpha=1.0)

_TINY = Protocol(
    epochs=200, optimizer="sgd", lr=0.2, weight_decay=1e-4, warmup=5, temperature=20.0, times_t2=True, augment=_MIXUP
)
_IMAGENET = Protocol(epochs=300, batch_size=128, temperature=20.0, augment=_MIXUP)
_SRE2L = Protocol(epochs=400, batch_size=128, temperature=30.0, augment=_STUDENT)
_RDED = Protocol(
    epochs=300,
    batch_size=50,
    schedule="half-cosine",
    decay_biases=False,
    temperature=20.0,
    augment=Augment(flip=0.5, mix="cutmix", mix_alpha=1.0),
)
_RDED_F2 = replace(_RDED, augment=replace(_RDED.augment, shuffle=2, crop_scale=0.5))
_NRR_DD, _NRR_DD_F2 = (replace(plan, augment=replace(plan.augment, mix_per="item")) for plan in (_RDED, _RDED_F2))
_IDC_VIEW = Augment(
    dsa="color_crop_flip_scale_rotate", dsa_form="idc", mix="cutmix", mix_alpha=1.0, mix_probability=0.5
)
_IDC = Protocol(
    epochs=1000,
    optimizer="sgd",
    lr=0.01,
    weight_decay=5e-4,
    schedule="steps",
    milestones=(666, 833),
    decay=0.2,
    augment=_IDC_VIEW,
)
_PROXY = replace(_IDC, epochs=30, milestones=(20, 25), augment=replace(_IDC_VIEW, dsa="color_crop_flip"))
_DATM = Protocol(
    epochs=1001,  # the official loop runs over range(Epoch + 1)
    batch_size=256,
    optimizer="sgd",
    lr=0.01,
    learned_lr=True,
    weight_decay=5e-4,
    schedule="steps",
    milestones=(502,),  # after epoch 501
    restart=True,
    temperature=1.0,
    augment=Augment(dsa="color_crop_cutout_flip_scale_rotate"),
)
_SQUEEZE = Protocol(
    epochs=200, batch_size=128, optimizer="sgd", lr=0.1, weight_decay=5e-4, augment=Augment(crop_padding=4, flip=0.5)
)

_TEACHER = Protocol(
    epochs=16,
    batch_size=128,
    optimizer="sgd",
    lr=0.2,
    weight_decay=5e-4,
    decay_biases=False,
    schedule="one-cycle",
    warmup=3,
    nesterov=True,
    label_smoothing=0.1,
    augment=Augment(crop_padding=2, flip=0.5),
)

_BY_NAME = {
    "infer-static": Protocol(augment=_STUDENT),
    "infer-dynamic": Protocol(epochs=80, augment=_STUDENT),
    "infer-static-50": Protocol(epochs=50, augment=_STUDENT),
    "infer-dynamic-10": Protocol(epochs=10, augment=_STUDENT),
    "infer-tiny-static": _TINY,
    "infer-tiny-static-50": replace(_TINY, epochs=50),
    "infer-tiny-dynamic": replace(_TINY, epochs=40, augment=_CUTMIX),
    "infer-imagenet-static": _IMAGENET,
    "infer-imagenet-dynamic": replace(_IMAGENET, epochs=75, augment=_CUTMIX),
    "sre2l-cifar": _SRE2L,
    "sre2l-cifar-batch-stats": replace(_SRE2L, teacher_batch_stats=True),
    "sre2l-tiny": replace(_TINY, epochs=100, batch_size=256, augment=_RESIZED),
    "sre2l-imagenet": replace(_IMAGENET, batch_size=1024, decay_biases=False, augment=_CUTMIX),
    "rded": _RDED,
    "rded-f2": _RDED_F2,
    "nrr-dd": _NRR_DD,
    "nrr-dd-f2": _NRR_DD_F2,
    "nrr-dd-100": replace(_NRR_DD, epochs=100),
    "nrr-dd-f2-100": replace(_NRR_DD_F2, epochs=100),
    "idc": _IDC,
    "idc-svhn": replace(_IDC, augment=replace(_IDC_VIEW, dsa="color_crop_scale_rotate")),
    "idc-mnist": replace(
        _IDC, augment=replace(_IDC_VIEW, dsa="color_crop_scale_rotate", mix="none", mix_probability=1.0)
    ),
    "idc-i-svhn-ipc1": replace(
        _IDC, augment=replace(_IDC_VIEW, dsa="color_crop_cutout_scale_rotate", mix="none", mix_probability=1.0)
    ),
    "udd-proxy": _PROXY,
    "udd-proxy-svhn": replace(_PROXY, augment=replace(_PROXY.augment, dsa="color_crop")),
    "udd-proxy-mnist": replace(
        _PROXY, augment=replace(_PROXY.augment, dsa="color_crop", mix="none", mix_probability=1.0)
    ),
    "datm": _DATM,
    "edf": replace(_DATM, batch_size=128, augment=replace(_DATM.augment, dsa_crop=0.25)),
    "edf-kd": replace(_RDED, augment=replace(_RDED.augment, crop_scale=0.5)),
    "teacher": _TEACHER,
    "squeeze": _SQUEEZE,
    "squeeze-tiny": replace(_SQUEEZE, epochs=50, batch_size=256, lr=0.2, weight_decay=1e-4, warmup=5, augment=_RESIZED),
}
PROTOCOLS = {name: replace(plan, name=name) for name, plan in _BY_NAME.items()}


def protocol(name: str, **changes: Any) -> Protocol:
    """A protocol by name, with other fields where `changes` give them (see `changed`).

    Raises:
        UsageError: an unknown name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS, "ddhub train --help")
    return changed(PROTOCOLS[name], **changes)


def changed(base: Protocol, **changes: Any) -> Protocol:
    """A protocol with other fields, called `NAME+field=value` of those that differ.

    With other epochs the milestones stay at their share of the whole, unless they are given too. What is NAME with
    other epochs already changes as NAME itself does, so that `protocol(NAME, ...)` gives the same.
    """
    name = base.name.partition("+")[0]
    if "+" in base.name and name in PROTOCOLS and protocol(name, epochs=base.epochs) == base:
        base, changes = PROTOCOLS[name], {"epochs": base.epochs, **changes}
    words = {key: _word(x) for key, x in changes.items() if getattr(base, key) != x}
    if "epochs" in words and "milestones" not in changes:
        changes["milestones"] = tuple(max(1, m * changes["epochs"] // base.epochs) for m in base.milestones)
    name = "+".join([base.name, *(f"{key}={word}" for key, word in words.items())])
    return replace(base, **changes, name=name) if words else base


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def protocols() -> tuple[str, ...]:
    """The names that `protocol` knows."""
    return tuple(PROTOCOLS)
