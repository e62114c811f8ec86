"""The results on a card: an artifact beside random selection and beside the other artifacts of its own recipe.

A table holds results of one protocol digest and one test set, never more. Variants are artifacts of the same recipe,
data and ipc with other settings, a method's controls, or random selection with the labels of a method. Below a table
stands in words what its numbers say (`ddhub.cards.findings`).
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from ddhub.artifact.manifest import Manifest
from ddhub.artifact.results import Entry, Mean, Result, settings
from ddhub.cards.comparison import Comparison
from ddhub.cards.findings import are_equal, equal_steps, words
from ddhub.cards.label_text import labels, short
from ddhub.cards.markdown import code, every, table, text
from ddhub.errors import UsageError
from ddhub.protocols.named import changed, protocol, protocols
from ddhub.protocols.protocol import Augment, Protocol


def results(entry: Entry, comparison: Comparison) -> list[str]:
    """The tables of an artifact's results, what they say, and the commands that repeat them."""
    m = entry.manifest
    if not entry.results:
        return [f"None yet: `ddhub train {m.name} --seeds 3 --record --data ROOT`."]
    entries = {x.manifest.digest: x for x in (entry, *comparison.entries)}
    manifests = [x.manifest for x in entries.values()]
    others = settings(comparison.entries)
    tables = settings([entry])
    # A table of others alone is of use where it has a student with as many steps.
    steps = {(mean.setting[1], mean.first.model, mean.first.steps) for means in tables.values() for mean in means}
    equal = {
        setting: [mean for mean in means if (setting[1], mean.first.model, mean.first.steps) in steps]
        for setting, means in others.items()
        if setting not in tables
    }
    parts = [_variants(m, comparison)] if comparison.variants else []
    for setting, mine in {**tables, **{key: [] for key, means in equal.items() if means}}.items():
        models = dict.fromkeys(mean.first.model for mean in mine or equal[setting])
        around = [mean for mean in (others.get(setting, []) if mine else equal[setting]) if mean.first.model in models]
        means = [mean for model in models for mean in (*mine, *around) if mean.first.model == model]
        parts += [heading("###", means[0])]
        if not mine:
            parts.append(f"As many steps as {text(m.name)} takes under another protocol; not its own result.")
            parts += [equal_steps(mean, x) for mean in means for x in entry.means() if are_equal(mean, x)]
        parts += [_table(means, entries, comparison), *words(means, m, comparison), protocol_text(means, manifests)]
        parts += ["To repeat it:", code("sh", _commands(means, m))]
    return parts


def heading(level: str, mean: Mean) -> str:
    """Protocol and test set of a table."""
    first = mean.first
    return (
        f"{level} Protocol {text(first.protocol)} ({text(first.protocol_digest)}), test {text(first.test)}\n\n"
        f"Accuracy after the last epoch on all {first.test_images:,} test images (fingerprint "
        f"`{text(first.test_fingerprint[:12])}`), mean ± sample standard deviation over n seeds."
    )


def _variants(m: Manifest, comparison: Comparison) -> str:
    rows = [(x.manifest.name, _made(x.manifest, m)) for x in comparison.variants]
    return (
        "Variants, with other settings of its recipe or other labels (what is not named is as here; the commands that "
        "make those that are not bundled are on their cards):\n\n" + table("artifact|made with", rows)
    )


def _made(m: Manifest, original: Manifest) -> str:
    """The preset of a variant, and what else its settings are than those of `original` where it has none."""
    recipe, known = m.recipe, original.recipe["config"]
    if recipe["preset"]:
        return f"{recipe['path']} --preset {recipe['preset']}"
    if recipe["path"] != original.recipe["path"]:
        known = {"labels": ""}
    other = [(key, value) for key, value in recipe["config"].items() if key in known and known[key] != value]
    return " ".join([recipe["path"], *(f"--{key.replace('_', '-')} {value}" for key, value in other)])


def _table(means: Sequence[Mean], entries: Mapping[str, Entry], comparison: Comparison) -> str:
    rows: list[tuple[object, ...]] = []
    for mean in means:
        runs, name, entry = mean.runs, mean.first.artifact, entries[mean.first.digest]
        if comparison.baseline and mean.first.digest == comparison.baseline.manifest.digest:
            name += " (random selection)"
        learned = (short(entry.manifest), f"{entry.bytes:,}")
        numbers = (mean.text, len(runs), mean.first.epochs, every(str(run.steps) for run in runs))
        seconds = f"{statistics.fmean(run.seconds for run in runs):.1f}"
        hardware = (every(run.device for run in runs), every(run.precision for run in runs))
        rows.append((mean.first.model, name, *learned, *numbers, seconds, *hardware))
    columns = "student|artifact|labels|bytes|accuracy %|n|last epoch|steps|seconds|device|precision"
    return table(columns, rows)


