"""The card: an artifact's README.md, and the leaderboard, rendered from manifests and results alone.

    entry = results.read("cards/cifar10-infer-ipc10")
    render(entry, others)                  # Markdown; `manifest.seal_text` puts the seal below it
    leaderboard([entry, *others])

A table holds results of one protocol digest and one test set, never more. Beside an artifact stands its baseline,
random selection of as many images per class, when `others` has it. Nothing here imports torch.
"""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ddhub._fields import DTYPE_BYTES
from ddhub.manifest import Manifest, label_dtype
from ddhub.protocols import Protocol, Result, protocol, protocols
from ddhub.results import Entry, Mean, settings

BASELINE = "random-real"


def render(entry: Entry, others: Iterable[Entry] = ()) -> str:
    """The card of an artifact, Markdown; `others` is where its baseline is looked for."""
    baseline = _baseline(entry, others)
    m = entry.manifest
    load = [
        "import ddhub",
        f'data = ddhub.load("{m.name}")',
        'model, result = ddhub.train(data, "convnet3", seed=0)',
    ]
    parts = [
        f"# {m.name}",
        "![the stored images, one row a class](preview.png)",
        _summary(m),
        _code("python", load),
        "## Bytes",
        *_bytes(entry),
        "## Results",
        *_results(entry, baseline),
        *_paper(m),
        "## How it was made",
        *_recipe(m),
        *_teachers(m),
        "## Deviations from the paper",
        "\n".join(f"- {_text(line)}" for line in m.deviations) or "None is recorded.",
        "## Source, license, citation",
        *_source(m),
    ]
    return "\n\n".join(parts) + "\n"


def leaderboard(entries: Sequence[Entry]) -> str:
    """All artifacts, Markdown: one table a protocol digest and test set, best first for each student."""
    manifests = {entry.manifest.digest: entry for entry in entries}
    parts = [
        "# Leaderboard",
        "Top-1 accuracy in percent after the last epoch, mean ± sample standard deviation over n seeds. "
        "Protocols and test sets never share a table; bytes are raw and include labels.",
    ]
    for means in settings(entries).values():
        parts.append(_heading("##", means[0]))
        rows = []
        for mean in sorted(means, key=lambda mean: (mean.first.model, -mean.mean, mean.first.artifact)):
            entry = manifests[mean.first.digest]
            m = entry.manifest
            link = f"[{m.name}]({m.name}/README.md)"
            cost = (m.ipc, f"{entry.bytes:,}", f"{m.bits_per_class():,.0f}")
            rows.append((mean.first.model, link, m.method, *cost, mean.text, len(mean.runs)))
        parts.append(_table("student|artifact|method|ipc|bytes|bits per class|accuracy %|n", rows))
        parts.append(_protocol_text(means, [entry.manifest for entry in entries]))
    rest = [entry.manifest.name for entry in entries if not entry.results]
    if rest:
        parts.append("No results yet: " + ", ".join(f"[{name}]({name}/README.md)" for name in rest) + ".")
    return "\n\n".join(parts) + "\n"


def _baseline(entry: Entry, others: Iterable[Entry]) -> Entry | None:
    """Random selection from the same data with the same ipc; None for a random artifact itself."""

    def key(m: Manifest) -> tuple[object, ...]:
        return m.dataset, m.classes, m.ipc

    same = [x for x in others if x.manifest.method == BASELINE and key(x.manifest) == key(entry.manifest)]
    if entry.manifest.method == BASELINE:
        return None
    return min(same, key=lambda x: x.manifest.name, default=None)


def _summary(m: Manifest) -> str:
    count, (_, height, width) = m.tensors["images"]["shape"][0], m.image_size
    return (
        f"Distilled `{_text(m.dataset)}`: {count:,} stored images of {height} x {width} px for "
        f"{len(m.classes):,} classes, made by the recipe `{_text(m.method)}` for a budget of {m.ipc} images "
        f"a class. Decoder: {_text(m.decoder['kind'])}. Labels: {_labels(m)}. Digest: `{m.digest}`."
    )


def _bytes(entry: Entry) -> list[str]:
    m = entry.manifest
    label = DTYPE_BYTES[label_dtype(len(m.classes))]
    random = m.ipc * len(m.classes) * (math.prod(m.image_size) + label)
    rows: list[tuple[object, ...]] = [
        (f"`{name}`", m.tensors[name]["dtype"], " x ".join(map(str, m.tensors[name]["shape"])), f"{size:,}")
        for name, size in m.bytes_by_tensor().items()
    ]
    rows.append(("**total**", "", "", f"**{entry.bytes:,}**"))
    rows.append((f"random selection, {m.ipc} images per class", "", "", f"{random:,}"))
    times = f"{entry.bytes / random:.2f} times the bytes of {m.ipc} random images per class with hard labels"
    cost = f"{m.bits_per_class():,.0f} bits per class, labels included: {times}."
    return [_table("tensor|type|shape|raw bytes", rows), cost]


