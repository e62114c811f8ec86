"""Images per second: an artifact's batches against a JPEG folder behind a DataLoader.

    python benchmarks/loader.py
    python benchmarks/loader.py --artifact out/cifar10-infer-ipc50 --json

Both sides give the same reconstructed images as normalised float batches with their labels: random crop with 4 pixels
of padding, flip, MixUp of images and labels with one weight from Beta(0.8, 0.8) a batch.

    batches     `DistilledData.batches`: decode, crop, flip, mix, normalise and labels, a batch at a time
    n workers   the images once written as JPEG (quality 95, a folder a class), then ImageFolder (PIL), torchvision's
                RandomCrop, RandomHorizontalFlip, ToTensor and Normalize, a DataLoader with n persistent workers,
                labels looked up by item, MixUp in the collate function

All sides may use every core. They take turns in one process, after an epoch each that is not counted; a round is whole
epochs for at least a second, a number is the median over the rounds, and a ratio is against the better DataLoader.
The last line is the ratio at the artifact's own batch size.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ddhub import hub
from ddhub.cli.program import guarded
from ddhub.data.views import Views
from ddhub.protocols.named import protocol
from ddhub.training.batches import DistilledData
from tools.torchvision_stub import torchvision

PROTOCOL = protocol("infer-static")
WORKERS = (0, 2)
LARGE = 256  # the batch size of the second row

Batches = Iterable[tuple[Tensor, Tensor]]


class Photos(torchvision.datasets.ImageFolder):  # type: ignore[misc]
    """A JPEG folder; an image comes with its item number, the name of its file."""

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image, _ = super().__getitem__(row)
        return image, int(Path(self.samples[row][0]).stem)


class MixUp:
    """A collate function: stack, look up the targets `[N, classes]`, mix the batch with itself."""

    def __init__(self, targets: Tensor, alpha: float) -> None:
        self.targets, self.alpha = targets, alpha

    def __call__(self, rows: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        images, items = zip(*rows, strict=True)
        x, y = torch.stack(images), self.targets[list(items)]
        weight, partner = float(np.random.beta(self.alpha, self.alpha)), torch.randperm(len(x))
        return weight * x + (1 - weight) * x[partner], weight * y + (1 - weight) * y[partner]


def write_photos(data: DistilledData, folder: Path) -> Tensor:
    """Every item as `CLASS/ITEM.jpg`; returns the targets `[N, classes]` of the items."""
    items = torch.arange(len(data))
    targets: Tensor = data.labels(Views.plain(items), torch.empty(0))
    for part in items.split(LARGE):
        pixels = data.decoder(part).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for item, image in zip(part.tolist(), pixels, strict=True):
            home = folder / str(int(targets[item].argmax()))
            home.mkdir(exist_ok=True)
            Image.fromarray(image).save(home / f"{item:06d}.jpg", quality=95)
    return targets


def standard(data: DistilledData, folder: Path, targets: Tensor, batch_size: int, workers: int) -> Batches:
    """The usual pipeline over the JPEG folder; one iteration is one epoch."""
    augment, steps = PROTOCOL.augment, torchvision.transforms
    return DataLoader(
        Photos(
            str(folder),
            steps.Compose(
                [
                    steps.RandomCrop(data.about.image_size[1:], padding=augment.crop_padding),
                    steps.RandomHorizontalFlip(augment.flip),
                    steps.ToTensor(),
                    steps.Normalize(data.about.mean, data.about.std),
                ]
            ),
        ),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=MixUp(targets, augment.mix_alpha),
    )


def rate(epoch: Callable[[], Batches], seconds: float) -> float:
    """Images per second over whole epochs, one at least, until the seconds are over."""
    images, begin = 0, time.perf_counter()
    while True:
        images += sum(len(x) for x, _ in epoch())
        passed = time.perf_counter() - begin
        if passed >= seconds:
            return images / passed


def compare(
    data: DistilledData, folder: Path, targets: Tensor, batch_size: int, rounds: int, seconds: float
) -> dict[str, float]:
    """A row of the table: images per second of every side, and the ratio."""
    seed = itertools.count()
    sides: dict[str, Callable[[], Batches]] = {
        "batches": lambda: data.batches(next(seed), epochs=1, batch_size=batch_size)
    }
    for workers in WORKERS:
        loader = standard(data, folder, targets, batch_size, workers)
        sides[f"{workers} workers"] = loader.__iter__
    for epoch in sides.values():
        rate(epoch, 0)
    rates = [{name: rate(epoch, seconds) for name, epoch in sides.items()} for _ in range(rounds)]
    row = {name: statistics.median(rates_of_round[name] for rates_of_round in rates) for name in sides}
    return {"batch size": batch_size, **row, "ratio": row["batches"] / max(row[f"{n} workers"] for n in WORKERS)}


@click.command()
@click.option(
    "--artifact", default="cifar10-infer-ipc10", show_default=True, help="Bundled artifact or an artifact's folder."
)
@click.option("--rounds", default=5, show_default=True, help="Rounds of each side.")
@click.option("--seconds", default=1.0, show_default=True, help="Least length of a round.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(artifact: str, rounds: int, seconds: float, as_json: bool) -> None:
    """Images per second of an artifact's batches and of a standard pipeline on the same images."""
    torch.set_num_threads(os.cpu_count() or 1)
    data = hub.load(artifact).using(protocol=PROTOCOL)
    with tempfile.TemporaryDirectory() as folder:
        targets = write_photos(data, Path(folder))
        sizes = (PROTOCOL.batch_size, LARGE)
        rows = [compare(data, Path(folder), targets, size, rounds, seconds) for size in sizes]
    record = {"artifact": data.about.name, "items": len(data), "threads": torch.get_num_threads(), "rounds": rounds}
    if as_json:
        print(json.dumps({**record, "images_per_second": rows, "ratio": rows[0]["ratio"]}))
        return
    print(", ".join(f"{name} {value}" for name, value in record.items()) + "; images per second")
    print("".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>12,.1f}" if name == "ratio" else f"{value:>12,.0f}" for name, value in row.items()))
    print(f"{rows[0]['ratio']:.1f} times the standard pipeline at batch size {PROTOCOL.batch_size}")


if __name__ == "__main__":
    sys.exit(guarded(main, "loader.py"))
