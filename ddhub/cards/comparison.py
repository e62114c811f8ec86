"""What stands beside an artifact: random selection, its baseline, and the variants by the same recipe.

    comparison = compare_with(entry, others)
    losses(entry, comparison)              # what is said of an artifact that random selection beats

Nothing here imports torch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ddhub.artifact.manifest import Manifest
from ddhub.artifact.origin import is_imported
from ddhub.artifact.results import Entry, Mean
from ddhub.cards.markdown import every, text
from ddhub.errors import UsageError

BASELINE = "random-real"


@dataclass(frozen=True)
class Comparison:
    """Whose results stand beside an artifact's: random selection, and variants.

    Variants are of the same recipe with other settings, or random selection with other labels than one-hot.
    """

    baseline: Entry | None
    variants: list[Entry]

    @property
    def entries(self) -> list[Entry]:
        return [*([self.baseline] if self.baseline else []), *self.variants]


def is_random(m: Manifest) -> bool:
    """Whether the images are real ones drawn uniformly, whatever their coding and their labels."""
    return m.method == BASELINE or (m.method == "coreset" and m.recipe["config"].get("policy") == "random")


def identify(entry: Entry) -> str:
    """What one saw of an artifact: `NAME@DIGEST+RESULTS`, 12 digits and a number."""
    return f"{entry.manifest.name}@{entry.manifest.digest[:12]}+{len(entry.results)}"


def compare_with(entry: Entry, others: Iterable[Entry]) -> Comparison:
    """Random selection and variants, both of the same data, classes and ipc; a random artifact stands alone."""

    def key(m: Manifest) -> tuple[object, ...]:
        return m.dataset, m.classes, m.image_size, m.ipc

    if is_random(entry.manifest):
        return Comparison(None, [])
    same = {
        x.manifest.name: x
        for x in sorted(others, key=lambda x: x.manifest.name)
        if key(x.manifest) == key(entry.manifest) and x.manifest.name != entry.manifest.name
    }
    asked = _asked(entry)
    drawn = [x for x in same.values() if x.manifest.method == BASELINE]
    random = [x for x in drawn if x.manifest.labels["kind"] == "hard"]
    # of several the one that was trained most like it, and of those the first by name
    answers = [len(asked & _asked(x)) for x in random]
    baseline = random[answers.index(max(answers))] if random else None
    variants = [x for x in same.values() if x not in drawn and _maker(x) == _maker(entry)]
    return Comparison(baseline, [*variants, *(x for x in drawn if x not in random and asked & _asked(x))])


def original(entry: Entry, others: Iterable[Entry]) -> Entry | None:
    """The artifact that this one is a variant of, if any: of its method, data set and ipc, with the shorter name."""
    whole = [x for x in others if extends(entry.manifest, x.manifest)]
    return min(whole, key=lambda x: len(x.manifest.name), default=None)


def extends(m: Manifest, other: Manifest) -> bool:
    """Whether an artifact has the method, data set, ipc and codec of another, and a name that goes on from the other's.

    What is coded in another way is no variant: it leaves out no part of the method.
    """
    same = all(getattr(m, key) == getattr(other, key) for key in ("method", "dataset", "ipc"))
    return same and m.encoding["codec"] == other.encoding["codec"] and m.name.startswith(f"{other.name}-")


def _asked(entry: Entry) -> set[tuple[str, ...]]:
    """Protocol, test set and student of every mean of an artifact."""
    return {(*mean.setting, mean.first.model) for mean in entry.means()}


def _maker(entry: Entry) -> tuple[str, str, str]:
    """The recipe and the codec; of what was imported also the method, as it is not a variant of all else that was."""
    m = entry.manifest
    return m.recipe["path"], m.encoding["codec"], m.method if is_imported(m) else ""


def against(entry: Entry, comparison: Comparison) -> list[tuple[Mean, Mean | None]]:
    """Each mean of an artifact, with random selection's under that protocol, test set and student, if it has one."""
    means = comparison.baseline.means() if comparison.baseline else []
    known = {(*mean.setting, mean.first.model): mean for mean in means}
    return [(mean, known.get((*mean.setting, mean.first.model))) for mean in entry.means()]


def losses(entry: Entry, comparison: Comparison) -> list[str]:
    """Where an artifact is worse than random selection, in a line for the top of its card; [] where it is not."""
    below = [mean.first for mean, random in against(entry, comparison) if random and mean.mean < random.mean]
    where = every(f"{text(first.model)} under {text(first.protocol)}" for first in below)
    return [f"**Below random selection** of as many images: {where}; see the results."] if below else []


def no_baseline(m: Manifest, folder: Path) -> UsageError:
    """The error for an artifact in `folder` that has no baseline."""
    name = re.sub(r"[^a-z0-9._]+", "-", f"{m.dataset.removeprefix('folder:')}-random-ipc{m.ipc}".lower()).lstrip("-._")
    command = ["python", "-m", "recipes", "random-real", str(folder.parent / name)]
    command += ["--dataset", m.dataset, "--ipc", str(m.ipc)]
    command += ["--size", str(m.image_size[1])] if m.dataset.startswith("folder:") else []
    return UsageError(
        f"{m.name} has no random selection of {m.ipc} images per class bundled or beside it; "
        f"make it: {shlex.join(command)}"
    )