def _results(entry: Entry, baseline: Entry | None) -> list[str]:
    m = entry.manifest
    if not entry.results:
        return [f"None yet: `ddhub train {m.name} --seeds 3 --record --data ROOT`."]
    manifests = [m, baseline.manifest] if baseline else [m]
    beside = settings([baseline] if baseline else [])
    parts = []
    for setting, own in settings([entry]).items():
        rows: list[tuple[object, ...]] = []
        below = []
        means = []
        for mean in own:
            random = [x for x in beside.get(setting, []) if x.first.model == mean.first.model]
            means += [mean, *random]
            below += [_below(mean, x) for x in random if mean.mean < x.mean]
        for mean in means:
            runs = mean.runs
            name = f"{mean.first.artifact} (random selection)" if mean.first.digest != m.digest else m.name
            numbers = (mean.text, len(runs), mean.first.epochs, _every(str(run.steps) for run in runs))
            seconds = f"{statistics.fmean(run.seconds for run in runs):.1f}"
            place = (_every(run.device for run in runs), _every(run.precision for run in runs))
            rows.append((mean.first.model, name, *numbers, seconds, *place))
        columns = "student|artifact|accuracy %|n|last epoch|steps|seconds|device|precision"
        parts += [_heading("###", means[0]), _table(columns, rows), *below, _protocol_text(means, manifests)]
        parts += ["To repeat it:", _code("sh", _commands(means, m))]
    return parts


def _below(mean: Mean, random: Mean) -> str:
    return (
        f"With {_text(mean.first.model)}, {mean.first.artifact} ({mean.mean:.2f} %) scores below random "
        f"selection ({random.mean:.2f} %) under this protocol."
    )


def _heading(level: str, mean: Mean) -> str:
    first = mean.first
    return (
        f"{level} Protocol {_text(first.protocol)} ({_text(first.protocol_digest)}), test {_text(first.test)}\n\n"
        f"Accuracy after the last epoch on all {first.test_images:,} test images (fingerprint "
        f"`{_text(first.test_fingerprint[:12])}`), mean ± sample standard deviation over n seeds."
    )


def _base(result: Result, manifests: Iterable[Manifest]) -> Protocol | None:
    """The named or recommended protocol that, with the result's epochs, has the result's protocol digest."""
    bases = [*map(protocol, protocols()), *(Protocol.from_json(m.protocol) for m in manifests)]
    same = [x for x in bases if replace(x, epochs=result.epochs).digest == result.protocol_digest]
    return min(same, key=lambda x: x.epochs != result.epochs, default=None)


def _protocol_text(means: Sequence[Mean], manifests: Sequence[Manifest]) -> str:
    """All settings of a table's protocol, and the labels of its artifacts, which set the loss."""
    first = means[0].first
    base = _base(first, manifests)
    if base is None:
        return f"The settings of protocol {_text(first.protocol)} are in no manifest at hand."
    augment = base.augment
    views = [f"random crop with {augment.crop_padding} px of padding"] if augment.crop_padding else []
    views += [f"flip with probability {augment.flip:g}"] if augment.flip else []
    if augment.mix != "none":
        views.append(f"{augment.mix} with Beta({augment.mix_alpha:g}, {augment.mix_alpha:g}) per {augment.mix_per}")
    momentum = f", momentum {base.momentum:g}" if base.optimizer == "sgd" else ""
    used = {mean.first.digest for mean in means}
    labels = [f"{m.name}: {_labels(m)}" for m in manifests if m.digest in used]
    return "\n".join(
        [
            f"- epochs {first.epochs}, batch size {base.batch_size}",
            f"- {base.optimizer}{momentum}, weight decay {base.weight_decay:g}",
            f"- learning rate {base.lr:g}, cosine to zero, stepped once an epoch",
            f"- augmentation: {', '.join(views) or 'none'}",
            f"- labels: {'; '.join(labels)}",
        ]
    )


def _labels(m: Manifest) -> str:
    temperature = m.labels.get("temperature")
    kind = _text(m.labels["kind"])
    return kind if temperature is None else f"{kind}, label temperature {_text(temperature)}"


