"""Milliseconds until an artifact can be trained on, with every check, against a reader that checks nothing.

    python benchmarks/load.py
    python benchmarks/load.py --artifact out/cifar10-infer-ipc50 --json

    load     `ddhub.load`: bounds, names, sizes, hashes, seals, values; each file read once, each image decoded once
    naive    the same `DistilledData` from json, pyarrow's `read_table`, PIL and safetensors' `load_file`, unchecked

Both run in turns in one process where torch and all else is imported; a number is the median over the rounds, of wall
time and of CPU time, as other processes may share the cores. `first` is the first load of a process that has imported
torch and nothing else, and so with the imports of pyarrow, PIL and ddhub. The parts of `load` are timed one by one.
`ddhub list` runs in a process of its own, and beside it a Python that does nothing.

Then real images stored as PNG, one picture an image, and as WebP and AVIF, one picture a class: the same 100 and 1,000
of each, loaded with every check and drawn as batches in turns. Ratios are those of CPU time to that of PNG. Target: a
load below twice that of PNG; batches as fast, as images are decoded once. The last line is the ratio to `naive`.
"""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image

import ddhub
from ddhub.artifact import consistency, pictures
from ddhub.artifact import tensors as _safetensors
from ddhub.artifact.codec import cut
from ddhub.artifact.encoding import picture_size
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import PARQUET, STORED, TENSORS, read_bytes, read_manifest, read_results
from ddhub.cli.program import guarded
from ddhub.data import decode, labels
from ddhub.data.about import About
from ddhub.protocols.protocol import Protocol
from ddhub.remote.find import resolve
from ddhub.training.batches import DistilledData
from recipes import random_real
from recipes.run.run import Run

ENCODINGS = ("png", "webp:50", "avif:50")
IMAGES = (100, 1000)

FIRST = """
import sys, time, torch
begin, cpu = time.perf_counter(), time.process_time()
import ddhub
ddhub.load(sys.argv[1])
print(time.perf_counter() - begin, time.process_time() - cpu)
"""


def naive(folder: Path) -> DistilledData:
    """What the files say, if they are right."""
    m = json.loads((folder / "manifest.json").read_text())
    rows = pq.read_table(folder / PARQUET).to_pylist()
    pixels = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    channels, high, wide = picture_size(m["encoding"], m["image_size"])
    sheet = m["encoding"].get("sheet", 1)
    whole = torch.from_numpy(np.stack(pixels)).reshape(len(rows), high, wide, -1).permute(0, 3, 1, 2)
    images = cut(whole[:, :channels], sheet)
    tensors = safetensors.torch.load_file(folder / TENSORS) if (folder / TENSORS).exists() else {}
    decoder = decode.build(m["decoder"], images.contiguous(), tensors, m["pixel_range"])
    stored = torch.tensor([row["label"] for row in rows]).repeat_interleave(sheet)
    classes = stored[decoder.image_of(torch.arange(len(decoder)))]
    keys = ("name", "digest", "dataset", "classes", "image_size", "mean", "std")
    record: dict[str, Any] = {key: m[key] for key in keys}
    about = About(**record)
    scheme = labels.build(m["labels"], classes, len(m["classes"]), tensors)
    return DistilledData(decoder, scheme, Protocol.from_json(m["protocol"]), about)


def parts(folder: Path) -> dict[str, Callable[[], object]]:
    """The pieces of `ddhub.load`, each on its own."""
    artifact = Artifact.open(folder)
    m = artifact.manifest
    want = {name: entry for name, entry in m.tensors.items() if name not in STORED}
    data = {name: read_bytes(folder / name) for name in m.files}
    count = m.tensors["images"]["shape"][0]
    stored = artifact.images(), artifact.image_labels(), artifact.tensors()
    return {
        "manifest": lambda: read_manifest(folder),
        "files and hashes": lambda: [artifact._read(name) for name in m.files],
        "images": lambda: pictures.read(data[PARQUET], count, m.image_size, len(m.classes), m.encoding),
        "tensors": lambda: _safetensors.read(data[TENSORS], want) if want else {},
        "results": lambda: read_results(folder),
        "sense": lambda: consistency.check(m, *stored),
    }


