"""What a card's table of results says, in words.

    words(means, manifest, company)          # the gain over random selection, and what each variant keeps of it
    equal_steps(other, own)                  # a variant that learned as long under another protocol

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ddhub.artifact.manifest import PARQUET, Manifest
from ddhub.artifact.results import Mean
from ddhub.cards.comparison import Beside
from ddhub.cards.label_text import label_bytes, per_view
from ddhub.cards.markdown import text


def words(means: Sequence[Mean], m: Manifest, company: Beside) -> list[str]:
    """What a table says of an artifact: for each student its gain, the variants, and what its labels are worth."""
    manifests = [m, *(x.manifest for x in company.variants)]
    lines = []
    for model in dict.fromkeys(mean.first.model for mean in means):
        by = {mean.first.digest: mean for mean in means if mean.first.model == model}
        if m.digest not in by:
            continue
        own, random = by[m.digest], by.get(company.baseline.manifest.digest) if company.baseline else None
        if random and own.mean < random.mean:
            lines.append(
                f"With {text(model)}, {own.first.artifact} ({own.mean:.2f} %) scores below random "
                f"selection ({random.mean:.2f} %) under this protocol."
            )
        near = [by[x.digest] for x in manifests[1:] if x.digest in by and _is_near(x, m)]
        if near:
            gain = f" is {own.mean - random.mean:+.2f} points from random selection" if random else ""
            compared = [f"- {_compare(own, mean, random)}" for mean in near]
            lines.append("\n".join([f"With {text(model)}, {own.first.artifact}{gain}:\n", *compared]))
            lines.append("What a variant keeps without a part of the method, that part did not earn.")
        drawn = [company.baseline.manifest] if company.baseline else []
        lines += _worth([x for x in (*manifests, *drawn) if x.digest in by], by)
    return list(dict.fromkeys(lines))


def _is_near(other: Manifest, m: Manifest) -> bool:
    """Whether only the images differ, or only the labels."""
    return other.labels == m.labels or _images(other) == _images(m)


def _images(m: Manifest) -> str:
    return str(m.files[PARQUET]["sha256"]) if PARQUET in m.files else m.digest


def _compare(own: Mean, other: Mean, random: Mean | None) -> str:
    gap = other.mean - own.mean
    noise = 2 * math.hypot(own.sd or 0, other.sd or 0)
    sure = "" if abs(gap) > noise else " (within twice the standard deviation of the difference)"
    kept = ""
    if random and own.mean > random.mean:
        share = (other.mean - random.mean) / (own.mean - random.mean)
        kept = f": {share:.0%} of the gain over random selection"
    return f"{text(other.first.artifact)} is {gap:+.2f} points from it{sure}{kept}."


def _worth(manifests: Sequence[Manifest], by: dict[str, Mean]) -> list[str]:
    """What stored labels keep of the gain of full soft labels over one-hot labels of the same images, a list each."""
    lines = []
    for images in dict.fromkeys(map(_images, manifests)):
        group = [m for m in manifests if _images(m) == images]
        hard = next((by[m.digest] for m in group if m.labels["kind"] == "hard"), None)
        full = next((m for m in group if m.labels["kind"] == "soft" and per_view(m)), None)
        if hard is None or full is None:
            continue
        best = by[full.digest]
        gain = best.mean - hard.mean
        head = (
            f"On the same images, full soft labels ({text(full.name)}, {label_bytes(full):,} bytes of labels) are "
            f"{gain:+.2f} points from one-hot labels ({text(hard.first.artifact)})"
        )
        if gain <= 0:
            lines.append(f"{head}: there is no gain to keep.")
            continue
        rest = [m for m in group if m is not full and label_bytes(m)]
        kept = [
            f"- {text(m.name)}: {(by[m.digest].mean - hard.mean) / gain:.0%} of that, with {label_bytes(m):,} bytes "
            f"({label_bytes(m) / label_bytes(full):.1%})"
            for m in sorted(rest, key=lambda m: -by[m.digest].mean)
        ]
        lines.append("\n".join([f"{head}; of that gain keep:\n", *kept]) if kept else f"{head}.")
    return lines


def are_equal(other: Mean, own: Mean) -> bool:
    """Whether two means are of one student, test set and number of steps."""
    keys = ("model", "test_fingerprint", "steps")
    return all(getattr(other.first, key) == getattr(own.first, key) for key in keys)


def equal_steps(other: Mean, own: Mean) -> str:
    """How a variant that learned as many steps under another protocol compares."""
    return (
        f"With {text(own.first.model)} and {own.first.steps:,} steps each, {text(other.first.artifact)} reaches "
        f"{other.text} % here, {text(own.first.artifact)} {own.text} % under {text(own.first.protocol)}: "
        f"{other.mean - own.mean:+.2f} points."
    )
