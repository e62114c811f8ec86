"""Methods beside random selection at equal bytes, as Markdown: what of an artifact's accuracy its optimisation earns.

    python benchmarks/equal_bytes.py --data ROOT --out benchmarks/equal_bytes.md

For every artifact, under the protocol of its stocked results:

    stored    as it is
    coded     its images as `--encoding`, its labels with `--label-bits` a number: a fraction of the bytes
    random    real images drawn at random, coded as `--random-encoding`, with 4-bit labels of the strongest teacher at
              hand, as many as fit into the bytes of the one and of the other; the coreset's protocol, with epochs for
              about `--views` images in all

Students are scored on the test images after the last epoch; nothing is chosen here. Finished rows lie in `--work`, and
the same command goes on from there.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rows import Rows

import ddhub
from ddhub.artifact import results
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import read_manifest
from ddhub.cards.markdown import table
from ddhub.cli.printing import write
from ddhub.cli.program import guarded
from ddhub.convert.recode import recode
from ddhub.protocols.protocol import Protocol
from ddhub.training.devices import describe, resolve_device, versions
from recipes import coreset
from recipes.run import budget
from recipes.run.run import Run

NAMES = tuple(f"cifar10-{method}-ipc10" for method in ("infer", "nrr-dd", "rded", "idc", "udd", "edf", "datm"))


def usual(name: str) -> Protocol:
    """The protocol of most of an artifact's results: that of the number on its card."""
    means = results.read(Path("cards") / name).means()
    return Protocol.from_json(max(means, key=lambda mean: len(mean.runs)).first.settings)


def scored(data: Path | str, protocol: Protocol | None, model: str, root: str, rows: Rows, seeds: int) -> list[float]:
    """Accuracies of students of an artifact, one a seed."""
    found = []
    for seed in range(seeds):
        opened = ddhub.load(str(data))
        plan = protocol or opened.protocol

        def work(opened: Any = opened, plan: Protocol = plan, seed: int = seed) -> dict[str, Any]:
            _, result = ddhub.train(opened, model, protocol=plan, seed=seed, root=root, progress=False)
            return {"accuracy": result.accuracy, "seconds": result.seconds}

        key = {"data": opened.about.digest, "name": opened.about.name, "protocol": plan.digest, "model": model}
        found.append(rows.row(work, **key, seed=seed)["accuracy"])
    return found


def random(size: int, encoding: str, views: int, root: str, work: Path, device: str) -> Path:
    """The folder of a coreset drawn at random within so many bytes, as an artifact."""
    out = work / f"random-{size}"
    if (out / "manifest.json").exists():
        return out
    cfg = coreset.Config(dataset="cifar10", labels_of="original", temperature=2.0)
    run = Run(coreset, cfg, out, root=root, work=work / "stages", encoding=encoding, label_bits=4, device=device)
    run.cfg = budget.sized(coreset, cfg, run, str(size))
    run.cfg = replace(run.cfg, student_epochs=max(10, min(100, round(views / (10 * run.cfg.ipc)))))
    coreset.distill(run.cfg, run)
    return out


def coded(name: str, encoding: str, bits: int, work: Path) -> Path:
    """The folder of an artifact stored in another way."""
    out = work / f"{name}-coded"
    if not (out / "manifest.json").exists():
        recode(Artifact.open(Path("cards") / name), out, encoding=encoding, label_bits=bits)
    return out


def text(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


@click.command()
@click.argument("names", nargs=-1)
@click.option("--data", "root", type=click.Path(), required=True, help="root of the real data")
@click.option("--model", default="convnet3-w64", show_default=True, help="student")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="students of each")
@click.option("--encoding", default="avif:50", show_default=True, help="of the artifacts' images")
@click.option("--label-bits", default=8, show_default=True, type=int, help="of the artifacts' labels")
@click.option("--random-encoding", default="avif:30", show_default=True, help="of the random images")
@click.option("--views", default=100_000, show_default=True, help="images that a student of random ones sees")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/equal_bytes"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="file for the table; else it is printed")
def main(
    names: tuple[str, ...],
    root: str,
    model: str,
    seeds: int,
    encoding: str,
    label_bits: int,
    random_encoding: str,
    views: int,
    device: str,
    work: Path,
    out: Path | None,
) -> None:
    rows = Rows(work / "rows.jsonl")
    learn = partial(scored, model=model, root=root, rows=rows, seeds=seeds)
    lines = []
    for name in names or NAMES:
        plan, cells = usual(name), []
        for folder in (Path("cards") / name, coded(name, encoding, label_bits, work)):
            size = read_manifest(folder).stored_bytes
            beside = random(size, random_encoding, views, root, work, device)
            many = read_manifest(beside).ipc * 10
            cells += [f"{size:,}", text(learn(folder, plan)), f"{text(learn(beside, None))} ({many:,})"]
        lines.append([name, plan.name, *cells])
    heads = "artifact|protocol"
    for word in ("as stored", f"as {encoding}, {label_bits}-bit labels"):
        heads += f"|bytes {word}|accuracy in %|random at these bytes (images)"
    said = (
        f"Top-1 accuracy in % on CIFAR-10's test images after the last epoch, {model}, mean ± sd of {seeds} students. "
        f"Random: real images drawn at random, {random_encoding}, 4-bit labels of the strongest teacher "
        f"at hand, protocol `coreset`, about {views:,} images seen. {describe(resolve_device(device))}, {versions()}."
    )
    content = f"{said}\n\n{table(heads, lines)}\n"
    write(out, content.encode()) if out else click.echo(content)


if __name__ == "__main__":
    raise SystemExit(guarded(main, "equal_bytes"))
