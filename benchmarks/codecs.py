"""Bytes of real images as PNG, WebP and AVIF, alone and in sheets, and how far coding moves a pixel.

    python benchmarks/codecs.py --data ROOT
    python benchmarks/codecs.py --dataset cifar10-mini --images 1,20 --encodings png,webp:30,avif:40

A row is an encoding: bytes an image in pictures of so many images, the PSNR in dB against the pixels that were coded,
and milliseconds an image to code and to decode, in the largest pictures.
"""

from __future__ import annotations

import time

import click
import torch

from ddhub.artifact.codec import decode, encode
from ddhub.artifact.encoding import parse, picture_size
from ddhub.cli.printing import print_table
from ddhub.cli.program import guarded
from ddhub.sources.source import open_source
from recipes.run.draws import generator, select

ENCODINGS = (
    "png,webp:10,webp:20,webp:30,webp:50,webp:75,"
    "avif:20,avif:20:420,avif:30,avif:30:420,avif:40,avif:40:420,avif:50,avif:50:420,avif:70"
)


@click.command()
@click.option("--dataset", default="cifar10", show_default=True, help="real images")
@click.option("--data", "root", type=click.Path(), help="root of the real data (or DDHUB_DATA)")
@click.option("--images", default="1,10,50,300", show_default=True, help="images a picture")
@click.option("--encodings", default=ENCODINGS, help="as of the recipes' --encoding")
def main(dataset: str, root: str | None, images: str, encodings: str) -> None:
    source = open_source(dataset, "train", root=root)
    counts = [int(x) for x in images.split(",")]
    rows = select(source, max(counts), generator("codecs"), "--images").view(len(source.classes), -1)
    lines: list[list[object]] = []
    for text in encodings.split(","):
        cells: list[object] = []
        for count in counts:
            picked = rows[:, :count].flatten()
            begin = time.perf_counter()
            coded = encode(source.images[picked], source.labels[picked], parse(f"{text}/{count}"))
            taken = time.perf_counter() - begin
            cells.append(f"{sum(map(len, coded.pictures)) / len(picked):.0f}")
        error = (coded.images.double() - source.images[picked].double()).square().mean()
        quality = f"{10 * float(torch.log10(255**2 / error)):.1f}" if error else "exact"
        size = picture_size(coded.encoding, (*source.images.shape[1:],))
        begin = time.perf_counter()
        for picture in coded.pictures:
            decode(picture, size, coded.encoding["codec"])
        took = time.perf_counter() - begin
        lines.append([text, *cells, quality, f"{1000 * taken / len(picked):.3f}", f"{1000 * took / len(picked):.4f}"])
    heads = [f">{count} a picture" for count in counts]
    print_table(["encoding", *heads, ">PSNR, dB", ">ms to code", ">ms to decode"], lines)


if __name__ == "__main__":
    raise SystemExit(guarded(main, "codecs"))
