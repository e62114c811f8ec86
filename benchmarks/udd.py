"""Class-matching steps per second of IDC and UDD: the gradients of all classes together against one class at a time.

    python benchmarks/udd.py
    python benchmarks/udd.py --net convnet3-w64 --ipc 10 --regions 1 --device cuda --json

A class-matching step is the gradient of one class's images: a batch of real images through the net and back, all
formations of the class through it, back, and back again. Images are random and the nets untrained, which costs the
same as real ones.

    batched     `recipes.gradients.outer.Matcher` with all classes together (torch.func.vmap)
    one by one  the same with one class after the other

Both take the same steps in turns in one process, after a few inner iterations of each that are not counted, in which a
GPU records them (`ddhub.training.capture`); a number is the median over the rounds. Memory is the peak of a process of
its own that runs one inner iteration of one side: on a GPU what torch allocated, on a CPU (Linux) the resident set less
what it was before. The same images: an inner iteration of both in float64, compared. A whole inner iteration, one by
one, has the training of the net in addition. The last line is the decoder `crops`, formations per second in batches of
64.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from typing import Any

import click
import torch
from infer import median_seconds, resident
from torch import Tensor

from ddhub.cli.program import guarded
from ddhub.data.decode import Crops
from ddhub.sources.source import Source
from ddhub.training.devices import computing, resolve_device, resolve_precision
from recipes.gradients.outer import Matcher, Real
from recipes.gradients.regions import candidates
from recipes.run.draws import generator
from recipes.udd import Config, matching, training

SIDE, TILE = 32, 16
MODES = ("batched", "one by one")
UNCOUNTED = 5  # inner iterations


class Problem:
    """Random real and stored images of K classes with random regions, on a device."""

    def __init__(self, cfg: Config, classes: int, device: torch.device) -> None:
        random = generator("udd")
        labels = torch.arange(classes).repeat_interleave(2 * cfg.batch_real)
        source = Source(
            name="random", address="random", split="train",
            images=torch.randint(256, (len(labels), 3, SIDE, SIDE), dtype=torch.uint8, generator=random),
            labels=labels, classes=tuple(map(str, range(classes))), mean=(0.5,) * 3, std=(0.25,) * 3,
            hub_id="", license="", notes="", fingerprint="",
        )  # fmt: skip
        self.real = Real(source, training(cfg), cfg.seed, cfg.batch_real, device)
        self.settings = matching(cfg, SIDE, device)
        self.images = torch.rand(classes, cfg.ipc, 3, SIDE, SIDE, generator=random).to(device)
        places = candidates(TILE, 2)
        picked = torch.rand(classes * cfg.ipc, len(places), generator=random).argsort(1)[:, : cfg.regions]
        self.boxes = places[picked].to(device)
        decoder = Crops((self.images.flatten(0, 1) * 255).to(torch.uint8), 2, self.boxes, [(0, 1)] * 3)
        self.decoder = decoder.to(device)
        places = self.decoder.corners(torch.arange(len(decoder), device=device))
        slots = places.unflatten(0, (-1, classes, cfg.ipc))
        self.corners = slots.transpose(0, 1).flatten(1, 2)
        self.matcher = cache(self._matcher)

    def _matcher(self, mode: str, inner: int, n_data: int, dtype: torch.dtype) -> Matcher:
        together = len(self.images) if mode == "batched" else 1
        settings = replace(self.settings, inner=inner, n_data=n_data, together=together)
        return Matcher(self.images.to(dtype), TILE, self.real, settings)

    def run(self, mode: str, inner: int, n_data: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """The stored images after so many inner iterations."""
        matcher, x = self.matcher(mode, inner, n_data, dtype), self.images
        matcher.start(x, torch.zeros_like(x), x.new_zeros(2))
        matcher.iterate(0, self.corners)
        return matcher.state()["images"]

    def decode(self) -> None:
        """All formations once."""
        for items in torch.arange(len(self.decoder), device=self.images.device).split(64):
            self.decoder(items)
        if self.images.is_cuda:
            torch.cuda.synchronize()

    def peak_bytes(self, mode: str) -> int:
        """Memory at the peak of one inner iteration, in a process that has done nothing else."""
        before = resident("VmRSS")
        self.run(mode, 1)
        if self.images.is_cuda:
            return torch.cuda.max_memory_allocated(self.images.device)
        return resident("VmHWM") - before


@click.command()
@click.option("--net", default="convnet3", show_default=True, help="Architecture of the net.")
@click.option("--classes", default=10, show_default=True, help="Classes (K).")
@click.option("--ipc", default=1, show_default=True, help="Stored images a class.")
@click.option("--regions", default=4, show_default=True, help="Regions of a stored image beside its 4 tiles.")
@click.option("--n-data", default=500, show_default=True, help="Real images of the net's training.")
@click.option("--inner", default=1, show_default=True, help="Inner iterations a round.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each side.")
@click.option("--threads", default=0, show_default=True, help="Of a CPU; 0 is as many as there are cores.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--peak", type=click.Choice(MODES), hidden=True, help="Print the peak memory of one side.")
def main(
    net: str, classes: int, ipc: int, regions: int, n_data: int, inner: int, rounds: int, threads: int, device: str,
    as_json: bool, peak: str | None,
) -> None:  # fmt: skip
    """Steps per second and peak memory of batched and one-by-one gradient matching."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    where = resolve_device(device)
    problem = Problem(Config(net=net, ipc=ipc, regions=regions), classes, where)
    if peak is not None:
        print(problem.peak_bytes(peak))
        return

    work: dict[str, Any] = {mode: partial(problem.run, mode, inner) for mode in MODES}
    work |= {"inner iteration": partial(problem.run, "one by one", inner, n_data), "crops": problem.decode}
    with computing(where, resolve_precision("auto", where)):
        for one in work.values():
            for _ in range(-(-UNCOUNTED // inner) if where.type != "cpu" else 1):
                one()
        seconds = median_seconds(work, rounds)
    rows = {mode: {"steps_per_second": classes * inner / seconds[mode]} for mode in MODES}
    for mode in MODES:
        again = [sys.executable, __file__, "--peak", mode, "--net", net, "--classes", str(classes), "--ipc", str(ipc)]
        again += ["--regions", str(regions), "--threads", str(threads), "--device", str(where)]
        rows[mode]["peak_bytes"] = int(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
    batched, single = (problem.run(mode, 1, dtype=torch.float64) for mode in MODES)
    gap, same = float((batched - single).abs().max()), torch.allclose(batched, single, rtol=0, atol=1e-9)
    ratio = rows["batched"]["steps_per_second"] / rows["one by one"]["steps_per_second"]
    whole, decoded = seconds["inner iteration"] / inner, len(problem.decoder) / seconds["crops"]

    record = {"net": net, "classes": classes, "ipc": ipc, "regions": regions, "n_data": n_data, "inner": inner}
    record |= {"rounds": rounds, "device": str(where), "threads": torch.get_num_threads()}
    if as_json:
        more = {"same": same, "largest_difference": gap, "ratio": ratio, "inner_iteration_seconds": whole}
        print(json.dumps({**record, "sides": rows, **more, "crops_per_second": decoded}))
        return
    print(", ".join(f"{key} {value}" for key, value in record.items()))
    print(f"{'':12}{'steps/s':>10}{'ms/step':>10}{'peak MiB':>10}")
    for mode, row in rows.items():
        speed = row["steps_per_second"]
        print(f"{mode:12}{speed:>10,.1f}{1000 / speed:>10.2f}{row['peak_bytes'] / 2**20:>10,.0f}")
    print(f"same images: {'yes' if same else 'NO'} (largest difference {gap:.1e} after an inner iteration in float64)")
    print(f"{ratio:.2f} times the steps of one by one")
    print(f"a whole inner iteration, one by one: {whole:.2f} s with {n_data} images of the net's training")
    print(f"crops: {decoded:,.0f} formations/s")


if __name__ == "__main__":
    sys.exit(guarded(main, "udd.py"))
