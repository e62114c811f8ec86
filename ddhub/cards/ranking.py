"""The order of artifacts in `ddhub list`: best first for each data set and number of images per class.

    variants(manifests)         # {"cifar10-infer-ipc10-hard-labels": "cifar10-infer-ipc10"}
    rankings(entries)           # a list of `Ranked` for each data set and ipc

Two accuracies are compared only under the same protocol, on the same test set and with the same student: a setting.
The artifacts of one data set and ipc are ranked under the setting in which most of them have results. An artifact
without a result there has no rank, and is shown with its best accuracy under another setting. Nothing here imports
torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ddhub.artifact.manifest import Manifest
from ddhub.artifact.results import Entry, Mean
from ddhub.cards.comparison import BASELINE, extends

Setting = tuple[str, str, str]  # protocol digest, test fingerprint, student


@dataclass(frozen=True)
class Ranked:
    """An artifact, its rank, and the accuracy that is shown of it; the rank is None outside the common setting."""

    entry: Entry
    rank: int | None
    mean: Mean | None


def variants(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Names of the variants of a method, with the names of the artifacts that they are variants of.

    A variant is an artifact of the same method, data set and ipc whose name and preset continue those of another, such
    as cifar10-infer-ipc10-hard-labels. Random selection has none: it is the baseline, whatever its labels. An artifact
    whose images are coded in another way is none either: it is the same method at another size.
    """
    known = sorted((m for m in manifests if m.method != BASELINE), key=lambda m: len(m.name))
    pairs: dict[str, str] = {}
    for m in known:
        if original := next((x for x in known if extends(m, x) and _continues(m, x)), None):
            pairs[m.name] = original.name
    return pairs


def _continues(m: Manifest, original: Manifest) -> bool:
    """Whether the preset goes on from the original's, so that another tier is not a variant."""
    preset, start = (x.recipe["preset"] or "" for x in (m, original))
    return preset.startswith(start)


def rankings(entries: Iterable[Entry], *, with_variants: bool = False) -> list[list[Ranked]]:
    """The artifacts of each data set and ipc, best first; by data set, then ipc.

    Variants have no say in the setting of the ranking, so that the order is the same with and without them.
    """
    groups: dict[tuple[str, int], list[Entry]] = {}
    for entry in sorted(entries, key=lambda x: x.manifest.name):
        groups.setdefault((entry.manifest.dataset, entry.manifest.ipc), []).append(entry)
    lists = []
    for _, group in sorted(groups.items()):
        names = variants(x.manifest for x in group)
        originals = [x for x in group if x.manifest.name not in names]
        lists.append(_ranking(group if with_variants else originals, _common_setting(originals)))
    return lists


def _setting(mean: Mean) -> Setting:
    return (*mean.setting, mean.first.model)


def _common_setting(entries: Sequence[Entry]) -> Setting | None:
    """The setting in which most artifacts have results; of several the one with the highest mean accuracy."""
    means: dict[Setting, list[float]] = {}
    for entry in entries:
        for mean in entry.means():
            means.setdefault(_setting(mean), []).append(mean.mean)
    return max(means, key=lambda setting: (len(means[setting]), max(means[setting])), default=None)


def _ranking(entries: Sequence[Entry], setting: Setting | None) -> list[Ranked]:
    """Artifacts with a result under the setting, best first, then the others.

    The others stand by the setting of their best accuracy, best first within one; artifacts without results come last.
    """
    ranked: list[tuple[Mean, Entry]] = []
    others: list[tuple[Mean, Entry]] = []
    untested: list[Entry] = []
    for entry in entries:
        means = entry.means()
        if common := [mean for mean in means if _setting(mean) == setting]:
            ranked.append((common[0], entry))
        elif means:
            others.append((max(means, key=lambda mean: mean.mean), entry))
        else:
            untested.append(entry)
    ranked.sort(key=lambda pair: -pair[0].mean)
    others.sort(key=lambda pair: (pair[0].first.protocol, _setting(pair[0]), -pair[0].mean))
    return [
        *(Ranked(entry, rank, mean) for rank, (mean, entry) in enumerate(ranked, 1)),
        *(Ranked(entry, None, mean) for mean, entry in others),
        *(Ranked(entry, None, None) for entry in untested),
    ]
