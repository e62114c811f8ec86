"""The card: an artifact's README.md, and the leaderboard, rendered from manifests and results alone.

A card begins with the metadata that the Hub reads (`ddhub.cards.metadata`).

    entry = results.read("cards/cifar10-infer-ipc10")
    render(entry, others)                  # Markdown; `manifest.seal_text` puts the seal below it
    leaderboard([entry, *others])

A table holds results of one protocol digest and one test set, but for the frontier (`ddhub.cards.frontier`). Next to
an artifact stands its baseline, random selection of as many images per class, when `others` has it. Nothing here
imports torch.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from ddhub.artifact.encoding import name_of
from ddhub.artifact.fields import DTYPE_BYTES
from ddhub.artifact.manifest import PARQUET, TENSORS, Manifest, label_dtype, seal_text
from ddhub.artifact.origin import command as import_command
from ddhub.artifact.origin import is_imported
from ddhub.artifact.results import Entry, settings
from ddhub.cards import frontier, metadata
from ddhub.cards.choice import choice
from ddhub.cards.comparison import Comparison, compare_with, identify, is_random, losses, original
from ddhub.cards.label_text import labels
from ddhub.cards.markdown import code, table, text
from ddhub.cards.storage_text import storage
from ddhub.cards.tables import heading, protocol_text, results
from ddhub.cards.usage import NAMESPACE, decoder, loading, namespace, without


def render(entry: Entry, others: Iterable[Entry] = (), owner: str = NAMESPACE) -> str:
    """The card of an artifact, Markdown below the Hub's metadata.

    Args:
        others: where its baseline and its variants are looked for.
        owner: namespace of the repository OWNER/NAME in which others find it.
    """
    comparison = compare_with(entry, others)
    parts = [f"{metadata.dataset(entry)}\n# {entry.manifest.name}", *_picture(entry, others)]
    for title, texts in sections(entry, comparison, owner).items():
        parts += [f"## {title}"] if title else []
        parts += texts
    if comparison.entries:
        parts.append(f"<!-- beside: {' '.join(map(identify, comparison.entries))} -->")
    return "\n\n".join(parts) + "\n"


def sections(entry: Entry, comparison: Comparison, owner: str = NAMESPACE) -> dict[str, list[str]]:
    """What a card says, Markdown by heading: under "" what stands above the first."""
    m = entry.manifest
    return {
        "": [_summary(m), *losses(entry, comparison), loading(m, owner)],
        "Bytes": _bytes(entry),
        "Without ddhub": without(m, owner),
        "Results": [*results(entry, comparison), *_paper(m)],
        "How it was made": [*_recipe(m), *_teachers(m)],
        "Deviations from the paper": ["\n".join(f"- {text(line)}" for line in m.deviations) or "None is recorded."],
        "Source, license, citation": _source(m),
    }


def _picture(entry: Entry, others: Iterable[Entry]) -> list[str]:
    """The preview; of an artifact whose data are not kept that of the one it is a variant of."""
    if entry.kept:
        return [f"![{_shown(entry.manifest)}, one row a class](preview.png)"]
    again = "The command under “How it was made” makes them again, and the code below loads them from there."
    whole = original(entry, others)
    if whole is None:
        return [f"Its data are not kept here. {again}"]
    name = whole.manifest.name
    link = f"![{_shown(whole.manifest)} of {name}, one row a class](../{name}/preview.png)"
    about = f"A variant of [{name}](../{name}/README.md), whose images are shown; its own data are not kept here."
    return [f"{about} {again}", link]


def _shown(m: Manifest) -> str:
    """What of an artifact its preview shows (`ddhub.artifact.images.preview`)."""
    count = m.tensors["images"]["shape"][0]
    return "the stored images" if count <= 20 * len(m.classes) else "the first 20 stored images"


def is_right(text: str, entry: Entry, others: Iterable[Entry]) -> bool:
    """Whether the text of a README.md is the card of `entry`, beside the artifacts that it was rendered with.

    Those are named in a comment at its end. Where one of them is not in `others` as it was then, as with a card that
    was published long ago or by someone else, only the seal can tell: True.
    """
    match = re.search(r"^<!-- beside: (.*) -->$", text, re.MULTILINE)
    known = {identify(x): x for x in others}
    named = match[1].split() if match else []
    if not known.keys() >= {*named}:
        return True
    return text == seal_text(render(entry, [known[x] for x in named], namespace(text)))


def leaderboard(entries: Sequence[Entry]) -> str:
    """All artifacts, Markdown: frontiers, then a table a protocol digest and test set, best first for each student."""
    manifests = {entry.manifest.digest: entry for entry in entries}
    parts = [
        "# Leaderboard",
        "Top-1 accuracy in percent after the last epoch, mean ± sample standard deviation over n seeds. "
        "Protocols and test sets never share a table, but for protocols in those of the frontier; bytes are those "
        "stored, labels included.",
        *frontier.section(entries),
    ]
    for means in settings(entries).values():
        parts.append(heading("##", means[0]))
        rows = []
        for mean in sorted(means, key=lambda mean: (mean.first.model, -mean.mean, mean.first.artifact)):
            entry = manifests[mean.first.digest]
            m = entry.manifest
            link = f"[{m.name}]({m.name}/README.md)"
            cost = (m.ipc, f"{entry.bytes:,}", f"{m.bits_per_class():,.0f}")
            rows.append((mean.first.model, link, m.method, *cost, mean.text, len(mean.runs)))
        parts.append(table("student|artifact|method|ipc|bytes|bits per class|accuracy %|n", rows))
        parts.append(protocol_text(means, [entry.manifest for entry in entries]))
    rest = [entry.manifest.name for entry in entries if not entry.results]
    if rest:
        parts.append("No results yet: " + ", ".join(f"[{name}]({name}/README.md)" for name in rest) + ".")
    return "\n\n".join(parts) + "\n"


def _summary(m: Manifest) -> str:
    count, (_, height, width) = m.tensors["images"]["shape"][0], m.image_size
    content = f"`{m.content}`" if m.content else "not recorded"
    maker = "imported, made by its publisher by" if is_imported(m) else "made by the recipe"
    what = "Real images, drawn at random, of" if is_random(m) else "Distilled"
    return (
        f"{what} `{text(m.dataset)}`: {count:,} stored images of {height} x {width} px for {len(m.classes):,} classes, "
        f"{maker} `{text(m.method)}` for a budget of {m.ipc} images a class. Decoder: {decoder(m)}. Labels: "
        f"{labels(m)}. Digest: `{m.digest}`; content: {content}."
    )


def _bytes(entry: Entry) -> list[str]:
    m = entry.manifest
    label = DTYPE_BYTES[label_dtype(len(m.classes))]
    rows: list[tuple[object, ...]] = [
        (f"`{name}`", m.tensors[name]["dtype"], " x ".join(map(str, m.tensors[name]["shape"])), f"{size:,}")
        for name, size in m.bytes_by_tensor().items()
    ]
    raw, random = sum(m.bytes_by_tensor().values()), m.ipc * len(m.classes) * (math.prod(m.image_size) + label)
    rows.append(("all", "", "", f"{raw:,}"))
    files = [(f"`{name}`", f"{m.files[name]['bytes']:,}") for name in (PARQUET, TENSORS) if name in m.files]
    return [
        f"**{entry.bytes:,} stored bytes**, labels included: {m.bits_per_class():,.0f} bits per class. "
        f"Stored: {storage(m)}.",
        table("file|stored bytes", files),
        f"Before encoding, as papers count: {raw:,} bytes, {raw / random:.2f} times those of {m.ipc} random images per "
        "class with hard labels.",
        table("tensor|type|shape|raw bytes", rows),
    ]


def _paper(m: Manifest) -> list[str]:
    if not m.paper:
        return []
    rows = []
    for line in m.paper:
        sd = f" ± {line['sd']}" if line.get("sd") is not None else ""
        rows.append((line.get("model", ""), f"{line.get('accuracy', '')}{sd}", line.get("where", "")))
    return ["### The paper's setting, not this protocol", table("student|accuracy %|where", rows)]


def _recipe(m: Manifest) -> list[str]:
    recipe, run = m.recipe, m.recipe["run"]
    words = import_command(m) if is_imported(m) else _recipe_command(m)
    rows: dict[str, Any] = {
        "preset": recipe["preset"] or "none",
        **{f"setting {key}": _setting(value) for key, value in sorted(recipe["config"].items())},
        "commit": recipe["commit"] or "not known",
        **{key: run[key] for key in ("device", "precision", "versions") if key in run},
        # A stage that was cut and resumed counts from its last start.
        **({"seconds, each stage from its last start": run["seconds"]} if "seconds" in run else {}),
    }
    if isinstance(run.get("peak_bytes"), int):
        rows["peak memory"] = f"{run['peak_bytes'] / 2**30:.2f} GiB"
    if isinstance(run.get("measured"), dict):
        rows |= {f"measured {key}": value for key, value in run["measured"].items()}
    return [
        f"By `{text(recipe['path'])}` of {text(recipe['repository'])}:",
        code("sh", [shlex.join(words)]),
        table("fact|value", rows.items()),
        *choice(m),
    ]


def _recipe_command(m: Manifest) -> list[str]:
    recipe = m.recipe
    if recipe["preset"]:
        flags = ["--preset", recipe["preset"], "--seed", str(recipe["seed"])]
    else:
        pairs = sorted(recipe["config"].items())
        flags = [word for key, x in pairs for word in (f"--{key.replace('_', '-')}", _setting(x))]
    encoding, bits = name_of(m.encoding), m.labels.get("bits")
    flags += ["--encoding", encoding] if encoding != "png" else []
    flags += ["--label-bits", str(bits)] if bits else []
    # The file is the command: a method such as IDC may be a preset of another's.
    command = PurePosixPath(recipe["path"]).stem.replace("_", "-")
    return ["python", "-m", "recipes", command, m.name, *flags, "--data", "ROOT"]


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
    return [text, table("teacher|accuracy %|epochs", rows)]


def _source(m: Manifest) -> list[str]:
    source = m.source
    notes = f" ({text(source['notes'])})" if source["notes"] else ""
    parts = [
        f"- source: {text(source['hub_id'])}, split {text(source['split'])}{notes}, fingerprint "
        f"`{text(source['fingerprint'])}`; license {text(source['license'])}\n- license: {text(m.license)}"
    ]
    return [*parts, code("bibtex", m.citation.strip().splitlines())] if m.citation.strip() else parts
