"""Train one teacher on real images and write it as an artifact of its own; resumable after every epoch.

    python tools/train_teacher.py runs/cifar10-resnet18-w16-e16-s0 resnet18-w16 --data ROOT
    python tools/train_teacher.py runs/cifar10-resnet18-w16-e16-s0-held resnet18-w16 --held-out 5000 --data ROOT

With --held-out so many training images, as many of each class, are left out: choices can be made on them. Which ones
depends on their number alone. The accuracy that is recorded is that on the test images, after the last epoch; on those
left out it is printed and stands in the facts of the run.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import click
import torch

from ddhub import teachers
from ddhub.cli.program import guarded
from ddhub.errors import UsageError
from ddhub.protocols.named import protocol as named
from ddhub.sources.source import Source, open_source
from ddhub.training.devices import describe, resolve_device, resolve_precision, versions
from ddhub.training.loop import evaluate, fit
from recipes.run.draws import generator, select
from recipes.run.teachers import real_data

log = logging.getLogger("teacher")


def split(source: Source, held_out: int) -> tuple[Source, Source | None]:
    """The training images and those left out, as many of each class; (all of them, None) where none are.

    Raises:
        UsageError: a number that the classes cannot share evenly.
    """
    if not held_out:
        return source, None
    if held_out % len(source.classes):
        raise UsageError(f"{held_out} images cannot be shared by {len(source.classes)} classes; use a multiple")
    rows = select(source, held_out // len(source.classes), generator("held out", held_out), "--held-out")
    stays = torch.ones(len(source.labels), dtype=torch.bool)
    stays[rows] = False
    parts = [replace(source, images=source.images[x], labels=source.labels[x]) for x in (stays, rows)]
    return parts[0], parts[1]


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("model")
@click.option("--dataset", default="cifar10", show_default=True, help="training images")
@click.option("--protocol", default="teacher", show_default=True, help="named protocol of the training")
@click.option("--epochs", type=click.IntRange(1), help="passes over the images; the protocol's if not given")
@click.option("--seed", default=0, show_default=True, help="seed of initial weights and views")
@click.option("--held-out", default=0, show_default=True, help="training images that are left out")
@click.option("--data", "root", type=click.Path(), help="root of the real data (or DDHUB_DATA)")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", default="auto", show_default=True, help="auto, bf16, fp32 or exact")
@click.option("--threads", type=click.IntRange(1), help="threads of the CPU; all if not given")
def main(
    out: Path,
    model: str,
    dataset: str,
    protocol: str,
    epochs: int | None,
    seed: int,
    held_out: int,
    root: str | None,
    device: str,
    precision: str,
    threads: int | None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    test = open_source(dataset, "test", root=root)  # first, as training takes hours
    source, rest = split(open_source(dataset, "train", root=root), held_out)
    plan = named(protocol, **({"epochs": epochs} if epochs else {}))
    where = resolve_device(device)
    precise = resolve_precision(precision, where)
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"model": model, "seed": seed, "held_out": held_out, "device": describe(where), "precision": precise}
    log.info("%s: %s", out.name, json.dumps({**record, "versions": versions(), "protocol": plan.to_json()}))
    begin, checkpoint = time.perf_counter(), out.with_name(f"{out.name}.checkpoint")
    net, _, seconds = fit(real_data(source, plan).to(where), model, seed, precise, checkpoint)
    accuracy = evaluate(net, test, device=where, precision=precise)
    run = {"device": record["device"], "precision": precise, "versions": versions(), "seconds": round(seconds, 1)}
    if rest is not None:
        run |= {"held_out": held_out, "held_out_accuracy": evaluate(net, rest, device=where, precision=precise)}
    digest = teachers.write(
        out,
        net,
        model=model,
        accuracy=accuracy,
        epochs=plan.epochs,
        seed=seed,
        dataset=source.name,
        classes=source.classes,
        image_size=[*source.images.shape[1:]],
        mean=source.mean,
        std=source.std,
        test={"name": test.name, "label": test.label, "images": len(test.labels), "fingerprint": test.fingerprint},
        protocol=plan.to_json(),
        source={
            "name": source.name,
            "hub_id": source.hub_id,
            "split": source.split,
            "fingerprint": source.fingerprint,
            "notes": f"{source.notes}; {held_out} images left out".lstrip("; ") if held_out else source.notes,
            "license": source.license,
        },
        license=source.license,
        run=run,
    )
    checkpoint.unlink(missing_ok=True)
    left = f", {run['held_out_accuracy']:.2f} % of those left out" if rest is not None else ""
    click.echo(f"{out}: {accuracy:.2f} % of {len(test.labels)} test images{left}, digest {digest}")
    log.info("%.0f s in all", time.perf_counter() - begin)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    raise SystemExit(guarded(main, "train_teacher"))
