"""Train one teacher on real images and write it as an artifact of its own; resumable after every epoch.

    python tools/train_teacher.py runs/cifar10-resnet18-w16-e16-s0 resnet18-w16 --data ROOT
    python tools/train_teacher.py runs/held resnet18-w16 --dataset cifar10/5000 --data ROOT      # for choices

The accuracy that is recorded is that on the test images, after the last epoch; those of `cifar10/5000` are 5,000
training images, which are left out (`ddhub.sources.held_out`).
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import click
import torch

from ddhub import teachers
from ddhub.cli.program import guarded
from ddhub.protocols.named import protocol as named
from ddhub.sources.source import open_source
from ddhub.training.devices import describe, resolve_device, resolve_precision, versions
from ddhub.training.loop import fit
from ddhub.training.scoring import evaluate
from recipes.run.teachers import real_data

log = logging.getLogger("teacher")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("model")
@click.option("--dataset", default="cifar10", show_default=True, help="training images")
@click.option("--protocol", default="teacher", show_default=True, help="named protocol of the training")
@click.option("--epochs", type=click.IntRange(1), help="passes over the images; the protocol's if not given")
@click.option("--seed", default=0, show_default=True, help="seed of initial weights and views")
@click.option("--size", type=click.IntRange(1), help="side of the images in pixels; the data's if not given")
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
    size: int | None,
    root: str | None,
    device: str,
    precision: str,
    threads: int | None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    test = open_source(dataset, "test", root=root, size=size)  # first, as training takes hours
    source = open_source(dataset, "train", root=root, size=size)
    plan = named(protocol, **({"epochs": epochs} if epochs else {}))
    where = resolve_device(device)
    precise = resolve_precision(precision, where)
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"model": model, "seed": seed, "device": describe(where), "precision": precise}
    log.info("%s: %s", out.name, json.dumps({**record, "versions": versions(), "protocol": plan.to_json()}))
    begin, checkpoint = time.perf_counter(), out.with_name(f"{out.name}.checkpoint")
    net, _, seconds = fit(real_data(source, plan).to(where), model, seed, precise, checkpoint)
    accuracy = evaluate(net, test, device=where, precision=precise)
    run = {"device": record["device"], "precision": precise, "versions": versions(), "seconds": round(seconds, 1)}
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
            "notes": source.notes,
            "license": source.license,
        },
        license=source.license,
        run=run,
    )
    checkpoint.unlink(missing_ok=True)
    click.echo(f"{out}: {accuracy:.2f} % of {len(test.labels)} test images, digest {digest}")
    log.info("%.0f s in all", time.perf_counter() - begin)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    raise SystemExit(guarded(main, "train_teacher"))