def protocol_text(means: Sequence[Mean], manifests: Sequence[Manifest]) -> str:
    """All settings of a table's protocol, and the labels of its artifacts, which set the loss."""
    first = means[0].first
    base = Protocol.from_json(first.settings)
    momentum = f", momentum {base.momentum:g}" if base.optimizer == "sgd" else ""
    momentum += " (Nesterov)" if base.nesterov else ""
    spared = "" if base.decay_biases else " (not on biases and norms)"
    used = {mean.first.digest for mean in means}
    names: dict[str, list[str]] = {}
    for m in sorted(manifests, key=lambda m: m.name):
        if m.digest in used:
            names.setdefault(labels(m), []).append(m.name)
    given = "; ".join(f"{', '.join(of)}: {scheme}" for scheme, of in names.items())
    if base.teachers:
        given = f"of the teachers {', '.join(map(text, base.teachers))} on every mixed batch"
    if base.teacher_batch_stats:
        given += "; BatchNorm of teachers with the statistics of the batch"
    if base.temperature is not None:
        given += f"; the loss of logits (soft, teacher) at temperature {base.temperature:g} in place of their own"
    if base.label_smoothing:
        given += f"; one-hot labels smoothed by {base.label_smoothing:g}"
    if base.times_t2:
        given += ", times its square"
    return "\n".join(
        [
            f"- epochs {first.epochs}, batch size {base.batch_size}",
            f"- {base.optimizer}{momentum}, weight decay {base.weight_decay:g}{spared}",
            f"- learning rate {_rate(base)}{'' if base.schedule == 'one-cycle' else ', stepped once an epoch'}",
            f"- augmentation: {', '.join(_augment(base.augment)) or 'none'}",
            f"- labels: {given}",
        ]
    )


def _rate(plan: Protocol) -> str:
    rate = f"learned with the artifact (else {plan.lr:g})" if plan.learned_lr else f"{plan.lr:g}"
    warm = f" after {plan.warmup} epochs of linear warm-up" if plan.warmup else ""
    if plan.schedule == "cosine":
        return f"{rate}, cosine to zero{warm}"
    if plan.schedule == "one-cycle":
        return f"{rate}, one cycle: linear up to it in {plan.warmup} epochs, linear down to zero, set at every step"
    if plan.schedule == "half-cosine":
        return f"{rate}, half a cosine, to half of it"
    if not plan.milestones:
        return f"{rate}, constant"
    anew = ", optimizer restarted" if plan.restart else ""
    return f"{rate}, times {plan.decay:g} at epoch {', '.join(map(str, plan.milestones))}{anew}"


def _augment(augment: Augment) -> list[str]:
    views = [f"{augment.shuffle} x {augment.shuffle} patches shuffled"] if augment.shuffle > 1 else []
    views += [f"random resized crop of {augment.crop_scale:g} to 1 of the area"] if augment.crop_scale else []
    views += [f"random crop with {augment.crop_padding} px of padding"] if augment.crop_padding else []
    views += [f"flip with probability {augment.flip:g}"] if augment.flip else []
    if augment.dsa:
        views.append(f"DSA ({augment.dsa_form}: {', '.join(augment.dsa_ops)}; drawn per {augment.dsa_per})")
    if augment.mix != "none":
        often = f" with probability {augment.mix_probability:g}" if augment.mix_probability < 1 else ""
        views.append(
            f"{augment.mix} with Beta({augment.mix_alpha:g}, {augment.mix_alpha:g}) per {augment.mix_per}{often}"
        )
    return views


def _commands(means: Sequence[Mean], m: Manifest) -> list[str]:
    """The commands that train the students of a table again, as few as their seeds and precisions allow."""
    options = flags(means[0].first, m)
    jobs: dict[tuple[str, str, int, int], list[str]] = {}
    for mean in means:
        for precision in sorted({run.precision for run in mean.runs}):
            for first, count in _spans(run.seed for run in mean.runs if run.precision == precision):
                jobs.setdefault((mean.first.model, precision, first, count), []).append(mean.first.artifact)
    lines = []
    for (model, precision, first, count), names in jobs.items():
        seeds = [*(["--seed", str(first)] if first else []), "--seeds", str(count), "--precision", precision]
        test = means[0].first.test_name
        seeds += ["--test", test] if test != m.dataset or test.startswith("folder:") else []
        words = ["ddhub", "train", *names, *options, "--model", model, *seeds, "--data", "ROOT"]
        lines.append(shlex.join(words))
    return lines


def flags(first: Result, m: Manifest) -> list[str]:
    """What `ddhub train` needs to use the result's protocol, beginning from the nearest name."""
    plan = Protocol.from_json(first.settings)
    if plan.digest == Protocol.from_json(m.protocol).digest and plan.name not in protocols():
        return []
    return list(_nearest(plan))


@cache
def _nearest(plan: Protocol) -> tuple[str, ...]:
    """The options that change the nearest protocol with a name to this one; () where none comes to it."""
    changes: dict[str, list[str]] = {"epochs": ["--epochs", str(plan.epochs)]}
    changes["batch_size"] = ["--batch-size", str(plan.batch_size)]
    changes["teachers"] = [word for name in plan.teachers for word in ("--teacher", name.partition("@")[0])]
    best: list[str] | None = None
    for name in protocols():
        base = protocol(name)
        differing = [key for key in changes if getattr(base, key) != getattr(plan, key)]
        try:
            same = changed(base, **{key: getattr(plan, key) for key in differing}).digest == plan.digest
        except UsageError:  # such as fewer epochs than the warm-up has
            same = False
        words = ["--protocol", name, *(word for key in differing for word in changes[key])]
        if same and (best is None or len(words) < len(best)):
            best = words
    return tuple(best or ())


def _spans(seeds: Iterable[int]) -> list[tuple[int, int]]:
    """Seeds as runs of successive ones: (first, how many)."""
    spans: list[tuple[int, int]] = []
    for seed in sorted(seeds):
        if spans and seed == sum(spans[-1]):
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((seed, 1))
    return spans
