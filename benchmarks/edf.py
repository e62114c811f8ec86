"""Trajectory matching: memory and seconds of the full unroll and of the adjoint's two ways; experts side by side.

    python benchmarks/edf.py
    python benchmarks/edf.py --net convnet3-w32 --images 50 --steps 20 --device cuda --json
    OMP_NUM_THREADS=1 python benchmarks/edf.py

matching   one outer iteration of EDF: DSA, N steps of the student, the way back, the steps of images, labels and step
           size (`recipes.trajectories.trajectory.outer_iteration`), random images and weights, which cost the same as
           real ones unroll    the graph of all steps, as the papers' codes keep it reverse   each step's gradient with
           its graph, differentiated again forward   each step's loss along the adjoint, differentiated once; the
           recipe's default The gradients are those of a float64 iteration each, compared. What grows with N is shown by
           the default with few images and many steps, then twice as many, so that the parameter vectors are most of it;
           a large iteration is CIFAR-10's of 10 images a class.
experts    images per second of a GSAM step, two passes, which count as one: some experts as one call
           (torch.func.vmap), and one after the other

The sides work in turns in one process, after one of each that is not counted; a number is the median over the rounds.
Memory is the peak of a process of its own that runs one iteration: on a GPU what torch allocated, on a CPU (Linux) the
resident set less what it was before, which is that of Python, torch and the inputs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import click
import torch
from infer import median_seconds, resident
from torch import Tensor

from ddhub.cli.program import guarded
from ddhub.protocols.protocol import DSA_OPS
from ddhub.training.capture import Captured
from ddhub.training.devices import computing, resolve_device, resolve_precision
from recipes.run.draws import generator
from recipes.trajectories.adjoint import WAYS
from recipes.trajectories.experts import Experts, stepped
from recipes.trajectories.flat import Flat
from recipes.trajectories.trajectory import Outer, State, Window, outer_iteration, started, student_of

CLASSES, SIDE = 10, 32
DEFAULT = "forward"
FEW = 4  # images


class Problem:
    """An outer iteration of so many images, all of them in each step, and what it starts from."""

    def __init__(self, name: str, images: int, steps: int, device: torch.device, dtype: torch.dtype) -> None:
        random = generator("edf")
        self.flat, self.device = Flat(name, CLASSES, SIDE, 3), device
        first = self.flat.initial("edf")
        moved = first + 0.01 * torch.randn(self.flat.count, generator=random)
        self.trajectories = torch.stack([first, moved])[None]
        x = torch.randn(images, 3, SIDE, SIDE, generator=random)
        y = torch.randn(images, CLASSES, generator=random)
        self.state = {key: value.to(device) for key, value in started(x.to(dtype), y.to(dtype), 0.01).items()}
        settings = Outer(
            seed=0, window=Window(least=0, first=1, last=1, expansion=1, sequential=False), span=1, steps=steps,
            batch=images, ops=DSA_OPS, crop=0.125, drop=0.25, skip=torch.inf, rates=(1.0, 1.0, 1e-5),
            momenta=(0.5, 0.9, 0.5), way="", segment=1,
        )  # fmt: skip
        self.settings = {way: replace(settings, way=way) for way in WAYS}
        with fastest(device):
            self.students = {way: student_of(self.flat, self.state, self.settings[way], device) for way in WAYS}

    def run(self, way: str) -> State:
        """The state after one iteration."""
        with fastest(self.device):
            state, _ = outer_iteration(0, self.state, self.trajectories, self.students[way], self.settings[way])
            if self.device.type == "cuda":
                torch.cuda.synchronize()
        return state


def fastest(device: torch.device) -> AbstractContextManager[None]:
    """What recipes compute in where no precision is asked for."""
    return computing(device, resolve_precision("auto", device))


def peak_bytes(problem: Problem, way: str) -> int:
    """Memory at the peak of an iteration, in a process that has done nothing else."""
    if problem.state["images"].is_cuda:
        problem.run(way)
        return torch.cuda.max_memory_allocated()
    before = resident("VmRSS")
    problem.run(way)
    return resident("VmHWM") - before


def largest_gap(name: str, device: torch.device) -> float:
    """The largest relative difference of a way's gradients from the unroll's, after one iteration in float64."""
    problem = Problem(name, 4, 3, device, torch.float64)
    gradients = {way: problem.run(way) for way in WAYS}
    gaps = [
        (gradients[way][key] - gradients["unroll"][key]).norm() / gradients["unroll"][key].norm()
        for way in WAYS
        for key in ("velocity.images", "velocity.labels", "velocity.step")
    ]
    return float(torch.stack(gaps).max())


def expert_steps(step: Captured[Tensor], w: Tensor, x: Tensor, labels: Tensor, together: int) -> Tensor:
    """The parameters [k, P] of k experts after a step, so many of them at once."""
    with fastest(w.device):
        parts = zip(*(whole.split(together) for whole in (w, x, labels)), strict=True)
        steps = torch.cat([step(*part).clone() for part in parts])  # a call overwrites what the last one returned
        if steps.is_cuda:
            torch.cuda.synchronize()
    return steps


@click.command()
@click.option("--net", "name", default="convnet3", show_default=True, help="Architecture of student and experts.")
@click.option("--images", default=20, show_default=True, help="Images of each step, at the size where all ways fit.")
@click.option("--steps", default=10, show_default=True, help="Steps of the student (N), at that size.")
@click.option("--large", nargs=2, default=(100, 80), show_default=True, help="Images and steps of the large iteration.")
@click.option("--experts", default=4, show_default=True, help="Experts side by side.")
@click.option("--batch", default=64, show_default=True, help="Real images of an expert's step.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each side.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--peak", type=click.Choice(WAYS), hidden=True, help="Print memory and seconds of one iteration.")
def main(
    name: str, images: int, steps: int, large: tuple[int, int], experts: int, batch: int, rounds: int, device: str,
    as_json: bool, peak: str | None,
) -> None:  # fmt: skip
    """Memory and seconds of an outer iteration, and images per second of experts."""
    where = resolve_device(device)
    if peak is not None:
        problem, begin = Problem(name, images, steps, where, torch.float32), time.perf_counter()
        used = peak_bytes(problem, peak)
        print(json.dumps({"peak_bytes": used, "seconds": time.perf_counter() - begin}))
        return

    def alone(way: str, images: int, steps: int) -> dict[str, float]:
        again = [sys.executable, __file__, "--peak", way, "--net", name, "--images", str(images)]
        again += ["--steps", str(steps), "--device", str(where)]
        figures: dict[str, float] = json.loads(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
        return figures

    problem = Problem(name, images, steps, where, torch.float32)
    for way in WAYS:
        problem.run(way)
    seconds = median_seconds({way: partial(problem.run, way) for way in WAYS}, rounds)
    sides = {way: {"seconds": seconds[way], "peak_bytes": alone(way, images, steps)["peak_bytes"]} for way in WAYS}
    gap = largest_gap(name, where)
    big, many = alone(DEFAULT, *large), 8 * steps
    once, twice = (alone(DEFAULT, FEW, count)["peak_bytes"] for count in (many, 2 * many))
    vectors = 4 * problem.flat.count * many

    random = generator("experts")
    w = torch.stack([problem.flat.initial(k) for k in range(experts)]).to(where)
    x = torch.randn(experts, batch, 3, SIDE, SIDE, generator=random).to(where)
    labels = torch.randint(CLASSES, (experts, batch), generator=random).to(where)
    modes = {"stacked": experts, "one by one": 1}
    rule = Experts(net=name, count=experts, epochs=1)
    with fastest(where):
        step = Captured(partial(stepped, problem.flat, rule), where, "a step of the experts")
    work = {mode: partial(expert_steps, step, w, x, labels, count) for mode, count in modes.items()}
    ends = {mode: one() for mode, one in work.items()}
    moved = (ends["one by one"] - w).norm()
    apart = float((ends["stacked"] - ends["one by one"]).norm() / moved)
    speed = {mode: experts * batch / taken for mode, taken in median_seconds(work, rounds).items()}

    record: dict[str, Any] = {"net": name, "images": images, "steps": steps, "experts": experts, "batch": batch}
    record |= {"rounds": rounds, "device": str(where), "threads": torch.get_num_threads()}
    ratios = {
        "seconds": seconds[DEFAULT] / seconds["unroll"],
        "memory": sides[DEFAULT]["peak_bytes"] / sides["unroll"]["peak_bytes"],
        "experts": speed["stacked"] / speed["one by one"],
    }
    if as_json:
        more = {"growth_bytes": twice - once, "vectors_bytes": vectors, "large": {"size": large, **big}}
        print(
            json.dumps(
                {**record, "ways": sides, "gap": gap, **more, "experts": speed, "experts_gap": apart, "ratios": ratios}
            )
        )
        return
    print(", ".join(f"{key} {value}" for key, value in record.items()))
    print(f"{'':12}{'s/iteration':>12}{'peak MiB':>10}")
    for way, row in sides.items():
        print(f"{way:12}{row['seconds']:>12,.2f}{row['peak_bytes'] / 2**20:>10,.0f}")
    print(f"largest relative difference of a gradient in float64: {gap:.1e}")
    print(
        f"{DEFAULT} with {FEW} images from {many} to {2 * many} steps: {(twice - once) / 2**20:+,.0f} MiB; "
        f"{many} parameter vectors are {vectors / 2**20:,.0f} MiB"
    )
    print(
        f"{DEFAULT} with {large[0]} images and {large[1]} steps: {big['peak_bytes'] / 2**20:,.0f} MiB at the peak, "
        f"{big['seconds']:,.1f} s"
    )
    for mode, images_a_second in speed.items():
        print(f"{mode:12}{images_a_second:>10,.0f} images/s")
    print(f"largest relative difference of a step of the experts: {apart:.1e}")
    print(f"{ratios['experts']:.2f} times the images of one by one")
    print(f"{ratios['memory']:.2f} times the memory of unroll")
    print(f"{ratios['seconds']:.2f} times the seconds of unroll")


if __name__ == "__main__":
    sys.exit(guarded(main, "edf.py"))
