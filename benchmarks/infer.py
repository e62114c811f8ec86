"""INFER's compensator steps per second: all natural sets of a teacher together against one set at a time.

    python benchmarks/infer.py
    python benchmarks/infer.py --net convnet3-bn-w64 --sets 20 --steps 5 --device cuda --json

One step is one Adam step of one compensator: a set of 10 images, shifted, through the teacher and back. Images are
random and the teacher is untrained and in eval mode, which costs the same as real ones.

    batched     `recipes.infer.compensators` with all K sets: one pass over K·10 images a step
    one by one  the same function with one set, K times

Both take the same steps in turns in one process, after two steps each that are not counted; a number is the median
over the rounds. Memory is the peak of a process of its own that runs one side for two steps: on a GPU what torch
allocated, on a CPU (Linux) the resident set less what it was before. The same compensators: two steps of both in
float64, compared. The last line is the ratio.

On a GPU every call records its step after three (`ddhub.training.capture`), and its time has the recording in it: ask
for some hundred --steps there.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from ddhub import models
from ddhub.cli.program import guarded
from ddhub.training.devices import computing, resolve_device, resolve_precision
from recipes.infer import Config, compensators
from recipes.run.draws import generator

CLASSES = 10
MODES = ("batched", "one by one")


def teacher(name: str, device: torch.device) -> nn.Module:
    """An untrained net as `recipes.infer` has its teachers: frozen, in eval mode, channels last."""
    torch.manual_seed(0)
    net = models.build(name, classes=CLASSES).eval().requires_grad_(False)
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def natural_sets(count: int, device: torch.device) -> Tensor:
    """Random natural sets `[K, classes, 3, 32, 32]`."""
    return torch.randn(count, CLASSES, 3, 32, 32, generator=generator("infer")).to(device)


def run(mode: str, net: nn.Module, natural: Tensor, steps: int, precision: str) -> Tensor:
    """The compensators `[K, 3, 32, 32]` after so many steps."""
    cfg, sets = Config(steps=steps), list(range(len(natural)))
    groups = [sets] if mode == "batched" else [[k] for k in sets]
    with computing(natural.device, precision):
        parts = [compensators(net, natural[group], cfg, nets=0, sets=group, precision=precision) for group in groups]
    return torch.cat(parts)


def median_seconds(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each piece of work, their rounds in turn."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            begin = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def resident(field: str) -> int:
    """Bytes that this process holds (`VmRSS`) or held at its peak (`VmHWM`, as getrusage counts the parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_bytes(mode: str, net: nn.Module, natural: Tensor, precision: str) -> int:
    """Memory at the peak of two steps, in a process that has done nothing else."""
    if natural.is_cuda:
        run(mode, net, natural, 2, precision)
        return torch.cuda.max_memory_allocated(natural.device)
    before = resident("VmRSS")
    run(mode, net, natural, 2, precision)
    return resident("VmHWM") - before


@click.command()
@click.option("--net", "name", default="resnet18-w16", show_default=True, help="Architecture of the teacher.")
@click.option("--sets", default=7, show_default=True, help="Natural sets of 10 images (K).")
@click.option("--steps", default=10, show_default=True, help="Steps of each compensator a round.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of each side.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", default="auto", show_default=True, help="auto, bf16 or fp32; not of the comparison.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--peak", type=click.Choice(MODES), hidden=True, help="Print the peak memory of one side.")
def main(
    name: str, sets: int, steps: int, rounds: int, device: str, precision: str, as_json: bool, peak: str | None
) -> None:
    """Steps per second and peak memory of batched and one-by-one compensators."""
    torch.set_num_threads(os.cpu_count() or 1)
    where = resolve_device(device)
    precision = resolve_precision(precision, where)
    net, natural = teacher(name, where), natural_sets(sets, where)
    if peak is not None:
        print(peak_bytes(peak, net, natural, precision))
        return

    for mode in MODES:
        run(mode, net, natural, 2, precision)
    seconds = median_seconds({mode: partial(run, mode, net, natural, steps, precision) for mode in MODES}, rounds)
    rows = {mode: {"steps_per_second": sets * steps / seconds[mode]} for mode in MODES}
    for mode in MODES:
        again = [sys.executable, __file__, "--peak", mode, "--net", name, "--sets", str(sets)]
        again += ["--device", str(where), "--precision", precision]
        rows[mode]["peak_bytes"] = int(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
    batched, single = (run(mode, net.double(), natural.double(), 2, "fp32") for mode in MODES)
    gap, same = float((batched - single).abs().max()), torch.allclose(batched, single, rtol=0, atol=1e-6)
    ratio = rows["batched"]["steps_per_second"] / rows["one by one"]["steps_per_second"]

    record = {"net": name, "sets": sets, "steps": steps, "rounds": rounds, "device": str(where), "precision": precision}
    record["threads"] = torch.get_num_threads()
    if as_json:
        print(json.dumps({**record, "sides": rows, "same": same, "largest_difference": gap, "ratio": ratio}))
        return
    print(", ".join(f"{key} {value}" for key, value in record.items()))
    print(f"{'':12}{'steps/s':>10}{'ms/step':>10}{'peak MiB':>10}")
    for mode, row in rows.items():
        speed = row["steps_per_second"]
        print(f"{mode:12}{speed:>10,.1f}{1000 / speed:>10.2f}{row['peak_bytes'] / 2**20:>10,.0f}")
    print(f"same compensators: {'yes' if same else 'NO'} (largest difference {gap:.1e} after 2 steps in float64)")
    print(f"{ratio:.2f} times the steps of one by one")


if __name__ == "__main__":
    sys.exit(guarded(main, "infer.py"))
