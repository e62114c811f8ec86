"""What codecs and label bits cost, as Markdown: bytes and PSNR of real images, and the accuracy of students.

    python benchmarks/codecs.py --data ROOT                                         # bytes, PSNR, changes: minutes
    python benchmarks/codecs.py --data ROOT --seeds 3 --out benchmarks/codecs.md    # and students: half an hour
    python benchmarks/codecs.py --dataset cifar10-mini --held-out 200 --images 1,20 --encodings png,webp:30,avif:40

    sheets   bytes an image in pictures of so many images of a class; PSNR in dB against the pixels that were coded, and
             milliseconds of CPU time an image to code and to decode, in the largest pictures
    codecs   the same real images, `--per-class` a class, as PNG and as a lossy picture a class, with the labels that a
             teacher gives the images as they were: stored bytes, and what students learn from them
    labels   the same images as PNG with labels of 16, 8 and 4 bits a number, one an image and one a view: bytes, the
             largest change of what a student reads, and what students learn

Images are training images of which `--held-out` are left out, students are scored on those after the last epoch: no
test image is looked at. Finished rows lie in a file of JSON lines, and the same command goes on from there.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import torch
from PIL import features
from rows import Rows
from torch import Tensor, nn

from ddhub import teachers
from ddhub.artifact.codec import decode, encode
from ddhub.artifact.encoding import parse, picture_size
from ddhub.artifact.images import stored_bytes
from ddhub.cards.markdown import table
from ddhub.cli.printing import write
from ddhub.cli.program import guarded
from ddhub.data import labels
from ddhub.data.decode import Identity
from ddhub.data.label_bits import BITS, pack, unpack
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source, open_source
from ddhub.training.batches import DistilledData
from ddhub.training.devices import describe, resolve_device, versions
from ddhub.training.loop import train
from ddhub.training.relabel import relabel
from recipes.run.draws import generator, scale, select
from recipes.run.labels import Labelling, static_logits
from recipes.run.teachers import real_data

ENCODINGS = (
    "png,webp:10,webp:20,webp:30,webp:50,webp:80,"
    "avif:20,avif:20:420,avif:30,avif:30:420,avif:40,avif:40:420,avif:50,avif:50:420,avif:70"
)
LEARNED = "png,webp:30,webp:50,webp:80,avif:20,avif:30,avif:40,avif:50,avif:70"
TEMPERATURE = 2.0  # of the labels
WORDS = {"static": "one an image", "soft": "logits a view", "top1": "top-1 a view", "dbr": "two distances a view"}


def psnr(before: Tensor, after: Tensor) -> str:
    """In dB, 'exact' of the same pixels."""
    error = (before.double() - after.double()).square().mean()
    return f"{10 * float(torch.log10(255**2 / error)):.1f}" if error else "exact"


def sheet(source: Source, count: int, text: str) -> dict[str, Any]:
    """Bytes and milliseconds of CPU time an image of every class in pictures of so many, and the PSNR."""
    rows = select(source, count, generator("codecs"), "--images")
    images = source.images[rows]
    begin = time.process_time()
    coded = encode(images, source.labels[rows], parse(f"{text}/{count}"))
    middle = time.process_time()
    size = picture_size(coded.encoding, (*images.shape[1:],))
    for picture in coded.pictures:
        decode(picture, size, coded.encoding["codec"])
    taken = middle - begin, time.process_time() - middle
    each = {name: 1000 * x / len(rows) for name, x in zip(("code", "decode"), taken, strict=True)}
    return {"bytes": sum(map(len, coded.pictures)) / len(rows), "psnr": psnr(images, coded.images), **each}


def sheets(source: Source, counts: Sequence[int], encodings: Sequence[str], rows: Rows) -> str:
    """The table of sheets."""
    lines = []
    for text in encodings:
        found = [
            rows.row(
                partial(sheet, source, count, text),
                table="sheets", encoding=text, images=count, data=source.fingerprint, pillow=codecs(),
            )
            for count in counts
        ]  # fmt: skip
        last = found[-1]
        timed = f"{last['code']:.3f}", f"{last['decode']:.4f}"
        lines.append([text, *(f"{x['bytes']:,.0f}" for x in found), last["psnr"], *timed])
    heads = [f"{count} a picture" for count in counts]
    return table("|".join(["encoding", *heads, "PSNR, dB", "CPU ms to code", "CPU ms to decode"]), lines)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Real images with a teacher's labels, and the students that learn them.

    Attributes:
        source, held: the images to choose from, and those that students are scored on.
        images, classes: the chosen ones.
        teacher: labels them as they are.
        plan, model, seeds: of the students.
        rows: those that are finished.
        settings: what all of them depend on.
    """

    source: Source
    held: Source
    images: Tensor
    classes: Tensor
    teacher: nn.Module
    plan: Protocol
    model: str
    seeds: int
    rows: Rows
    settings: Mapping[str, Any]

    def data(self, images: Tensor) -> DistilledData:
        """Images as training batches, with their classes as labels."""
        chosen = {"images": images, "labels": self.classes}
        return real_data(Source(**{**vars(self.source), **chosen}), self.plan)

    def accuracies(self, images: Tensor, scheme: Callable[[], labels.Labels], **key: Any) -> list[float]:
        """Percent of the held-out images that each student is right on."""

        def student(seed: int) -> dict[str, Any]:
            data = self.data(images).using(labels=scheme())
            return {"accuracy": train(data, self.model, seed=seed, test=self.held)[1].accuracy}

        asked = {**key, **self.settings, "protocol": self.plan.to_json(), "model": self.model}
        return [self.rows.row(partial(student, seed), **asked, seed=seed)["accuracy"] for seed in range(self.seeds)]

    @cache  # noqa: B019 — there is one study a program
    def stored(self, word: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The manifest's labels and their tensors, by the word of a recipe's `--labels`."""
        spec = Labelling(word=word, seed=0, temperature=TEMPERATURE).spec
        device = next(self.teacher.parameters()).device
        if word == "static":
            shown = Identity(self.images, [(0, 1)] * self.images.shape[1]).to(device)
            return spec, {"labels.logits": static_logits([self.teacher], shown, *scale(self.source, device))}
        return spec, relabel(self.data(self.images).to(device), [self.teacher], spec, epochs=self.plan.epochs)

    def scheme(self, word: str, bits: int) -> labels.Labels:
        """The label scheme that a student gets who loads labels of so many bits."""
        spec, tensors = pack(*self.stored(word), bits)
        return labels.build(spec, self.classes, len(self.source.classes), tensors, epochs=self.plan.epochs)


def coded(study: Study, encodings: Sequence[str]) -> str:
    """The table of codecs."""
    lines = []
    for text in encodings:
        made = encode(study.images, study.classes, parse(text))
        size = stored_bytes(made, study.source.classes)
        scheme = partial(study.scheme, "static", 16)
        found = study.accuracies(made.images, scheme, table="codecs", encoding=text, pillow=codecs())
        each = f"{size / len(study.images):,.0f}"
        lines.append([text, f"{size:,}", each, psnr(study.images, made.images), mean_text(found)])
    return table("encoding|stored bytes|an image|PSNR, dB|accuracy %", lines)


def labelled(study: Study, words: Sequence[str]) -> str:
    """The table of labels."""
    lines = []
    for word in words:
        for bits in BITS:
            change = partial(changes, study, word, bits)
            row = study.rows.row(change, table="changes", labels=word, bits=bits, **study.settings,
                                 protocol=study.plan.to_json() if word != "static" else {})  # fmt: skip
            # labels of 16 bits on images as they are: what the table of codecs has of PNG
            key: dict[str, Any] = {"table": "codecs", "encoding": "png", "pillow": codecs()}
            if (word, bits) != ("static", 16):
                key = {"table": "labels", "labels": word, "bits": bits}
            scheme = partial(study.scheme, word, bits)
            found = study.accuracies(study.images, scheme, **key)
            each = f"{row['bytes'] / len(study.images):,.0f}"
            lines.append([WORDS[word], bits, f"{row['bytes']:,}", each, row["change"], mean_text(found)])
    return table("labels|bits|bytes|an image|largest change|accuracy %", lines)


def changes(study: Study, word: str, bits: int) -> dict[str, Any]:
    """Bytes of labels, and by how much fewer bits change what a student reads at most."""
    spec, whole = study.stored(word)
    packed, tensors = pack(spec, whole, bits)
    _, read = unpack(packed, tensors, len(study.source.classes))
    name = {"dbr": "labels.distances", "top1": "labels.probability"}.get(word, "labels.logits")
    before, after = whole[name].float(), read[name].float()
    if name == "labels.logits":
        before, after = ((x / TEMPERATURE).softmax(-1) for x in (before, after))
    unit = "nats" if word == "dbr" else "of a probability"
    moved = float((before - after).abs().max())
    return {"bytes": sum(x.nbytes for x in tensors.values()), "change": f"{moved:.4f} {unit}" if moved else "none"}


def mean_text(values: Sequence[float]) -> str:
    """'41.50 ± 1.80', or '-' without students."""
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{sd}" if values else "-"


def codecs() -> str:
    """The versions of the codecs that bytes depend on."""
    return ", ".join(f"{name} {features.version(name)}" for name in ("zlib", "webp", "avif"))


@click.command()
@click.option("--dataset", default="cifar10", show_default=True, help="real images")
@click.option("--data", "root", type=click.Path(), help="root of the real data (or DDHUB_DATA)")
@click.option("--images", default="1,10,100,400", show_default=True, help="images a picture")
@click.option("--encodings", default=ENCODINGS, help="of the table of sheets, as of the recipes' --encoding")
@click.option("--learned", default=LEARNED, help="encodings of the table of codecs")
@click.option("--held-out", default=5000, show_default=True, help="training images that students are scored on")
@click.option("--per-class", default=100, show_default=True, help="images a class that students learn")
@click.option("--teacher", default="cifar10-resnet18-w16-e16-s0", show_default=True, help="labels them")
@click.option("--model", default="convnet3-w32", show_default=True, help="the student")
@click.option("--epochs", default=25, show_default=True, help="of a student")
@click.option("--batch-size", default=64, show_default=True, help="of a student")
@click.option("--labels", "words", default=",".join(WORDS), show_default=True, help="of the table of labels")
@click.option("--seeds", default=0, show_default=True, help="students a row")
@click.option("--rows", "path", type=click.Path(path_type=Path), default="out/codecs.jsonl", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="a Markdown file in place of the terminal")
def main(
    dataset: str, root: str | None, images: str, encodings: str, learned: str, held_out: int, per_class: int,
    teacher: str, model: str, epochs: int, batch_size: int, words: str, seeds: int, path: Path, out: Path | None,
) -> None:  # fmt: skip
    """Bytes, PSNR and accuracies of codecs and label bits, as Markdown."""
    rows, device = Rows(path), resolve_device("auto")
    whole = open_source(dataset, "train", root=root)
    source, held = (open_source(f"{dataset}/{held_out}", split, root=root) for split in ("train", "test"))
    chosen = select(source, per_class, generator("codecs"), "--per-class")
    net, fact = teachers.open_teacher(teacher)
    plan = protocol("coreset", epochs=epochs, batch_size=batch_size)
    study = Study(
        source=source, held=held, images=source.images[chosen], classes=source.labels[chosen],
        teacher=net.to(device).eval(), plan=plan, model=model, seeds=seeds, rows=rows,
        settings={"data": source.fingerprint, "teacher": fact["digest"], "per_class": per_class},
    )  # fmt: skip
    counts = [int(x) for x in images.split(",")]
    scored = (
        f"Students are `{model}` under `{plan.name}`, scored on the {len(held.labels):,} held-out images after the "
        f"last epoch, mean ± sd of {seeds} seeds."
    )
    parts = [
        "# What codecs and label bits cost",
        f"Printed by `python benchmarks/codecs.py --data ROOT --seeds {seeds}` on {date.today()}: {os.cpu_count()} CPU "
        f"cores, device {describe(device)}; {versions()}, {codecs()}.",
        "## A sheet in place of single pictures",
        f"Bytes an image of {whole.label}, {len(whole.classes)} classes, in pictures of so many images of a class; the "
        "other columns are of the largest pictures.",
        sheets(whole, counts, encodings.split(","), rows),
        "## Codecs",
        f"The same {per_class} images a class of {source.label}, a lossy picture a class, PNG a picture an image; "
        f"labels of the teacher {teacher}, trained on {fact['dataset']}, on the images before coding, not counted "
        "in the bytes. " + (scored if seeds else "No students were trained."),
        coded(study, learned.split(",")),
        "## Label bits",
        f"The same images as PNG; bytes are those of the labels. Labels of a view are those of {plan.epochs} epochs. "
        f"Soft labels are read at temperature {TEMPERATURE:g}.",
        labelled(study, words.split(",")),
    ]
    text = "\n\n".join(parts) + "\n"
    if out:
        write(out, text.encode())
    else:
        click.echo(text, nl=False)


if __name__ == "__main__":
    raise SystemExit(guarded(main, "codecs.py"))
