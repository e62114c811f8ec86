"""Every hot loop for a moment: steps and images per second, memory, share of the GPU's peak, eager against captured.

    python benchmarks/hot_loops.py
    python benchmarks/hot_loops.py --device cuda --seconds 2 --budget 300 --out out/gpu-check
    python benchmarks/hot_loops.py --device cpu --only teacher,loader

The loops are those of `loops.py`: on a GPU at the sizes of the papers, on a CPU so small that they only show that they
run. The seconds of a round are those of a long run less those of a short one, after a short one that is not counted, in
which kernels are chosen and steps are recorded.

    eager       each kernel launched by itself (`ddhub.training.capture.eager`), all else as captured
    captured    as recipes and students run on a GPU; images, memory and operations are of this form

Memory is what torch allocated at the peak. A share is one of the peak of the kind of arithmetic. A loop that fails is a
line of the table, and so is one that the budget has no time for.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import torch
from loops import FULL, SMALL, Loop, loops

from ddhub.cli.program import guarded
from ddhub.errors import first_line, unknown
from ddhub.training.capture import eager
from ddhub.training.devices import computing, describe, resolve_device, versions

# Operations per second of an H100 SXM, and of an H200: NVIDIA's data sheet of the H100, dense, in place of its numbers
# with sparsity, which are twice these.
PEAKS = {"bf16": 989e12, "tf32": 494.5e12, "fp32": 67e12}
MOST = 2**20  # rounds of a run
COLUMNS = {"loop": 38, "kind": -5, "eager/s": -10, "capt./s": -10, "ratio": -7, "images/s": -13, "MiB": -9,
           "TFLOP/s": -9, "share": -7}  # fmt: skip
Row = dict[str, Any]


class Notes(logging.Handler):
    """What captured steps warn of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def rate(loop: Loop, seconds: float, device: torch.device) -> tuple[float, int]:
    """Rounds per second, measured for so many seconds at least, and bytes at the peak."""

    def timed(rounds: int) -> float:
        begin = time.perf_counter()
        loop.run(rounds)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    timed(loop.least)
    short, rounds, more = timed(loop.least), loop.least, 0.0
    while more <= seconds and rounds < MOST:
        rounds *= 2
        more = timed(rounds) - short
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return (rounds - loop.least) / max(more, 1e-9), peak


def measured(loop: Loop, seconds: float, device: torch.device) -> Row:
    """A row of the table."""
    row: Row = {"loop": loop.name, "kind": loop.kind, "images": loop.images, "operations": loop.operations}
    forms: dict[str, AbstractContextManager[None]] = {"captured" if device.type == "cuda" else "eager": nullcontext()}
    if device.type == "cuda" and loop.has_steps:
        forms["eager"] = eager()
    notes, log = Notes(), logging.getLogger("ddhub.training.capture")
    log.addHandler(notes)
    try:
        for form, how in forms.items():
            with computing(device, "fp32" if loop.kind == "fp32" else "bf16"), how:
                rounds, peak = rate(loop, seconds, device)
            row |= {form: rounds * loop.steps} | ({"peak_bytes": peak} if form == "captured" else {})
            row.setdefault("images_per_second", rounds * loop.images)
            row.setdefault("operations_per_second", rounds * loop.operations)
    finally:
        log.removeHandler(notes)
    if len(forms) == 2:
        row["ratio"] = row["captured"] / row["eager"]
    if device.type == "cuda" and loop.operations:
        row["share"] = row["operations_per_second"] / PEAKS[loop.kind]
    return row | ({"notes": notes.lines} if notes.lines else {})


def rows_of(name: str, make: Callable[[], list[Loop]], seconds: float, device: torch.device) -> list[Row]:
    """The rows of a name, which are mostly one; the last says what failed, if something did."""
    rows: list[Row] = []
    try:
        for loop in make():
            rows.append(measured(loop, seconds, device))
    except Exception as error:  # whatever it is, the other loops are measured
        rows.append({"loop": name, "error": f"{type(error).__name__}: {first_line(error)}"})
    return rows


def table(made: dict[str, Callable[[], list[Loop]]], seconds: float, end: float, device: torch.device) -> Iterator[Row]:
    """The rows of all loops, of which none begins after `end`."""
    for name, make in made.items():
        if time.perf_counter() >= end:
            yield {"loop": name, "skipped": "the budget is used up"}
            continue
        yield from rows_of(name, make, seconds, device)
        gc.collect()  # what belonged to it, recordings too
        if device.type == "cuda":
            torch.cuda.empty_cache()


def line(row: Row) -> str:
    """A row as text."""
    if "error" in row or "skipped" in row:
        return f"{row['loop']:38}{row.get('error') or 'skipped: ' + row['skipped']}"
    operations, bytes_ = row["operations_per_second"] / 1e12, row.get("peak_bytes", 0) / 2**20
    cells = [row["loop"], row["kind"]]
    cells += [f"{row[form]:,.1f}" if form in row else "-" for form in ("eager", "captured")]
    cells += [f"{row['ratio']:.2f}" if "ratio" in row else "-", f"{row['images_per_second']:,.0f}"]
    cells += [f"{bytes_:,.0f}" if bytes_ else "-", f"{operations:.3g}" if operations else "-"]
    cells.append(f"{row['share']:.1%}" if "share" in row else "-")
    return padded(cells) + "".join(f"\n    {note}" for note in row.get("notes", ()))


def padded(cells: Iterable[str]) -> str:
    """A line of the table."""
    return "".join(
        f"{cell:{width}}" if width > 0 else f"{cell:>{-width}}"
        for cell, width in zip(cells, COLUMNS.values(), strict=True)
    )


@click.command()
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--only", default="", metavar="NAME,...", help="Loops of these names. [default: all]")
@click.option("--seconds", default=0.5, show_default=True, help="Least length of what is measured of each form.")
@click.option("--budget", default=60.0, show_default=True, help="Seconds after which no loop begins.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for hot_loops.txt and hot_loops.json.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(device: str, only: str, seconds: float, budget: float, out: Path | None, as_json: bool) -> int:
    """Steps and images per second of every hot loop, its memory, and its share of the GPU's peak."""
    begin, where = time.perf_counter(), resolve_device(device)
    lines, rows = [f"{describe(where)}; {versions()}; steps per second", padded(COLUMNS)], []
    with tempfile.TemporaryDirectory() as folder:
        made = loops(FULL if where.type == "cuda" else SMALL, where, Path(folder))
        if missing := set(filter(None, only.split(","))) - made.keys():
            raise unknown("loop", min(missing), made)
        made = {name: make for name, make in made.items() if not only or name in only.split(",")}
        for text in () if as_json else lines:
            print(text, flush=True)
        for row in table(made, seconds, begin + budget, where):
            rows.append(row)
            lines.append(line(row))
            if not as_json:
                print(lines[-1], flush=True)
    lines.append(f"{time.perf_counter() - begin:.0f} s")
    record = {"device": describe(where), "versions": versions(), "peaks": PEAKS, "seconds": seconds, "rows": rows}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "hot_loops.txt").write_text("\n".join(lines) + "\n")
        (out / "hot_loops.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record) if as_json else lines[-1])
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(guarded(main, "hot_loops.py"))
