"""NRR-DD's patches and refinement steps per second, against one at a time, and memory while images are streamed.

    python benchmarks/nrr_dd.py
    python benchmarks/nrr_dd.py --method rded --net convnet3-bn-w64 --device cuda --json
    OMP_NUM_THREADS=1 python benchmarks/nrr_dd.py

search      squares per second: every random square of an image that is ranked, 5 an image. NRR-DD ranks them by CAM,
            and its net sees the image and the square that is kept; RDED's net sees all 5
            batched     `recipes.patches.discovery.search`
            one by one  a loop over images and their squares, written with the net, its head and torch's resizing
refinement  steps per second; a step is one Adam step of one set of 10 images, and the CAM before all steps and the
            checks after them count too, on a GPU also the recording of a step: ask for some hundred --steps there
            batched     `recipes.patches.refine.refine` with all K sets
            one by one  the same function with one set, K times
streaming   memory of `search` over images in a memory map, at its peak less before, each in a process of its own.
            What counts is `RssAnon` (Linux), on the host: pages of the map are the kernel's, which drops them at will
            The holes of the heap decide where in 100 to 190 MiB a run peaks (ten runs of 2,000 to 40,000 images)

Images are random and nets untrained and in eval mode, which costs the same as real ones. Both sides work in turns in
one process, after a search and two steps each that are not counted; a number is the median over the rounds. The first
searches must keep the same patches; those of almost equal confidence may change places, as pixels half way between two
of 8 bits are rounded up or down. The images after the two steps, in float32, must be the same. Last are the ratios.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from infer import MODES, median_seconds, resident
from torch import Tensor, nn

from ddhub import models
from ddhub.cli.program import guarded
from ddhub.data.geometry import WINDOW_COLUMNS, windows
from ddhub.measures.cam import attention
from ddhub.models import Net
from ddhub.training.devices import computing, resolve_device, resolve_precision
from recipes.nrr_dd import PRESETS, Config, inversion, look, masking
from recipes.patches.discovery import Scoring, Search, search
from recipes.patches.refine import refine
from recipes.run.draws import generator, normalised

METHODS = {"nrr-dd": PRESETS["cifar10-ipc10"], "rded": PRESETS["rded-cifar10-ipc10"]}
CLASSES, SIDE, LABEL, SEED = 10, 32, 3, 0


def teacher(name: str, side: int, device: torch.device) -> Net:
    """An untrained net with statistics of random images, so that its features do not die, as recipes have teachers."""
    torch.manual_seed(0)
    net = models.build(name, classes=CLASSES, size=side).train()
    if not isinstance(net, Net):
        raise click.UsageError(f"net {name!r} has no linear head of its own; use one of {', '.join(models.names())}")
    with torch.no_grad():
        net(torch.randn(64, 3, side, side))
    return net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def scale(device: torch.device) -> dict[str, Tensor]:
    """Mean and standard deviation as `search` and `refine` take them."""
    return {"mean": torch.full((3, 1, 1), 0.5, device=device), "std": torch.full((3, 1, 1), 0.25, device=device)}


def pictures(*shape: int) -> Tensor:
    """Random smooth images u8 `[*shape, 3, 32, 32]`: noise of single pixels would have no critical part."""
    coarse = torch.rand(torch.Size(shape).numel(), 3, 4, 4, generator=generator("nrr-dd"))
    return (
        F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
        .mul(255)
        .clamp(0, 255)
        .byte()
        .view(*shape, 3, SIDE, SIDE)
    )


@torch.no_grad()
def loop(net: Net, images: Tensor, settings: Search, count: int, *, mean: Tensor, std: Tensor) -> list[list[int]]:
    """What `search` finds with `top` 1 and no guard, one image and one square at a time: row and box of each patch."""
    side = images.shape[3]
    patch = side // settings.factor
    before = (side - patch) // 2
    after = side - patch - before
    u = torch.rand(
        len(images), settings.crops, WINDOW_COLUMNS, generator=generator(SEED, "boxes", LABEL), dtype=torch.float64
    )
    maps = nn.Sequential(*(layer for layer in net.features if not isinstance(layer, nn.AdaptiveAvgPool2d | nn.Flatten)))

    def sureness(image: Tensor, box: list[int]) -> float:
        top, left, height, width = box
        part = image[None, :, top : top + height, left : left + width].float()
        small = F.interpolate(part, size=(patch, patch), mode="bilinear", antialias=True).round()
        x = F.pad(normalised(small, mean, std), (before, after, before, after))
        return float(net(x).softmax(1)[0, LABEL])

    def criticality(critical: Tensor, box: list[int]) -> float:
        top, left, height, width = box
        return float(critical[top : top + height, left : left + width].mean())

    pool: list[tuple[float, list[int]]] = []
    for row in range(len(images)):
        image = images[row].to(mean.device)
        boxes = windows(u[row], (side, side), settings.crop_area, (1, 1)).tolist()
        if settings.cam_ratio:
            maps_of_image = maps(normalised(image[None], mean, std))[0]
            weight = net.head.weight[LABEL].view(len(maps_of_image), -1)  # of each feature, or of each position of it
            cam = (weight * maps_of_image.flatten(1)).sum(0).view(1, *maps_of_image.shape[1:])
            boxes = [max(boxes, key=partial(criticality, attention(cam, (side, side))[0]))]
        scored = [(sureness(image, box), [row, *box]) for box in boxes]
        pool.append(max(scored, key=lambda one: one[0]))
    pool.sort(key=lambda one: one[0], reverse=settings.confidence == "highest")
    return [position for _, position in pool[:count]]


def batched(net: Net, images: Tensor, settings: Search, count: int, *, mean: Tensor, std: Tensor) -> list[list[int]]:
    """The same of `search`."""
    patches = search(Scoring(net, settings, mean=mean, std=std), images, torch.arange(len(images)), LABEL, count, SEED)
    return torch.cat([patches["rows"][:, None], patches["boxes"]], dim=1).tolist()


def refined(mode: str, net: Net, start: Tensor, cfg: Config, precision: str) -> Tensor:
    """The images u8 of sets `[K, classes, 3, 32, 32]` after all steps."""
    sets = list(range(len(start)))
    target = torch.arange(CLASSES, device=start.device)

    def of(group: list[int]) -> Tensor:
        words, (mean, std) = [(SEED, 0, k) for k in group], scale(start.device).values()
        more = inversion(cfg), masking(cfg), words
        with computing(start.device, precision):
            made = refine(net, start[group], target, *more, mean=mean, std=std, precision=precision)
        return made["images"]

    return of(sets) if mode == "batched" else torch.cat([of([k]) for k in sets])


def peak_bytes(work: Callable[[], object]) -> int:
    """Memory of this process, without pages of files, at the peak of some work less before it."""
    before, done, seen = resident("RssAnon"), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:  # the watcher would keep a process that failed
        done.set()
        watcher.join()
    # Programs of the project keep freed memory, so that the end shows what the watcher missed.
    return max(*seen, resident("RssAnon")) - before


def stream_bytes(net: Net, file: Path, count: int, side: int, settings: Search) -> int:
    """Memory of a search over the first images of a file; of every ten images one patch is wanted."""
    images = torch.from_file(str(file), size=count * 3 * side * side, dtype=torch.uint8).view(count, 3, side, side)
    where = net.head.weight.device
    return peak_bytes(lambda: batched(net, images, settings, count // 10, **scale(where)))


def write_images(file: Path, count: int, side: int) -> None:
    """So many random images u8, the same few again and again."""
    few = torch.randint(256, (100, 3, side, side), dtype=torch.uint8, generator=generator("stream")).numpy().tobytes()
    size = len(few) // 100
    with file.open("wb") as out:
        for first in range(0, count, 100):
            out.write(few[: size * min(100, count - first)])


@click.command()
@click.option("--method", type=click.Choice(list(METHODS)), default="nrr-dd", show_default=True, help="Of the search.")
@click.option("--net", "name", default="resnet18-w16", show_default=True, help="Architecture of the teacher.")
@click.option("--images", default=200, show_default=True, help="Images of the search; half as many patches are wanted.")
@click.option("--factor", default=2, show_default=True, help="A patch has a side of 32 / factor pixels.")
@click.option("--sets", default=5, show_default=True, help="Refined sets of 10 images (K).")
@click.option("--steps", default=10, show_default=True, help="Steps of each set a round.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each side.")
@click.option(
    "--stream", nargs=2, default=(2000, 20000), show_default=True, help="Images in the memory map, few and many."
)
@click.option("--stream-net", default="convnet3-bn-w8", show_default=True, help="Architecture while streaming.")
@click.option("--stream-side", default=64, show_default=True, help="Side of the images in the memory map.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", default="auto", show_default=True, help="Of the refinement: auto, bf16 or fp32.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--peak", nargs=2, type=(click.Path(path_type=Path), int), hidden=True, help="Memory over a file's images."
)
def main(
    method: str, name: str, images: int, factor: int, sets: int, steps: int, rounds: int, stream: tuple[int, int],
    stream_net: str, stream_side: int, device: str, precision: str, as_json: bool, peak: tuple[Path, int] | None,
) -> None:  # fmt: skip
    """Patches and refinement steps per second, and peak memory while images are streamed."""
    where = resolve_device(device)
    precision = resolve_precision(precision, where)
    cfg = replace(METHODS[method], factor=factor, steps=steps)
    settings = look(cfg)
    if peak is not None:
        print(stream_bytes(teacher(stream_net, stream_side, where), *peak, stream_side, settings))
        return

    net, real, around = teacher(name, SIDE, where), pictures(images), scale(where)
    count = images // 2
    searches: dict[str, Callable[[], list[list[int]]]] = {
        mode: partial(side, net, real, settings, count, **around)
        for mode, side in zip(MODES, (batched, loop), strict=True)
    }
    ours, theirs = (one() for one in searches.values())
    common = sum(one in theirs for one in ours)
    in_order = sum(one == other for one, other in zip(ours, theirs, strict=True))
    seconds = median_seconds(searches, rounds)
    crops = {mode: images * settings.crops / seconds[mode] for mode in MODES}

    start = pictures(sets, CLASSES).to(where)
    first, second = (refined(mode, net, start, replace(cfg, steps=2), "fp32").int() for mode in MODES)
    gap = int((first - second).abs().max())
    seconds = median_seconds({mode: partial(refined, mode, net, start, cfg, precision) for mode in MODES}, rounds)
    speed = {mode: sets * steps / seconds[mode] for mode in MODES}

    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "images")
        write_images(file, max(stream), stream_side)
        for number in stream:
            again = [sys.executable, __file__, "--peak", str(file), str(number), "--method", method]
            again += ["--factor", str(factor), "--stream-net", stream_net, "--stream-side", str(stream_side)]
            again += ["--device", str(where)]
            peaks.append(int(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout))

    record: dict[str, Any] = {
        "method": method,
        "net": name,
        "images": images,
        "squares": settings.crops,
        "factor": factor,
    }
    record |= {"sets": sets, "steps": steps, "rounds": rounds, "device": str(where), "precision": precision}
    record["threads"] = torch.get_num_threads()
    ratios = {task: sides["batched"] / sides["one by one"] for task, sides in (("search", crops), ("refine", speed))}
    ratios["memory"] = peaks[1] / peaks[0]
    each = (peaks[1] - peaks[0]) / (stream[1] - stream[0])
    if as_json:
        search_facts = {"squares_per_second": crops, "wanted": count, "same": common, "same_in_order": in_order}
        refine_facts = {"steps_per_second": speed, "largest_difference": gap}
        stream_facts = {"net": stream_net, "side": stream_side, "images": stream, "peak_bytes": peaks}
        parts = {"search": search_facts, "refine": refine_facts, "stream": stream_facts}
        print(json.dumps({**record, **parts, "bytes_an_image_more": each, "ratios": ratios}))
        return
    print(", ".join(f"{key} {value}" for key, value in record.items()))
    print(f"{'':12}{'squares/s':>10}{'steps/s':>10}")
    for mode in MODES:
        print(f"{mode:12}{crops[mode]:>10,.0f}{speed[mode]:>10,.1f}")
    print(f"same patches: {'yes' if common == count else 'NO'} ({common} of {count}, {in_order} in the same place)")
    print(f"same images: {'yes' if gap == 0 else 'NO'} (largest difference {gap} of 255 after 2 steps)")
    print(f"streaming with {stream_net}, {stream_side} px")
    print(f"{'images':>12}{'map MiB':>10}{'peak MiB':>10}")
    for number, peak_of in zip(stream, peaks, strict=True):
        print(f"{number:>12,}{number * 3 * stream_side**2 / 2**20:>10,.0f}{peak_of / 2**20:>10,.1f}")
    print(f"{ratios['memory']:.2f} times the memory for {stream[1] / stream[0]:g} times the images")
    print(f"{each:,.0f} bytes more for each image more")
    print(f"{ratios['refine']:.2f} times the steps of one by one")
    print(f"{ratios['search']:.2f} times the squares of one by one")


if __name__ == "__main__":
    sys.exit(guarded(main, "nrr_dd.py"))
