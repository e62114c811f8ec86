"""What a card's table of results says, in words.

    words(means, manifest, comparison)          # the gain over random selection, and what each variant keeps of it
    equal_steps(other, own)                  # a variant that learned as long under another protocol

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ddhub.artifact.manifest import PARQUET, Manifest
from ddhub.artifact.results import Mean
from ddhub.cards.comparison import Comparison
from ddhub.cards.label_text import label_bytes, per_view
from ddhub.cards.markdown import text


def words(means: Sequence[Mean], m: Manifest, comparison: Comparison) -> list[str]:
    """What a table says of an artifact: for each student its gain, the variants, and what its labels are worth."""
    manifests = [m, *(x.manifest for x in comparison.variants)]
    lines = []
    for model in dict.fromkeys(mean.first.model for mean in means):
        by = {mean.first.digest: mean for mean in means if mean.first.model == model}
        if m.digest not in by:
            continue
        mine, random = by[m.digest], by.get(comparison.baseline.manifest.digest) if comparison.baseline else None
        if random and mine.mean < random.mean:
            lines.append(
                f"With {text(model)}, {mine.first.artifact} ({mine.mean:.2f} %) scores below random "
                f"selection ({random.mean:.2f} %) under this protocol."
            )
        near = [by[x.digest] for x in manifests[1:] if x.digest in by and _is_near(x, m)]
        if near:
            gain = f" is {mine.mean - random.mean:+.2f} points from random selection" if random else ""
            compared = [f"- {_compare(mine, mean, random)}" for mean in near]
            lines.append("\n".join([f"With {text(model)}, {mine.first.artifact}{gain}:\n", *compared]))
            lines.append("What a variant keeps without a part of the method, that part did not earn.")
        drawn = [comparison.baseline.manifest] if comparison.baseline else []
        lines += _worth([x for x in (*manifests, *drawn) if x.digest in by], by)
    return list(dict.fromkeys(lines))


def _is_near(other: Manifest, m: Manifest) -> bool:
    """Whether only the images differ, or only the labels."""
    return other.labels == m.labels or _images(other) == _images(m)


def _images(m: Manifest) -> str:
    return str(m.files[PARQUET]["sha256"]) if PARQUET in m.files else m.digest


def _compare(mine: Mean, other: Mean, random: Mean | None) -> str:
    gap = other.mean - mine.mean
    noise = 2 * math.hypot(mine.sd or 0, other.sd or 0)
    sure = "" if abs(gap) > noise else " (within twice the standard deviation of the difference)"
    kept = ""
    if random and mine.mean > random.mean:
        share = (other.mean - random.mean) / (mine.mean - random.mean)
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


def are_equal(other: Mean, mine: Mean) -> bool:
    """Whether two means are of one student, test set and number of steps."""
    keys = ("model", "test_fingerprint", "steps")
    return all(getattr(other.first, key) == getattr(mine.first, key) for key in keys)


def equal_steps(other: Mean, mine: Mean) -> str:
    """How a variant that learned as many steps under another protocol compares."""
    return (
        f"With {text(mine.first.model)} and {mine.first.steps:,} steps each, {text(other.first.artifact)} reaches "
        f"{other.text} % here, {text(mine.first.artifact)} {mine.text} % under {text(mine.first.protocol)}: "
        f"{other.mean - mine.mean:+.2f} points."
    )