def _commands(means: Sequence[Mean], m: Manifest) -> list[str]:
    """The commands that train the students of a table again, as few as their seeds and precisions allow."""
    base = _base(means[0].first, [m])
    flags = ["--protocol", base.name] if base and base.name in protocols() else []
    if base and base.epochs != means[0].first.epochs:
        flags += ["--epochs", str(means[0].first.epochs)]
    jobs: dict[tuple[str, str, int, int], list[str]] = {}
    for mean in means:
        for precision in sorted({run.precision for run in mean.runs}):
            for first, count in _spans(run.seed for run in mean.runs if run.precision == precision):
                jobs.setdefault((mean.first.model, precision, first, count), []).append(mean.first.artifact)
    lines = []
    for (model, precision, first, count), names in jobs.items():
        seeds = [*(["--seed", str(first)] if first else []), "--seeds", str(count), "--precision", precision]
        test = means[0].first.test_name
        seeds += ["--test", test] if test != m.dataset else []
        words = ["ddhub", "train", *names, *flags, "--model", model, *seeds, "--data", "ROOT"]
        lines.append(shlex.join(words))
    return lines


def _spans(seeds: Iterable[int]) -> list[tuple[int, int]]:
    """Seeds as runs of successive ones: (first, how many)."""
    spans: list[tuple[int, int]] = []
    for seed in sorted(seeds):
        if spans and seed == sum(spans[-1]):
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((seed, 1))
    return spans


def _paper(m: Manifest) -> list[str]:
    if not m.paper:
        return []
    rows = []
    for line in m.paper:
        sd = f" ± {line['sd']}" if line.get("sd") is not None else ""
        rows.append((line.get("model", ""), f"{line.get('accuracy', '')}{sd}", line.get("where", "")))
    return ["### The paper's setting, not this protocol", _table("student|accuracy %|where", rows)]


def _recipe(m: Manifest) -> list[str]:
    recipe, run = m.recipe, m.recipe["run"]
    if recipe["preset"]:
        flags = ["--preset", recipe["preset"], "--seed", str(recipe["seed"])]
    else:
        pairs = sorted(recipe["config"].items())
        flags = [word for key, x in pairs for word in (f"--{key.replace('_', '-')}", _setting(x))]
    command = shlex.join(["python", "-m", "recipes", m.method, m.name, *flags, "--data", "ROOT"])
    facts: dict[str, Any] = {
        "preset": recipe["preset"] or "none",
        **{f"setting {key}": _setting(value) for key, value in sorted(recipe["config"].items())},
        **{key: run[key] for key in ("commit", "device", "precision", "versions") if key in run},
        # A stage that was cut and resumed counts from its last start.
        **({"seconds, each stage from its last start": run["seconds"]} if "seconds" in run else {}),
    }
    if isinstance(run.get("peak_bytes"), int):
        facts["peak memory"] = f"{run['peak_bytes'] / 2**30:.2f} GiB"
    return [
        f"By `{_text(recipe['path'])}`, whose text is in `recipe.py`:",
        _code("sh", [command]),
        _table("fact|value", facts.items()),
    ]


def _setting(value: object) -> str:
    """A Config's value as its command-line option takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _teachers(m: Manifest) -> list[str]:
    if not m.teachers:
        return []
    rows = []
    for teacher in m.teachers:
        accuracy = teacher.get("accuracy", "")
        accuracy = f"{accuracy:.2f}" if isinstance(accuracy, float) else accuracy
        rows.append((teacher.get("model", ""), accuracy, teacher.get("epochs", "")))
    text = "Teachers, trained on the real data and scored on its test images:"
    return [text, _table("teacher|accuracy %|epochs", rows)]


def _source(m: Manifest) -> list[str]:
    source = m.source
    notes = f" ({_text(source['notes'])})" if source["notes"] else ""
    parts = [
        f"- source: {_text(source['hub_id'])}, split {_text(source['split'])}{notes}, fingerprint "
        f"`{_text(source['fingerprint'])}`; license {_text(source['license'])}\n- license: {_text(m.license)}"
    ]
    return [*parts, _code("bibtex", m.citation.strip().splitlines())] if m.citation.strip() else parts


def _every(values: Iterable[str]) -> str:
    """The different values, in the order of their first appearance."""
    return ", ".join(dict.fromkeys(values))


def _table(columns: str, rows: Iterable[Sequence[object]]) -> str:
    head = columns.split("|")
    lines = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _visible(text: str) -> str:
    return "".join(x for x in text if x.isprintable())


def _text(value: object) -> str:
    """A value as one line of Markdown that opens no table cell and no HTML tag."""
    return _visible(" ".join(str(value).split())).replace("|", "\\|").replace("<", "&lt;")


def _code(language: str, lines: Iterable[str]) -> str:
    text = "\n".join(map(_visible, lines))
    # a fence longer than any in the text: a citation is someone else's
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