def medians(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each piece of work, wall and CPU, their rounds in turn after one that is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, function in work.items():
            begin, cpu = time.perf_counter(), time.process_time()
            function()
            if number:
                taken[name].append((time.perf_counter() - begin, time.process_time() - cpu))
    return {name: _median(times) for name, times in taken.items()}


def codecs(rounds: int) -> list[tuple[object, ...]]:
    """(images, encoding, CPU ms of a load, to PNG, CPU ms of an epoch of batches, to PNG) of real images."""
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for images in IMAGES:
            cfg = replace(random_real.Config(), dataset="cifar10-mini", ipc=images // 10)
            made = {text: Path(folder) / f"{text.replace(':', '-')}-{images}" for text in ENCODINGS}
            for text, out in made.items():
                random_real.distill(cfg, Run(random_real, cfg, out, device="cpu", encoding=text))
            loads = medians({text: partial(ddhub.load, out) for text, out in made.items()}, rounds)
            data = {text: ddhub.load(out) for text, out in made.items()}
            epochs = medians({text: partial(_epoch, x) for text, x in data.items()}, rounds)
            for text in ENCODINGS:
                load, epoch = loads[text][1], epochs[text][1]
                rows.append((images, text, load, load / loads["png"][1], epoch, epoch / epochs["png"][1]))
    return rows


def _epoch(data: DistilledData) -> None:
    for _ in data.batches(seed=0, epochs=1):
        pass


def spawned(command: list[str], rounds: int) -> tuple[float, float]:
    """Milliseconds of a process, wall and CPU."""
    times = []
    for _ in range(rounds):
        begin, used = time.perf_counter(), _of_children()
        subprocess.run(command, check=True, capture_output=True)
        times.append((time.perf_counter() - begin, _of_children() - used))
    return _median(times)


def first_load(folder: Path, rounds: int) -> tuple[float, float]:
    """Milliseconds of the first load of a process, with the imports of all but torch."""
    command = [sys.executable, "-c", FIRST, str(folder)]
    outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(rounds)]
    return _median([(float(text.split()[0]), float(text.split()[1])) for text in outputs])


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _median(times: list[tuple[float, float]]) -> tuple[float, float]:
    wall, cpu = ([1000 * pair[i] for pair in times] for i in range(2))
    return statistics.median(wall), statistics.median(cpu)


@click.command()
@click.option("--artifact", "name", default="cifar10-infer-ipc10", show_default=True, help="A name or a folder.")
@click.option("--rounds", default=100, show_default=True, help="Rounds of each side.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(name: str, rounds: int, as_json: bool) -> None:
    """Milliseconds of a load with all checks, of its parts, of one without checks, and of `ddhub list`."""
    torch.set_num_threads(1)
    folder = resolve(name)
    ours, theirs = ddhub.load(folder), naive(folder)
    items = torch.arange(len(ours))
    same = torch.equal(ours.decoder(items), theirs.decoder(items))
    rows: dict[str, tuple[float, float]] = medians(
        {"load": lambda: ddhub.load(folder), "naive": lambda: naive(folder)}, rounds
    )
    inner = medians(parts(folder), rounds)
    few = max(1, rounds // 20)
    rows["first"] = first_load(folder, few)
    rows["ddhub list"] = spawned([str(Path(sys.executable).with_name("ddhub")), "list"], few)
    rows["python"] = spawned([sys.executable, "-c", ""], few)
    coded = codecs(max(1, rounds // 5))
    ratios = {"load": rows["load"][1] / rows["naive"][1], "list": rows["ddhub list"][1] / rows["python"][1]}

    record: dict[str, Any] = {
        "artifact": name,
        "images": len(theirs.decoder.images),
        "rounds": rounds,
        "cores": os.cpu_count(),
    }
    if as_json:
        shown = {key: {"wall_ms": wall, "cpu_ms": cpu} for key, (wall, cpu) in (rows | inner).items()}
        keys = ("images", "encoding", "load_cpu_ms", "load_to_png", "epoch_cpu_ms", "epoch_to_png")
        told = [dict(zip(keys, row, strict=True)) for row in coded]
        print(json.dumps({**record, "times": shown, "same": same, "ratios": ratios, "codecs": told}))
        return
    print(", ".join(f"{key} {value}" for key, value in record.items()))
    print(f"{'':22}{'wall ms':>10}{'CPU ms':>10}")
    for key, (wall, cpu) in [
        ("load", rows.pop("load")),
        *((f"  {key}", pair) for key, pair in inner.items()),
        *rows.items(),
    ]:
        print(f"{key:22}{wall:>10.1f}{cpu:>10.1f}")
    print(f"the same images: {'yes' if same else 'NO'}")
    print(f"CPU time: ddhub list {ratios['list']:.1f} times a Python that does nothing")
    print(f"{'images':>6}  {'stored as':10}{'load, CPU ms':>14}{'to PNG':>8}{'epoch, CPU ms':>15}{'to PNG':>8}")
    for images, text, load, to_load, epoch, to_epoch in coded:
        print(f"{images:>6}  {text:10}{load:>14.1f}{to_load:>8.2f}{epoch:>15.1f}{to_epoch:>8.2f}")
    print(f"CPU time: load with all checks {ratios['load']:.2f} times the naive reader")


if __name__ == "__main__":
    sys.exit(guarded(main, "load.py"))
